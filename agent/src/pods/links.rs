//! Interfaces, addresses and routes of a network namespace, by rtnetlink (rtnetlink(7)).

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::namespace::Namespace;
use crate::netlink::{Connection, Expect, attributes, word};

// Message types of `include/uapi/linux/rtnetlink.h` and attributes of `if_link.h`, `if_addr.h`, `net_namespace.h`.
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNSID: u16 = 90;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RT_TABLE_MAIN: u32 = 254;
const RTN_UNICAST: u8 = 1;

/// `ARPHRD_ETHER`: frames begin with an Ethernet header.
pub(super) const ETHERNET: u16 = 1;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `veth`, `bridge`, ...; empty for hardware.
    pub(super) kind: String,
    /// Its `ARPHRD_*` type.
    pub(super) hardware: u16,
    /// A set of `IFF_*`.
    pub(super) flags: u32,
    /// What it is joined to: of a veth, the other side, in the namespace of the next field.
    pub(super) peer: Option<Peer>,
}

/// The other side of a veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) index: u32,
    /// The id that this namespace gave to the peer's; `None` when it is the same.
    pub(super) nsid: Option<i32>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InterfaceAddress {
    pub(super) index: u32,
    pub(super) address: IpAddr,
}

/// Opens a connection in the calling thread's namespace.
pub(super) fn connect() -> io::Result<Connection> {
    Connection::open(None)
}

/// All interfaces.
pub(super) fn links(netlink: &mut Connection) -> io::Result<Vec<Link>> {
    let mut request = vec![0; 16];
    attribute(
        &mut request,
        IFLA_EXT_MASK,
        &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
    );
    let mut links = Vec::new();
    netlink.request(RTM_GETLINK, &request, Expect::Dump, |answer| {
        links.extend(link(answer));
    })?;
    Ok(links)
}

/// The interface of that index, if there is one.
pub(super) fn link_at(netlink: &mut Connection, index: u32) -> io::Result<Option<Link>> {
    let mut request = vec![0; 16];
    request[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut found = None;
    let asked = netlink.request(RTM_GETLINK, &request, Expect::Acknowledgement, |answer| {
        found = found.take().or_else(|| link(answer));
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// All addresses.
pub(super) fn addresses(netlink: &mut Connection) -> io::Result<Vec<InterfaceAddress>> {
    let mut addresses = Vec::new();
    netlink.request(RTM_GETADDR, &[0; 8], Expect::Dump, |answer| {
        addresses.extend(interface_address(answer));
    })?;
    Ok(addresses)
}

/// The interfaces of the default routes of both families, in the main table.
pub(super) fn default_route_links(netlink: &mut Connection) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = [0; 12];
        request[0] = family as u8;
        netlink.request(RTM_GETROUTE, &request, Expect::Dump, |answer| {
            found.extend(default_route(answer).into_iter().flatten());
        })?;
    }
    Ok(found)
}

/// The id that the connection's namespace gave to another one; `None` if it never met it.
pub(super) fn nsid(netlink: &mut Connection, of: &Namespace) -> io::Result<Option<i32>> {
    let mut request = vec![0; 4];
    attribute(&mut request, NETNSA_FD, &of.raw_fd().to_ne_bytes());
    let mut id = None;
    netlink.request(RTM_GETNSID, &request, Expect::Acknowledgement, |answer| {
        let body = answer.get(4..).unwrap_or_default();
        let value = attributes(body).find(|(kind, _)| *kind == NETNSA_NSID);
        id = value
            .and_then(|(_, value)| word(value, 0))
            .map(u32::cast_signed);
    })?;
    // -1: it has none.
    Ok(id.filter(|id| *id >= 0))
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len();
    message.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Reads `struct ifinfomsg` and its attributes.
fn link(message: &[u8]) -> Option<Link> {
    let mut link = Link {
        hardware: u16::from_ne_bytes([*message.get(2)?, *message.get(3)?]),
        index: word(message, 4)?,
        flags: word(message, 8)?,
        name: String::new(),
        kind: String::new(),
        peer: None,
    };
    let (mut peer, mut nsid) = (None, None);
    for (kind, value) in attributes(message.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_LINK => peer = word(value, 0),
            IFLA_LINK_NETNSID => nsid = word(value, 0).map(u32::cast_signed),
            IFLA_LINKINFO => {
                let info = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = info.map(|(_, kind)| text(kind)).unwrap_or_default();
            }
            _ => {}
        }
    }
    link.peer = peer.map(|index| Peer { index, nsid });
    Some(link)
}

/// Reads `struct ifaddrmsg` and its attributes.
fn interface_address(message: &[u8]) -> Option<InterfaceAddress> {
    let index = word(message, 4)?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(message.get(8..)?) {
        match kind {
            // Of a point-to-point link, the other attribute is the other side's.
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    Some(InterfaceAddress {
        index,
        address: local.or(address)?,
    })
}

/// Reads `struct rtmsg` and its attributes: the interfaces of a default route.
fn default_route(message: &[u8]) -> Option<Vec<u32>> {
    let (prefix, table, kind) = (*message.get(1)?, *message.get(4)?, *message.get(7)?);
    if prefix != 0 || kind != RTN_UNICAST {
        return None;
    }
    let mut table = u32::from(table);
    let mut links = Vec::new();
    for (kind, value) in attributes(message.get(12..)?) {
        match kind {
            RTA_TABLE => table = word(value, 0)?,
            RTA_OIF => links.extend(word(value, 0)),
            RTA_MULTIPATH => links.extend(next_hops(value)),
            _ => {}
        }
    }
    (table == RT_TABLE_MAIN).then_some(links)
}

/// The interfaces of a list of `struct rtnexthop`.
fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let index = word(bytes.get(..length)?, 4)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(index)
    })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(value).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

/// A C string.
fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(header: &[u8], fields: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = header.to_vec();
        for (kind, value) in fields {
            attribute(&mut message, *kind, value);
        }
        message
    }

    #[test]
    fn a_veth_says_where_its_other_side_is() {
        let mut header = [0; 16];
        header[2] = 1;
        header[4] = 7;
        let mut info = Vec::new();
        attribute(&mut info, IFLA_INFO_KIND, b"veth\0");
        let whole = message(
            &header,
            &[
                (IFLA_IFNAME, b"veth1\0"),
                (IFLA_LINK, &2_u32.to_ne_bytes()),
                (IFLA_LINK_NETNSID, &3_i32.to_ne_bytes()),
                (IFLA_LINKINFO, &info),
            ],
        );
        let link = link(&whole).expect("a link");
        assert_eq!((link.index, &*link.name, &*link.kind), (7, "veth1", "veth"));
        assert_eq!(link.hardware, ETHERNET);
        let peer = Peer {
            index: 2,
            nsid: Some(3),
        };
        assert_eq!(link.peer, Some(peer));
        assert_eq!(super::link(&whole[..15]), None);
    }

    #[test]
    fn the_near_side_of_a_point_to_point_address_counts() {
        let header = [2, 32, 0, 0, 9, 0, 0, 0];
        let fields: [(u16, &[u8]); 2] =
            [(IFA_ADDRESS, &[10, 0, 0, 1]), (IFA_LOCAL, &[10, 0, 0, 2])];
        let found = interface_address(&message(&header, &fields)).expect("an address");
        assert_eq!((found.index, found.address), (9, [10, 0, 0, 2].into()));
        assert_eq!(
            interface_address(&message(&header, &[(IFA_ADDRESS, &[1])])),
            None
        );
    }

    #[test]
    fn only_default_routes_of_the_main_table_count() {
        let route = |prefix, table, kind| [2, prefix, 0, 0, table, 0, 0, kind, 0, 0, 0, 0];
        let out: &[(u16, &[u8])] = &[(RTA_OIF, &[5, 0, 0, 0])];
        assert_eq!(
            default_route(&message(&route(0, 254, 1), out)),
            Some(vec![5])
        );
        assert_eq!(default_route(&message(&route(24, 254, 1), out)), None);
        assert_eq!(default_route(&message(&route(0, 255, 1), out)), None);
        assert_eq!(default_route(&message(&route(0, 254, 7), out)), None);
        let hops = [8, 0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0];
        let many: &[(u16, &[u8])] = &[(RTA_MULTIPATH, &hops)];
        assert_eq!(
            default_route(&message(&route(0, 254, 1), many)),
            Some(vec![3, 4])
        );
    }
}
