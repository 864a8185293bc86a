//! The few `bpf(2)` commands that aya does not offer: replacing the program of a pinned link, asking what a link is attached
//! to, and attaching to an interface by its index. Layouts are those of `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
/// `BPF_LINK_TYPE_TCX`
const LINK_TYPE_TCX: u32 = 11;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;

/// Opens what is pinned at `path`.
///
/// # Errors
/// The kernel's, `NotFound` among them.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Attr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &attr)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of an attached link, atomically: every event runs the old program or the new one.
///
/// # Errors
/// The kernel's: `EINVAL` for a program of another type, `ENOLINK` when the target is gone.
pub fn update_link(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let attr = Attr {
        link_fd: raw(link),
        new_prog_fd: raw(program),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &attr).map(drop)
}

/// Pins an object at `path`.
///
/// # Errors
/// The kernel's, `AlreadyExists` among them.
pub fn pin(object: &impl AsFd, path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Attr {
        pathname: path.as_ptr() as u64,
        bpf_fd: raw(object),
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attr).map(drop)
}

/// A direction at an interface: its tcx hook (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// What the interface receives.
    Ingress = 46,
    /// What is sent out of the interface.
    Egress = 47,
}

/// A place among the programs at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before all that are there now.
    First,
    /// After all that are there now.
    Last,
}

/// Attaches a classifier to the interface of that index, in the network namespace of the calling thread. It is detached when
/// the last reference to the link goes, or the interface.
///
/// # Errors
/// The kernel's: `ENODEV` when there is no such interface.
pub fn attach_tcx(
    program: &impl AsFd,
    ifindex: u32,
    direction: Direction,
    order: Order,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        padding: u32,
        expected_revision: u64,
    }
    let attr = Attr {
        prog_fd: raw(program),
        target_ifindex: ifindex,
        attach_type: direction as u32,
        flags: match order {
            Order::First => BPF_F_BEFORE,
            Order::Last => BPF_F_AFTER,
        },
        relative: 0,
        padding: 0,
        expected_revision: 0,
    };
    let fd = bpf(BPF_LINK_CREATE, &attr)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a tcx link is attached to: the interface's index and the `enum bpf_attach_type`; `None` when that interface is gone,
/// and for links of other kinds.
///
/// # Errors
/// The kernel's; `EINVAL` for a descriptor that is not a link.
pub fn target_of_tcx_link(link: &impl AsFd) -> io::Result<Option<(u32, u32)>> {
    let info: LinkInfo<[u32; 2]> = link_info(link)?;
    let [ifindex, attach_type] = info.target;
    Ok((info.link_type == LINK_TYPE_TCX && ifindex != 0).then_some((ifindex, attach_type)))
}

/// Detaches a link now, whoever else still refers to it. One that loses its last reference is detached by the kernel's
/// workers, some time later.
///
/// # Errors
/// The kernel's: `EOPNOTSUPP` for a kind of link that ends only with its last reference.
pub fn detach_link(link: &impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
    }
    bpf(BPF_LINK_DETACH, &Attr { link_fd: raw(link) }).map(drop)
}

/// What a cgroup link is attached to: the cgroup's id, 0 when that cgroup is gone.
///
/// # Errors
/// The kernel's; `EINVAL` for a descriptor that is not a link.
pub fn cgroup_of_link(link: &impl AsFd) -> io::Result<u64> {
    let info: LinkInfo<u64> = link_info(link)?;
    Ok(info.target)
}

/// `struct bpf_link_info` with the beginning of a member of its union.
#[repr(C)]
#[derive(Default)]
struct LinkInfo<T> {
    link_type: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    target: T,
    tail: [u32; 10],
}

fn link_info<T: Default>(link: &impl AsFd) -> io::Result<LinkInfo<T>> {
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    const {
        assert!(
            size_of::<LinkInfo<T>>() == 64,
            "the union's member has 8 bytes of interest"
        );
    }
    let mut info = LinkInfo::default();
    let attr = Attr {
        bpf_fd: raw(link),
        info_len: size_of::<LinkInfo<T>>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    Ok(info)
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: every `attr` above has the layout of its command, and its pointers outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).unwrap_or(i32::MAX))
}
