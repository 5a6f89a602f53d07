//! Rate and burst of a class, as people read them.
//!
//! Invariant: a pace never exceeds what it was made from; rates are rounded down.

use crate::config::Config;

/// Rates are written with six decimals: one in 10,000 s is the lowest that settings allow.
const MICRO: u64 = 1_000_000;

/// Upstream calls per second, and at once after a quiet time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Millionths of a call per second.
    micro_rate: u64,
    pub(super) burst: u64,
}

/// The pace outside all classes.
pub(super) fn base() -> Pace {
    // There is a default, so the fallback is never used.
    Config::default()
        .limit
        .quota
        .map_or(Pace::new(10 * MICRO, 20), |quota| {
            Pace::new(
                (quota.rate * MICRO as f64) as u64,
                u64::from(quota.burst.get()),
            )
        })
}

impl Pace {
    pub(super) const fn new(micro_rate: u64, burst: u64) -> Self {
        Self { micro_rate, burst }
    }

    /// At most so many in any minute. A tenth may go at once, if `gap` seconds between two calls
    /// are not required.
    pub(super) fn per_minute(calls: u64, gap: u64) -> Self {
        let burst = if gap == 0 { (calls / 10).max(1) } else { 1 };
        // A full bucket and what refills it within the minute.
        let refill = (calls - burst + 1) * MICRO / 60;
        Self::new(refill, burst).with_gap(gap)
    }

    /// One call, and the next one at least so many seconds after it. 0 leaves the pace unchanged.
    pub(super) fn with_gap(self, gap: u64) -> Self {
        match MICRO.checked_div(gap) {
            Some(rate) => Self::new(rate.min(self.micro_rate), 1),
            None => self,
        }
    }

    /// The rate, as settings have it.
    pub(super) fn rate(self) -> String {
        decimal(self.micro_rate as f64 / MICRO as f64, 6)
    }

    /// The most calls within one minute: a full bucket, and what refills it meanwhile.
    pub(super) fn most_in_a_minute(self) -> u64 {
        self.burst + (60 * self.micro_rate).div_ceil(MICRO) - 1
    }

    /// What it does, in words.
    pub(super) fn effect(self) -> String {
        let rate = match self.micro_rate >= MICRO {
            true => format!("{} a second", self.rate()),
            false => format!(
                "one in {} s",
                decimal(MICRO as f64 / self.micro_rate as f64, 2)
            ),
        };
        let most = self.most_in_a_minute();
        match self.burst {
            1 => format!("{rate}, at most {most} in any minute"),
            burst => {
                format!("{rate}, {burst} at once after a quiet time, at most {most} in any minute")
            }
        }
    }

    /// The time in which so many calls are used up, in whole minutes; `None` if a day is too
    /// short.
    pub(super) fn minutes_for(self, calls: u64) -> Option<u64> {
        let seconds =
            calls.saturating_sub(self.burst) as f64 * MICRO as f64 / self.micro_rate as f64;
        (seconds < 86_400.0).then_some((seconds / 60.0) as u64)
    }
}

/// A number with at most so many decimals, without zeros at its end.
fn decimal(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}
