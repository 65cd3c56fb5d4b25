//! What escaping adds to a text.

/// Bytes that escaping adds to `text`.
#[inline]
pub(super) fn added(text: &str) -> usize {
    let mut words = text.as_bytes().chunks_exact(8);
    let mut special = 0;
    // Without an early exit, so that it is done in wide steps.
    for word in &mut words {
        special |= special_bytes(u64::from_ne_bytes(word.try_into().unwrap_or_default()));
    }
    if special == 0 {
        return words.remainder().iter().map(|&byte| escape(byte)).sum();
    }
    text.bytes().map(escape).sum()
}

/// Not 0 if one of eight bytes must be escaped: a control character, a quote or a
/// backslash. The borrow test of "Bit Twiddling Hacks" ("determine if a word has a
/// byte less than n"); exact as to whether there is one.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES * 0x80;
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGHS;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    below(word, 0x20) | below(quote, 1) | below(backslash, 1)
}

/// How many bytes escaping adds to each.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        escapes[control] = "\\u0000".len() as u8 - 1;
        control += 1;
    }
    let short = b"\"\\\n\r\t\x08\x0c";
    let mut nth = 0;
    while nth < short.len() {
        escapes[short[nth] as usize] = 1;
        nth += 1;
    }
    escapes
};

#[inline]
fn escape(byte: u8) -> usize {
    usize::from(ESCAPES[usize::from(byte)])
}
