//! What was learned, as text: one record a line, between a line that says what it is and
//! one that shows whether all of it is there.
//!
//! ```text
//! tower-memory-guard state 1
//! margin 2.125
//! running plain =render 157286400
//! class plain =render 2 2097152:1 125829120:0.997
//! check 8c5f3b0a9d3c6e21
//! ```
//!
//! Beside the number of requests seen, a class has its peaks in bytes and how many
//! requests had about that. Without accounting there is `usage`, bytes for each request
//! and from how many that is known, and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::record::{ClassRecord, Estimates, check_bytes};

/// The first line, without the version.
const KIND: &str = "tower-memory-guard state ";
const VERSION: &str = "1";
/// More than this is not ours.
pub(crate) const MOST_BYTES: usize = 1 << 20;
/// Room for the last line.
const CHECK_BYTES: usize = 64;

/// What outlives a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) estimates: Estimates,
    /// Requests in flight: what they hold is the least that they need.
    pub(crate) running: Vec<AtLeast>,
}

/// A request of this class needs at least so much; if it has a cost hint, as if that
/// were the unit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AtLeast {
    pub(crate) class: String,
    pub(crate) hinted: bool,
    pub(crate) bytes: f64,
}

/// What stands out of what is known of one kind of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outline {
    pub(super) seen: f64,
    pub(super) mean_bytes: f64,
    pub(super) largest_bytes: f64,
}

/// By class, and whether its requests have a hint.
pub(crate) type Outlines = BTreeMap<(String, bool), Outline>;

impl State {
    /// Nothing has been learned.
    pub(crate) fn is_empty(&self) -> bool {
        let estimates = &self.estimates;
        let classes = estimates.classes.values();
        let mut classes = classes.chain(estimates.hinted_classes.values());
        classes.all(|class| class.peaks.is_empty())
            && estimates.usage_bytes_per_request.is_none()
            && self.running.is_empty()
    }

    /// What is known of each kind, in short; the largest may be one that runs.
    pub(crate) fn outlines(&self) -> Outlines {
        let mut outlines = Outlines::new();
        for (hinted, classes) in self.estimates.by_hint() {
            for (name, class) in classes {
                let weight: f64 = class.peaks.iter().map(|(_, weight)| weight).sum();
                let weighed = class.peaks.iter().map(|(bytes, weight)| bytes * weight);
                let peaks = class.peaks.iter().map(|&(bytes, _)| bytes);
                let outline = Outline {
                    seen: class.seen,
                    // Of none it is 0.
                    mean_bytes: weighed.sum::<f64>() / weight.max(f64::MIN_POSITIVE),
                    largest_bytes: peaks.fold(0.0, f64::max),
                };
                outlines.insert((name.clone(), hinted), outline);
            }
        }
        for request in &self.running {
            let kind = (request.class.clone(), request.hinted);
            let largest_bytes = &mut outlines.entry(kind).or_default().largest_bytes;
            *largest_bytes = largest_bytes.max(request.bytes);
        }
        outlines
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{KIND}{VERSION}\n");
        // Unless it would make the whole too long to be read again.
        let mut add = |line: String| {
            if text.len() + line.len() + CHECK_BYTES < MOST_BYTES {
                text += &line;
                text.push('\n');
            }
        };
        let estimates = &self.estimates;
        if let Some(deviations) = estimates.margin_deviations {
            add(format!("margin {}", short(deviations)));
        }
        if let Some((bytes, seen)) = estimates.usage_bytes_per_request {
            add(format!("usage {} {}", whole(bytes), short(seen)));
        }
        for request in &self.running {
            let kind = kind(request.hinted, &request.class);
            add(format!("running {kind} {}", whole(request.bytes)));
        }
        for (hinted, classes) in estimates.by_hint() {
            for (name, class) in classes {
                let mut line = format!("class {} {}", kind(hinted, name), short(class.seen));
                for &(bytes, weight) in &class.peaks {
                    let _ = write!(line, " {}:{}", whole(bytes), short(weight));
                }
                add(line);
            }
        }
        let sum = checksum(text.as_bytes());
        let _ = writeln!(text, "check {sum:016x}");
        text
    }

    /// All of it, or what is wrong with it.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is no text")?;
        let version = text.lines().next().and_then(|line| line.strip_prefix(KIND));
        match version {
            Some(VERSION) => {}
            Some(version) => return Err(format!("it is of version {version:?}, not {VERSION}")),
            None => return Err("it is not what a memory guard writes".into()),
        }
        let (records, sum) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once('\n'))
            .and_then(|(records, last)| Some((records, last.strip_prefix("check ")?)))
            .ok_or("its end is missing")?;
        let all = &text.as_bytes()[..=records.len()];
        if sum != format!("{:016x}", checksum(all)) {
            return Err("it is damaged".into());
        }
        let mut state = Self::default();
        for (number, line) in records.split('\n').enumerate().skip(1) {
            let read = state.read(line);
            read.map_err(|problem| format!("line {}: {problem}", number + 1))?;
        }
        Ok(state)
    }

    fn read(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let estimates = &mut self.estimates;
        let twice = match words.next() {
            Some("margin") => {
                let margin = number(words.next())?;
                let twice = estimates.margin_deviations.replace(margin).is_some();
                estimates.check_margin()?;
                twice
            }
            Some("usage") => {
                let usage = (number(words.next())?, number(words.next())?);
                let twice = estimates.usage_bytes_per_request.replace(usage).is_some();
                estimates.check_usage()?;
                twice
            }
            Some("running") => {
                let (hinted, class) = read_kind(words.next(), words.next())?;
                let bytes = number(words.next())?;
                check_bytes(&format!("held by one of class {class:?}"), bytes)?;
                self.running.push(AtLeast {
                    class,
                    hinted,
                    bytes,
                });
                false
            }
            Some("class") => {
                let (hinted, name) = read_kind(words.next(), words.next())?;
                let seen = number(words.next())?;
                let peaks = words.by_ref().map(|peak| {
                    let (bytes, weight) = peak.split_once(':').ok_or("a peak is damaged")?;
                    Ok((number(Some(bytes))?, number(Some(weight))?))
                });
                let peaks = peaks.collect::<Result<_, String>>()?;
                let classes = match hinted {
                    true => &mut estimates.hinted_classes,
                    false => &mut estimates.classes,
                };
                let class = ClassRecord { seen, peaks };
                class.check(&name, hinted)?;
                classes.insert(name, class).is_some()
            }
            _ => return Err("it is of no kind that is known".into()),
        };
        match words.next() {
            _ if twice => Err("it is there twice".into()),
            Some(_) => Err("it has too many words".into()),
            None => Ok(()),
        }
    }
}

/// Whole bytes, at least one.
fn whole(bytes: f64) -> f64 {
    bytes.round().max(1.0)
}

/// A number with no more digits than it is worth.
fn short(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

fn kind(hinted: bool, name: &str) -> String {
    let kind = if hinted { "hinted" } else { "plain" };
    let mut text = format!("{kind} =");
    for letter in name.chars() {
        if letter == '%' || letter.is_whitespace() || letter.is_control() {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                let _ = write!(text, "%{byte:02X}");
            }
        } else {
            text.push(letter);
        }
    }
    text
}

fn read_kind(kind: Option<&str>, name: Option<&str>) -> Result<(bool, String), String> {
    let hinted = match kind {
        Some("plain") => false,
        Some("hinted") => true,
        _ => return Err("its kind is damaged".into()),
    };
    let name = name.and_then(|name| unescaped(name.strip_prefix('=')?));
    Ok((hinted, name.ok_or("its name is damaged")?))
}

fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut name = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        name.push(u8::from_str_radix(digits, 16).ok()?);
        name.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(name).ok()
}

fn number(word: Option<&str>) -> Result<f64, String> {
    let number = word.and_then(|word| word.parse().ok());
    number.ok_or_else(|| format!("{:?} is no number", word.unwrap_or_default()))
}

/// FNV-1a: it shows what a torn write or a bad disk does, not what somebody means to do.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
