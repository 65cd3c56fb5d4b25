//! A mean and how far from it: what requests need, and sums of them.

/// So many of a sum's parts are looked at by themselves.
const WIDEST: usize = 8;
/// A doubt smaller than this does not make room for what is doubted.
const DOUBTED: f64 = 0.01;

/// Mean, variance and third central moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    pub(super) bytes: f64,
    pub(super) variance: f64,
    pub(super) third: f64,
    /// By how much it can be above the mean at most, as far as is known.
    pub(super) room: f64,
}

impl Moments {
    /// Of one thing with probability `share`, else of the other.
    pub(super) fn mixed_with(self, other: Moments, share: f64) -> Moments {
        let bytes = self.bytes * (1.0 - share) + other.bytes * share;
        let about = |need: Moments| {
            let off = need.bytes - bytes;
            let spread = need.variance + off * off;
            let skew = need.third + 3.0 * off * need.variance + off * off * off;
            (spread, skew)
        };
        let ((spread, skew), (other_spread, other_skew)) = (about(self), about(other));
        Moments {
            bytes,
            variance: spread * (1.0 - share) + other_spread * share,
            third: skew * (1.0 - share) + other_skew * share,
            room: (self.bytes + self.room).max(other.bytes + other.room) - bytes,
        }
    }

    /// With this probability it is so large instead, if that is larger. A doubt
    /// widens the spread; it is no observation, so it does not skew it.
    pub(super) fn or_else(self, bytes: f64, probability: f64) -> Moments {
        if bytes <= self.bytes {
            return self;
        }
        let large = Moments {
            bytes,
            ..Moments::default()
        };
        let doubted = self.mixed_with(large, probability);
        let room = match probability > DOUBTED {
            true => doubted.room,
            false => (self.bytes + self.room - doubted.bytes).max(0.0),
        };
        Moments {
            third: self.third,
            room,
            ..doubted
        }
    }

    /// Of a request so many times as large.
    pub(super) fn scaled(self, scale: f64) -> Moments {
        Moments {
            bytes: self.bytes * scale,
            variance: self.variance * scale * scale,
            third: self.third * scale * scale * scale,
            room: self.room * scale,
        }
    }

    pub(super) fn and(self, other: Moments) -> Moments {
        Moments {
            bytes: self.bytes + other.bytes,
            variance: self.variance + other.variance,
            third: self.third + other.third,
            room: self.room + other.room,
        }
    }

    /// Of a sum without this part of it.
    fn without(self, part: Moments) -> Moments {
        Moments {
            bytes: self.bytes - part.bytes,
            variance: (self.variance - part.variance).max(0.0),
            third: self.third - part.third,
            room: (self.room - part.room).max(0.0),
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

/// What several requests need together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) all: Moments,
    /// Those with the most variance, widest first.
    widest: [Moments; WIDEST],
}

impl Sum {
    pub(super) fn add(&mut self, need: Moments) {
        self.all = self.all.and(need);
        let place = self
            .widest
            .partition_point(|wide| wide.variance >= need.variance);
        if place < WIDEST {
            self.widest[place..].rotate_right(1);
            self.widest[place] = need;
        }
    }

    pub(super) fn with(mut self, need: Moments) -> Self {
        self.add(need);
        self
    }

    /// As [`Moments::margin_bytes`], and no more than would do if some of the widest came
    /// to all that they can be and the others had a margin of their own. A distribution
    /// of few large ones is none that two moments and a skew describe well; what it can
    /// come to at most is known.
    pub(super) fn margin_bytes(&self, deviations: f64) -> f64 {
        let mut rest = self.all;
        let mut rooms = 0.0;
        let mut least = rest.margin_bytes(deviations);
        for wide in self.widest.iter().take_while(|wide| wide.variance > 0.0) {
            rest = rest.without(*wide);
            rooms += wide.room;
            least = least.min(rooms + rest.margin_bytes(deviations));
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 MiB, or 120 with a tenth of the probability.
    fn undecided() -> Moments {
        let small = Moments {
            bytes: 2.0,
            ..Moments::default()
        };
        let large = Moments {
            bytes: 120.0,
            ..Moments::default()
        };
        small.mixed_with(large, 0.1)
    }

    fn decided() -> Moments {
        Moments {
            bytes: 50.0,
            variance: 4.0,
            room: 1000.0,
            ..Moments::default()
        }
    }

    fn sum(needs: impl IntoIterator<Item = Moments>) -> Sum {
        needs.into_iter().fold(Sum::default(), Sum::with)
    }

    #[test]
    fn few_that_may_be_large_need_no_more_than_that() {
        let margin = |n| sum(std::iter::repeat_n(undecided(), n)).margin_bytes(3.0);
        let room = undecided().room;
        assert!((margin(1) - room).abs() < 1e-6, "{}", margin(1));
        assert!(margin(2) <= 2.0 * room);
        // Of many, not all are large at once.
        assert!(margin(100) < 30.0 * room, "{}", margin(100));
    }

    #[test]
    fn those_that_are_known_do_not_widen_it_by_all_that_they_might_be() {
        let known = [decided(); 20];
        let margin = sum(known).margin_bytes(3.0);
        assert!((margin - 3.0 * 80.0_f64.sqrt()).abs() < 1e-6, "{margin}");
        let with_one = sum(known.into_iter().chain([undecided()])).margin_bytes(3.0);
        assert!(with_one <= margin + undecided().room + 1e-6, "{with_one}");
    }

    #[test]
    fn it_is_never_more_than_without_a_look_at_each() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let needs: Vec<_> = (0..random.usize(1..20))
                .map(|_| {
                    let small = Moments {
                        bytes: random.f64() * 10.0,
                        ..Moments::default()
                    };
                    small.or_else(random.f64() * 200.0, random.f64() * 0.3)
                })
                .collect();
            let together = needs.iter().copied().fold(Moments::default(), Moments::and);
            let margin = sum(needs).margin_bytes(3.0);
            assert!((0.0..=together.margin_bytes(3.0) + 1e-6).contains(&margin));
        }
    }
}
