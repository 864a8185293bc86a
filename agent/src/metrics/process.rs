//! The agent's own process, under the names that Prometheus' client libraries use.

use std::{fmt, fs, io};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

#[derive(Debug)]
pub(super) struct Collector {
    /// Unix time at which the machine started.
    booted: Option<f64>,
}

/// A few fields of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// User and system time, clock ticks.
    cpu_ticks: u64,
    threads: u64,
    /// Since boot, clock ticks.
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The second field is the command in parentheses, and may itself hold spaces and parentheses.
        let (_, after_command) = line.rsplit_once(')')?;
        let fields: Vec<&str> = after_command.split_ascii_whitespace().collect();
        // The first of these is field 3 of the manual page.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            started_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }

    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }
}

fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn open_files() -> io::Result<usize> {
    // One of them is the directory that is being read.
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

impl Collector {
    pub(super) fn new() -> Self {
        Self { booted: booted() }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "ticks and bytes are far below 2^53"
)]
impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| -> fmt::Result {
            let Some(value) = value else {
                return Ok(());
            };
            let sample = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(sample)
        };
        let stat = Stat::read();
        let tick = 1.0 / clock_ticks_per_second() as f64;
        let of = |value: fn(&Stat) -> u64| stat.as_ref().map(|stat| value(stat) as f64);

        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            of(|stat| stat.resident_pages).map(|pages| pages * page_size() as f64),
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            of(|stat| stat.virtual_bytes),
        )?;
        gauge(
            "process_open_fds",
            "Number of open file descriptors.",
            open_files().ok().map(|n| n as f64),
        )?;
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            getrlimit(Resource::Nofile).current.map(|n| n as f64),
        )?;
        gauge(
            "process_threads",
            "Number of threads.",
            of(|stat| stat.threads),
        )?;
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            self.booted
                .zip(of(|stat| stat.started_ticks))
                .map(|(booted, ticks)| booted + ticks * tick),
        )?;
        if let Some(ticks) = of(|stat| stat.cpu_ticks) {
            let sample = encoder.encode_descriptor(
                "process_cpu_seconds",
                "Total user and system CPU time spent in seconds.",
                None,
                MetricType::Counter,
            )?;
            ConstCounter::new(ticks * tick).encode(sample)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_have_spaces_and_parentheses() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 21 34 0 0 20 0 5 0 900 4096000 250 184467440";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                cpu_ticks: 55,
                threads: 5,
                started_ticks: 900,
                virtual_bytes: 4_096_000,
                resident_pages: 250,
            }
        );
    }

    #[test]
    fn this_process_can_be_read() {
        let stat = Stat::read().unwrap();
        assert!(stat.threads >= 1 && stat.resident_pages > 0 && stat.started_ticks > 0);
        assert!(booted().unwrap() > 0.0);
        assert!(open_files().unwrap() >= 3);
    }
}
