//! Sockets that do what a world's peers do not, for the tests of the kernel side. Runs in a pod; says what it saw as one JSON
//! object on standard output.
//!
//! - `sockets reconnect SERVICE DIRECT`: connects to SERVICE, dissolves the connection and connects the same socket to DIRECT;
//!   `peers` are the names that the socket gave of them.
//! - `sockets mptcp ADDRESS`: connects a Multipath TCP socket; `greeting` is what the server said first, `peer` the socket's name
//!   of it. `supported` is false where the kernel has no such sockets.

use std::{env, io::Read, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use anyhow::{Context, Result, bail};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, SocketType, connect, connect_unspec, getpeername, ipproto, socket,
        sockopt::{self, Timeout},
    },
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let seen = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["reconnect", service, direct] => reconnect(service.parse()?, direct.parse()?)?,
        ["mptcp", address] => mptcp(address.parse()?)?,
        _ => bail!("usage: sockets reconnect SERVICE DIRECT | sockets mptcp ADDRESS"),
    };
    println!("{seen}");
    Ok(())
}

fn reconnect(service: SocketAddr, direct: SocketAddr) -> Result<Value> {
    let socket = open(service, None)?;
    connect(&socket, &service).context("cannot connect to the service")?;
    let first = peer(&socket)?;
    connect_unspec(&socket).context("cannot disconnect")?;
    connect(&socket, &direct).context("cannot connect again")?;
    Ok(json!({"peers": [first, peer(&socket)?]}))
}

fn mptcp(address: SocketAddr) -> Result<Value> {
    let socket = match open(address, Some(ipproto::MPTCP)) {
        Ok(socket) => socket,
        Err(Errno::PROTONOSUPPORT | Errno::INVAL | Errno::NOPROTOOPT) => {
            return Ok(json!({"supported": false}));
        }
        Err(error) => return Err(error.into()),
    };
    connect(&socket, &address).context("cannot connect")?;
    let peer = peer(&socket)?;
    let mut stream = std::net::TcpStream::from(socket);
    let mut greeting = [0; 256];
    let count = stream.read(&mut greeting).context("no greeting came")?;
    let greeting = String::from_utf8_lossy(&greeting[..count]);
    Ok(json!({"supported": true, "peer": peer, "greeting": greeting.trim_end()}))
}

fn open(to: SocketAddr, protocol: Option<Protocol>) -> rustix::io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket(family, SocketType::STREAM, protocol)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    Ok(socket)
}

fn peer(socket: &OwnedFd) -> Result<SocketAddr> {
    let peer = getpeername(socket)?.context("the socket has no peer")?;
    Ok(SocketAddr::try_from(peer)?)
}
