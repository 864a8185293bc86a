//! `weir check --migrate`, for people.

use crate::check::migrate::{Frontend, FrontendKind, Migration, Mode};

const WIDTH: usize = 100;

pub(super) fn text(migration: &Migration) -> String {
    let mut text = String::new();
    if migration.running.is_empty() && migration.programmed.is_empty() {
        text += "Nothing of kube-proxy was found on this node: there is nothing to migrate.\n";
    } else {
        text += "kube-proxy on this node\n";
        for proxy in &migration.running {
            item(
                &mut text,
                &format!(
                    "runs as process {}: {}",
                    proxy.pid,
                    proxy.arguments.join(" ")
                ),
            );
        }
        for programmed in &migration.programmed {
            let mode = match programmed.mode {
                Mode::Nftables => "nftables (table kube-proxy)",
                Mode::IptablesNft => "iptables, nft variant",
                Mode::IptablesLegacy => "iptables, legacy variant",
                Mode::Ipvs => "IPVS",
            };
            item(
                &mut text,
                &format!("has programmed {} frontends: {mode}", programmed.frontends),
            );
        }
    }
    let settings = migration
        .settings
        .iter()
        .map(|setting| format!("{}: {}", setting.name, setting.outcome));
    section(&mut text, "Settings without effect in Weir", settings);
    section(
        &mut text,
        "What will change",
        migration.changes.iter().cloned(),
    );
    if !migration.services.is_empty() {
        text += "\nServices\n";
        for service in &migration.services {
            let at: Vec<String> = service.frontends.iter().map(frontend).collect();
            item(&mut text, &format!("{}  {}", service.name, at.join(", ")));
            let unchanged = service.changes.is_empty().then(|| "as it is".to_owned());
            for change in service.changes.iter().cloned().chain(unchanged) {
                for line in wrap(&format!("-> {change}"), WIDTH - 6) {
                    text += &format!("      {line}\n");
                }
            }
        }
    }
    section(&mut text, "Before", migration.before.iter().cloned());
    section(
        &mut text,
        "Once Weir runs on every node",
        migration.after.iter().cloned(),
    );
    section(&mut text, "To go back", migration.back.iter().cloned());
    section(
        &mut text,
        "Not looked at",
        migration.unknown.iter().cloned(),
    );
    text
}

fn frontend(frontend: &Frontend) -> String {
    let at = match frontend.addr {
        Some(addr) => std::net::SocketAddr::new(addr, frontend.port).to_string(),
        None => frontend.port.to_string(),
    };
    let kind = match frontend.kind {
        FrontendKind::ClusterIp | FrontendKind::Unknown => "",
        FrontendKind::External => "external ",
        FrontendKind::NodePort => "node port ",
    };
    format!("{kind}{at}/{}", frontend.protocol)
}

fn section(text: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        *text += &format!("\n{title}\n");
    }
    for one in items {
        item(text, &one);
    }
}

fn item(text: &mut String, content: &str) {
    for (number, line) in wrap(content, WIDTH - 4).iter().enumerate() {
        *text += if number == 0 { "  " } else { "    " };
        *text += line;
        text.push('\n');
    }
}

/// Breaks at spaces; words longer than a line stay whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("never empty");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::migrate::{Programmed, Proxy, Service};

    #[test]
    fn a_node_without_kube_proxy_has_nothing_to_migrate() {
        let text = text(&Migration::default());
        assert!(text.contains("nothing to migrate"), "{text}");
    }

    #[test]
    fn services_are_told_with_what_changes_within_100_columns() {
        let node_port = Frontend {
            service: "shop/web:http".into(),
            mode: Mode::IptablesNft,
            kind: FrontendKind::NodePort,
            addr: None,
            port: 30080,
            protocol: "tcp".into(),
        };
        let cluster_ip = Frontend {
            kind: FrontendKind::ClusterIp,
            addr: Some([10, 96, 0, 80].into()),
            port: 80,
            ..node_port.clone()
        };
        let service = |name: &str, changes: &[&str]| Service {
            name: name.into(),
            frontends: vec![cluster_ip.clone(), node_port.clone()],
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
        };
        let long = "a word or two of what will be different ".repeat(6);
        let text = text(&Migration {
            running: vec![Proxy {
                pid: 7,
                arguments: vec!["--config=/c".into()],
            }],
            programmed: vec![Programmed {
                mode: Mode::IptablesNft,
                frontends: 2,
            }],
            services: vec![
                service("shop/quiet", &[]),
                service("shop/web:http", &[long.trim()]),
            ],
            back: vec!["Start it again".into()],
            ..Migration::default()
        });
        for line in [
            "  runs as process 7: --config=/c",
            "  has programmed 2 frontends: iptables, nft variant",
            "  shop/web:http  10.96.0.80:80/tcp, node port 30080/tcp",
            "      -> as it is",
            "To go back",
            "  Start it again",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
    }
}
