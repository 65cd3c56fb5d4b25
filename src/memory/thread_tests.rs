use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::{Detail, MemorySource, Sample, Sampler, Subscriber};

struct Empty;

impl MemorySource for Empty {
    fn read(&mut self, _: Detail, _: &mut Sample) -> io::Result<()> {
        Ok(())
    }

    fn name(&self) -> String {
        "nothing".into()
    }
}

#[derive(Default)]
struct Told {
    ends_thread: AtomicBool,
    deciding_panics: AtomicBool,
    failures: AtomicU32,
    seen: AtomicU32,
    rests_for_long: AtomicBool,
}

impl Subscriber for Told {
    fn before_sample(&'static self, _: Detail, _: Duration) {}

    fn on_sample(
        &self,
        sample: Result<&Sample, &io::Error>,
        _: Detail,
        _: Duration,
    ) -> Option<bool> {
        match sample {
            Ok(_) if self.deciding_panics.load(Ordering::Relaxed) => panic!("a fault"),
            Ok(_) => self.seen.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.failures.fetch_add(1, Ordering::Relaxed),
        };
        Some(true)
    }

    fn after_sample(&'static self, _: bool, _: Duration) -> Duration {
        match self.rests_for_long.load(Ordering::Relaxed) {
            true => Duration::from_secs(3600),
            false => Duration::from_millis(1),
        }
    }

    fn was_idle(&self) -> bool {
        false
    }

    fn has_work(&self) -> bool {
        true
    }

    fn leaves(&self) -> bool {
        if self.ends_thread.swap(false, Ordering::Relaxed) {
            panic!("a fault that nobody catches");
        }
        false
    }
}

fn told() -> &'static Told {
    Box::leak(Box::default())
}

fn soon(what: &str, condition: impl Fn() -> bool) {
    let mut rounds = 0..5000;
    assert!(
        rounds.any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            condition()
        }),
        "never: {what}"
    );
}

#[test]
fn a_thread_that_goes_leaves_nobody_with_what_it_saw_last_and_is_replaced() {
    let subscriber = told();
    let sampler = Sampler::of(Box::new(Empty));
    sampler.subscribe(subscriber, 0);
    subscriber.ends_thread.store(true, Ordering::Relaxed);
    soon("the failure is published", || {
        subscriber.failures.load(Ordering::Relaxed) == 1
    });
    let seen = subscriber.seen.load(Ordering::Relaxed);
    soon("another thread samples", || {
        subscriber.seen.load(Ordering::Relaxed) > seen + 3
    });
}

#[test]
fn a_decision_that_panics_is_a_failure_to_that_subscriber_alone() {
    let (faulty, sound) = (told(), told());
    let sampler = Sampler::of(Box::new(Empty));
    sampler.subscribe(faulty, 0);
    sampler.subscribe(sound, 0);
    faulty.deciding_panics.store(true, Ordering::Relaxed);
    soon("the failure is published", || {
        faulty.failures.load(Ordering::Relaxed) > 3
    });
    assert_eq!(sound.failures.load(Ordering::Relaxed), 0);
    faulty.deciding_panics.store(false, Ordering::Relaxed);
    let seen = faulty.seen.load(Ordering::Relaxed);
    soon("it sees again", || {
        faulty.seen.load(Ordering::Relaxed) > seen
    });
}

#[test]
fn who_wants_samples_sooner_does_not_wait_for_the_end_of_a_long_rest() {
    let (patient, other) = (told(), told());
    patient.rests_for_long.store(true, Ordering::Relaxed);
    let sampler = Sampler::of(Box::new(Empty));
    sampler.subscribe(patient, 0);
    soon("it rests", || patient.seen.load(Ordering::Relaxed) == 2);
    std::thread::sleep(Duration::from_millis(20));
    sampler.subscribe(other, 0);
    soon("it is sampled for", || {
        other.seen.load(Ordering::Relaxed) > 3
    });
}
