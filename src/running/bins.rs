//! Sizes, sorted into bins: eight to each doubling, from 1 KiB up.

/// Enough for 8 PiB.
pub(crate) const BINS: usize = 44 * 8;

pub(crate) fn of(bytes: u64) -> usize {
    let kib = bytes.div_ceil(1024).max(1);
    let octave = kib.ilog2();
    // The three bits behind the leading one.
    let eighth = if octave >= 3 {
        kib >> (octave - 3) & 7
    } else {
        (kib << (3 - octave)) & 7
    };
    (octave as usize * 8 + eighth as usize).min(BINS - 1)
}

pub(crate) fn middle_bytes(bin: usize) -> f64 {
    let octave = (1u64 << (bin / 8)) as f64 * 1024.0;
    octave * (1.0 + ((bin % 8) as f64 + 0.5) / 8.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_lies_around_its_middle() {
        for kib in (1..5_000).chain([1 << 20, (1 << 30) + 12_345]) {
            let bytes = kib * 1024;
            let middle = middle_bytes(of(bytes));
            assert!(
                (middle / bytes as f64 - 1.0).abs() <= 0.07,
                "{kib}: {middle}"
            );
        }
        assert_eq!(of(0), 0);
        assert_eq!(of(u64::MAX), BINS - 1);
    }
}
