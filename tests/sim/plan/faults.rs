//! How the upstream behaves: what it responds, and how its connections end.

use std::time::Duration;

use crate::rng::Rng;

/// How the upstream behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamBehaviour {
    /// Longest time until a response, in milliseconds, and how many per cent
    /// take far longer.
    pub(crate) latency: usize,
    pub(crate) very_slow: usize,
    /// Longest time until a connection stands, in milliseconds.
    pub(crate) dial: usize,
    /// In per cent of calls.
    pub(crate) throttles: usize,
    pub(crate) fails: usize,
    pub(crate) unavailable: usize,
    pub(crate) resets: usize,
    pub(crate) cuts: usize,
    /// Longest life of a connection, in milliseconds; 0 is unlimited.
    pub(crate) life: usize,
    /// When the upstream is killed, and for how long it is then unreachable.
    pub(crate) restarts: Vec<(Duration, Duration)>,
}

pub(super) fn behaviour(rng: &mut Rng) -> UpstreamBehaviour {
    // Each fault in some runs only, otherwise all runs would be alike.
    let mut maybe = |share: &[usize]| {
        if rng.percent(40) { rng.pick(share) } else { 0 }
    };
    let mut behaviour = UpstreamBehaviour {
        latency: maybe(&[20, 300, 2000]),
        very_slow: maybe(&[5, 20]),
        dial: maybe(&[50, 500]),
        throttles: maybe(&[3, 20]),
        fails: maybe(&[5, 30]),
        unavailable: maybe(&[5, 30]),
        resets: maybe(&[5, 30]),
        cuts: maybe(&[5, 30]),
        life: maybe(&[100, 1000]),
        restarts: Vec::new(),
    };
    if rng.percent(40) {
        for _ in 0..1 + rng.below(3) {
            behaviour
                .restarts
                .push((rng.millis(5000), rng.millis(2000)));
        }
    }
    behaviour
}
