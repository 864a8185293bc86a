//! `bench services`: Weir and kube-proxy side by side, as ratios to the same pods without services.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use weir_world::Wiring;

use crate::{
    contender::Contender,
    objects::FIXED,
    plot,
    report::{Report, Table, grouped},
    rounds::{self, Group, Limits},
    rows::{Breadth, ROWS},
    site::Site,
    standing::{Registry, Standing, stand_up},
};

/// Where the results go.
const DIRECTORY: &str = "target/bench";

/// How to call it.
pub(crate) const USAGE: &str = "cargo xtask bench services [--quick] [--sizes 10,1000,10000,50000] [--rounds MOST] \
     [--minutes LIMIT] [--each MILLISECONDS]";

/// How much to measure.
pub(crate) struct Options {
    sizes: Vec<u32>,
    wirings: Vec<Wiring>,
    /// At most so many.
    rounds: u32,
    each: Duration,
    /// Within which all should be done.
    limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sizes: vec![10, 1_000, 10_000, 50_000],
            wirings: vec![Wiring::Routed, Wiring::Bridged],
            rounds: 9,
            each: Duration::from_millis(250),
            limit: Duration::from_secs(14 * 60),
        }
    }
}

impl Options {
    /// From the arguments that follow the bench's name.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        if arguments.contains(&"--quick") {
            // Enough to see that it works.
            options = Self {
                sizes: vec![10, 1_000],
                wirings: vec![Wiring::Routed],
                rounds: 2,
                each: Duration::from_millis(80),
                limit: Duration::from_secs(150),
            };
        }
        let mut arguments = arguments.iter();
        while let Some(&argument) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.with_context(|| format!("{argument} needs a value: {USAGE}"))
            };
            match argument {
                "--quick" => {}
                "--sizes" => {
                    let sizes = value()?.split(',').map(str::parse);
                    options.sizes = sizes.collect::<Result<_, _>>()?;
                    options.sizes.sort_unstable();
                    options.sizes.dedup();
                }
                "--rounds" => options.rounds = value()?.parse()?,
                "--minutes" => options.limit = Duration::from_secs(60 * value()?.parse::<u64>()?),
                "--each" => options.each = Duration::from_millis(value()?.parse()?),
                _ => bail!("{argument:?} is no argument: {USAGE}"),
            }
        }
        let fits = |size: &u32| (FIXED..=50_000).contains(size);
        ensure!(
            !options.sizes.is_empty() && options.sizes.iter().all(fits),
            "sizes are from {FIXED} to 50,000 services"
        );
        Ok(options)
    }

    /// The number of services with which everything is measured.
    fn main_size(&self) -> u32 {
        let most = self.sizes.iter().rfind(|&&size| size <= 1_000);
        *most.unwrap_or(&self.sizes[0])
    }
}

/// Runs it and writes what it measured.
pub(crate) fn bench(options: &Options) -> Result<()> {
    let start = Instant::now();
    let machine = machine()?;
    let _ahead = Ahead::go();
    eprintln!("{machine}");
    let directs = options
        .wirings
        .iter()
        .map(|&wiring| Ok((wiring, Site::build(Contender::Direct, wiring)?)))
        .collect::<Result<Vec<_>>>()?;
    let (groups, control) = stand_all(options, &directs)?;
    eprintln!(
        "{} worlds stand after {:.0} s",
        groups.iter().map(|group| group.sites.len()).sum::<usize>() + directs.len(),
        start.elapsed().as_secs_f64()
    );
    let limits = Limits {
        least: options.rounds.min(3),
        most: options.rounds,
        until: start + options.limit,
        each: options.each,
    };
    let measured = rounds::run(&directs, &groups, &ROWS, &limits)?;
    let done = measured
        .iter()
        .flat_map(|measured| measured.values())
        .map(|series| series.samples.len())
        .max()
        .unwrap_or(0);
    let report = Report {
        machine,
        method: format!(
            "Ratios to the same pods without services and without a proxy, in a world that stands beside the others: the median \
             (and the quarters around it) of {done} interleaved rounds of {} ms a row. From outside, the direct way is routed \
             by way of the first node there and back. A busy machine shows in the spread.",
            options.each.as_millis()
        ),
        control,
        traffic: groups
            .iter()
            .zip(&measured)
            .map(|(group, measured)| Table::new(group, &ROWS, measured))
            .collect(),
    };
    let json = serde_json::to_vec_pretty(&report)?;
    write("services.json", &json)?;
    publish(&report)?;
    eprintln!("took {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Makes the tables and plots once more from what an earlier run has written.
pub(crate) fn again() -> Result<()> {
    let path = Path::new(DIRECTORY).join("services.json");
    let json = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    publish(&serde_json::from_slice(&json)?)
}

fn publish(report: &Report) -> Result<()> {
    let text = report.text();
    println!("{text}");
    write("services.md", text.as_bytes())?;
    for (name, svg) in plot::all(report) {
        write(&name, svg.as_bytes())?;
    }
    Ok(())
}

fn write(name: &str, content: &[u8]) -> Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let path = Path::new(DIRECTORY).join(name);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("written: {}", path.display());
    Ok(())
}

/// Sets up all worlds; on the way the control planes are measured, in the first wiring.
fn stand_all(options: &Options, directs: &[(Wiring, Site)]) -> Result<(Vec<Group>, Vec<Standing>)> {
    let (first, any) = directs.first().context("there is no wiring")?;
    let mut registry = Registry::start()?;
    let (mut groups, mut control) = (Vec::new(), Vec::new());
    for &services in &options.sizes {
        registry.grow(services, any)?;
        for &(wiring, _) in directs {
            let everything = services == options.main_size();
            if wiring != *first && !everything {
                continue;
            }
            let mut group = Group {
                wiring,
                services,
                breadth: match (everything, wiring == *first) {
                    (true, true) => Breadth::Once,
                    (true, false) => Breadth::EveryWiring,
                    (false, _) => Breadth::EverySize,
                },
                sites: Vec::new(),
            };
            for contender in Contender::PROXIES {
                eprintln!(
                    "{wiring:?}, {} services: {} ...",
                    grouped(services),
                    contender.title()
                );
                let measure = wiring == *first;
                let (site, standing) = stand_up(&registry, contender, wiring, measure)
                    .with_context(|| format!("{} with {services} services", contender.title()))?;
                if measure {
                    control.push(standing);
                }
                group.sites.extend(site);
            }
            groups.push(group);
        }
    }
    Ok((groups, control))
}

/// Where the kernel shares the CPUs among sessions first and among their processes then, ours goes ahead of others for as
/// long as this lives.
struct Ahead {
    nice: Option<String>,
}

impl Ahead {
    const FILE: &str = "/proc/self/autogroup";

    fn go() -> Self {
        // "/autogroup-123 nice 0"; where there is no such file, the peers' own priority is enough.
        let group = fs::read_to_string(Self::FILE).unwrap_or_default();
        let nice = group
            .trim()
            .rsplit_once(' ')
            .map(|(_, nice)| nice.to_owned());
        let ours = nice.filter(|_| fs::write(Self::FILE, "-10").is_ok());
        Self { nice: ours }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(nice) = &self.nice {
            // Refused more than ten times a second only.
            let _ = fs::write(Self::FILE, nice);
        }
    }
}

/// What it is measured on, and how busy that is with other things.
fn machine() -> Result<String> {
    let (busy, all) = ticks()?;
    thread::sleep(Duration::from_secs(1));
    let (busy_then, all_then) = ticks()?;
    let share = (busy_then - busy) as f64 / (all_then - all).max(1) as f64;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{} CPUs, Linux {}, {:.0} % busy with other things at the start.",
        thread::available_parallelism()?,
        kernel.trim(),
        share * 100.0
    ))
}

/// Ticks of all CPUs so far: busy ones, and all.
fn ticks() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    // Guests' time, at the end, is contained in users' time.
    let all: u64 = ticks.iter().take(8).sum();
    Ok((all - idle, all))
}
