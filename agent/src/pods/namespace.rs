//! Network namespaces: whose they are, and work inside them.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    thread,
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// `SO_NETNS_COOKIE` of `include/uapi/asm-generic/socket.h`.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Which namespace it is, as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamespaceId {
    device: u64,
    inode: u64,
}

/// An open network namespace. It lives as long as this does, so this must not be kept.
pub(super) struct Namespace {
    pub(super) id: NamespaceId,
    file: File,
}

impl Namespace {
    /// The calling thread's.
    pub(super) fn own() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A process's. `NotFound` when it has ended.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    fn open(path: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            id: NamespaceId {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            file,
        })
    }

    /// Its descriptor, as netlink wants it.
    pub(super) fn raw_fd(&self) -> u32 {
        self.file.as_raw_fd().cast_unsigned()
    }

    /// Runs `work` in it, on a thread of its own, and waits for that.
    pub(super) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = || {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            };
            thread::Builder::new()
                .name("weir-netns".into())
                .spawn_scoped(scope, inside)?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// The cookie of the calling thread's network namespace: unlike its inode number, never another's.
///
/// # Errors
/// When there is no such socket option (before Linux 5.14), or no descriptor left.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, and the new length to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}
