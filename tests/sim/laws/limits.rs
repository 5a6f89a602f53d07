//! Which limit a request has before and after a reload, by the words of the rules and not by the
//! gateway's own grouping.

use std::num::NonZeroU32;

use wawp_gateway::config::{Classes, Config, Quota, Tenant};

use super::{Case, TICK};
use crate::wire::{At, Parsed, SEEN};

/// The settings of a part of the run.
pub(crate) struct Rules {
    pub(super) config: Config,
    classes: Classes,
}

/// What an instance may do in one group of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limit {
    pub(super) quota: Option<Quota>,
    pub(super) max_in_flight: Option<NonZeroU32>,
}

/// A limit that a reload may change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub(super) before: Limit,
    pub(super) after: Limit,
    /// When the reload begins; it is over two ticks later.
    reload: At,
}

/// Which part of a run an interval belongs to.
pub(super) enum Part {
    Before,
    After,
    Both,
}

impl Rules {
    pub(super) fn new(config: Config) -> Self {
        Self {
            classes: Classes::new(&config),
            config,
        }
    }

    /// The first class that matches, as an index; `None` is the base limit.
    fn class_of(&self, parsed: &Parsed) -> Option<usize> {
        let (instance, is_receipt) = (Some(parsed.instance.as_str()), parsed.path == SEEN);
        self.classes
            .class_of(&parsed.method, &parsed.path, is_receipt, instance)
    }

    /// Paths and methods of the class: classes that are equal in these share their buckets.
    fn group_of(&self, parsed: &Parsed) -> String {
        let class = self.class_of(parsed);
        let class = class.map(|class| &self.config.limit.classes[class]);
        let (paths, methods) = class.map_or_else(Default::default, |class| {
            (class.paths.clone(), class.methods.clone())
        });
        format!("{paths:?} {methods:?}")
    }

    fn limit_of(&self, parsed: &Parsed) -> Limit {
        let limit = &self.config.limit;
        match self.class_of(parsed).map(|class| &limit.classes[class]) {
            Some(class) => Limit {
                quota: class.quota,
                max_in_flight: class.max_in_flight,
            },
            None => Limit {
                quota: limit.quota,
                max_in_flight: None,
            },
        }
    }
}

impl Limits {
    /// A limit that no reload changes.
    pub(super) fn constant(limit: Limit) -> Self {
        Self {
            before: limit,
            after: limit,
            reload: At::MAX - 2 * TICK,
        }
    }

    /// A budget without a bound on calls in flight.
    pub(super) fn of(quota: Quota) -> Self {
        Self::constant(Limit {
            quota: Some(quota),
            max_in_flight: None,
        })
    }

    /// When a reload is over.
    pub(super) fn reloaded(&self) -> At {
        self.reload + 2 * TICK
    }

    /// Both limits.
    pub(super) fn both(&self) -> [Limit; 2] {
        [self.before, self.after]
    }

    /// The part of a run in which all of an interval was.
    pub(super) fn part(&self, from: At, to: At) -> Part {
        if self.before == self.after || to < self.reload {
            Part::Before
        } else if from > self.reloaded() {
            Part::After
        } else {
            Part::Both
        }
    }

    /// The most tokens that one bucket gives from `from` to `to`; `None` is any number.
    ///
    /// A reload keeps the debt of a bucket, so over it no more than the larger burst can be
    /// used at once.
    pub(super) fn most(&self, from: At, to: At) -> Option<f64> {
        let most = |quota: Quota, burst: NonZeroU32, from: At, to: At| {
            let length = to.saturating_sub(from).as_secs_f64();
            f64::from(burst.get()) + quota.rate * length
        };
        match self.part(from, to) {
            Part::Before => Some(most(self.before.quota?, self.before.quota?.burst, from, to)),
            Part::After => Some(most(self.after.quota?, self.after.quota?.burst, from, to)),
            Part::Both => {
                let (before, after) = (self.before.quota?, self.after.quota?);
                let burst = before.burst.max(after.burst);
                let first = most(before, burst, from, to.min(self.reloaded()));
                let second = most(after, burst, from.max(self.reload), to);
                Some(first + second - f64::from(burst.get()))
            }
        }
    }
}

impl Case {
    /// The group of a call, and its instance: what has a bucket.
    pub(super) fn account(&self, parsed: &Parsed) -> (String, String) {
        (self.rules.group_of(parsed), parsed.instance.clone())
    }

    /// The tenant of a call, if its instance belongs to one.
    pub(super) fn tenant_of(&self, parsed: &Parsed) -> Option<&Tenant> {
        let mut tenants = self.config.tenants.iter();
        tenants.find(|tenant| tenant.instances.contains(&parsed.instance))
    }

    /// The limit of a call. Plans keep its group over a reload.
    pub(super) fn limits(&self, parsed: &Parsed) -> Limits {
        let before = self.rules.limit_of(parsed);
        let Some((reload, rules)) = &self.reload else {
            return Limits::constant(before);
        };
        assert_eq!(
            rules.group_of(parsed),
            self.rules.group_of(parsed),
            "a reload of the simulation moves no request to another group"
        );
        Limits {
            before,
            after: rules.limit_of(parsed),
            reload: *reload,
        }
    }
}
