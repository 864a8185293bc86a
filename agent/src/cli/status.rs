//! `weir status`: one screen.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;

use super::{
    AgentOptions, Format, output,
    table::{Column, Table},
};
use crate::api::{
    client::Client,
    percent,
    view::{PodsView, Status},
};

pub(super) const AFTER_HELP: &str =
    "Exit status: 0 healthy, 1 not healthy, 2 wrong usage, 3 no agent answers.";
const NO_ANSWER: u8 = 3;

/// How to show it.
#[derive(Clone, Debug, Args)]
pub struct Options {
    #[command(flatten)]
    agent: AgentOptions,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub(super) fn status(options: &Options) -> ExitCode {
    let client = Client::new(&options.agent.api_socket);
    let status = match output::ask(async move || client.status().await) {
        Ok(status) => status,
        Err(error) => {
            super::fail(&error);
            return ExitCode::from(NO_ANSWER);
        }
    };
    match options.output.print(&status, text) {
        Ok(()) if status.healthy => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => super::fail(&error.into()),
    }
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    write(&mut text, status).expect("a String takes everything");
    text
}

fn write(text: &mut String, status: &Status) -> std::fmt::Result {
    let health = if status.healthy {
        "healthy"
    } else {
        "NOT HEALTHY"
    };
    writeln!(
        text,
        "{health}: node {}, weir {}, up {}",
        status.node,
        status.version,
        age(status.uptime_seconds as f64)
    )?;
    for line in &status.attention {
        writeln!(text, "  ! {line}")?;
    }
    writeln!(text, "source: {}", status.source)?;

    let sync = &status.sync;
    let when = sync
        .last_age_seconds
        .map_or("never".into(), |seconds| age(seconds) + " ago");
    let took = sync.last_duration_seconds.map_or(String::new(), |seconds| {
        format!(", the last took {}", duration(seconds))
    });
    writeln!(
        text,
        "sync:   last {when}; {} done, {} failed, {} changes pending{took}",
        sync.count, sync.failures, sync.pending
    )?;

    writeln!(text, "pods:   {}", pods(&status.pods))?;

    let mut sources = Table::new([
        Column::Left("KIND"),
        Column::Left("SYNCED"),
        Column::Right("OBJECTS"),
        Column::Right("SKIPPED"),
        Column::Right("LAST EVENT"),
    ]);
    for source in &status.sources {
        sources.row([
            source.kind.clone(),
            if source.synced { "yes" } else { "no" }.into(),
            source.objects.to_string(),
            source.skipped.to_string(),
            source
                .last_event_age_seconds
                .map_or(String::new(), |seconds| age(seconds as f64) + " ago"),
        ]);
    }
    write!(text, "\n{sources}")?;

    let mut tables = Table::new([
        Column::Left("TABLE"),
        Column::Right("ENTRIES"),
        Column::Right("CAPACITY"),
        Column::Right("FULL"),
    ]);
    for table in &status.tables {
        tables.row([
            table.name.clone(),
            table.entries.to_string(),
            table.capacity.to_string(),
            format!("{} %", percent(table)),
        ]);
    }
    write!(text, "\n{tables}")?;

    let mut hooks = Table::new([
        Column::Left("HOOK"),
        Column::Left("ATTACHED TO"),
        Column::Left("PINNED"),
    ]);
    for attachment in &status.attachments {
        hooks.row([
            attachment.hook.clone(),
            attachment.target.clone(),
            attachment.pinned.clone().unwrap_or_default(),
        ]);
    }
    write!(text, "\n{hooks}")
}

fn pods(pods: &PodsView) -> String {
    let mut names: Vec<_> = pods
        .interfaces
        .iter()
        .map(|interface| &interface.pod)
        .collect();
    names.sort();
    names.dedup();
    let mut text = format!("{} served", names.len());
    let opted_out = pods.interfaces.iter().filter(|interface| interface.opt_out);
    let mut opted_out: Vec<_> = opted_out.map(|interface| &interface.pod).collect();
    opted_out.sort();
    opted_out.dedup();
    if !opted_out.is_empty() {
        let _ = write!(
            text,
            ", {} of them with sockets left alone",
            opted_out.len()
        );
    }
    if let Some((first, others)) = pods.waiting.split_first() {
        let _ = write!(
            text,
            "; {} without an interface yet: {first}",
            others.len() + 1
        );
        if !others.is_empty() {
            text.push_str(", ...");
        }
    }
    text
}

/// As kubectl shows ages: one unit, two for what is young in it.
fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..7200 => format!("{minutes}m"),
        7200..36000 => format!("{hours}h{}m", minutes % 60),
        36000..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.2} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::view::{Attachment, SkippedObject, SourceView, SyncView, TableFill},
        pods::InterfaceView,
    };

    #[test]
    fn one_screen() {
        let mut status = Status {
            node: "node-1".into(),
            version: "0.1.0".into(),
            uptime_seconds: 4000,
            source: "kubernetes https://192.0.2.1:6443".into(),
            sources: vec![
                SourceView {
                    kind: "Service".into(),
                    synced: true,
                    objects: 10_000,
                    last_event_age_seconds: Some(5),
                    skipped: 1,
                    error: None,
                },
                SourceView {
                    kind: "Pod".into(),
                    ..SourceView::default()
                },
            ],
            tables: vec![TableFill {
                name: "SERVICES".into(),
                entries: 20_001,
                capacity: 262_144,
            }],
            attachments: vec![Attachment {
                hook: "connect4".into(),
                target: "/sys/fs/cgroup/unified".into(),
                pinned: Some("/sys/fs/bpf/weir/v1/links/connect4".into()),
            }],
            pods: PodsView {
                listed: true,
                interfaces: ["shop/cart-0", "shop/cart-0", "shop/till-0"]
                    .into_iter()
                    .zip(7..)
                    .map(|(pod, ifindex)| InterfaceView {
                        pod: pod.into(),
                        device: format!("veth{ifindex}"),
                        ifindex,
                        addresses: Vec::new(),
                        opt_out: pod == "shop/cart-0",
                    })
                    .collect(),
                waiting: vec!["shop/job-1".into(), "shop/job-2".into()],
                ..PodsView::default()
            },
            sync: SyncView {
                count: 12,
                last_age_seconds: Some(6.5),
                last_duration_seconds: Some(0.0012),
                ..SyncView::default()
            },
            skipped: vec![SkippedObject {
                kind: "Service".into(),
                name: "shop/till".into(),
                reason: "spec.ports[0].port: 70000 is not a port (1-65535)".into(),
            }],
            ..Status::default()
        };
        status.assess();
        assert_eq!(
            text(&status),
            "\
NOT HEALTHY: node node-1, weir 0.1.0, up 66m
  ! Pod is not listed yet; nothing is programmed before every kind is
  ! Service shop/till is skipped: spec.ports[0].port: 70000 is not a port (1-65535)
source: kubernetes https://192.0.2.1:6443
sync:   last 6s ago; 12 done, 0 failed, 0 changes pending, the last took 1.2 ms
pods:   2 served, 1 of them with sockets left alone; 2 without an interface yet: shop/job-1, ...

KIND     SYNCED  OBJECTS  SKIPPED  LAST EVENT
Service  yes       10000        1      5s ago
Pod      no            0        0           -

TABLE     ENTRIES  CAPACITY  FULL
SERVICES    20001    262144   7 %

HOOK      ATTACHED TO             PINNED
connect4  /sys/fs/cgroup/unified  /sys/fs/bpf/weir/v1/links/connect4
"
        );
    }

    #[test]
    fn ages_are_short() {
        let cases = [
            (0.0, "0s"),
            (119.9, "119s"),
            (125.0, "2m5s"),
            (7199.0, "119m"),
            (7260.0, "2h1m"),
            (200_000.0, "2d"),
        ];
        for (seconds, shown) in cases {
            assert_eq!(age(seconds), shown);
        }
    }
}
