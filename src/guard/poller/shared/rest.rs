//! [`Rest`]: what is added beside what others are found to.

use super::sum;
use crate::memory::release::Teller;

/// Of work that may end without anybody being told: the sum as it was, and what others were
/// found to have added by then.
#[derive(Clone, Copy)]
pub(in crate::guard::poller) struct Rest {
    pub(in crate::guard::poller) teller: Teller,
    bytes: i64,
    attributed_bytes: i64,
}

impl Rest {
    /// It begins. `None`: that takes too long to tell.
    pub(in crate::guard::poller) fn begin() -> Option<Self> {
        let (sum, teller) = (sum(), Teller::now());
        Some(Self {
            teller,
            bytes: teller.bytes_in_time()? as i64,
            attributed_bytes: sum.attributed_bytes,
        })
    }

    /// What was added since and is nobody else's; from here on it is of this work.
    pub(in crate::guard::poller) fn end(self) -> i64 {
        let mut sum = sum();
        let others_bytes = sum.attributed_bytes.wrapping_sub(self.attributed_bytes);
        let all_bytes = self.teller.bytes().wrapping_sub(self.bytes);
        let added_bytes = all_bytes.wrapping_sub(others_bytes);
        sum.attribute(added_bytes);
        added_bytes
    }
}
