//! What was measured, made into lines; and these into text.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use weir_world::Wiring;

use crate::{
    contender::Contender,
    ratio::Summary,
    rounds::{Group, Measured},
    rows::{Row, Sample, What},
    standing::Standing,
};

/// Everything, as written to `services.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    /// The machine: CPUs, kernel, and how busy it was with other things.
    pub(crate) machine: String,
    /// Rounds and the length of one measurement.
    pub(crate) method: String,
    pub(crate) control: Vec<Standing>,
    pub(crate) traffic: Vec<Table>,
}

/// The lines of a group.
#[derive(Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) wiring: Wiring,
    pub(crate) services: u32,
    pub(crate) lines: Vec<Line>,
}

/// One figure of each contender.
#[derive(Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) group: Figure,
    pub(crate) title: String,
    /// Without services: what the ratios refer to.
    pub(crate) direct: Option<Summary>,
    pub(crate) contenders: Vec<Cell>,
}

/// What a contender reached, as a ratio to direct.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) contender: Contender,
    pub(crate) ratio: Option<Summary>,
    /// Why there is no ratio, or not one for every round.
    pub(crate) note: Option<String>,
    /// What it was, round by round, in the unit of the figure.
    pub(crate) rounds: Vec<Option<f64>>,
}

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    Connects,
    Throughput,
    Datagrams,
    Median,
    Tail,
    Cpu,
}

impl Figure {
    /// All of them, those first of which more is better.
    pub(crate) const ALL: [Self; 6] = [
        Self::Connects,
        Self::Datagrams,
        Self::Throughput,
        Self::Median,
        Self::Tail,
        Self::Cpu,
    ];

    /// As a heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Connects => "Connections per second (connect, one byte each way, close)",
            Self::Datagrams => "UDP packets per second that arrive",
            Self::Throughput => "Bulk throughput",
            Self::Median => "Request/response latency, median",
            Self::Tail => "Request/response latency, 99th of 100",
            Self::Cpu => "CPU time of client, server and kernel for each",
        }
    }

    /// Whether a greater ratio is the better one.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::Connects | Self::Datagrams | Self::Throughput)
    }

    fn absolute(self, value: f64) -> String {
        match self {
            Self::Connects | Self::Datagrams if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Self::Connects | Self::Datagrams => format!("{:.0} k/s", value / 1e3),
            Self::Throughput => format!("{:.1} Gbit/s", value * 8.0 / 1e9),
            Self::Median | Self::Tail => format!("{:.0} us", value * 1e6),
            // Of one byte it is a fraction of a nanosecond.
            Self::Cpu if value < 1e-8 => format!("{:.0} ms/GB", value * 1e12),
            Self::Cpu => format!("{:.1} us", value * 1e6),
        }
    }
}

impl Table {
    /// The lines of a group, from what was measured in it.
    pub(crate) fn new(group: &Group, rows: &[Row], measured: &Measured) -> Self {
        let mut lines = Vec::new();
        for figure in Figure::ALL {
            for (number, row) in rows.iter().enumerate() {
                if let Some(pick) = pick(figure, row.what)
                    && measured.contains_key(&(number, Contender::Direct))
                {
                    lines.push(line(figure, number, row, measured, pick));
                }
            }
        }
        Self {
            wiring: group.wiring,
            services: group.services,
            lines,
        }
    }
}

type Pick = fn(&Sample) -> Option<f64>;

fn pick(figure: Figure, what: What) -> Option<Pick> {
    Some(match (figure, what) {
        (Figure::Connects, What::Connect)
        | (Figure::Throughput, What::Bulk)
        | (Figure::Datagrams, What::Datagrams(_)) => |sample| Some(sample.rate),
        (Figure::Median, What::RequestResponse) => |sample| sample.p50,
        (Figure::Tail, What::RequestResponse) => |sample| sample.p99,
        (Figure::Cpu, _) => |sample| Some(sample.cpu),
        _ => return None,
    })
}

fn line(figure: Figure, number: usize, row: &Row, measured: &Measured, pick: Pick) -> Line {
    let rounds = |contender| -> Vec<Option<f64>> {
        let series = measured.get(&(number, contender));
        let samples = series.iter().flat_map(|series| &series.samples);
        samples
            .map(|sample| sample.as_ref().and_then(pick))
            .collect()
    };
    let direct = rounds(Contender::Direct);
    let contenders = Contender::PROXIES
        .into_iter()
        .map(|contender| {
            let series = measured.get(&(number, contender));
            let rounds = rounds(contender);
            let missing = rounds.iter().filter(|round| round.is_none()).count();
            Cell {
                contender,
                ratio: Summary::of_ratios(&rounds, &direct),
                note: series
                    .and_then(|series| series.failure.as_ref())
                    .map(|failure| {
                        format!("failed in {missing} of {} rounds: {failure}", rounds.len())
                    }),
                rounds,
            }
        })
        .collect();
    let kind = match row.what {
        _ if figure != Figure::Cpu => "",
        What::Connect => "connection, ",
        What::RequestResponse => "request, ",
        What::Bulk => "byte, ",
        What::Datagrams(_) => "UDP packet, ",
    };
    Line {
        group: figure,
        title: format!("{kind}{}", row.title()),
        direct: Summary::of(direct.into_iter().flatten()),
        contenders,
    }
}

impl Report {
    /// As Markdown, which is also good to read as it is.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "# Services\n\n{}\n{}\n", self.machine, self.method)?;
        for table in &self.traffic {
            table.write(text)?;
        }
        self.write_control(text)
    }

    fn write_control(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "## Control plane, on one node, from a real API server\n\n\
             Ready: from the start of the process until the first and the last service answer. A change: one endpoint comes or \
             goes, from the API server's answer until connections notice; its CPU time with all that follows.\n\n\
             | services, endpoints | | ready | CPU of it | a change seen after | CPU of it | anonymous memory |\n\
             | --- | --- | --- | --- | --- | --- | --- |"
        )?;
        let mut notes = Vec::new();
        for standing in &self.control {
            let mark = match &standing.note {
                Some(note) => format!(" [{}]", mark(&mut notes, note)),
                None => String::new(),
            };
            let seconds = |value: Option<f64>| value.map_or("-".to_owned(), time);
            let summary = |value: Option<Summary>| seconds(value.map(|value| value.median));
            writeln!(
                text,
                "| {}, {} | {}{mark} | {} | {} | {} | {} | {} |",
                grouped(standing.services),
                grouped(standing.endpoints),
                standing.contender.title(),
                seconds(standing.ready),
                seconds(standing.ready_cpu),
                summary(standing.change),
                summary(standing.change_cpu),
                standing.anonymous.map_or("-".to_owned(), |bytes| format!(
                    "{:.0} MB",
                    bytes as f64 / 1e6
                )),
            )?;
        }
        write_notes(text, &notes)
    }
}

impl Table {
    /// As a heading.
    pub(crate) fn title(&self) -> String {
        let wiring = match self.wiring {
            Wiring::Routed => "routed",
            Wiring::Bridged => "bridged",
        };
        format!(
            "Traffic, {wiring} pods, {} services",
            grouped(self.services)
        )
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let shown: Vec<Contender> = Contender::PROXIES
            .into_iter()
            .filter(|contender| {
                self.lines.iter().any(|line| {
                    let mut cells = line.contenders.iter();
                    cells.any(|cell| cell.contender == *contender && !cell.rounds.is_empty())
                })
            })
            .collect();
        write!(text, "## {}\n\n| | direct |", self.title())?;
        for contender in &shown {
            write!(text, " {} |", contender.title())?;
        }
        writeln!(text, "\n| --- | --- |{}", " --- |".repeat(shown.len()))?;
        let mut notes = Vec::new();
        for figure in Figure::ALL {
            let mut lines = self
                .lines
                .iter()
                .filter(|line| line.group == figure)
                .peekable();
            if lines.peek().is_some() {
                let sense = if figure.more_is_better() {
                    "more"
                } else {
                    "less"
                };
                let blank = " |".repeat(shown.len() + 1);
                writeln!(text, "| **{}**: {sense} is better |{blank}", figure.title())?;
            }
            for line in lines {
                let direct = line
                    .direct
                    .map_or("-".to_owned(), |direct| figure.absolute(direct.median));
                write!(text, "| {} | {direct} |", line.title)?;
                for cell in &line.contenders {
                    if shown.contains(&cell.contender) {
                        let ratio = cell.ratio.map_or("-".to_owned(), |ratio| ratio.to_string());
                        let mark = cell.note.as_ref().map_or(String::new(), |note| {
                            format!(" [{}]", mark(&mut notes, note))
                        });
                        write!(text, " {ratio}{mark} |")?;
                    }
                }
                writeln!(text)?;
            }
        }
        write_notes(text, &notes)
    }
}

/// The number of a note, which is given once.
fn mark(notes: &mut Vec<String>, note: &str) -> usize {
    let known = notes.iter().position(|known| known == note);
    1 + known.unwrap_or_else(|| {
        notes.push(note.to_owned());
        notes.len() - 1
    })
}

fn write_notes(text: &mut String, notes: &[String]) -> std::fmt::Result {
    writeln!(text)?;
    for (number, note) in notes.iter().enumerate() {
        writeln!(text, "[{}] {note}\n", number + 1)?;
    }
    Ok(())
}

/// Seconds, in the unit that suits them.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds < 0.000_999_5 => format!("{:.0} us", seconds * 1e6),
        _ if seconds < 0.009_995 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 0.999_5 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 9.995 => format!("{seconds:.2} s"),
        _ => format!("{seconds:.0} s"),
    }
}

/// With a comma between thousands.
pub(crate) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for group in digits.as_bytes()[first..].chunks(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text.extend(group.iter().map(|&digit| char::from(digit)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            [7, 1_000, 50_000, 1_234_567].map(grouped),
            ["7", "1,000", "50,000", "1,234,567"]
        );
        assert_eq!(
            [0.000_012, 0.004_2, 0.312, 1.06, 59.2].map(time),
            ["12 us", "4.2 ms", "312 ms", "1.06 s", "59 s"]
        );
    }
}
