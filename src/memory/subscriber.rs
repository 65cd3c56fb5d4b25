//! Whoever is told of samples.

use std::io;
use std::time::Duration;

use super::{Detail, Sample};
use crate::sync::foreign::{self, Code};

/// Told of every sample.
pub(crate) trait Subscriber: Send + Sync {
    /// A sample is about to be taken: what is noted now, it shows.
    fn before_sample(&'static self, detail: Detail, now: Duration);

    /// Decides from a sample taken at `now`. Called in the order of samples,
    /// under the reader's lock: wakes nobody, logs nothing. Says whether there
    /// is something to act on. `None`: somebody is in the way, for whom nobody waits
    /// with a quick sample; then none of those that share it acts.
    fn on_sample(
        &self,
        sample: Result<&Sample, &io::Error>,
        detail: Detail,
        now: Duration,
    ) -> Option<bool>;

    /// All that share the sample have decided, and the next one has not begun. Under the reader's
    /// lock as well.
    fn have_decided(&self) {}

    /// Acts on what was decided, under no lock; after every full sample, and
    /// after those that left something to act on. Says when the next full
    /// sample is due.
    fn after_sample(&'static self, full: bool, now: Duration) -> Duration;

    /// What others did in the process that this one was forked from, they do not go on with
    /// here. May be told more than once, and before anything else is done here.
    fn forked(&self, _now: Duration) {}

    /// There was nothing to do since the sample before, when the pause was chosen.
    fn was_idle(&self) -> bool;

    /// There is something to do now.
    fn has_work(&self) -> bool;

    /// Says, once, that it wants no more samples.
    fn leaves(&self) -> bool;
}

/// Nothing is known of memory: the subscriber goes by its policy for that.
pub(super) fn blind(
    subscriber: &dyn Subscriber,
    why: &str,
    detail: Detail,
    now: Duration,
) -> Option<bool> {
    let error = io::Error::other(why);
    foreign::call(Code::Guard, || {
        subscriber.on_sample(Err(&error), detail, now)
    })
    .unwrap_or(Some(true))
}
