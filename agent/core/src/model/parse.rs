//! Parsers of the notations that the API uses inside strings.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::error::{ModelError, Problem};
use super::name::ObjectName;

/// An address prefix; the bits below the prefix length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The first address.
    pub addr: IpAddr,
    /// How many leading bits are fixed: 0 to 32, or 0 to 128.
    pub prefix_len: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

impl Cidr {
    /// The prefix of one address only.
    #[must_use]
    pub fn of_host(addr: IpAddr) -> Self {
        let prefix_len = if addr.is_ipv4() { 32 } else { 128 };
        Self { addr, prefix_len }
    }

    /// Whether an address is in the prefix.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        Self::containing(addr, self.prefix_len).as_ref() == Some(self)
    }

    /// The prefix of that length that contains the address; `None` if the family has no such length.
    fn containing(addr: IpAddr, prefix_len: u8) -> Option<Self> {
        let addr = match addr {
            IpAddr::V4(v4) if prefix_len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len));
                Ipv4Addr::from_bits(v4.to_bits() & mask.unwrap_or(0)).into()
            }
            IpAddr::V6(v6) if prefix_len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len));
                std::net::Ipv6Addr::from_bits(v6.to_bits() & mask.unwrap_or(0)).into()
            }
            _ => return None,
        };
        Some(Self { addr, prefix_len })
    }
}

/// Parses an address as `k8s.io/utils/net.ParseIPSloppy` does: leading zeros in IPv4 are decimal (old clusters have
/// them stored), and a v4-mapped IPv6 address is the IPv4 address.
fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if let Ok(addr) = text.parse::<IpAddr>() {
        return Some(addr.to_canonical());
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let digits = part.trim_start_matches('0');
        *octet = match digits {
            "" if !part.is_empty() => 0,
            _ => decimal(digits)?,
        };
    }
    parts.next().is_none().then_some(IpAddr::from(octets))
}

/// A number of plain digits: `str::parse` would also take a sign.
fn decimal(text: &str) -> Option<u8> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// The address of a host, at `field`.
pub(super) fn host_address(
    text: &str,
    field: impl FnOnce() -> String,
) -> Result<IpAddr, ModelError> {
    let problem = match sloppy_ip(text) {
        None => Problem::Address(text.to_owned()),
        Some(addr) if addr.is_unspecified() || addr.is_multicast() => {
            Problem::UnusableAddress(addr)
        }
        Some(addr) => return Ok(addr),
    };
    Err(ModelError::new(field(), problem))
}

/// A CIDR, at `field`. Surrounding blanks are allowed: the API's validation has always let them pass.
pub(super) fn cidr(text: &str, field: impl FnOnce() -> String) -> Result<Cidr, ModelError> {
    text.trim()
        .split_once('/')
        .and_then(|(addr, prefix_len)| {
            let (parsed, prefix_len) = (sloppy_ip(addr)?, decimal(prefix_len)?);
            // A v4-mapped prefix counts its bits from the start of the IPv6 form.
            let mapped = parsed.is_ipv4() && addr.contains(':');
            let prefix_len = if mapped {
                prefix_len.checked_sub(96)?
            } else {
                prefix_len
            };
            Cidr::containing(parsed, prefix_len)
        })
        .ok_or_else(|| ModelError::new(field(), Problem::Cidr(text.to_owned())))
}

/// A port number, at `field`.
pub(super) fn port(number: i32, field: impl FnOnce() -> String) -> Result<u16, ModelError> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(ModelError::new(field(), Problem::Port(number))),
    }
}

/// A port number where absent and 0 both mean none, at `field`.
pub(super) fn optional_port(
    number: Option<i32>,
    field: impl FnOnce() -> String,
) -> Result<Option<u16>, ModelError> {
    match number {
        None | Some(0) => Ok(None),
        Some(number) => port(number, field).map(Some),
    }
}

/// The name of an object that has no namespace.
pub(super) fn plain_name(metadata: &ObjectMeta) -> Result<Arc<str>, ModelError> {
    match metadata.name.as_deref() {
        None | Some("") => Err(ModelError::new("metadata.name", Problem::Missing)),
        Some(name) => Ok(name.into()),
    }
}

/// The name of an object that has a namespace; `default` if it does not say which, as `kubectl apply` has it.
pub(super) fn namespaced_name(metadata: &ObjectMeta) -> Result<ObjectName, ModelError> {
    let name = plain_name(metadata)?;
    let namespace = match metadata.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    Ok(ObjectName::new(namespace, name))
}

/// An object's labels, sorted by key.
pub(super) fn labels(metadata: &ObjectMeta) -> Box<[(Arc<str>, Arc<str>)]> {
    let labels = metadata.labels.iter().flatten();
    labels
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

/// The value of a label, if the object has it.
pub(super) fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> String {
        "here".to_owned()
    }

    #[test]
    fn addresses_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1"),
            ("010.000.0.08", "10.0.0.8"),
            ("fd00::1", "fd00::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("169.254.20.10", "169.254.20.10"),
        ] {
            let addr = host_address(text, here).expect(text);
            assert_eq!(addr.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "None",
            "10.0.0",
            "10.0.0.",
            "10..0.1",
            "10.0.0.256",
            "10.0.0.1.2",
            "+1.2.3.4",
            "1.2.3.4/8",
            "fe80::1%eth0",
            "10.0.0.1 ",
            "host.example",
        ] {
            let error = host_address(text, here).expect_err(text);
            assert_eq!(error.problem, Problem::Address(text.to_owned()));
        }
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            let error = host_address(text, here).expect_err(text);
            assert!(
                matches!(error.problem, Problem::UnusableAddress(_)),
                "{error}"
            );
        }
    }

    #[test]
    fn cidrs_are_masked() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            (" 10.0.0.0/8\t", "10.0.0.0/8"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("1.2.3.4/32", "1.2.3.4/32"),
            ("fd00:1::1/16", "fd00::/16"),
            ("fd00::1/128", "fd00::1/128"),
            ("fd00::1/0", "::/0"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ] {
            let cidr = cidr(text, here).expect(text);
            assert_eq!(cidr.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_cidr_contains_what_it_says() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("0.0.0.0/0", "192.0.2.1", "::1"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("fd00::1/128", "fd00::1", "fd00::2"),
        ] {
            let cidr = cidr(text, here).expect(text);
            let contains = |addr: &str| cidr.contains(addr.parse().expect("an address"));
            assert!(contains(inside) && !contains(outside), "{text}");
        }
        let host = Cidr::of_host("192.0.2.1".parse().expect("an address"));
        assert_eq!(host.to_string(), "192.0.2.1/32");
    }

    #[test]
    fn what_is_no_cidr_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "fd00::/129",
            "/8",
            "10.0.0.0/8/8",
            "::ffff:10.0.0.0/95",
        ] {
            let error = cidr(text, here).expect_err(text);
            assert_eq!(
                error,
                ModelError::new("here", Problem::Cidr(text.to_owned()))
            );
        }
    }

    #[test]
    fn ports_are_between_1_and_65535() {
        assert_eq!(port(1, here), Ok(1));
        assert_eq!(port(65535, here), Ok(65535));
        assert_eq!(optional_port(Some(0), here), Ok(None));
        assert_eq!(optional_port(None, here), Ok(None));
        for number in [-1, 65536, i32::MIN, i32::MAX] {
            let expected = Err(ModelError::new("here", Problem::Port(number)));
            assert_eq!(port(number, here), expected);
            assert_eq!(optional_port(Some(number), here), expected.map(Some));
        }
        assert_eq!(
            port(0, here),
            Err(ModelError::new("here", Problem::Port(0)))
        );
    }
}
