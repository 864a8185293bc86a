//! The servers of measurements: as little work as can be. The first byte of a connection or datagram says what it is for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::echo::{LOOK_AGAIN, Shared};

/// One byte back, then the end.
pub(super) const CONNECT: u8 = b'c';
/// Whatever follows is sent back.
pub(super) const REQUESTS: u8 = b'r';
/// Whatever follows is read; one byte back at its end.
pub(super) const BULK: u8 = b'b';
/// A datagram to send back. All others are only counted.
pub(super) const ECHO: u8 = b'e';

/// Serves short connections one after the other on the calling thread, the others on threads of their own.
pub(super) fn serve_tcp(listener: &TcpListener, shared: &Arc<Shared>) -> io::Result<()> {
    // Accepted sockets inherit it, without a system call for each: a silent client does not hold up the others for ever.
    rustix::net::sockopt::set_socket_timeout(
        listener,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_secs(2)),
    )?;
    while !shared.stopped() {
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let mut first = [0];
        match stream.read(&mut first) {
            Ok(1) if first[0] == CONNECT => {
                // A client that does not wait for the answer has its own failure to tell of.
                let _ = stream.write(&first);
            }
            Ok(1) => {
                let shared = Arc::clone(shared);
                thread::spawn(move || serve_stream(stream, first[0], &shared));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Until the client closes; its own report tells what went wrong, if anything did.
fn serve_stream(mut stream: TcpStream, kind: u8, shared: &Shared) {
    let _ = stream
        .set_read_timeout(None)
        .and_then(|()| stream.set_nodelay(true));
    let mut buffer = vec![0; 256 << 10];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            if kind == BULK {
                let _ = stream.write(&[BULK]);
            }
            break;
        }
        shared.count_received(count);
        if kind == REQUESTS && stream.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Counts datagrams, and sends back those that ask for it, until stopped.
pub(super) fn serve_udp(socket: &UdpSocket, shared: &Shared) -> io::Result<()> {
    socket.set_read_timeout(Some(LOOK_AGAIN))?;
    let mut buffer = vec![0; 64 << 10];
    while !shared.stopped() {
        let Ok((count, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        shared.count_received(count);
        if buffer[..count].first() == Some(&ECHO) {
            // An answer that cannot be sent is a lost datagram.
            let _ = socket.send_to(&buffer[..count], client);
        }
    }
    Ok(())
}
