//! Values as people write them. Each error says what would be right.

use std::path::PathBuf;
use std::time::Duration;

/// A longer time than this is a slip of the pen, and would overflow a timer.
const MAX_SECONDS: f64 = 365.0 * 24.0 * 3600.0;
pub(super) const LONGEST: Duration = Duration::from_secs(MAX_SECONDS as u64);

pub(super) fn one_of<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(value))
        .map(|&(_, choice)| choice)
        .ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            names.join(" or ")
        })
}

pub(super) fn boolean(value: &str) -> Result<bool, String> {
    let words = [
        ("true", true),
        ("1", true),
        ("yes", true),
        ("on", true),
        ("false", false),
        ("0", false),
        ("no", false),
        ("off", false),
    ];
    one_of(value, &words).map_err(|_| "true or false".into())
}

pub(super) fn count(value: &str) -> Result<u32, String> {
    let expected = || format!("a whole number from 1 to {}", crate::limiter::MAX_COUNT);
    match value.parse::<u32>() {
        Ok(number @ 1..=crate::limiter::MAX_COUNT) => Ok(number),
        _ => Err(expected()),
    }
}

pub(super) fn waiting(value: &str) -> Result<usize, String> {
    match value.parse::<u32>() {
        Ok(number) if number <= crate::limiter::MAX_COUNT => Ok(number as usize),
        _ => Err(format!(
            "a whole number from 0 (nobody waits) to {}",
            crate::limiter::MAX_COUNT
        )),
    }
}

/// A number without `%` up to 1 is a fraction, above it a percentage.
pub(super) fn fraction(value: &str) -> Result<f64, String> {
    let expected = "a share above 0 and up to everything, such as 0.8, 80 or 80%";
    let (digits, percent) = match value.strip_suffix('%') {
        Some(digits) => (digits.trim_end(), true),
        None => (value, false),
    };
    let number: f64 = digits.parse().map_err(|_| expected)?;
    let fraction = if percent || number > 1.0 {
        number / 100.0
    } else {
        number
    };
    check_fraction(fraction).map_err(|()| expected.into())
}

pub(super) fn check_fraction(fraction: f64) -> Result<f64, ()> {
    // NaN fails both comparisons.
    if fraction > 0.0 && fraction <= 1.0 {
        Ok(fraction)
    } else {
        Err(())
    }
}

pub(super) fn seconds(value: &str) -> Result<Duration, String> {
    let expected = "seconds above 0, such as 5 or 0.5";
    let number: f64 = value.parse().map_err(|_| expected)?;
    if (0.001..=MAX_SECONDS).contains(&number) {
        Ok(Duration::from_secs_f64(number))
    } else {
        Err(expected.into())
    }
}

/// Zero stands for never.
pub(super) fn seconds_or_none(value: &str) -> Result<Duration, String> {
    let zero = value.parse::<f64>().is_ok_and(|number| number == 0.0);
    match zero {
        true => Ok(Duration::ZERO),
        false => seconds(value).map_err(|_| "seconds such as 5 or 0.5, or 0 for never".into()),
    }
}

pub(super) fn mebibytes(value: &str) -> Result<u64, String> {
    let expected = "MiB above 0, such as 200";
    if let Ok(number) = value.parse::<f64>() {
        let bytes = number * super::MIB as f64;
        return if bytes >= 1.0 && bytes <= MAX_BYTES as f64 {
            Ok(bytes as u64)
        } else {
            Err(expected.into())
        };
    }
    size(value).map_err(|_| expected.into())
}

/// A file's path. What is there is no matter of settings.
pub(super) fn file(path: PathBuf) -> Result<PathBuf, String> {
    let text = path.to_string_lossy();
    // A value that was not text has been replaced in part by now.
    let lost = text.contains([char::REPLACEMENT_CHARACTER, '\0']);
    if lost || text.ends_with(std::path::is_separator) || path.file_name().is_none() {
        return Err("the path of a file, such as /var/lib/service/memory-guard.state".into());
    }
    Ok(path)
}

/// The most that the ledger can count.
const MAX_BYTES: u64 = crate::units::MAX_KIB * 1024;

/// Bytes, or a number with a unit; every unit is binary.
pub(super) fn size(value: &str) -> Result<u64, String> {
    let expected = "bytes above 0, such as 536870912, 512M or 2GiB";
    let split = value
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(value.len());
    let (digits, unit) = value.split_at(split);
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        _ => return Err(expected.into()),
    };
    let number: f64 = digits.parse().map_err(|_| expected)?;
    let bytes = number * scale as f64;
    if bytes >= 1.0 && bytes <= MAX_BYTES as f64 {
        Ok(bytes as u64)
    } else {
        Err(expected.into())
    }
}
