//! [`Charged`]: bytes of a response, until they leave.

use crate::running::{Slot, SlotRef};

/// So many bytes were charged to a request's work when they were made. Dropped, they are no
/// longer the work's: they leave for good, and will be freed by the server, for nobody.
pub(crate) struct Charged {
    request: Option<SlotRef>,
    bytes: usize,
}

impl Charged {
    pub(crate) fn new(slot: Option<&'static Slot>, bytes: usize) -> Self {
        let request = slot.map(Slot::request);
        Self { request, bytes }
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            request.take_off(self.bytes);
        }
    }
}
