use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    client::{Client, ClientError},
    view::{EndpointView, FrontendView, PortView},
    *,
};
use crate::http;

/// An agent that knows two services, or is at a loss.
struct Agent {
    available: bool,
}

impl Engine for Agent {
    async fn status(&self) -> Result<Status, Unavailable> {
        self.ready()?;
        Ok(Status {
            node: "node-1".into(),
            uptime_seconds: 7,
            ..Status::default()
        })
    }

    async fn services(&self, filter: ServiceFilter) -> Result<Vec<ServiceView>, Unavailable> {
        self.ready()?;
        let mut services = vec![service("bank", "till"), service("shop", "cart")];
        services.retain(|service| filter.matches(&service.namespace, &service.name));
        Ok(services)
    }
}

impl Agent {
    fn ready(&self) -> Result<(), Unavailable> {
        if self.available {
            return Ok(());
        }
        Err(Unavailable {
            error: "the main loop ended".into(),
        })
    }
}

fn service(namespace: &str, name: &str) -> ServiceView {
    ServiceView {
        namespace: namespace.into(),
        name: name.into(),
        kind: "ClusterIP".into(),
        ports: vec![PortView {
            protocol: "TCP".into(),
            port: 80,
            frontends: vec![FrontendView {
                address: "[fd00:10:96::a]:80".parse().unwrap(),
                scope: "internal".into(),
                verdict: "translate".into(),
                endpoints: 1,
            }],
            endpoints: vec![EndpointView {
                address: "10.244.1.2:8080".parse().unwrap(),
                node: Some("node-1".into()),
                zone: None,
                pod: None,
            }],
            ..PortView::default()
        }],
    }
}

struct Served {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    fn start(path: &Path, available: bool) -> Self {
        let socket = Socket::bind(path).unwrap();
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(http::serve(
            socket,
            router(Arc::new(Agent { available })),
            async { ended.await.unwrap_or_default() },
        ));
        Self { end, task }
    }

    async fn end(self) {
        self.end.send(()).unwrap();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn answers_come_back_as_they_were_given() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("run/weir.sock");
    let agent = Served::start(&path, true);
    let client = Client::new(&path);

    let status = client.status().await.unwrap();
    assert_eq!((status.node.as_str(), status.uptime_seconds), ("node-1", 7));
    let all = client.services(&ServiceFilter::default()).await.unwrap();
    assert_eq!(all, [service("bank", "till"), service("shop", "cart")]);
    let filter = ServiceFilter {
        namespace: Some("shop".into()),
        name: None,
    };
    assert_eq!(
        client.services(&filter).await.unwrap(),
        [service("shop", "cart")]
    );
    let filter = ServiceFilter {
        namespace: Some("shop".into()),
        name: Some("till&name=cart".into()),
    };
    assert_eq!(client.services(&filter).await.unwrap(), []);

    agent.end().await;
    assert!(!path.exists(), "the socket goes with the agent");
}

#[tokio::test]
async fn only_the_owner_can_open_the_socket() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("run/weir.sock");
    let agent = Served::start(&path, true);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    agent.end().await;
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("weir.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let error = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");

    let agent = Served::start(&path, true);
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
    assert!(
        Client::new(&path).status().await.is_ok(),
        "the second agent did no harm"
    );
    agent.end().await;
}

#[tokio::test]
async fn an_earlier_agent_does_not_remove_a_later_ones_socket() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("weir.sock");
    let earlier = Socket::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let later = Served::start(&path, true);
    drop(earlier);
    assert!(Client::new(&path).status().await.is_ok());
    later.end().await;
}

#[tokio::test]
async fn a_file_in_the_way_is_not_removed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("weir.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(
        Socket::bind(&path),
        Err(SocketError::NotASocket(_))
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn whoever_asks_learns_why_there_is_no_answer() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("weir.sock");
    let error = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Missing { .. }));
    let text = error.to_string();
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("WEIR_API_SOCKET"),
        "{text}"
    );

    let agent = Served::start(&path, false);
    let client = Client::new(&path);
    let error = client.status().await.unwrap_err();
    assert_eq!(error.to_string(), "the agent says: the main loop ended");
    let error = client.get::<Status>("/v2/status").await.unwrap_err();
    assert!(error.to_string().contains("no such resource"), "{error}");
    agent.end().await;
}
