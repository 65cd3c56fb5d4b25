//! What values of settings may be, and how people write them in variables.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{Mode, OnSensorFailure, Policy};
use crate::limiter::MAX_COUNT;
use crate::memory::Source;
use crate::units::MAX_KIB;

/// What one value may be.
pub(super) struct Kind<T> {
    parse: fn(&str) -> Option<T>,
    is_good: fn(&T) -> bool,
    expected: &'static str,
    /// How that is written in a variable.
    written: &'static str,
}

impl<T: Debug> Kind<T> {
    /// Takes a variable's text, or says what would be right.
    pub(super) fn read(&self, field: &mut impl From<T>, text: &str) -> Result<(), String> {
        let value = (self.parse)(text).filter(self.is_good);
        let expected = || format!("{}{}", self.expected, self.written);
        *field = value.ok_or_else(expected)?.into();
        Ok(())
    }

    /// A value that cannot be used, and what would be right. A field has a value, or perhaps
    /// one.
    pub(super) fn wrong(
        &self,
        field: &(impl Clone + Into<Option<T>>),
    ) -> Option<(String, &'static str)> {
        let value: Option<T> = field.clone().into();
        let value = value.filter(|value| !(self.is_good)(value))?;
        // A path without its quotes.
        let shown = format!("{value:?}").trim_matches('"').to_owned();
        Some((shown, self.expected))
    }
}

/// A row: the type, how a variable's text is parsed, which values are good, and what would be
/// right, as the builder says it and what is to be added for a variable.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $type:ty = $parse:expr, $is_good:expr, $expected:literal, $written:expr;)+) => {
        $($(#[$doc])* pub(super) const $kind: Kind<$type> = Kind {
            parse: $parse,
            is_good: $is_good,
            expected: $expected,
            written: $written,
        };)+
    };
}

const _: () = assert!(MAX_COUNT == 1_048_575, "as it stands in these texts");
const SHARES: &str = ", such as 0.8, 80 or 80%";
const SECONDS: &str = ", in seconds such as 5 or 0.5";
/// A longer time than this is a slip of the pen, and would overflow a timer.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

kinds! {
    SWITCH: bool = switch, any, "true or false", "";
    POLICY: Policy = |text| one_of(text, &[Policy::Auto, Policy::Ladder, Policy::Predictive]), any,
        "auto or ladder or predictive", "";
    MODE: Mode = |text| one_of(text, &[Mode::Enforce, Mode::Observe]), any, "enforce or observe", "";
    SOURCE: Source =
        |text| one_of(text, &[Source::Auto, Source::Cgroup, Source::Process, Source::Host]), any,
        "auto or cgroup or process or host", "";
    SENSOR_FAILURE: OnSensorFailure =
        |text| one_of(text, &[OnSensorFailure::Open, OnSensorFailure::Closed]), any,
        "open or closed", "";

    COUNT: u32 = number, |count| (1..=MAX_COUNT).contains(count),
        "a whole number from 1 to 1048575", "";
    WAITING: usize = |text| number(text).filter(|&count| count <= MAX_COUNT as usize), any,
        "a whole number from 0 (nobody waits) to 1048575", "";
    AT_LEAST_ONE: u32 = number, |&count| count > 0, "at least 1", "";
    /// Of a tier.
    WEIGHT: u32 = number, |weight| (1..=1000).contains(weight), "from 1 to 1000", "";

    // NaN is in no range.
    FRACTION: f64 = share, |&fraction| fraction > 0.0 && fraction <= 1.0,
        "a fraction above 0 and up to 1", SHARES;
    SELDOM: f64 = share, |&fraction| fraction > 0.0 && fraction <= 0.5,
        "a fraction above 0 and up to 0.5", SHARES;
    RESERVE: f64 = share, |fraction| (0.0..=0.5).contains(fraction),
        "a fraction from 0 to 0.5", SHARES;

    TIME: Duration = seconds, |time| (Duration::from_millis(1)..=LONGEST).contains(time),
        "from 1 ms to 365 days", SECONDS;
    TIME_OR_NEVER: Duration = seconds, |time| time.is_zero() || (TIME.is_good)(time),
        "from 1 ms to a year, or zero for never", SECONDS;

    SIZE: u64 = size, |&bytes| bytes > 0, "bytes above 0", ", such as 536870912, 512M or 2GiB";
    MEBIBYTES: u64 = mebibytes, |&bytes| bytes > 0, "bytes above 0", ", in MiB such as 200";

    DIRECTORY: PathBuf = |text| Some(text.into()), any, "a path", "";
    /// What is there is no matter of settings.
    FILE: PathBuf = |text| Some(text.into()), |path| is_file(path), "the path of a file",
        ", such as /var/lib/service/memory-guard.state";
}

fn any<T>(_: &T) -> bool {
    true
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn one_of<T: Copy + Debug>(text: &str, choices: &[T]) -> Option<T> {
    let is_meant = |choice: &&T| format!("{choice:?}").eq_ignore_ascii_case(text);
    choices.iter().find(is_meant).copied()
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A number without `%` up to 1 is a fraction, above it a percentage.
fn share(text: &str) -> Option<f64> {
    let digits = text.strip_suffix('%');
    let number: f64 = digits.map_or(text, str::trim_end).parse().ok()?;
    let is_percentage = digits.is_some() || number > 1.0;
    Some(number / if is_percentage { 100.0 } else { 1.0 })
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(number(text)?).ok()
}

/// Bytes, or a number with a unit; every unit is binary.
fn size(text: &str) -> Option<u64> {
    let is_unit = |c: char| !c.is_ascii_digit() && c != '.';
    let (digits, unit) = text.split_at(text.find(is_unit).unwrap_or(text.len()));
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return None,
    };
    whole(number::<f64>(digits)? * (1u64 << shift) as f64)
}

/// Of a number without a unit, as many MiB.
fn mebibytes(text: &str) -> Option<u64> {
    match number::<f64>(text) {
        Some(mebibytes) => whole(mebibytes * f64::from(1 << 20)),
        None => size(text),
    }
}

/// Bytes, as far as the ledger can count them.
fn whole(bytes: f64) -> Option<u64> {
    let most = (MAX_KIB * 1024) as f64;
    (1.0..=most).contains(&bytes).then_some(bytes as u64)
}

fn is_file(path: &Path) -> bool {
    let text = path.to_string_lossy();
    // A value that was not text has been replaced in part by now.
    let lost = text.contains([char::REPLACEMENT_CHARACTER, '\0']);
    !lost && !text.ends_with(std::path::is_separator) && path.file_name().is_some()
}
