//! `bench services`.

use std::{fs, time::Duration};

use anyhow::Result;
use serde_json::json;

use crate::{
    control,
    ratio::Ratios,
    traffic::{self, Site, Untouched},
};

/// How much to measure.
pub(crate) struct Options {
    sizes: &'static [u32],
    rounds: u32,
    each: Duration,
    first_syncs: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sizes: &[10, 1_000, 10_000],
            rounds: 9,
            each: Duration::from_millis(800),
            first_syncs: 3,
        }
    }
}

impl Options {
    /// Enough to see that it works.
    pub(crate) fn quick() -> Self {
        Self {
            sizes: &[10, 1_000],
            rounds: 2,
            each: Duration::from_millis(200),
            first_syncs: 1,
        }
    }
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let traffic = traffic(options)?;
    let control = control(options)?;
    fs::create_dir_all("target/bench")?;
    let json = json!({"traffic": traffic, "control": control});
    fs::write(
        "target/bench/services.json",
        serde_json::to_vec_pretty(&json)?,
    )?;
    println!("\nwritten to target/bench/services.json");
    Ok(())
}

/// A row's name, and where its ratios are.
type Row = (&'static str, fn(&traffic::Rows) -> &Ratios);

const ROWS: [Row; 7] = [
    ("connects per second, pod to ClusterIP, IPv4", |rows| {
        &rows.connects
    }),
    ("connects per second, pod to ClusterIP, IPv6", |rows| {
        &rows.connects_v6
    }),
    ("connects per second, host to ClusterIP", |rows| {
        &rows.connects_from_host
    }),
    ("CPU of the client per connect", |rows| &rows.connect_cpu),
    ("request/response latency, median", |rows| &rows.latency_p50),
    ("request/response latency, 99th of 100", |rows| {
        &rows.latency_p99
    }),
    (
        "connects per second, pod IP, against a node without an agent",
        |rows| &rows.direct_with_agent,
    ),
];

fn traffic(options: &Options) -> Result<serde_json::Value> {
    eprintln!(
        "building {} nodes side by side ...",
        options.sizes.len() + 1
    );
    let untouched = Untouched::build()?;
    let mut sites = options
        .sizes
        .iter()
        .map(|services| Site::build(*services))
        .collect::<Result<Vec<_>>>()?;
    for site in &sites {
        traffic::check(site)?;
    }
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for site in &mut sites {
            site.round(&untouched, options.each)?;
        }
    }
    println!(
        "\nThrough the service, as a ratio to the same pod addressed directly; median (least .. greatest) of {} interleaved rounds\n",
        options.rounds
    );
    let mut header = String::from("| |");
    let mut rule = String::from("| --- |");
    for site in &sites {
        header.push_str(&format!(" {} services |", site.services));
        rule.push_str(" --- |");
    }
    println!("{header}\n{rule}");
    let mut result = serde_json::Map::new();
    for (name, ratios) in ROWS {
        let mut line = format!("| {name} |");
        let mut values = serde_json::Map::new();
        for site in &sites {
            let summary = ratios(&site.rows).summary();
            if let Some(summary) = summary {
                line.push_str(&format!(" {summary} |"));
            }
            values.insert(site.services.to_string(), json!(summary));
        }
        println!("{line}");
        result.insert(name.to_owned(), values.into());
    }
    Ok(result.into())
}

fn control(options: &Options) -> Result<serde_json::Value> {
    println!(
        "\nFirst sync and one change, through the real code path into real maps; {} runs, the median\n",
        options.first_syncs
    );
    println!(
        "| services x endpoints | first sync: wall | CPU | anonymous memory | one slice change: median | 99th of 100 |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut result = serde_json::Map::new();
    for services in [10, 1_000, 10_000] {
        let mut runs = (0..options.first_syncs)
            .map(|_| control::first_sync(services, 10))
            .collect::<Result<Vec<_>>>()?;
        runs.sort_by_key(|run| run.cpu);
        let run = &runs[runs.len() / 2];
        println!(
            "| {services} x 10 | {:.3} s | {:.3} s | {:.1} MB | {:.0} us | {:.0} us |",
            run.wall.as_secs_f64(),
            run.cpu.as_secs_f64(),
            run.anonymous as f64 / 1e6,
            run.change_p50.as_secs_f64() * 1e6,
            run.change_p99.as_secs_f64() * 1e6,
        );
        result.insert(services.to_string(), json!(runs));
    }
    Ok(result.into())
}
