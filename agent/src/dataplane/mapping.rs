//! An mmap-able array map, written without system calls.

use std::{io, marker::PhantomData, os::fd::AsFd, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of an array map whose values are `T`.
pub(super) struct Mapping<T> {
    base: NonNull<u8>,
    length: usize,
    bytes: usize,
    values: PhantomData<T>,
}

// SAFETY: the mapping is plain shared memory; it is not tied to the thread that made it.
unsafe impl<T: Send> Send for Mapping<T> {}

impl<T: Copy> Mapping<T> {
    /// Bytes from one element to the next (`array->elem_size` in `kernel/bpf/arraymap.c`).
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps `length` elements of the array map `map`.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` or `EPERM` when the map was not made with `BPF_F_MMAPABLE`.
    pub(super) fn new(map: &impl AsFd, length: u32) -> io::Result<Self> {
        let length = length as usize;
        let bytes = (length * Self::STRIDE).next_multiple_of(rustix::param::page_size());
        // SAFETY: a fresh shared mapping, of a size that the kernel checks against the map's.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            length,
            bytes,
            values: PhantomData,
        })
    }

    /// How many elements there are.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The element at `index`, if there is one.
    #[must_use]
    pub(super) fn read(&self, index: usize) -> Option<T> {
        let element = self.element(index)?;
        // SAFETY: inside the mapping and aligned; the kernel side only reads.
        Some(unsafe { element.read_volatile() })
    }

    /// Writes the element at `index`; false when there is none.
    pub(super) fn write(&mut self, index: usize, value: T) -> bool {
        let Some(element) = self.element(index) else {
            return false;
        };
        // SAFETY: inside the mapping and aligned. Readers in the kernel reach an element only through what is
        // published after it was written.
        unsafe { element.write_volatile(value) };
        true
    }

    fn element(&self, index: usize) -> Option<*mut T> {
        // SAFETY: the offset stays inside the mapping.
        (index < self.length)
            .then(|| unsafe { self.base.as_ptr().add(index * Self::STRIDE) }.cast())
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no pointer into it leaves this type.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
