//! [`Charged`]: bytes of a response, until they leave.

use crate::running::{Account, Slot};

/// So many bytes were charged to a request's work when they were made. Dropped, they are no
/// longer the work's: they leave for good, and will be freed by the server, for nobody.
pub(crate) struct Charged {
    account: Option<Account>,
    bytes: usize,
}

impl Charged {
    pub(crate) fn new(slot: Option<&'static Slot>, bytes: usize) -> Self {
        let account = slot.map(Slot::account);
        Self { account, bytes }
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        if let Some(account) = self.account {
            account.take_off(self.bytes);
        }
    }
}
