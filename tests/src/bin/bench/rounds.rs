//! Rounds: in each, every row is measured once in every world. Worlds that are compared with one another take turns
//! directly, each time beginning with another.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use weir_world::Wiring;

use crate::{
    contender::Contender,
    rows::{Breadth, Row, Sample},
    site::Site,
    usage::Softirqs,
};

/// Worlds of one wiring and number of services, which are compared with a world without services.
pub(crate) struct Group {
    pub(crate) wiring: Wiring,
    pub(crate) services: u32,
    pub(crate) breadth: Breadth,
    pub(crate) sites: Vec<Site>,
}

/// What was measured in one world and row, round by round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    pub(crate) samples: Vec<Option<Sample>>,
    /// Why samples are missing: the first reason.
    pub(crate) failure: Option<String>,
}

/// The series of a group, by row and contender, [`Contender::Direct`] among them.
pub(crate) type Measured = BTreeMap<(usize, Contender), Series>;

/// How long rounds go on.
pub(crate) struct Limits {
    /// At least so many.
    pub(crate) least: u32,
    /// At most so many.
    pub(crate) most: u32,
    /// None begins that would not be done by then.
    pub(crate) until: Instant,
    /// One measurement.
    pub(crate) each: Duration,
}

/// Measures every row of every group, for as long as the limits say. `directs` are the worlds without services.
pub(crate) fn run(
    directs: &[(Wiring, Site)],
    groups: &[Group],
    rows: &[Row],
    limits: &Limits,
) -> Result<Vec<Measured>> {
    let softirqs = Softirqs::find()?;
    let mut measured: Vec<Measured> = groups.iter().map(|_| Measured::new()).collect();
    let mut longest = Duration::ZERO;
    for round in 0..limits.most {
        if round >= limits.least && Instant::now() + longest > limits.until {
            break;
        }
        let start = Instant::now();
        for (group, measured) in groups.iter().zip(&mut measured) {
            let direct = directs.iter().filter(|(wiring, _)| *wiring == group.wiring);
            let sites: Vec<&Site> = direct.map(|(_, site)| site).chain(&group.sites).collect();
            for (number, row) in rows.iter().enumerate() {
                if row.breadth > group.breadth {
                    continue;
                }
                let first = (round as usize + number) % sites.len();
                for site in sites.iter().cycle().skip(first).take(sites.len()) {
                    let series = measured.entry((number, site.contender)).or_default();
                    let sample = row.measure(site, &softirqs, limits.each);
                    if let Err(error) = &sample {
                        series.failure.get_or_insert_with(|| format!("{error:#}"));
                    }
                    series.samples.push(sample.ok());
                }
            }
        }
        longest = longest.max(start.elapsed());
        eprintln!(
            "round {} took {:.0} s",
            round + 1,
            start.elapsed().as_secs_f64()
        );
    }
    Ok(measured)
}
