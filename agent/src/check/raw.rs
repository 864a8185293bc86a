//! System calls that nobody wraps: `bpf(2)` for what aya's probes leave out, and `perf_event_open(2)`.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use aya::programs::ProgramType;

// `enum bpf_cmd`, `enum bpf_map_type` and flags of `include/uapi/linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// A file descriptor that is none.
const NO_FD: u32 = u32::MAX;

/// Of `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum AttachType {
    CgroupConnect4 = 10,
    TcxIngress = 46,
}

/// The beginning of `union bpf_attr`, as 32-bit words; each command reads its own prefix, the rest is zero.
type Attr = [u32; 32];

fn bpf(command: libc::c_long, attr: &Attr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is as long as is said and outlives the call, as does what it points to; the commands used here
    // write nothing back.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: a successful command returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a pointer into two words of `attr`.
fn point(attr: &mut Attr, word: usize, to: *const u8) {
    let bytes = (to as u64).to_ne_bytes();
    let (low, high) = bytes.split_at(4);
    for (offset, half) in [low, high].into_iter().enumerate() {
        attr[word + offset] = u32::from_ne_bytes([half[0], half[1], half[2], half[3]]);
    }
}

/// Whether an array map can be mapped into memory.
pub(super) fn mmapable_array() -> io::Result<bool> {
    let mut attr: Attr = [0; 32];
    attr[..5].copy_from_slice(&[BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE]);
    supported(bpf(BPF_MAP_CREATE, &attr))
}

/// Whether a program of that type can be attached there by a link. The link is asked for on a target that does not exist,
/// which only a kernel that knows this kind of link finds out.
pub(super) fn link_kind(program: ProgramType, attach: AttachType) -> io::Result<bool> {
    let program = load(program, attach)?;
    let mut attr: Attr = [0; 32];
    let target = match attach {
        AttachType::CgroupConnect4 => NO_FD,
        // No device has this index.
        AttachType::TcxIngress => 0,
    };
    attr[..3].copy_from_slice(&[program.as_raw_fd().cast_unsigned(), target, attach as u32]);
    match bpf(BPF_LINK_CREATE, &attr) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENODEV)) => Ok(true),
        outcome => supported(outcome),
    }
}

/// Whether the program of a link can be replaced.
pub(super) fn link_update() -> io::Result<bool> {
    let mut attr: Attr = [0; 32];
    attr[..2].copy_from_slice(&[NO_FD, NO_FD]);
    match bpf(BPF_LINK_UPDATE, &attr) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(true),
        outcome => supported(outcome),
    }
}

fn supported(outcome: io::Result<OwnedFd>) -> io::Result<bool> {
    match outcome {
        Ok(_) => Ok(true),
        // Unknown commands, flags and types are invalid arguments.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::E2BIG)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Loads `return 1`.
fn load(program: ProgramType, attach: AttachType) -> io::Result<OwnedFd> {
    // `r0 = 1; exit`: operation code, registers, offset, immediate value.
    let instructions: [u64; 2] = [
        u64::from_ne_bytes([0xb7, 0, 0, 0, 1, 0, 0, 0]),
        u64::from_ne_bytes([0x95, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let (number, expected) = match program {
        ProgramType::CgroupSockAddr => (18, attach as u32),
        ProgramType::SchedClassifier => (3, 0),
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let mut attr: Attr = [0; 32];
    attr[0] = number;
    attr[1] = 2;
    point(&mut attr, 2, instructions.as_ptr().cast());
    point(&mut attr, 4, c"GPL".as_ptr().cast());
    // `expected_attach_type` is at byte 68.
    attr[17] = expected;
    bpf(BPF_PROG_LOAD, &attr)
}

/// Whether a probe can be placed on a kernel function. It is gone when this returns.
pub(super) fn kprobe() -> io::Result<()> {
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    /// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER1`.
    #[repr(C)]
    struct PerfEventAttr {
        kind: u32,
        size: u32,
        config: u64,
        sample_period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup_events: u32,
        bp_type: u32,
        kprobe_func: u64,
        probe_offset: u64,
    }
    let kind = std::fs::read_to_string("/sys/bus/event_source/devices/kprobe/type")?;
    let attr = PerfEventAttr {
        kind: kind
            .trim()
            .parse()
            .map_err(|_| io::ErrorKind::InvalidData)?,
        size: size_of::<PerfEventAttr>() as u32,
        config: 0,
        sample_period: 0,
        sample_type: 0,
        read_format: 0,
        // Counts nothing.
        flags: 1,
        wakeup_events: 0,
        bp_type: 0,
        kprobe_func: c"do_exit".as_ptr() as u64,
        probe_offset: 0,
    };
    // SAFETY: `attr` has the layout and size it says and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            -1 as libc::pid_t,
            0 as libc::c_int,
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel just made this descriptor for us.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}
