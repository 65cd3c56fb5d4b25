//! [`Pressure`]: how full memory is, in the operators' words.

use std::fmt;

/// How full memory is, in the operators' words. Ordered: the fuller is the greater, so
/// `Normal` is the least and `Critical` the greatest. There may be more levels one day,
/// between these: compare (`pressure >= Pressure::High`) rather than name them all.
///
/// Levels bound concurrency with the ladder. The predictive policy runs full by
/// design, so its levels begin later, and of them only `Critical` holds all new work back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "UPPERCASE"))]
#[non_exhaustive]
pub enum Pressure {
    /// Below: base concurrency.
    #[default]
    Normal,
    /// From 60 % (predictive: 80 %): concurrency stays as it is.
    Stable,
    /// From 70 % (90 %): a quarter less.
    Warning,
    /// From 80 % (95 %): half.
    High,
    /// From 85 % (98 %): new work is rejected.
    Critical,
}

impl Pressure {
    const ALL: [(Pressure, &'static str); 5] = [
        (Pressure::Normal, "NORMAL"),
        (Pressure::Stable, "STABLE"),
        (Pressure::Warning, "WARNING"),
        (Pressure::High, "HIGH"),
        (Pressure::Critical, "CRITICAL"),
    ];

    /// The name in logs and statistics, such as `CRITICAL`.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    pub(crate) fn from_index(index: u8) -> Self {
        let level = Self::ALL.get(usize::from(index));
        level.map_or_else(Self::default, |&(level, _)| level)
    }
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
