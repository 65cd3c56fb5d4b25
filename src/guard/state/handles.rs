//! [`Handles`]: who has a guard.

use crate::sync::sharded::ShardedCounters;

const MADE: usize = 0;
const DROPPED: usize = 1;

#[derive(Debug, Default)]
pub(crate) struct Handles(ShardedCounters<2>);

impl Handles {
    #[inline]
    pub(crate) fn made(&self) {
        self.0.add_at(MADE, 1);
    }

    #[inline]
    pub(crate) fn dropped(&self) {
        self.0.count_done(DROPPED);
    }

    /// There is none any more, and none can come.
    ///
    /// In this order: each that is seen to be dropped was made before, and so were those that
    /// were cloned from it. So if both are as many, all that were ever made are dropped, and
    /// only what is made of another would be missing.
    pub(crate) fn are_gone(&self) -> bool {
        let dropped = self.0.sum(DROPPED);
        dropped == self.0.sum(MADE)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn as_long_as_there_is_one_none_of_many_threads_hides_it() {
        let handles = &Handles::default();
        handles.made();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let (give, given) = channel();
                    scope.spawn(move || given.iter().for_each(|()| handles.dropped()));
                    scope.spawn(move || {
                        for _ in 0..100_000 {
                            handles.made();
                            give.send(()).unwrap();
                        }
                    })
                })
                .collect();
            while !workers.iter().all(|worker| worker.is_finished()) {
                assert!(!handles.are_gone());
            }
        });
        assert!(!handles.are_gone());
        handles.dropped();
        assert!(handles.are_gone());
    }
}
