//! Real sockets on the loopback device of a network namespace of each test's own. Pods and the host are in `tests/`.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc,
    time::Duration,
};

use super::*;

/// Runs `test` on a thread in a network namespace of its own, which goes with the thread and its sockets.
fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: only this thread's network namespace is replaced; descriptors stay shared as before.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("tests run as root");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("iproute2 is installed").success());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn end(endpoints: &[Endpoint]) -> Ended {
    let mut ended = Ended::default();
    diag::end_here(&endpoints.iter().copied().collect(), &mut ended).expect("it works here");
    assert!(!ended.unsupported && ended.failures.is_empty(), "{ended:?}");
    ended
}

fn tcp(addr: impl Into<SocketAddr>) -> Endpoint {
    Endpoint::new(addr.into(), Protocol::Tcp)
}

fn udp(addr: impl Into<SocketAddr>) -> Endpoint {
    Endpoint::new(addr.into(), Protocol::Udp)
}

/// A connection and its server's side.
fn connect(listener: &TcpListener, to: impl Into<SocketAddr>) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(to.into()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (client, listener.accept().unwrap().0)
}

fn works(connection: &mut (TcpStream, TcpStream)) -> bool {
    let mut byte = [0];
    connection.0.write_all(b"x").is_ok() && connection.1.read_exact(&mut byte).is_ok()
}

fn errno(connection: &mut (TcpStream, TcpStream)) -> ErrorKind {
    connection
        .0
        .read(&mut [0])
        .expect_err("it has ended")
        .kind()
}

#[test]
fn tcp_connections_to_the_endpoint_end_and_nothing_else_does() {
    in_fresh_namespace(|| {
        let gone = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080)).unwrap();
        let other = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8081)).unwrap();
        let (v4, v6) = (Ipv4Addr::new(127, 0, 0, 9), Ipv6Addr::LOCALHOST);
        let mut to_v4 = connect(&gone, (v4, 8080));
        let mut to_mapped = connect(&gone, (v4.to_ipv6_mapped(), 8080));
        let mut to_v6 = connect(&gone, (v6, 8080));
        let mut to_other_port = connect(&other, (v4, 8081));
        let mut to_other_address = connect(&gone, (Ipv4Addr::LOCALHOST, 8080));

        let ended = end(&[tcp((v4, 8080))]);
        assert_eq!((ended.tcp, ended.udp), (2, 0));
        assert_eq!(errno(&mut to_v4), ErrorKind::ConnectionAborted);
        assert_eq!(errno(&mut to_mapped), ErrorKind::ConnectionAborted);
        assert!(works(&mut to_v6));

        // However the address is written, and only once.
        let mapped = SocketAddr::from((v4.to_ipv6_mapped(), 8080));
        assert_eq!(tcp(mapped), tcp((v4, 8080)));
        assert_eq!(end(&[tcp(mapped)]), Ended::default());

        assert_eq!(end(&[tcp((v6, 8080))]).tcp, 1);
        assert_eq!(errno(&mut to_v6), ErrorKind::ConnectionAborted);

        assert!(works(&mut to_other_port) && works(&mut to_other_address));
        let mut again = connect(&gone, (v4, 8080));
        assert!(works(&mut again), "the listening socket is still there");
    });
}

#[test]
fn a_connection_that_is_being_made_ends_too() {
    in_fresh_namespace(|| {
        let run = |arguments: &str| {
            let status = Command::new("ip")
                .args(arguments.split(' '))
                .status()
                .unwrap();
            assert!(status.success(), "ip {arguments}");
        };
        // Nobody answers behind the other end of the cable.
        run("link add nowhere type veth peer name void");
        run("link set void up");
        run("addr add 192.0.2.1/24 dev nowhere");
        run("link set nowhere up");
        run("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev nowhere");
        let to = SocketAddr::from(([192, 0, 2, 9], 80));
        let (said, result) = mpsc::channel();
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let connecting = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            said.send(TcpStream::connect(to).map(drop)).unwrap();
        });
        while end(&[tcp(to)]).tcp == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = result.recv().unwrap().expect_err("nobody answered");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        connecting.join().unwrap();
    });
}

#[test]
fn a_connected_udp_socket_is_told_and_can_be_connected_again() {
    in_fresh_namespace(|| {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 5300));
        let other = SocketAddr::from((Ipv4Addr::LOCALHOST, 5301));
        let socket = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let (connected, spared, free) = (socket(), socket(), socket());
        connected.connect(to).unwrap();
        spared.connect(other).unwrap();
        let mapped = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        mapped
            .connect(SocketAddr::from((
                Ipv4Addr::LOCALHOST.to_ipv6_mapped(),
                5300,
            )))
            .unwrap();

        assert_eq!(
            end(&[tcp(to)]),
            Ended::default(),
            "it is of another protocol"
        );
        let ended = end(&[udp(to)]);
        assert_eq!((ended.tcp, ended.udp), (0, 2));
        let error = connected.recv(&mut [0]).expect_err("its endpoint is gone");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let error = mapped.send(b"x").expect_err("its endpoint is gone");
        assert_eq!(error.raw_os_error(), Some(libc::EDESTADDRREQ));
        let server = UdpSocket::bind(other).unwrap();
        connected.connect(other).unwrap();
        connected.send(b"again").unwrap();
        let mut buffer = [0; 16];
        let (length, _) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"again");
        spared.send(b"x").unwrap();
        free.send_to(b"x", other).unwrap();
    });
}

#[test]
fn a_namespace_is_looked_into_once_and_one_that_is_gone_is_no_failure() {
    let own = PathBuf::from("/proc/thread-self/ns/net");
    let ended = end_connections(
        &HashSet::from([tcp(([192, 0, 2, 1], 1))]),
        vec![own.clone(), own, "/proc/4194305/ns/net".into()],
    );
    assert_eq!(
        ended,
        Ended {
            namespaces: 1,
            ..Ended::default()
        }
    );
    let ended = end_connections(&HashSet::new(), vec!["/proc/self/status".into()]);
    assert_eq!(ended.failures.len(), 1, "{ended:?}");
    assert!(ended.failures[0].starts_with("/proc/self/status: "));
}

#[test]
fn many_deletions_are_dealt_with_in_few_rounds_and_none_is_forgotten() {
    in_fresh_namespace(|| {
        let ports = 9000..9050;
        let listeners: Vec<TcpListener> = ports
            .clone()
            .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap())
            .collect();
        let connect = |listener: &TcpListener| connect(listener, listener.local_addr().unwrap());
        let mut connections: Vec<_> = listeners.iter().map(connect).collect();

        let namespace = PathBuf::from(format!(
            "/proc/self/task/{}/ns/net",
            rustix::thread::gettid()
        ));
        let rounds = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = rounds.clone();
        let reaper = Reaper::start(
            move || vec![namespace.clone()],
            move |_| {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            },
        )
        .unwrap();
        for port in ports {
            reaper.end(vec![tcp((Ipv4Addr::LOCALHOST, port))]);
        }
        drop(reaper);
        for connection in &mut connections {
            assert_eq!(errno(connection), ErrorKind::ConnectionAborted);
        }
        let rounds = rounds.load(std::sync::atomic::Ordering::SeqCst);
        assert!((1..25).contains(&rounds), "{rounds} rounds");
    });
}
