//! A hash that is the same on every machine and in every version.

/// FNV-1a, started.
pub(crate) const START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, continued over `bytes`.
pub(crate) fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(hash, step)
}
