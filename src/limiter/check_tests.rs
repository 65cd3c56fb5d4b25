//! Whatever asks, what stands in its way is what the table in `docs/architecture.md` says.

use std::sync::Arc;

use super::tests::{limiter, publish};
use super::wait_tests::{IN_TIME, Ticket};
use super::word::InUse;
use super::{Ask, Attempt, Bounds, Caps, Limiter, Need, Operation, Refused};
use crate::class::tag::Tag;
use crate::class::{Priority, Quota};
use crate::error::Reason;
use crate::units::MAX_KIB;

const COLUMNS: [&str; 8] = [
    "gate",
    "waiters",
    "staleness",
    "count",
    "quota",
    "bytes",
    "slice",
    "alone",
];
/// What the request that asks has already, where it has something.
const HELD_KIB: u64 = 10;
const ASK_KIB: u64 = 30;
const ROWS: [(&str, Operation); 6] = [
    ("newcomer", Operation::Newcomer),
    ("nested", Operation::Nested),
    ("rest", Operation::Rest { held_kib: HELD_KIB }),
    ("growth", Operation::Growth),
    ("retag", Operation::Retag { held_kib: HELD_KIB }),
    ("body", Operation::Body { limit_kib: 1000 }),
];

/// The cells of the table, by the first word of the row and the column.
fn cells(row: &str) -> Vec<&'static str> {
    let table = include_str!("../../docs/architecture.md");
    let lines = table.lines().filter_map(|line| line.strip_prefix("| "));
    let mut rows = lines.map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>());
    let is_it = |cells: &Vec<&str>| {
        let first = cells[0].split([' ', ':', ',']).next();
        cells.len() == COLUMNS.len() + 1 && first == Some(row)
    };
    let cells = rows.find(is_it);
    cells.unwrap_or_else(|| panic!("{row} has no row"))[1..].to_vec()
}

/// Something asks, of a ledger on which nothing else is in its way.
struct Bed {
    limiter: Arc<Limiter>,
    bounds: Arc<Bounds>,
    operation: Operation,
    tag: Tag,
}

impl Bed {
    /// One request is in flight, which asks itself if its operation is for one.
    fn new(operation: Operation) -> Self {
        let (limiter, bounds) = limiter(100, 1000);
        bounds.tenants.set_limit(1000);
        let tag = Tag::of_tenant(1);
        let bed = Self {
            limiter,
            bounds,
            operation,
            tag,
        };
        bed.bounds.tenants.make(1);
        bed.reserve(HELD_KIB, Operation::Newcomer).unwrap();
        bed
    }

    fn publish(&self, caps: Caps, refresh_kib: u64, free_kib: u64) {
        publish(&self.limiter, &self.bounds, caps, refresh_kib, free_kib);
    }

    fn reserve(&self, kib: u64, operation: Operation) -> Result<bool, Refused> {
        self.attempt(kib, operation, Attempt::First)
    }

    fn attempt(&self, kib: u64, operation: Operation, attempt: Attempt) -> Result<bool, Refused> {
        let kib = if operation == Operation::Nested {
            0
        } else {
            kib
        };
        let ask = Ask {
            kib,
            low_kib: kib,
            tag: self.tag,
        };
        let ledger = &self.limiter.ledger;
        ledger.reserve(&self.bounds, ask, operation, attempt)
    }

    /// Puts what the column says in the way, or for the last two out of it.
    fn set(&mut self, column: &str) -> Vec<Ticket> {
        let open = Caps::new(false, 100, 1000);
        let full = Caps::new(false, 100, 0);
        match column {
            "gate" => self.publish(Caps::new(true, 100, 1000), MAX_KIB, 0),
            "waiters" => {
                self.publish(full, MAX_KIB, 0);
                let need = Need::Known(Ask::exactly(100, Tag::NONE));
                let waits = Ticket::join(&self.limiter, &self.bounds, need, IN_TIME).unwrap();
                // Not pumped: they wait for their turn.
                self.bounds.publish(open, MAX_KIB, 0);
                return vec![waits];
            }
            "staleness" => self.publish(open, 0, 0),
            "count" => self.publish(Caps::new(false, 1, 1000), MAX_KIB, 0),
            "quota" => {
                // It is not alone, and has all that its tenant may have.
                self.reserve(HELD_KIB, Operation::Newcomer).unwrap();
                self.bounds
                    .tenants
                    .make(1)
                    .entitle(Quota::up_to(0.02).at_most(2));
            }
            "bytes" => self.publish(full, MAX_KIB, 0),
            "slice" => {
                self.tag.priority = Priority::Critical;
                self.bounds.set_slice(ASK_KIB);
                self.publish(full, MAX_KIB, 0);
            }
            "alone" => {
                if self.operation.is_new() {
                    self.limiter.cancel(&self.bounds, HELD_KIB, self.tag);
                } else if matches!(self.operation, Operation::Rest { .. }) {
                    self.limiter.stage();
                }
                self.publish(full, MAX_KIB, 1000);
            }
            _ => unreachable!("{column}"),
        }
        Vec::new()
    }

    /// Whether it is in its way.
    fn refuses(mut self, column: &str, attempt: Attempt) -> bool {
        let _waiting = self.set(column);
        let expected = match column {
            "gate" => Refused::Gate,
            "waiters" => Refused::Waiters,
            "staleness" => Refused::Stale,
            "count" => Refused::Count,
            "quota" => Refused::Quota,
            _ => Refused::Bytes,
        };
        let refused = self.attempt(ASK_KIB, self.operation, attempt).err();
        assert!(
            refused.is_none_or(|refused| refused == expected),
            "{column}: {refused:?}"
        );
        if refused.is_some() {
            // As it was.
            self.limiter.refuse_all(&self.bounds, Reason::Closed);
            assert!(self.bounds.tenants.make(1).held().kib() <= 2 * HELD_KIB);
            assert!(self.limiter.reserved().kib() <= 2 * HELD_KIB);
        }
        refused.is_some()
    }
}

#[test]
fn what_asks_is_checked_against_what_the_table_says() {
    let mut wrong = Vec::new();
    for (row, operation) in ROWS {
        for (column, cell) in COLUMNS.into_iter().zip(cells(row)) {
            let is_refused = Bed::new(operation).refuses(column, Attempt::First);
            let expected = match (column, cell.split(' ').next().unwrap()) {
                // What lets it pass, and whether it needs that.
                ("slice" | "alone", "yes" | "—") => false,
                ("slice" | "alone", "no") => true,
                ("bytes", "L") => false,
                (_, "yes") => true,
                (_, "no" | "—") => false,
                _ => panic!("{row}, {column}: {cell}"),
            };
            if is_refused != expected {
                wrong.push(format!("{row}, {column}: {cell}, is refused: {is_refused}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_new_sample_a_turn_and_force_each_leave_checks_out() {
    for (row, operation) in ROWS {
        for column in COLUMNS.into_iter().take(6) {
            let first = Bed::new(operation).refuses(column, Attempt::First);
            let passes = |attempt, columns: &[&str]| {
                let is_refused = Bed::new(operation).refuses(column, attempt);
                let expected = first && !columns.contains(&column);
                assert_eq!(is_refused, expected, "{row}, {column}, {attempt:?}");
            };
            passes(Attempt::Resampled, &["staleness"]);
            passes(Attempt::FromQueue, &["staleness", "waiters"]);
            passes(Attempt::PastBounds, &COLUMNS);
        }
    }
}

#[test]
fn critical_work_with_a_slice_is_held_by_bytes_alone() {
    for (row, operation) in ROWS {
        for column in COLUMNS.into_iter().take(5) {
            let mut bed = Bed::new(operation);
            bed.tag.priority = Priority::Critical;
            bed.bounds.set_slice(ASK_KIB);
            assert!(!bed.refuses(column, Attempt::First), "{row}, {column}");
        }
    }
}

#[test]
fn a_body_may_grow_until_all_that_is_reserved_is_the_limit() {
    let bed = Bed::new(Operation::Growth);
    let limit_kib = HELD_KIB + ASK_KIB;
    bed.publish(Caps::new(false, 100, 0), MAX_KIB, 0);
    let body = Operation::Body { limit_kib };
    assert_eq!(bed.reserve(ASK_KIB + 1, body), Err(Refused::Bytes));
    assert_eq!(bed.reserve(ASK_KIB, body), Ok(false));
    // What has ended takes nothing of it.
    bed.limiter
        .complete(&bed.bounds, HELD_KIB + ASK_KIB, bed.tag);
    bed.reserve(limit_kib, body).unwrap();
}

#[test]
fn who_has_its_bytes_elsewhere_is_not_held_by_those_of_its_tenant() {
    let bed = Bed::new(Operation::Nested);
    bed.bounds
        .tenants
        .make(1)
        .entitle(Quota::up_to(0.001).at_most(2));
    assert_eq!(bed.reserve(1, Operation::Newcomer), Err(Refused::Quota));
    bed.reserve(0, Operation::Nested).unwrap();
    assert_eq!(bed.reserve(0, Operation::Nested), Err(Refused::Quota));
}

#[test]
fn a_reservation_that_is_larger_than_its_class_needs_becomes_smaller() {
    let bed = Bed::new(Operation::Growth);
    let ask = |kib| Ask::exactly(kib, Tag::of_tenant(2));
    bed.bounds.tenants.make(2);
    let retag = |held_kib, kib| {
        let (limiter, bounds) = (&bed.limiter, &bed.bounds);
        limiter.retag(bounds, held_kib, ask(kib), Attempt::First)
    };
    retag(HELD_KIB, 4).unwrap();
    assert_eq!(bed.limiter.reserved(), InUse::new(false, 1, 4));
    // No sample is needed for less.
    bed.publish(Caps::new(true, 100, 0), 0, 0);
    retag(4, 3).unwrap();
    assert_eq!(retag(3, 5), Err(Refused::Stale));
    assert_eq!(bed.limiter.reserved(), InUse::new(false, 1, 3));
}
