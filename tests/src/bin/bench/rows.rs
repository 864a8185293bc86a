//! What is measured: the rows, and one measurement.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use weir_world::{
    Peer,
    peer::{BenchKind, BenchSpec},
};

use crate::{
    contender::Contender,
    objects::{FAR, MEASURED, NEAR, PORT},
    report::grouped,
    site::Site,
    usage::Softirqs,
};

/// Who asks. All are on the first node, or see it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Pod,
    /// The node itself.
    Host,
    /// A machine outside of the cluster.
    Outside,
}

/// What is addressed; on the direct site it is always the pod itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    ClusterIp,
    ClusterIpV6,
    NodePort,
    PodIp,
}

/// Where the backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Near,
    Far,
}

/// What the traffic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Connect,
    RequestResponse,
    Bulk,
    /// Of so many flows.
    Datagrams(usize),
}

/// In which worlds a row is measured; and of a world, how much is measured in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Breadth {
    /// With every number of services.
    EverySize,
    /// With one number of services, in each wiring.
    EveryWiring,
    /// With one number of services, in the first wiring.
    Once,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) what: What,
    pub(crate) from: Client,
    pub(crate) to: To,
    pub(crate) place: Place,
    pub(crate) breadth: Breadth,
}

const fn row(what: What, from: Client, to: To, place: Place, breadth: Breadth) -> Row {
    Row {
        what,
        from,
        to,
        place,
        breadth,
    }
}

/// All rows.
pub(crate) const ROWS: [Row; 22] = {
    use Breadth::{EverySize, EveryWiring, Once};
    use Client::{Host, Outside, Pod};
    use Place::{Far, Near};
    use To::{ClusterIp, ClusterIpV6, NodePort, PodIp};
    use What::{Bulk, Connect, Datagrams, RequestResponse};
    [
        row(Connect, Pod, ClusterIp, Near, EverySize),
        row(Connect, Pod, ClusterIp, Far, EverySize),
        row(Connect, Pod, ClusterIpV6, Near, Once),
        row(Connect, Host, ClusterIp, Near, EverySize),
        row(Connect, Host, ClusterIp, Far, Once),
        row(Connect, Outside, NodePort, Near, EverySize),
        row(Connect, Outside, NodePort, Far, EverySize),
        row(Connect, Pod, PodIp, Near, EverySize),
        row(Connect, Pod, PodIp, Far, EveryWiring),
        row(RequestResponse, Pod, ClusterIp, Near, EverySize),
        row(RequestResponse, Pod, ClusterIp, Far, EveryWiring),
        row(RequestResponse, Outside, NodePort, Near, Once),
        row(RequestResponse, Outside, NodePort, Far, EveryWiring),
        row(Bulk, Pod, ClusterIp, Near, EveryWiring),
        row(Bulk, Pod, ClusterIp, Far, EveryWiring),
        row(Bulk, Outside, NodePort, Far, Once),
        row(Datagrams(1), Pod, ClusterIp, Near, EverySize),
        row(Datagrams(2_000), Pod, ClusterIp, Near, Once),
        row(Datagrams(1), Pod, ClusterIp, Far, EveryWiring),
        row(Datagrams(1), Outside, NodePort, Near, EveryWiring),
        row(Datagrams(1), Outside, NodePort, Far, EverySize),
        row(Datagrams(1), Pod, PodIp, Near, Once),
    ]
};

impl Row {
    /// From where to where.
    pub(crate) fn title(&self) -> String {
        let from = match self.from {
            Client::Pod => "pod",
            Client::Host => "host",
            Client::Outside => "outside",
        };
        let to = match self.to {
            To::ClusterIp => "ClusterIP",
            To::ClusterIpV6 => "ClusterIP (IPv6)",
            To::NodePort => "NodePort",
            To::PodIp => "pod IP",
        };
        let place = match self.place {
            Place::Near => "same node",
            Place::Far => "other node",
        };
        let flows = match self.what {
            What::Datagrams(flows @ 2..) => format!(", {} flows", grouped(flows as u32)),
            _ => String::new(),
        };
        format!("{from} to {to}, {place}{flows}")
    }

    fn target(&self, site: &Site) -> SocketAddr {
        let (frontend, backend) = match self.place {
            Place::Near => (NEAR, &site.near),
            Place::Far => (FAR, &site.far),
        };
        let ip = |text: &str| text.parse().unwrap_or(SocketAddr::from(([0; 4], 0)).ip());
        match (site.contender, self.to) {
            (Contender::Direct, To::ClusterIpV6) => (backend.addresses.v6, MEASURED).into(),
            (Contender::Direct, _) | (_, To::PodIp) => (backend.addresses.v4, MEASURED).into(),
            (_, To::ClusterIp) => (ip(frontend.v4), PORT).into(),
            (_, To::ClusterIpV6) => (ip(frontend.v6), PORT).into(),
            (_, To::NodePort) => (site.node_address, frontend.node_port).into(),
        }
    }

    fn client<'a>(&self, site: &'a Site) -> &'a Peer {
        match self.from {
            Client::Pod => &site.pod,
            Client::Host => &site.host,
            Client::Outside => &site.outside,
        }
    }

    /// Measures once, for so long.
    pub(crate) fn measure(
        &self,
        site: &Site,
        softirqs: &Softirqs,
        each: Duration,
    ) -> Result<Sample> {
        let server = match self.place {
            Place::Near => &site.near,
            Place::Far => &site.far,
        };
        let to = self.target(site);
        let kind = match self.what {
            What::Connect => BenchKind::Connect,
            What::RequestResponse => BenchKind::RequestResponse,
            What::Bulk => BenchKind::Bulk,
            What::Datagrams(_) => BenchKind::UdpFlood,
        };
        let mut spec = BenchSpec::new(to, kind, each);
        if let What::Datagrams(flows) = self.what {
            spec.flows = flows;
        }
        let used = || -> Result<Duration> { Ok(server.peer.cpu_time()? + softirqs.cpu()) };
        let (before, received) = (used()?, server.datagrams.counts()?.received);
        let report = self.client(site).bench(spec)?.wait()?;
        let received = server.datagrams.counts()?.received - received;
        let cpu = report.cpu + used()?.saturating_sub(before);

        let failures: u64 = report.failed.values().sum();
        ensure!(
            failures == 0,
            "{failures} of {} failed: {:?}",
            failures + report.operations,
            report.failed
        );
        let done = match self.what {
            What::Connect | What::RequestResponse => report.operations,
            What::Bulk => report.bytes,
            What::Datagrams(_) => received,
        };
        ensure!(
            done > 0,
            "nothing arrived of {} that were sent",
            report.operations
        );
        let timed = kind == BenchKind::RequestResponse;
        Ok(Sample {
            rate: done as f64 / report.elapsed.as_secs_f64(),
            cpu: cpu.as_secs_f64() / done as f64,
            p50: timed.then_some(report.p50.as_secs_f64()),
            p99: timed.then_some(report.p99.as_secs_f64()),
        })
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Connections, requests, bytes or datagrams that arrived, in a second.
    pub(crate) rate: f64,
    /// CPU seconds of client, server and the kernel's network threads for each of them.
    pub(crate) cpu: f64,
    /// Latency of requests in seconds, median.
    pub(crate) p50: Option<f64>,
    /// The same, 99th of 100.
    pub(crate) p99: Option<f64>,
}
