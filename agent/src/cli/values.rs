//! What options of `weir run` are made of.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use hyper::Uri;

use crate::http::BindAddress;

/// A range of addresses; an address alone is the range that holds only it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    addr: IpAddr,
    prefix_len: u8,
}

impl Network {
    /// Whether `addr` is in it. A v4-mapped address is the IPv4 address it stands for.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let shift = |width: u32| width - u32::from(self.prefix_len);
        match (self.addr, addr.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (addr, prefix_len) = text.split_once('/').unzip();
            let addr: IpAddr = addr.unwrap_or(text).trim().parse().ok()?;
            let width = if addr.is_ipv4() { 32 } else { 128 };
            let prefix_len = match prefix_len {
                Some(prefix_len) => prefix_len.trim().parse().ok()?,
                None => width,
            };
            (prefix_len <= width).then_some(Self { addr, prefix_len })
        };
        parse().ok_or_else(|| {
            format!("`{text}` is not a range of addresses such as 10.0.0.0/8 or 2001:db8::/64")
        })
    }
}

/// One of the values of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// `primary`: the node's primary address of each family.
    Primary,
    /// Those of the node's addresses that are in this range.
    Within(Network),
}

impl FromStr for NodePortAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "primary" {
            return Ok(Self::Primary);
        }
        let network = text
            .parse()
            .map_err(|error| format!("{error}, and not `primary`"))?;
        Ok(Self::Within(network))
    }
}

/// Where node ports are served: all values of `--nodeport-addresses` together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// On the node's primary address of each family.
    Primary,
    /// On those of the node's addresses that are in one of these ranges.
    Within(Vec<Network>),
}

impl NodePorts {
    /// # Errors
    /// When `primary` is given together with ranges; nothing at all is `primary`.
    pub fn new(values: &[NodePortAddress]) -> anyhow::Result<Self> {
        let networks: Vec<Network> = values
            .iter()
            .filter_map(|value| match value {
                NodePortAddress::Primary => None,
                NodePortAddress::Within(network) => Some(*network),
            })
            .collect();
        if networks.is_empty() {
            return Ok(Self::Primary);
        }
        anyhow::ensure!(
            networks.len() == values.len(),
            "--nodeport-addresses is either `primary` or a list of ranges, not both"
        );
        Ok(Self::Within(networks))
    }

    /// Those of the node's addresses, loopback ones included, on which node ports are served; `None` for its primary ones.
    #[must_use]
    pub fn among(&self, addresses: &[IpAddr]) -> Option<Vec<IpAddr>> {
        let Self::Within(networks) = self else {
            return None;
        };
        let within = |addr: &&IpAddr| networks.iter().any(|network| network.contains(**addr));
        Some(addresses.iter().filter(within).copied().collect())
    }

    /// Whether the node itself is to reach node ports at `127.0.0.1` or `::1`.
    #[must_use]
    pub fn loopback(&self) -> bool {
        let loopback = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        self.among(&loopback)
            .is_some_and(|addresses| !addresses.is_empty())
    }
}

/// A network device, by its name or the beginning of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device(String);

impl Device {
    /// Whether the device of this name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.0,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('*').unwrap_or(text);
        // IFNAMSIZ counts the terminator.
        if text.is_empty() || name.len() > 15 || name.contains(['*', '/', ' ']) {
            return Err(format!(
                "`{text}` is not the name of a network device, such as eth0, or the beginning of one, such as eth*"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where an API server is: a URL, or an address with or without a port (6443).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer(pub Uri);

/// Where API servers listen by default.
const API_PORT: u16 = 6443;

impl FromStr for ApiServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = if text.contains("://") {
            text.to_owned()
        } else if let Ok(addr) = text.parse::<IpAddr>() {
            format!("https://{}", SocketAddr::new(addr, API_PORT))
        } else if text.contains(':') {
            format!("https://{text}")
        } else {
            format!("https://{text}:{API_PORT}")
        };
        let uri: Option<Uri> = url.parse().ok();
        uri.filter(|uri| {
            let has_host = uri.host().is_some_and(|host| !host.is_empty());
            has_host && matches!(uri.scheme_str(), Some("https" | "http"))
        })
        .map(Self)
        .ok_or_else(|| {
            format!("`{text}` is not the URL of an API server such as https://192.0.2.1:6443")
        })
    }
}

/// As kube-proxy reads its bind addresses: the port may be missing.
///
/// # Errors
/// When it is no address.
pub fn bind_address(text: &str, port: u16) -> Result<BindAddress, String> {
    match text.parse::<IpAddr>() {
        Ok(addr) => Ok(BindAddress(Some(SocketAddr::new(addr, port)))),
        Err(_) => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &[&str]) -> Vec<IpAddr> {
        text.iter().map(|addr| addr.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_hold_what_they_say() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("0.0.0.0/0", "192.0.2.1", "::1"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("fd00::1", "fd00::1", "fd00::2"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(
                parsed.contains(inside.parse().unwrap()),
                "{network} {inside}"
            );
            assert!(
                !parsed.contains(outside.parse().unwrap()),
                "{network} {outside}"
            );
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn node_ports_are_served_on_primary_addresses_or_on_those_in_range() {
        let ports = |values: &[&str]| {
            let values: Vec<_> = values.iter().map(|value| value.parse().unwrap()).collect();
            NodePorts::new(&values)
        };
        assert_eq!(ports(&[]).unwrap(), NodePorts::Primary);
        assert_eq!(ports(&["primary"]).unwrap(), NodePorts::Primary);
        assert!(ports(&["primary", "10.0.0.0/8"]).is_err());
        let own = addresses(&["127.0.0.1", "192.0.2.1", "10.0.0.7", "2001:db8::1", "::1"]);
        assert_eq!(ports(&["primary"]).unwrap().among(&own), None);
        let some = ports(&["192.0.2.0/24", "2001:db8::/64"]).unwrap();
        assert_eq!(
            some.among(&own),
            Some(addresses(&["192.0.2.1", "2001:db8::1"]))
        );
        assert!(!some.loopback() && !NodePorts::Primary.loopback());
        assert!(ports(&["127.0.0.0/8"]).unwrap().loopback());
        assert!(ports(&["0.0.0.0/0"]).unwrap().loopback());
        assert!(
            "anything"
                .parse::<NodePortAddress>()
                .unwrap_err()
                .contains("primary")
        );
    }

    #[test]
    fn api_servers_are_urls_or_addresses() {
        for (text, url) in [
            ("https://192.0.2.1:6443", "https://192.0.2.1:6443/"),
            ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080/"),
            ("192.0.2.1", "https://192.0.2.1:6443/"),
            ("2001:db8::1", "https://[2001:db8::1]:6443/"),
            ("192.0.2.1:443", "https://192.0.2.1:443/"),
            ("api.example.com", "https://api.example.com:6443/"),
            (
                "https://api.example.com/k8s/c-1",
                "https://api.example.com/k8s/c-1",
            ),
        ] {
            let server: ApiServer = text.parse().unwrap();
            assert_eq!(server.0.to_string(), url, "{text}");
        }
        for wrong in ["", "ftp://192.0.2.1", "https://", "a b", "/path"] {
            assert!(wrong.parse::<ApiServer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_are_named_whole_or_by_their_beginning() {
        let device = |text: &str| text.parse::<Device>();
        assert!(device("eth0").unwrap().matches("eth0"));
        assert!(!device("eth0").unwrap().matches("eth01"));
        assert!(device("eth*").unwrap().matches("eth01"));
        assert!(!device("eth*").unwrap().matches("lo"));
        for wrong in ["", "a b", "a/b", "e*h", "sixteen-letters-"] {
            assert!(device(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bind_address_may_lack_its_port() {
        for (text, addr) in [
            ("0.0.0.0", Some("0.0.0.0:10249")),
            ("::", Some("[::]:10249")),
            ("127.0.0.1:1", Some("127.0.0.1:1")),
            ("", None),
        ] {
            let expected = BindAddress(addr.map(|addr| addr.parse().unwrap()));
            assert_eq!(bind_address(text, 10249), Ok(expected), "{text}");
        }
        assert!(bind_address("10249", 10249).is_err());
    }
}
