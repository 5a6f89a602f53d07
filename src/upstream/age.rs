//! How long a connection to the upstream may take requests (`upstream.max_age`).
//!
//! Owns when connections become too old, by time or by a reload. Invariant: a
//! connection that is too old takes no further request, and the requests on it are
//! not cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tower::util::rng::{HasherRng, Rng as _};

/// Connections that were made together, as after a restart of the upstream, must not
/// be replaced together: each lives this part of `upstream.max_age`, or longer.
const SHORTEST: f64 = 0.8;

/// The ages of all connections to the upstream. Clones share the reloads.
#[derive(Clone, Debug)]
pub(super) struct Ages {
    /// `None` without a bound.
    max_age: Option<Duration>,
    /// The number of reloads.
    reloads: Arc<AtomicU64>,
}

/// The reloads before a connection was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun(u64);

/// How long a connection takes requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    /// Too old from then on.
    until: Option<Instant>,
    reloads: u64,
}

impl Ages {
    /// Zero is no bound.
    pub(super) fn new(max_age: Duration) -> Self {
        Self {
            max_age: Some(max_age).filter(|max_age| !max_age.is_zero()),
            reloads: Arc::default(),
        }
    }

    /// A connection begins now. To be called before its name is looked up: a reload during
    /// the lookup makes it too old.
    pub(super) fn begin(&self) -> Begun {
        Begun(self.reloads.load(Ordering::Relaxed))
    }

    /// The age of a connection that is established now. Counted from `begin`, one that takes
    /// longer to make than `upstream.max_age` would serve none of the requests that have
    /// waited to share it.
    pub(super) fn established(&self, begun: Begun) -> Age {
        let jittered = |max_age: Duration| {
            let part = SHORTEST + (1.0 - SHORTEST) * HasherRng::default().next_f64();
            Instant::now() + max_age.mul_f64(part)
        };
        Age {
            until: self.max_age.map(jittered),
            reloads: begun.0,
        }
    }

    /// Whether a connection takes no further request.
    pub(super) fn is_too_old(&self, age: &Age, now: Instant) -> bool {
        age.until.is_some_and(|until| until <= now)
            || age.reloads != self.reloads.load(Ordering::Relaxed)
    }

    /// Makes all present connections too old.
    pub(super) fn end_all(&self) {
        self.reloads.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connections_that_were_made_together_become_too_old_one_after_another() {
        let ages = Ages::new(Duration::from_secs(100));
        let start = Instant::now();
        let established = |_| ages.established(ages.begin());
        let all: Vec<Age> = (0..1000).map(established).collect();
        let too_old = |seconds| {
            let now = start + Duration::from_secs(seconds);
            all.iter().filter(|age| ages.is_too_old(age, now)).count()
        };
        assert_eq!((too_old(79), too_old(100)), (0, 1000));
        assert!((300..700).contains(&too_old(90)), "{}", too_old(90));
    }
}
