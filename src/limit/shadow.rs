//! What enforcing would have done to requests that are not held (`limit.mode`).
//!
//! Invariants: the request itself goes at once and pays nothing. A shadow
//! request goes through the lane that the request would have used and takes the
//! token that it would have taken, so that the buckets are as full as if they
//! were enforced. A shadow request waits like any other, so `limit.max_queue`
//! bounds them too, and a drain ends without them. A shadow call lasts as long as
//! recent calls did, which are measured.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::TokenRequest;
use super::{Acquired, Admission, Lane, Limiter, Permit, RateLimited};
use crate::observe::metrics::{Metrics, Route};

impl Limiter {
    /// Lets a request go for which no token is taken.
    pub(crate) fn untracked(&self, lane: &Lane, route: Route) -> Acquired {
        let granted = Instant::now();
        let permit = Permit {
            granted,
            usable_until: None,
            remaining: None,
            bucket: lane.role(),
            place: lane.measure(granted),
        };
        self.record_wait(permit, None, route)
    }

    /// Sends a shadow request through a lane, and counts what becomes of it.
    pub(super) fn shadow_admit(&self, lane: &Lane, request: TokenRequest, route: Route) {
        let ticket = match lane.admit(request) {
            Ok(Admission::Now(permit)) => {
                if let Some(call) = shadow_call(permit) {
                    tokio::spawn(call);
                }
                return self.record_would_delay(lane, None, route);
            }
            Ok(Admission::Queued(ticket)) => ticket,
            Err(refused) => return would_refuse(lane, refused, 1),
        };
        let (lane, metrics) = (lane.clone(), Arc::clone(&self.metrics));
        // Not one of the tasks that a drain waits for.
        tokio::spawn(async move {
            match ticket.await {
                Ok(permit) => {
                    count_delay(&metrics, &lane, Some(request.now.elapsed()), route);
                    if let Some(call) = shadow_call(permit) {
                        call.await;
                    }
                }
                Err(refused) => would_refuse(&lane, refused, 1),
            }
        });
    }

    /// Counts how long a shadow waited for its token; `None` if it did not wait.
    pub(crate) fn record_would_delay(&self, lane: &Lane, waited: Option<Duration>, route: Route) {
        count_delay(&self.metrics, lane, waited, route);
    }
}

fn count_delay(metrics: &Metrics, lane: &Lane, waited: Option<Duration>, route: Route) {
    let seconds = waited.unwrap_or_default().as_secs_f64();
    metrics.would_delay(route).observe(seconds);
    if waited.is_some() {
        lane.series().would_delay.inc();
    }
}

/// Holds the place of a call that is not made for as long as it would take; `None`
/// where calls in flight are unlimited.
pub(crate) fn shadow_call(mut permit: Permit) -> Option<impl Future<Output = ()> + Send> {
    let place = permit.take_place()?;
    Some(async move {
        tokio::time::sleep(place.usual()).await;
        drop(place);
    })
}

/// Counts requests that would have been refused.
pub(crate) fn would_refuse(lane: &Lane, refused: RateLimited, requests: usize) {
    let reason = refused.reason();
    lane.series().would_reject(reason).inc_by(requests as u64);
}
