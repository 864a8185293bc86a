//! Batches of `ip` commands, one process for each.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::error::{Doing, Error, Result};
use crate::netns::NetNs;

/// Runs the lines as one `ip -batch` in `netns`, or in the namespace of the calling thread. Stops at the first that fails.
pub(crate) fn batch(netns: Option<&NetNs>, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let output = match netns {
        Some(netns) => netns.run(|| run(lines))?,
        None => run(lines),
    };
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoIpCommand,
        _ => Error::Io {
            doing: "run `ip -batch -`".to_owned(),
            source: error,
        },
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Error::Ip {
        netns: netns.map_or_else(
            || "the root namespace".to_owned(),
            |ns| ns.name().to_owned(),
        ),
        line: refused(lines, &message),
        message: message
            .lines()
            .filter(|line| !line.starts_with("Command failed"))
            .collect::<Vec<_>>()
            .join("; "),
    })
}

fn run(lines: &[String]) -> io::Result<Output> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = lines.join("\n");
    input.push('\n');
    // It closes its input early when it refuses a line: its exit status tells, not the broken pipe.
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(output),
    }
}

/// The line that `Command failed -:NUMBER` points at.
fn refused(lines: &[String], message: &str) -> String {
    message
        .lines()
        .find_map(|line| line.strip_prefix("Command failed -:"))
        .and_then(|number| number.trim().parse::<usize>().ok())
        .and_then(|number| lines.get(number.checked_sub(1)?))
        .cloned()
        .unwrap_or_else(|| lines.join("; "))
}

/// Writes sysctls (`net/ipv4/ip_forward`, `1`) of a network namespace.
pub(crate) fn sysctls(netns: &NetNs, values: &[(&str, &str)]) -> Result<()> {
    netns.run(|| {
        values.iter().try_for_each(|(key, value)| {
            std::fs::write(format!("/proc/sys/{key}"), value)
                .doing(|| format!("set {key} to {value} in {}", netns.name()))
        })
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_line_is_named() {
        let lines = ["link show lo".to_owned(), "link show nowhere0".to_owned()];
        let error = batch(None, &lines).expect_err("there is no such link");
        let text = error.to_string();
        assert!(text.contains("`ip link show nowhere0`"), "{text}");
        assert!(text.contains("does not exist"), "{text}");
    }
}
