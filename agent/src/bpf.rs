//! The few `bpf(2)` commands that aya does not offer: replacing the program of a pinned link, and asking what a link
//! is attached to. Layouts are those of `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

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
    /// `struct bpf_link_info` with the `cgroup` member of its union.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        link_type: u32,
        id: u32,
        prog_id: u32,
        padding: u32,
        cgroup_id: u64,
        attach_type: u32,
        tail: [u32; 9],
    }
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let attr = Attr {
        bpf_fd: raw(link),
        info_len: size_of::<Info>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    Ok(info.cgroup_id)
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
