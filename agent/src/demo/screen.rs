//! What the demo shows: lines, and bars that move where the output is a terminal.

use std::io::{self, IsTerminal, Write};

use weir_world::peer::LoadReport;

use super::Totals;

const BAR: usize = 40;

/// The terminal, or a pipe.
pub(super) struct Screen {
    out: io::Stdout,
    live: bool,
    /// Lines to go up before the bars are drawn again.
    drawn: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        let out = io::stdout();
        let live = out.is_terminal();
        Self {
            out,
            live,
            drawn: 0,
        }
    }

    /// A line of its own.
    pub(super) fn say(&mut self, line: &str) {
        self.drawn = 0;
        self.print(&format!("{line}\n"));
    }

    /// The title of an act.
    pub(super) fn act(&mut self, title: &str) {
        let line = if self.live {
            format!("\n\x1b[1m{title}\x1b[0m")
        } else {
            format!("\n{title}")
        };
        self.say(&line);
    }

    /// How connections spread. Without a terminal only the last state of an act is printed.
    pub(super) fn spread(&mut self, families: &[(&str, LoadReport)], last: bool) {
        if !self.live && !last {
            return;
        }
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        let lines = lines(families);
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        self.print(&text);
        self.drawn = if last { 0 } else { lines.len() };
    }

    /// The end.
    pub(super) fn summary(&mut self, totals: &Totals) {
        self.say(&format!(
            "\n{} connections in all, {} failed; the slowest took {:.0} ms.",
            totals.ok,
            totals.failed,
            totals.slowest.as_secs_f64() * 1000.0
        ));
    }

    fn print(&mut self, text: &str) {
        // A reader that has gone (`| head`) ends the demo at its next step, not here.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

fn lines(families: &[(&str, LoadReport)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (family, report) in families {
        for (server, count) in &report.answered_by {
            let share = *count as f64 / report.ok.max(1) as f64;
            let bar = "#".repeat((share * BAR as f64).round() as usize);
            lines.push(format!(
                "  {family}  {server:<8} {bar:<BAR$} {count:>7} {:>5.1} %",
                share * 100.0
            ));
        }
        lines.push(format!(
            "  {family}  {} connections, {} failed",
            report.ok,
            report.failures()
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_the_length_of_their_share() {
        let report = LoadReport {
            ok: 4,
            answered_by: [("a".to_owned(), 3), ("b".to_owned(), 1)].into(),
            ..LoadReport::default()
        };
        let lines = lines(&[("IPv4", report)]);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].matches('#').count(), 30);
        assert!(lines[1].ends_with("1  25.0 %"), "{}", lines[1]);
        assert_eq!(lines[2], "  IPv4  4 connections, 0 failed");
    }
}
