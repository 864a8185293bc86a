//! `weir check`, for people.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Format, run::DEFAULT_BPFFS};
use crate::check::{Finding, Group, Report, State, Target};

pub(super) const AFTER_HELP: &str = "Exit status: 0 Weir can run here, 1 it cannot, 2 wrong usage; always 0 with --migrate. Nothing is changed by looking.";

const WIDTH: usize = 100;
/// Where the text of a line begins: after two spaces, the state and the name.
const INDENT: usize = 38;

/// Where Weir would run, and how to show the findings.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The cgroup v2 directory that `weir run` would be given [default: where cgroup2 is mounted]
    #[arg(long, value_name = "DIR", env = "WEIR_CGROUP_ROOT")]
    cgroup_root: Option<PathBuf>,
    /// The bpf file system that `weir run` would be given
    #[arg(long, value_name = "DIR", env = "WEIR_BPFFS", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// Look at kube-proxy instead: what it does or left on this node, what will change with Weir, what to do before, and how
    /// to go back (as root, on the node)
    #[arg(long)]
    migrate: bool,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub(super) fn check(options: &Options) -> anyhow::Result<ExitCode> {
    if options.migrate {
        let found = crate::check::migrate::migrate();
        options.output.print(&found, super::migrate::text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = crate::check::check(&Target {
        cgroup_root: options.cgroup_root.clone(),
        bpffs: options.bpffs.clone(),
    });
    options.output.print(&report, text)?;
    Ok(if report.can_run {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(report: &Report) -> String {
    let mut text = format!("{}\n", report.kernel);
    let mut group = None;
    for finding in &report.findings {
        if group != Some(finding.group) {
            group = Some(finding.group);
            writeln!(text, "\n{}", title(finding.group)).expect("a String takes everything");
        }
        text += &line(finding);
    }
    text.push('\n');
    text += &conclusion(report);
    text
}

fn title(group: Group) -> &'static str {
    match group {
        Group::Required => "Required",
        Group::Packets => "Packets",
        Group::Tracing => "Tracing",
        Group::General => "General",
        Group::Conflicts => "Conflicts",
    }
}

fn line(finding: &Finding) -> String {
    let state = match finding.state {
        State::Ok => "ok",
        State::Degraded => "DEGRADED",
        State::Missing => "MISSING",
        State::Unknown => "unknown",
    };
    let mut lines = Vec::new();
    if finding.state == State::Ok {
        lines.extend(match (finding.gives, finding.found.as_str()) {
            ("", found) => wrap(found),
            (gives, "") => wrap(gives),
            (gives, found) => wrap(&format!("{gives} ({found})")),
        });
    } else {
        lines.extend(wrap(&finding.found));
        if !finding.gives.is_empty() {
            lines.extend(wrap(&format!("would give: {}", finding.gives)));
        }
        lines.extend(wrap(&format!("costs: {}", finding.costs)));
    }
    let mut text = String::new();
    for (number, part) in lines.iter().enumerate() {
        let head = if number == 0 {
            format!("  {state:<8}  {:<26}", finding.name)
        } else {
            String::new()
        };
        text += format!("{head:<INDENT$}{part}").trim_end();
        text.push('\n');
    }
    text
}

/// Breaks at spaces, so that lines with their indentation fit [`WIDTH`]; words longer than that stay whole.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if line.is_empty() {
            line.push_str(word);
        } else if INDENT + line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn conclusion(report: &Report) -> String {
    let names = |wanted: &dyn Fn(&&Finding) -> bool| -> Vec<&str> {
        report
            .findings
            .iter()
            .filter(wanted)
            .map(|finding| finding.name)
            .collect()
    };
    let is_bad = |finding: &&Finding| finding.state != State::Ok;
    if report.can_run {
        let bad = names(&is_bad);
        if bad.is_empty() {
            return "Weir can run here, with everything it can do.\n".into();
        }
        return format!(
            "Weir can run here. Not as it could be: {}.\n",
            bad.join(", ")
        );
    }
    let lacking = names(&|finding| {
        finding.group == Group::Required && matches!(finding.state, State::Missing | State::Unknown)
    });
    format!("Weir cannot run here: {}.\n", lacking.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &'static str, group: Group, state: State, found: &str) -> Finding {
        Finding {
            name,
            group,
            state,
            found: found.into(),
            gives: "what it gives",
            costs: "a long explanation of what the absence of this thing costs, and of what can be done about it",
        }
    }

    #[test]
    fn a_line_for_what_is_there_and_an_explanation_for_what_is_not() {
        let report = Report {
            can_run: false,
            kernel: "Linux 5.10.0 x86_64".into(),
            findings: vec![
                finding("cgroup v2", Group::Required, State::Ok, "/sys/fs/cgroup"),
                finding(
                    "bpf_set_retval",
                    Group::Required,
                    State::Missing,
                    "this kernel does not have it",
                ),
                finding(
                    "kprobes",
                    Group::Tracing,
                    State::Unknown,
                    "Operation not permitted (os error 1)",
                ),
            ],
        };
        assert_eq!(
            text(&report),
            "\
Linux 5.10.0 x86_64

Required
  ok        cgroup v2                 what it gives (/sys/fs/cgroup)
  MISSING   bpf_set_retval            this kernel does not have it
                                      would give: what it gives
                                      costs: a long explanation of what the absence of this thing
                                      costs, and of what can be done about it

Tracing
  unknown   kprobes                   Operation not permitted (os error 1)
                                      would give: what it gives
                                      costs: a long explanation of what the absence of this thing
                                      costs, and of what can be done about it

Weir cannot run here: bpf_set_retval.
"
        );
    }

    #[test]
    fn this_machines_report_fits_100_columns() {
        let report = crate::check::check(&Target {
            cgroup_root: None,
            bpffs: DEFAULT_BPFFS.into(),
        });
        for line in text(&report).lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["can_run"], report.can_run);
        assert_eq!(
            json["findings"].as_array().unwrap().len(),
            report.findings.len()
        );
        assert_eq!(json["findings"][0]["group"], "required");
    }
}
