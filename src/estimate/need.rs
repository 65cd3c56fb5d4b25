//! A mean and how far from it: what sums of requests are made of.

/// A doubt smaller than this does not make room for what is doubted.
const DOUBTED: f64 = 0.01;

/// Mean, variance and third central moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    pub(super) bytes: f64,
    pub(super) variance: f64,
    pub(super) third: f64,
    /// By how much it can be above the mean at most, as far as is known.
    pub(super) room: f64,
}

impl Need {
    /// Of one thing with probability `share`, else of the other.
    pub(super) fn mixed_with(self, other: Need, share: f64) -> Need {
        let bytes = self.bytes * (1.0 - share) + other.bytes * share;
        let about = |need: Need| {
            let off = need.bytes - bytes;
            let spread = need.variance + off * off;
            let skew = need.third + 3.0 * off * need.variance + off * off * off;
            (spread, skew)
        };
        let ((spread, skew), (other_spread, other_skew)) = (about(self), about(other));
        Need {
            bytes,
            variance: spread * (1.0 - share) + other_spread * share,
            third: skew * (1.0 - share) + other_skew * share,
            room: (self.bytes + self.room).max(other.bytes + other.room) - bytes,
        }
    }

    /// With this probability it is so large instead, if that is larger. A doubt
    /// widens the spread; it is no observation, so it does not skew it.
    pub(super) fn or_else(self, bytes: f64, probability: f64) -> Need {
        if bytes <= self.bytes {
            return self;
        }
        let large = Need {
            bytes,
            ..Need::default()
        };
        let doubted = self.mixed_with(large, probability);
        let room = match probability > DOUBTED {
            true => doubted.room,
            false => (self.bytes + self.room - doubted.bytes).max(0.0),
        };
        Need {
            third: self.third,
            room,
            ..doubted
        }
    }

    /// Of a request so many times as large.
    pub(super) fn scaled(self, scale: f64) -> Need {
        Need {
            bytes: self.bytes * scale,
            variance: self.variance * scale * scale,
            third: self.third * scale * scale * scale,
            room: self.room * scale,
        }
    }

    pub(super) fn and(self, other: Need) -> Need {
        Need {
            bytes: self.bytes + other.bytes,
            variance: self.variance + other.variance,
            third: self.third + other.third,
            room: self.room + other.room,
        }
    }

    /// What is added to the mean so that it is exceeded as rarely as `deviations` of
    /// a normal distribution are: by the first terms of Cornish and Fisher's
    /// expansion (1938), the second of which is for the skew that few large ones
    /// among many small ones make.
    pub(super) fn margin_bytes(self, deviations: f64) -> f64 {
        if self.variance <= 0.0 {
            return 0.0;
        }
        let skew = (deviations * deviations - 1.0).max(0.0) / 6.0;
        let normal = deviations * self.variance.sqrt();
        // Beyond that the expansion says nothing any more.
        let skewed = (skew * self.third.max(0.0) / self.variance).min(normal);
        (normal + skewed).min(self.room)
    }
}
