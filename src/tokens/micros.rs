//! Times and limits as the scripts of a server count them: in whole microseconds, which a number in
//! Lua holds exactly.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::micros;
use crate::config::Quota;

/// Sums of such numbers do not overflow.
const EXACT_IN_LUA: u64 = 1 << 53;

/// More than the longest `limit.max_wait` and the longest pause.
pub(crate) const LONGEST: i64 = 2 * 86_400_000_000;

/// None for a negative number.
pub(crate) fn length(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(crate) fn offset(from: Instant, micros: i64) -> Instant {
    match micros {
        0.. => from + length(micros),
        // Before this process began, a slot is due at once in any case.
        _ => from.checked_sub(length(-micros)).unwrap_or(from),
    }
}

/// The time between two tokens, and that of a full bucket beyond one.
pub(crate) fn limit_of(quota: Quota) -> [i64; 2] {
    // The script of leases divides by it, and so does `quota_of`.
    let interval = micros(quota.interval()).max(1);
    [interval, interval * i64::from(quota.burst.get() - 1)]
}

/// The quota of such a limit. The interval is at least 1.
pub(crate) fn quota_of(interval: i64, spare: i64) -> Quota {
    let burst = u32::try_from(spare / interval + 1)
        .ok()
        .and_then(NonZeroU32::new);
    Quota {
        rate: 1e6 / interval as f64,
        burst: burst.unwrap_or(NonZeroU32::MIN),
    }
}

/// Whether a script can have returned these numbers.
pub(crate) fn are_exact(reply: &[i64]) -> bool {
    reply
        .iter()
        .all(|number| number.unsigned_abs() <= EXACT_IN_LUA)
}
