//! What changes in this network namespace and in those it is joined to, as the kernel tells it.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, socket_with,
    sockopt::set_socket_recv_buffer_size,
};
use tracing::debug;

use crate::netlink::messages;

// `include/uapi/linux/rtnetlink.h`
const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
/// Room for some thousand messages.
const BUFFER: usize = 4 << 20;

/// What has changed since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Interfaces or addresses of this namespace.
    pub(super) here: bool,
    /// Namespaces, by their ids here, of which interfaces or addresses have changed.
    pub(super) there: BTreeSet<i32>,
    /// Messages were lost: anything may have changed.
    pub(super) everything: bool,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.here |= other.here;
        self.everything |= other.everything;
        self.there.extend(other.there);
    }
}

/// A subscription to interfaces and addresses.
pub(super) struct Monitor {
    socket: OwnedFd,
}

impl Monitor {
    /// Subscribes in the calling thread's namespace, and in all that it gave an id to. An address that a pod gets after its
    /// interface is seen only by the latter, which wants `CAP_NET_BROADCAST`; without that right pods are looked at again
    /// from time to time.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        if let Err(error) = set_socket_recv_buffer_size(&socket, BUFFER) {
            debug!(%error, "the buffer for netlink events stays small");
        }
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one integer of the size that is told.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_LISTEN_ALL_NSID,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result != 0 {
            let error = io::Error::last_os_error();
            debug!(%error, "events of pods' namespaces are not told");
        }
        let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket })
    }

    /// Takes all that has been told.
    pub(super) fn drain(&mut self) -> Changes {
        let mut changes = Changes::default();
        let mut buffer = [0; 32 * 1024];
        loop {
            match self.receive(&mut buffer) {
                Ok((length, nsid)) => {
                    if messages(&buffer[..length]).next().is_none() {
                        continue;
                    }
                    match nsid {
                        Some(nsid) => changes.there.extend([nsid]),
                        None => changes.here = true,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changes.everything = true;
                }
                Err(_) => return changes,
            }
        }
    }

    /// One datagram: its length, and the namespace it comes from unless that is the socket's own.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
        /// Room for one control message with one integer, aligned as `struct cmsghdr` is.
        #[repr(C, align(8))]
        struct Control([u8; 64]);
        let mut control = Control([0; 64]);
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: all zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: the message points to buffers of the lengths it says, which outlive the call.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has filled in the control buffer and its length.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: a header that is not null is inside the control buffer and aligned.
        let nsid = unsafe { header.as_ref() }
            .filter(|header| header.cmsg_level == libc::SOL_NETLINK)
            .filter(|header| header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID)
            .map(|header| {
                // SAFETY: `header` is that of a control message in the buffer above.
                let data = unsafe { libc::CMSG_DATA(header) };
                // SAFETY: a message of this type carries one integer; it may be unaligned.
                unsafe { data.cast::<i32>().read_unaligned() }
            });
        Ok((usize::try_from(length).unwrap_or(0).min(buffer.len()), nsid))
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
