//! All of a hash map at once: thousands of elements with each system call (`BPF_MAP_LOOKUP_BATCH`, `BPF_MAP_UPDATE_BATCH`).

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// Elements of one system call: more than any bucket holds, which is what the kernel hands out at least.
const BATCH: usize = 8192;

/// `union bpf_attr` of the batch commands, by `include/uapi/linux/bpf.h`.
#[repr(C)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Hands every element of a hash map (LRU or not) or a trie to `each`. What changes meanwhile is read as it was before or as
/// it is then, or not at all.
///
/// # Errors
/// The kernel's; `InvalidInput` when keys and values are of other sizes; and those of `each`.
pub(super) fn read<K: Pod, V: Pod>(
    map: &MapData,
    mut each: impl FnMut(&[K], &[V]) -> io::Result<()>,
) -> io::Result<()> {
    check::<K, V>(map)?;
    let mut keys = vec![MaybeUninit::<K>::uninit(); BATCH];
    let mut values = vec![MaybeUninit::<V>::uninit(); BATCH];
    // Where to go on: the number of a bucket, or the last key.
    let mut place = vec![0_u8; size_of::<K>().max(size_of::<u32>())];
    let mut first = true;
    loop {
        let at = place.as_mut_ptr() as u64;
        let mut attr = Attr {
            in_batch: if first { 0 } else { at },
            out_batch: at,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        first = false;
        let last = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        let count = (attr.count as usize).min(BATCH);
        // SAFETY: the kernel has written that many of each, and any bytes are a valid `Pod`.
        let read = unsafe { std::slice::from_raw_parts(keys.as_ptr().cast::<K>(), count) };
        // SAFETY: as above.
        let found = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<V>(), count) };
        each(read, found)?;
        if last {
            return Ok(());
        }
    }
}

/// Writes elements, over those that are there.
///
/// # Errors
/// The kernel's; `InvalidInput` when keys and values are of other sizes. Some may be written.
pub(super) fn write<K: Pod, V: Pod>(map: &MapData, keys: &[K], values: &[V]) -> io::Result<()> {
    check::<K, V>(map)?;
    for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
        let mut attr = Attr {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: keys.len().min(values.len()) as u32,
            map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_BATCH, &mut attr)?;
    }
    Ok(())
}

/// How many elements there are.
///
/// # Errors
/// As [`read`].
pub(super) fn count<K: Pod, V: Pod>(map: &MapData) -> io::Result<u32> {
    let mut count = 0;
    read::<K, V>(map, |keys, _| {
        count += keys.len() as u32;
        Ok(())
    })?;
    Ok(count)
}

fn check<K, V>(map: &MapData) -> io::Result<()> {
    let info = map.info().map_err(io::Error::other)?;
    let same =
        info.key_size() as usize == size_of::<K>() && info.value_size() as usize == size_of::<V>();
    if same {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<()> {
    // SAFETY: the layout is that of the command, the buffers outlive the call and hold as many elements as it says, of the
    // sizes that the map has.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<Attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
