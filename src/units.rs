//! Bytes in larger units.

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The largest number of KiB that can be reserved (8 PiB): the ledger's word
/// has 43 bits for it.
pub(crate) const MAX_KIB: u64 = (1 << 43) - 1;

/// Whole KiB that cover `bytes`; never 0, so that a word with a request in
/// flight is never empty.
pub(crate) fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024).clamp(1, MAX_KIB)
}
