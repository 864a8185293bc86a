//! Names of system errors.

use std::io;

use rustix::io::Errno;

/// Time given by the caller ran out.
pub(super) const TIMEOUT: &str = "TIMEOUT";
/// The server closed without an answer.
pub(super) const EOF: &str = "EOF";
/// The answer was not the echo.
pub(super) const MISMATCH: &str = "MISMATCH";

/// The name a manual page uses, or `errno <number>` for what networking does not say.
pub(super) fn name(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => TIMEOUT,
            io::ErrorKind::UnexpectedEof => EOF,
            io::ErrorKind::InvalidData => MISMATCH,
            _ => return error.to_string(),
        }
        .to_owned();
    };
    match Errno::from_raw_os_error(number) {
        // What a socket with a receive timeout says when it is over.
        Errno::AGAIN => TIMEOUT,
        Errno::ACCESS => "EACCES",
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::AFNOSUPPORT => "EAFNOSUPPORT",
        Errno::CONNABORTED => "ECONNABORTED",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::CONNRESET => "ECONNRESET",
        Errno::DESTADDRREQ => "EDESTADDRREQ",
        Errno::HOSTDOWN => "EHOSTDOWN",
        Errno::HOSTUNREACH => "EHOSTUNREACH",
        Errno::INVAL => "EINVAL",
        Errno::MFILE => "EMFILE",
        Errno::MSGSIZE => "EMSGSIZE",
        Errno::NETDOWN => "ENETDOWN",
        Errno::NETUNREACH => "ENETUNREACH",
        Errno::NOBUFS => "ENOBUFS",
        Errno::NODEV => "ENODEV",
        Errno::NOTCONN => "ENOTCONN",
        Errno::PERM => "EPERM",
        Errno::PIPE => "EPIPE",
        Errno::PROTO => "EPROTO",
        Errno::TIMEDOUT => "ETIMEDOUT",
        _ => return format!("errno {number}"),
    }
    .to_owned()
}
