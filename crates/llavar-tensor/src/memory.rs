//! Tensor memory: size-classed buffers that are reused, and the byte counts tests and logs read.
//!
//! A training step allocates the same few hundred sizes again and again. Handing large blocks back to
//! the system each time costs a page fault per 4 KiB on the next use, so freed buffers wait in a pool.
//! Sizes are rounded up to one of eight classes per power of two (at most 12.5 % waste).

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use half::{bf16, f16};

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CACHED: AtomicUsize = AtomicUsize::new(0);
static POISON: AtomicBool = AtomicBool::new(false);

/// Buffers below this many bytes go straight to the allocator, which is fast for them.
const SMALL_BYTES: usize = 16 << 10;

/// The pool may hold this many bytes whatever the peak was. Outputs of 28 MB that go back to the system
/// between two calls cost a forward pass half its time in page faults.
static CACHE_FLOOR: AtomicUsize = AtomicUsize::new(512 << 20);

/// Byte counts of tensor memory in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes held by live tensors.
    pub in_use: usize,
    /// Largest `in_use` since the start or the last [`reset_peak`].
    pub peak: usize,
    /// Bytes of freed buffers that wait for reuse.
    pub cached: usize,
}

/// Current byte counts.
pub fn stats() -> MemoryStats {
    MemoryStats {
        in_use: IN_USE.load(Relaxed),
        peak: PEAK.load(Relaxed),
        cached: CACHED.load(Relaxed),
    }
}

/// Starts a new measurement of the peak at the present use.
pub fn reset_peak() {
    PEAK.store(IN_USE.load(Relaxed), Relaxed);
}

/// Live tensors and the pool together may hold this many bytes whatever the peak was; 512 MiB at first. A program
/// that answers one question takes less room with less.
pub fn set_cache_floor(bytes: usize) {
    CACHE_FLOOR.store(bytes, Relaxed);
}

/// Hands all cached buffers back to the system.
pub fn trim() {
    f32::pool().clear();
    bf16::pool().clear();
    f16::pool().clear();
    i32::pool().clear();
}

/// When on, unspecified buffers are filled with NaN (or an impossible integer), so that a kernel that
/// leaves a gap is seen by every test that reads its output.
pub fn set_poison(on: bool) {
    POISON.store(on, Relaxed);
}

/// Whether unspecified buffers are filled with NaN.
pub(crate) fn is_poisoned() -> bool {
    POISON.load(Relaxed)
}

/// Freed buffers of one element type by size class (in elements).
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Pool<T>(LazyLock<Mutex<HashMap<usize, Vec<Vec<T>>>>>);

impl<T> Pool<T> {
    const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    fn take(&self, class: usize) -> Option<Vec<T>> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.get_mut(&class)?.pop()?;
        CACHED.fetch_sub(class * size_of::<T>(), Relaxed);
        Some(found)
    }

    fn put(&self, class: usize, data: Vec<T>) {
        let bytes = class * size_of::<T>();
        // Beyond the floor the cache never outgrows what was once needed at the same time: memory
        // stays flat.
        if CACHED.load(Relaxed) + IN_USE.load(Relaxed) + bytes
            > PEAK.load(Relaxed).max(CACHE_FLOOR.load(Relaxed)) * 9 / 8
        {
            return;
        }
        CACHED.fetch_add(bytes, Relaxed);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(class)
            .or_default()
            .push(data);
    }

    fn clear(&self) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (class, list) in free.drain() {
            CACHED.fetch_sub(class * size_of::<T>() * list.len(), Relaxed);
        }
    }
}

/// An element type that tensors can hold.
pub trait Element: Copy + Send + Sync + std::fmt::Debug + PartialEq + 'static {
    /// Its runtime name.
    const DTYPE: crate::DType;
    /// Zero of this type.
    const ZERO: Self;
    /// What poisoned buffers are filled with.
    const POISON: Self;
    #[doc(hidden)]
    fn pool() -> &'static Pool<Self>;
}

macro_rules! element {
    ($t:ty, $d:ident, $zero:expr, $poison:expr) => {
        impl Element for $t {
            const DTYPE: crate::DType = crate::DType::$d;
            const ZERO: Self = $zero;
            const POISON: Self = $poison;
            fn pool() -> &'static Pool<Self> {
                static POOL: Pool<$t> = Pool::new();
                &POOL
            }
        }
    };
}
element!(f32, F32, 0.0, f32::NAN);
element!(bf16, BF16, bf16::ZERO, bf16::NAN);
element!(f16, F16, f16::ZERO, f16::NAN);
element!(i32, I32, 0, i32::MIN);

/// A pooled, fixed-length run of elements.
#[derive(Debug)]
pub struct Buffer<T: Element> {
    data: Vec<T>,
    len: usize,
    /// Whether the block came from the pool's classes and goes back there. One made from a caller's
    /// `Vec` does not: nothing would ever take it out again, and the cache would grow step by step.
    pooled: bool,
}

fn size_class(len: usize) -> usize {
    let step = (len.next_power_of_two() / 16).max(1);
    len.div_ceil(step) * step
}

impl<T: Element> Buffer<T> {
    /// `len` elements of unspecified value: for outputs that are written in full.
    pub fn unspecified(len: usize) -> Self {
        let (mut new, _) = Self::raw(len);
        if POISON.load(Relaxed) {
            new.fill(T::POISON);
        }
        new
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let (mut new, is_zero) = Self::raw(len);
        // The system gives pages of zeros when they are first used: room that is never used, as for answers
        // that nobody asks for, takes none.
        if !is_zero {
            new.fill(T::ZERO);
        }
        new
    }

    /// A buffer, and whether it holds zeros.
    fn raw(len: usize) -> (Self, bool) {
        let class = size_class(len);
        let pooled = if class * size_of::<T>() < SMALL_BYTES {
            None
        } else {
            T::pool().take(class)
        };
        let is_zero = pooled.is_none();
        let data = pooled.unwrap_or_else(|| vec![T::ZERO; class]);
        let now = IN_USE.fetch_add(class * size_of::<T>(), Relaxed) + class * size_of::<T>();
        PEAK.fetch_max(now, Relaxed);
        let new = Self {
            data,
            len,
            pooled: true,
        };
        (new, is_zero)
    }
}

impl<T: Element> From<Vec<T>> for Buffer<T> {
    fn from(data: Vec<T>) -> Self {
        let now =
            IN_USE.fetch_add(data.len() * size_of::<T>(), Relaxed) + data.len() * size_of::<T>();
        PEAK.fetch_max(now, Relaxed);
        Self {
            len: data.len(),
            data,
            pooled: false,
        }
    }
}

impl<T: Element> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let (mut new, _) = Self::raw(self.len);
        new.copy_from_slice(self);
        new
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let (class, bytes) = (data.len(), data.len() * size_of::<T>());
        IN_USE.fetch_sub(bytes, Relaxed);
        if self.pooled && bytes >= SMALL_BYTES {
            T::pool().put(class, data);
        }
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[..self.len]
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_at_most_an_eighth() {
        for len in 1..10_000 {
            let class = size_class(len);
            assert!(
                class >= len && class <= len + len / 8 + 1,
                "{len} -> {class}"
            );
            assert_eq!(size_class(class), class, "a class is its own class: {len}");
        }
    }

    #[test]
    fn zeros_are_zero_after_reuse() {
        for _ in 0..3 {
            let mut dirty = Buffer::<f32>::unspecified(40_000);
            dirty.fill(7.0);
            drop(dirty);
            assert!(Buffer::<f32>::zeros(40_000).iter().all(|x| *x == 0.0));
        }
    }
}
