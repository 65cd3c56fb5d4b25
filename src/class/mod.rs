//! [`Class`]: what a request is, as its service says; [`Priority`] and [`Tier`].

pub(crate) mod tag;

use std::borrow::Cow;
use std::time::Duration;

/// What kind of work a request is.
///
/// Made by the function given to
/// [`MemoryGuardLayer::classify`](crate::MemoryGuardLayer::classify), for each request;
/// or once for each route, with [`RequestClasses`](crate::RequestClasses).
///
/// ```
/// use std::time::Duration;
/// use http::Request;
/// use tower_memory_guard::{Class, MemoryGuardLayer, Priority};
///
/// let layer = MemoryGuardLayer::builder()
///     .build()?
///     .classify(|request: &Request<_>| match request.uri().path() {
///         "/health" => Class::new("health").priority(Priority::Critical),
///         "/report" => Class::new("report")
///             .priority(Priority::Low)
///             .deadline(Duration::from_secs(30)),
///         _ => Class::new("page"),
///     });
/// # let app: axum::Router = axum::Router::new().layer(layer);
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    pub(crate) name: Cow<'static, str>,
    pub(crate) priority: Priority,
    pub(crate) tenant: Cow<'static, str>,
    pub(crate) tier: Cow<'static, str>,
    pub(crate) cost_bytes: Option<u64>,
    pub(crate) deadline: Option<Duration>,
}

impl Class {
    /// A class of this name, with everything else at its default.
    ///
    /// Requests of one name are expected to need about the same memory: what is
    /// learned is kept by name, with accounting (without, usage does not say whose it is).
    /// A guard tells up to 62 names apart; those that come later share one. A name that is
    /// no constant costs its allocation for each request.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Who goes first, and who is turned away first. Default: [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// On whose behalf. While memory is short, tenants get equal shares of it, or by
    /// the weights of their [tiers](Self::tier). Default: all requests are of one.
    ///
    /// A guard tells 1,022 tenants apart at a time. One that comes when there are so many
    /// takes the place of the one that was named longest ago, of those that hold nothing
    /// and wait for nothing: what that one was served, and its
    /// [retry budget](crate::MemoryGuardBuilder::retry_budget), begin anew when it comes again. Only
    /// where 1,022 are busy at once, those beyond share one share. Statistics and metrics
    /// do not name tenants, so they do not change with that.
    ///
    /// Never take it from what callers choose freely: a caller who makes up tenants gets a
    /// share for each, and drives out the others.
    pub fn tenant(mut self, tenant: impl Into<Cow<'static, str>>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// The tenant's [`Tier`], by its name; one that the guard was not given counts as
    /// none: weight 1, without quotas. Default: the one that the tenant was named with last,
    /// if it was ever named with any.
    pub fn tier(mut self, tier: impl Into<Cow<'static, str>>) -> Self {
        self.tier = tier.into();
        self
    }

    /// About how many bytes this request will need: a size that tells requests of one
    /// name apart, such as its Content-Length.
    ///
    /// It need not be right. Until requests have been seen it is believed; then, with
    /// accounting, the guard knows how much they need for each byte of it. Without, it is
    /// believed always. Default: none, requests of one name are alike. 0 counts as none.
    pub fn cost(mut self, bytes: u64) -> Self {
        self.cost_bytes = Some(bytes);
        self
    }

    /// How long it may wait for memory, if that is less than
    /// [`wait_timeout`](crate::MemoryGuardBuilder::wait_timeout). Default: none.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// Who goes first while memory is short. Ordered: who goes first is greater, so `Low` is the
/// least and `Critical` the greatest.
///
/// ```
/// use tower_memory_guard::Priority;
///
/// assert!(Priority::Critical > Priority::High);
/// assert!(Priority::Normal > Priority::Low);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Priority {
    /// After all others; turned away from [`Pressure::Warning`](crate::Pressure::Warning) on.
    Low,
    /// At [`Pressure::High`](crate::Pressure::High) it waits for a part of its deadline only.
    #[default]
    Normal,
    /// Before all that is not critical.
    High,
    /// Health probes and administration: small work that must get through. A slice of
    /// memory is set aside for it ([`critical_reserve`](crate::MemoryGuardBuilder::critical_reserve)),
    /// at any pressure and past every waiter; until it has been seen it is expected to
    /// need 1 MiB, and without accounting for ever, if it has no cost hint.
    Critical,
}

impl Priority {
    /// The first first.
    pub(crate) const ALL: [Priority; 4] = [
        Priority::Critical,
        Priority::High,
        Priority::Normal,
        Priority::Low,
    ];

    /// How many go before it; its place in [`ALL`](Self::ALL).
    pub(crate) const fn place(self) -> usize {
        Priority::Critical as usize - self as usize
    }

    /// The name in logs and metrics, such as `critical`.
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
            Priority::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a tenant is entitled to.
///
/// Given to [`MemoryGuardBuilder::tier`](crate::MemoryGuardBuilder::tier), and named by
/// [`Class::tier`].
///
/// ```
/// use tower_memory_guard::{MemoryGuardLayer, Tier};
///
/// let layer = MemoryGuardLayer::builder()
///     .tier(Tier::new("gold").weight(8).max_share(0.5))
///     .tier(Tier::new("free").max_in_flight(2))
///     .build()?;
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    pub(crate) name: Cow<'static, str>,
    pub(crate) quota: Quota,
}

/// What a tenant is entitled to by its tier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quota {
    pub(crate) weight: u32,
    pub(crate) max_share: f64,
    pub(crate) max_in_flight: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            weight: 1,
            max_share: 1.0,
            max_in_flight: u32::MAX,
        }
    }
}

impl Tier {
    /// A tier of this name: weight 1, no quotas.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            quota: Quota::default(),
        }
    }

    /// While memory is short, each of its tenants gets so many times the bytes and
    /// seconds of one with weight 1; from 1 to 1,000. Default 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.quota.weight = weight;
        self
    }

    /// The most that one of its tenants may have reserved, as a fraction of the
    /// limit, above 0 and up to 1, even if nobody else wants it. One request that
    /// needs more is admitted alone. Default 1.
    pub fn max_share(mut self, fraction: f64) -> Self {
        self.quota.max_share = fraction;
        self
    }

    /// The most requests that one of its tenants may have in flight, at least 1.
    /// Default: no bound.
    pub fn max_in_flight(mut self, requests: u32) -> Self {
        self.quota.max_in_flight = requests;
        self
    }
}
