//! The ports that masquerading may use.
//!
//! An answer to a masqueraded packet comes to one of the node's own addresses. If a socket of the node itself sent from the same
//! port to the same backend, nothing could tell whose answer it is. So the ports lie outside those that Linux gives to sockets by
//! itself (`net.ipv4.ip_local_port_range`), and where a node gives out nearly all of them, they are reserved
//! (`net.ipv4.ip_local_reserved_ports`), as `Documentation/networking/ip-sysctl.rst` has it for applications with ports of their
//! own.

use std::{
    fs, io,
    ops::{Range, RangeInclusive},
};

use anyhow::{Context as _, Result};
use tracing::{info, warn};

/// Above what Linux gives to sockets by default (32768 to 60999), and above the node ports (30000 to 32767).
const USUAL: RangeInclusive<u16> = 61000..=65535;
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The ports to masquerade with in this network namespace; they are reserved if it needs that.
///
/// # Errors
/// When the kernel does not say which ports it gives out.
pub(crate) fn ports() -> Result<RangeInclusive<u16>> {
    let given = fs::read_to_string(LOCAL_PORTS)
        .ok()
        .and_then(|text| parse_range(&text))
        .with_context(|| format!("cannot read {LOCAL_PORTS}"))?;
    if !overlap(&given, &USUAL) {
        return Ok(USUAL);
    }
    let reserved = fs::read_to_string(RESERVED_PORTS).unwrap_or_default();
    if is_reserved(&reserved, &USUAL) {
        return Ok(USUAL);
    }
    let more = with_reserved(&reserved, &USUAL);
    let (first, last) = (USUAL.start(), USUAL.end());
    match fs::write(RESERVED_PORTS, &more) {
        Ok(()) => info!(
            ports = %format_args!("{first}-{last}"),
            "reserved the ports of masquerading, as this node gives them to sockets (ip_local_port_range)"
        ),
        Err(error) => warn_unreserved(&error, first, last),
    }
    Ok(USUAL)
}

fn warn_unreserved(error: &io::Error, first: &u16, last: &u16) {
    warn!(
        %error,
        "this node gives the ports {first}-{last} to sockets (ip_local_port_range), and masquerading needs them: an answer to one \
         may reach the other. Add {first}-{last} to the sysctl net.ipv4.ip_local_reserved_ports"
    );
}

/// `FIRST LAST`
fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    Some(words.next()??..=words.next()??)
}

fn overlap(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

/// Whether all `ports` are in a list such as `8080,9148-9160`.
fn is_reserved(list: &str, ports: &RangeInclusive<u16>) -> bool {
    let mut missing: Range<u32> = u32::from(*ports.start())..u32::from(*ports.end()) + 1;
    let mut ranges: Vec<(u32, u32)> = list.trim().split(',').filter_map(range).collect();
    ranges.sort_unstable();
    for (first, last) in ranges {
        if first <= missing.start && last >= missing.start {
            missing.start = last + 1;
        }
    }
    missing.is_empty()
}

fn range(item: &str) -> Option<(u32, u32)> {
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

fn with_reserved(list: &str, ports: &RangeInclusive<u16>) -> String {
    let more = format!("{}-{}", ports.start(), ports.end());
    match list.trim() {
        "" => more,
        list => format!("{list},{more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_range_leaves_the_ports_alone_and_a_wide_one_does_not() {
        for (text, overlaps) in [
            ("32768\t60999\n", false),
            ("1024\t65535\n", true),
            ("61000 61000", true),
            ("10000 60999", false),
        ] {
            let given = parse_range(text).expect(text);
            assert_eq!(overlap(&given, &USUAL), overlaps, "{text}");
        }
        for text in ["", "32768", "x y", "1 70000"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_reserved_stays_reserved() {
        for (list, all) in [
            ("", false),
            ("\n", false),
            ("61000-65535", true),
            ("1-10,60000-62000,62001-65535\n", true),
            ("61000-61999,62001-65535", false),
            ("65535,61000-65534", true),
        ] {
            assert_eq!(is_reserved(list, &USUAL), all, "{list}");
        }
        assert_eq!(with_reserved("\n", &USUAL), "61000-65535");
        assert_eq!(with_reserved("8080\n", &USUAL), "8080,61000-65535");
        assert!(is_reserved(
            &with_reserved("8080,9000-9010", &USUAL),
            &USUAL
        ));
    }
}
