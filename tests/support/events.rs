//! What is logged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Log events: level, message and fields.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

impl Events {
    pub(crate) fn record(work: impl FnOnce()) -> Vec<BTreeMap<String, String>> {
        // Callsites are registered once for all threads: one test at a time.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let events = Self::default();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        tracing::subscriber::with_default(subscriber, work);
        std::mem::take(&mut *events.0.lock().unwrap())
    }
}

impl<S: tracing::Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Fields(BTreeMap<String, String>);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0.insert(
                    field.name().into(),
                    format!("{value:?}").trim_matches('"').into(),
                );
            }
        }
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        fields
            .0
            .insert("at".into(), event.metadata().level().to_string());
        fields
            .0
            .insert("target".into(), event.metadata().target().into());
        self.0.lock().unwrap().push(fields.0);
    }
}
