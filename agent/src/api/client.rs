//! The subcommands' side of the local API.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{
    Unavailable,
    view::{ServiceFilter, ServiceView, Status},
};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "no agent here: {path} does not exist\n  \
         If `weir run` runs on this node with another --api-socket, name that one (or set WEIR_API_SOCKET).\n  \
         In a cluster, ask inside the agent's pod: kubectl exec -n weir-system POD -- weir status"
    )]
    Missing {
        /// The socket's path.
        path: PathBuf,
    },
    /// There is a socket, and nobody behind it.
    #[error(
        "the agent is not running: nobody answers on {path}\n  Its log says why it ended; the node keeps what was programmed."
    )]
    NotRunning {
        /// The socket's path.
        path: PathBuf,
    },
    /// Not root.
    #[error("no permission to open {path}: only root can ask the agent (try with sudo)")]
    Forbidden {
        /// The socket's path.
        path: PathBuf,
    },
    /// Connecting failed in another way.
    #[error("cannot reach the agent on {path}: {error}")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It did not answer in time.
    #[error("the agent does not answer on {path} within {} s", PATIENCE.as_secs())]
    Silent {
        /// The socket's path.
        path: PathBuf,
    },
    /// The agent cannot say.
    #[error("the agent says: {0}")]
    Unavailable(Unavailable),
    /// The connection broke, or what answers is not HTTP.
    #[error("what answers on {path} is not an agent, or it ended just now: {error}")]
    Http {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        error: hyper::Error,
    },
    /// The answer is not what this version expects.
    #[error(
        "the agent's answer is not what this version of `weir` expects (is the agent of another version?): {0}"
    )]
    Answer(#[from] serde_json::Error),
}

/// Asks the agent behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Connects with each question.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            path: socket.to_owned(),
        }
    }

    /// The state of the agent.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// The services that match.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn services(&self, filter: &ServiceFilter) -> Result<Vec<ServiceView>, ClientError> {
        let pairs = [("namespace", &filter.namespace), ("name", &filter.name)];
        let query: Vec<String> = pairs
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", escape(value.as_deref()?))))
            .collect();
        self.get(&format!("/v1/services?{}", query.join("&"))).await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, uri: &str) -> Result<T, ClientError> {
        match tokio::time::timeout(PATIENCE, self.ask(uri)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Silent {
                path: self.path.clone(),
            }),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, uri: &str) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| self.refused(error))?;
        let broken = |error| ClientError::Http {
            path: self.path.clone(),
            error,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::get(uri)
            .header(header::HOST, "weir")
            .body(Empty::<Bytes>::new())
            .expect("a path and one header make a request");
        let response = sender.send_request(request).await.map_err(broken)?;
        let code = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(broken)?
            .to_bytes();
        if code.is_success() {
            return Ok(serde_json::from_slice(&body)?);
        }
        let said = serde_json::from_slice(&body).unwrap_or_else(|_| Unavailable {
            error: format!("{code}: {}", String::from_utf8_lossy(&body)),
        });
        Err(ClientError::Unavailable(said))
    }

    fn refused(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::Missing { path },
            io::ErrorKind::ConnectionRefused => ClientError::NotRunning { path },
            io::ErrorKind::PermissionDenied => ClientError::Forbidden { path },
            _ => ClientError::Connect { path, error },
        }
    }
}

/// Percent-encodes everything but the characters of Kubernetes names, so that a typing error reaches the agent as it is.
fn escape(value: &str) -> String {
    let mut escaped = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
