use crate::class::tag::Tag;
use crate::limiter::{Ask, Attempt, Operation};
use crate::memory::{Detail, Subscriber};
use crate::{Cost, ManualSource, MemoryGuardLayer};

#[tokio::test]
async fn what_a_sample_is_begun_after_is_not_free_by_the_one_before() {
    let memory = ManualSource::new(1 << 30);
    memory.set_usage_bytes(500 << 20);
    let builder = MemoryGuardLayer::builder().memory_source(memory.clone());
    let layer = builder.build().unwrap();
    let (regulator, state) = (layer.guard().regulator, layer.guard().state());
    let permit = layer.guard().acquire(Cost::Bytes(400 << 20)).await.unwrap();
    // Who comes is not alone.
    let _other = layer.guard().acquire(Cost::Bytes(1 << 20)).await.unwrap();
    state.sampler.sample_now();
    drop(permit);
    let most_kib = state.bounds.caps().kib() - 1024;
    let is_admitted = || {
        let ask = Ask::exactly(most_kib, Tag::NONE);
        let attempt = Attempt::Resampled;
        let reserved = state.reserve(ask, Operation::Newcomer, attempt).is_ok();
        if reserved {
            state.release(most_kib);
        }
        reserved
    };
    assert!(!is_admitted(), "what it held is in use");
    // Another one begins while it is acted on the one before.
    let now = state.sampler.now();
    regulator.before_sample(Detail::Quick, now);
    regulator.after_sample(false, now);
    assert!(!is_admitted(), "it is still");
    memory.set_usage_bytes(100 << 20);
    state.sampler.sample_now();
    assert!(is_admitted());
}
