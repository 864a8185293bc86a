//! `weir services`: a line for each frontend; with a name, everything about that service.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::bail;
use clap::Args;

use super::{
    AgentOptions, Format, output,
    table::{Column, Table},
};
use crate::api::{
    client::Client,
    view::{FrontendView, PortView, ServiceFilter, ServiceView},
};

pub(super) const AFTER_HELP: &str = "\
ENDPOINTS are those a frontend sends to now. SENT and REFUSED count the connections of a port, over all
its frontends, since it was first programmed. VERDICT is what becomes of a connection: `translate`, or
why not. Exit status: 0, 1 no agent answers or no such service, 2 wrong usage.";

/// Which services, and how to show them.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// A service's name, or NAMESPACE/NAME: shows its endpoints too
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only services of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    agent: AgentOptions,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

impl Options {
    fn filter(&self) -> anyhow::Result<ServiceFilter> {
        let (namespace, name) = match self.name.as_deref().map(|name| name.split_once('/')) {
            Some(Some((namespace, name))) => {
                if self
                    .namespace
                    .as_deref()
                    .is_some_and(|other| other != namespace)
                {
                    bail!("the name says namespace `{namespace}`, -n says another");
                }
                (Some(namespace.to_owned()), Some(name.to_owned()))
            }
            Some(None) | None => (self.namespace.clone(), self.name.clone()),
        };
        Ok(ServiceFilter { namespace, name })
    }
}

pub(super) fn services(options: &Options) -> anyhow::Result<ExitCode> {
    let filter = options.filter()?;
    let client = Client::new(&options.agent.api_socket);
    let services = output::ask(async || client.services(&filter).await)?;
    if services.is_empty()
        && let Some(name) = &options.name
    {
        bail!(
            "no service `{name}` is balanced here; headless and ExternalName services are not, and `weir status` shows those that are skipped"
        );
    }
    options.output.print(&services, |services| {
        if options.name.is_some() {
            details(services)
        } else {
            list(services)
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(services: &[ServiceView]) -> String {
    if services.is_empty() {
        return "no services\n".into();
    }
    let mut table = Table::new([
        Column::Left("NAMESPACE"),
        Column::Left("NAME"),
        Column::Left("TYPE"),
        Column::Left("FRONTEND"),
        Column::Right("ENDPOINTS"),
        Column::Right("SENT"),
        Column::Right("REFUSED"),
        Column::Left("VERDICT"),
    ]);
    for service in services {
        for port in &service.ports {
            for (number, frontend) in port.frontends.iter().enumerate() {
                // Counted by port: repeated on every line they would seem to be each frontend's own.
                let counted = |n: u64| {
                    if number == 0 {
                        n.to_string()
                    } else {
                        String::new()
                    }
                };
                table.row([
                    service.namespace.clone(),
                    service.name.clone(),
                    service.kind.clone(),
                    shown(frontend, port),
                    frontend.endpoints.to_string(),
                    counted(port.connections.translated),
                    counted(port.connections.refused),
                    frontend.verdict.clone(),
                ]);
            }
        }
    }
    table.to_string()
}

/// `10.96.0.10:53/UDP`; what only traffic from outside gets is marked.
fn shown(frontend: &FrontendView, port: &PortView) -> String {
    let outside = if frontend.scope == "internal" {
        ""
    } else {
        " from outside"
    };
    format!("{}/{}{outside}", frontend.address, port.protocol)
}

fn details(services: &[ServiceView]) -> String {
    let mut text = String::new();
    for (number, service) in services.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        write(&mut text, service).expect("a String takes everything");
    }
    text
}

fn write(text: &mut String, service: &ServiceView) -> std::fmt::Result {
    writeln!(
        text,
        "{}/{} ({})",
        service.namespace, service.name, service.kind
    )?;
    for port in &service.ports {
        let name = if port.name.is_empty() {
            String::new()
        } else {
            format!(" {}", port.name)
        };
        writeln!(text, "  port{name} {}/{}", port.port, port.protocol)?;
        writeln!(
            text,
            "    connections: {} sent to an endpoint, {} refused",
            port.connections.translated, port.connections.refused
        )?;
        let mut frontends = Table::new([
            Column::Left("FRONTEND"),
            Column::Right("ENDPOINTS"),
            Column::Left("VERDICT"),
            Column::Left("SELECTION"),
        ])
        .indented(4);
        for frontend in &port.frontends {
            frontends.row([
                shown(frontend, port),
                frontend.endpoints.to_string(),
                frontend.verdict.clone(),
                port.selection.clone(),
            ]);
        }
        write!(text, "{frontends}")?;
        if port.endpoints.is_empty() {
            writeln!(text, "    no endpoints")?;
            continue;
        }
        let mut endpoints = Table::new([
            Column::Left("ENDPOINT"),
            Column::Left("POD"),
            Column::Left("NODE"),
            Column::Left("ZONE"),
        ])
        .indented(4);
        for endpoint in &port.endpoints {
            endpoints.row([
                endpoint.address.to_string(),
                endpoint.pod.clone().unwrap_or_default(),
                endpoint.node.clone().unwrap_or_default(),
                endpoint.zone.clone().unwrap_or_default(),
            ]);
        }
        write!(text, "{endpoints}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::{ConnectionsView, EndpointView};

    fn shop() -> Vec<ServiceView> {
        let frontend = |address: &str, endpoints: u32, verdict: &str| FrontendView {
            address: address.parse().unwrap(),
            scope: "internal".into(),
            verdict: verdict.into(),
            endpoints,
        };
        vec![
            ServiceView {
                namespace: "default".into(),
                name: "kubernetes".into(),
                kind: "ClusterIP".into(),
                ports: vec![PortView {
                    name: "https".into(),
                    protocol: "TCP".into(),
                    port: 443,
                    selection: "random".into(),
                    frontends: vec![frontend("10.96.0.1:443", 1, "translate")],
                    endpoints: vec![EndpointView {
                        address: "192.0.2.1:6443".parse().unwrap(),
                        node: None,
                        zone: None,
                        pod: None,
                    }],
                    connections: ConnectionsView {
                        translated: 1204,
                        refused: 0,
                    },
                }],
            },
            ServiceView {
                namespace: "shop".into(),
                name: "cart".into(),
                kind: "ClusterIP".into(),
                ports: vec![PortView {
                    protocol: "TCP".into(),
                    port: 80,
                    selection: "random".into(),
                    frontends: vec![
                        frontend("10.96.7.7:80", 0, "no_endpoints"),
                        frontend("[fd00:10:96::7]:80", 0, "no_endpoints"),
                    ],
                    connections: ConnectionsView {
                        translated: 0,
                        refused: 31,
                    },
                    ..PortView::default()
                }],
            },
        ]
    }

    #[test]
    fn a_line_for_each_frontend_within_100_columns() {
        let text = list(&shop());
        assert_eq!(
            text,
            "\
NAMESPACE  NAME        TYPE       FRONTEND                ENDPOINTS  SENT  REFUSED  VERDICT
default    kubernetes  ClusterIP  10.96.0.1:443/TCP               1  1204        0  translate
shop       cart        ClusterIP  10.96.7.7:80/TCP                0     0       31  no_endpoints
shop       cart        ClusterIP  [fd00:10:96::7]:80/TCP          0     -        -  no_endpoints
"
        );
        assert!(text.lines().all(|line| line.len() <= 100));
        assert_eq!(list(&[]), "no services\n");
    }

    #[test]
    fn a_name_shows_endpoints() {
        assert_eq!(
            details(&shop()),
            "\
default/kubernetes (ClusterIP)
  port https 443/TCP
    connections: 1204 sent to an endpoint, 0 refused
    FRONTEND           ENDPOINTS  VERDICT    SELECTION
    10.96.0.1:443/TCP          1  translate  random
    ENDPOINT        POD  NODE  ZONE
    192.0.2.1:6443  -    -     -

shop/cart (ClusterIP)
  port 80/TCP
    connections: 0 sent to an endpoint, 31 refused
    FRONTEND                ENDPOINTS  VERDICT       SELECTION
    10.96.7.7:80/TCP                0  no_endpoints  random
    [fd00:10:96::7]:80/TCP          0  no_endpoints  random
    no endpoints
"
        );
    }
}
