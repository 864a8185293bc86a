//! Copying by words. Left to itself, the compiler has some values copied byte by byte, in a function of its own.

/// Copies `from` to `to`, which are made of integers only.
#[inline(always)]
pub(crate) fn copy<T>(from: &T, to: &mut T) {
    const { assert!(align_of::<T>() >= 4 && size_of::<T>().is_multiple_of(4)) };
    let (from, to) = (core::ptr::from_ref(from), core::ptr::from_mut(to));
    for word in 0..size_of::<T>() / 4 {
        // SAFETY: inside two live values, and aligned.
        unsafe {
            let value = from.cast::<u32>().add(word).read_volatile();
            to.cast::<u32>().add(word).write_volatile(value);
        }
    }
}
