//! The socket's file: made for root only, replaced when stale, removed at the end.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
};

use axum::serve::Listener;
use tokio::net::{UnixListener, UnixStream, unix};

/// A listening socket whose file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    _file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error(
        "another agent answers on {0}; a node has one agent, and a second one needs its own --api-socket"
    )]
    InUse(PathBuf),
    /// A file that is not a socket is in the way.
    #[error("{0} is not a socket; remove it or give another --api-socket")]
    NotASocket(PathBuf),
    /// The operating system said no.
    #[error("cannot make the socket {path} (--api-socket): {error}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Socket {
    /// Listens at `path`. Makes its directory (mode 0700) when it is missing, and replaces a socket on which nobody
    /// answers. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When another agent answers there, or the file cannot be made.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |error| SocketError::Io {
            path: path.to_owned(),
            error,
        };
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(failed)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !is_socket(&found) => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            Ok(_) if net::UnixStream::connect(path).is_ok() => {
                return Err(SocketError::InUse(path.to_owned()));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(_) | Err(_) => {}
        }
        // Made under another name, so that nobody can open it before its mode is right, and no one who looks in between
        // finds nothing.
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(draft);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&draft).map_err(failed)?;
        let publish = || {
            fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
            let inode = fs::symlink_metadata(&draft)?.ino();
            fs::rename(&draft, path)?;
            Ok(inode)
        };
        match publish() {
            Ok(inode) => Ok(Self {
                listener,
                _file: SocketFile {
                    path: path.to_owned(),
                    inode,
                },
            }),
            Err(error) => {
                fs::remove_file(&draft).ok();
                Err(failed(error))
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A later agent's socket may have taken the name.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Listener for Socket {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    async fn accept(&mut self) -> (UnixStream, unix::SocketAddr) {
        Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.listener.local_addr()
    }
}

fn is_socket(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    found.file_type().is_socket()
}
