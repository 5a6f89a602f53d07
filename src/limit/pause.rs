//! What a bucket has learned from the upstream's 429 (design §3.6, §7.4).
//!
//! Owns the pause, its doubling and the probe. Invariant: only an answer to a
//! call sent after the pause ended can lengthen or end it; calls held back
//! here, and stragglers sent before, change nothing.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause where the upstream names none; doubles on every further 429.
const FIRST: Duration = Duration::from_secs(1);

/// A named pause that proved too short is followed by one twice as long, up to
/// this: a receipt that is repeated after each would else ask without end.
const LEAST: Duration = Duration::from_secs(1);

/// No `Retry-After` is believed beyond this (others were told six days).
const LONGEST: Duration = Duration::from_secs(60);

/// How long the others wait for the answer to the probe before the next call
/// goes as another probe: a probe may be a video that uploads for minutes.
const HEAD_START: Duration = Duration::from_secs(2);

/// A pause after an upstream 429.
#[derive(Debug)]
pub(super) struct Pause {
    until: Instant,
    /// The pause that an unexplained 429 would bring next.
    step: Duration,
    /// The least that a named one would bring next.
    least: Duration,
    /// When the probe was sent.
    probe: Option<Instant>,
}

impl Pause {
    pub(super) fn new(now: Instant, retry_after: Option<Duration>) -> Self {
        let mut pause = Self {
            until: now,
            step: FIRST,
            least: Duration::ZERO,
            probe: None,
        };
        pause.begin(now, retry_after);
        pause
    }

    /// Until when calls are held back, if they are.
    pub(super) fn holds(&self, now: Instant) -> Option<Instant> {
        let probing = self.probe.map(|sent| sent + HEAD_START);
        let until = probing.map_or(self.until, |probing| probing.max(self.until));
        (now < until).then_some(until)
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.holds(now).is_none()
    }

    /// A call goes out now: it is the probe.
    pub(super) fn probe(&mut self, now: Instant) {
        self.probe = Some(now);
    }

    /// Another 429, to a call sent at `sent`.
    pub(super) fn throttled(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        if sent >= self.until {
            self.begin(now, retry_after);
        } else if let Some(named) = believed(retry_after) {
            // A straggler of the same incident that knows more.
            self.until = self.until.max(now + named);
        }
    }

    /// Any other answer to a call sent at `sent`; true when the pause is over
    /// for good. `let_through`: the upstream took the call (it may have failed
    /// for reasons of its own).
    pub(super) fn answered(&mut self, sent: Instant, let_through: bool) -> bool {
        let ours = sent >= self.until;
        if ours {
            self.probe = None;
        }
        ours && let_through
    }

    fn begin(&mut self, now: Instant, retry_after: Option<Duration>) {
        let length = match believed(retry_after) {
            Some(named) => named.max(self.least),
            None => {
                let step = self.step;
                self.step = (step * 2).min(LONGEST);
                step
            }
        };
        self.least = (length * 2).min(LEAST);
        self.until = now + length;
        self.probe = None;
    }
}

/// The pause asked for, within reason. A `Retry-After: 0` says nothing.
fn believed(retry_after: Option<Duration>) -> Option<Duration> {
    retry_after
        .filter(|wait| !wait.is_zero())
        .map(|wait| wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test(start_paused = true)]
    async fn unexplained_429s_double_up_to_a_minute_and_a_success_ends_it() {
        let mut now = Instant::now();
        let mut pause = Pause::new(now, None);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(pause.holds(now), Some(now + secs(expected)));
            now += secs(expected);
            assert_eq!(pause.holds(now), None);
            pause.probe(now);
            pause.throttled(now, now, None);
        }
        now += secs(60);
        assert!(pause.answered(now, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_pause_is_kept_but_not_beyond_a_minute() {
        let now = Instant::now();
        assert_eq!(
            Pause::new(now, Some(secs(2))).holds(now),
            Some(now + secs(2))
        );
        assert_eq!(
            Pause::new(now, Some(secs(10_072))).holds(now),
            Some(now + secs(60))
        );
        assert_eq!(
            Pause::new(now, Some(Duration::ZERO)).holds(now),
            Some(now + secs(1))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_pause_that_proves_too_short_grows_to_a_second() {
        let ms = Duration::from_millis;
        let named = Some(ms(100));
        let mut now = Instant::now();
        let mut pause = Pause::new(now, named);
        for expected in [100, 200, 400, 800, 1000, 1000] {
            assert_eq!(pause.holds(now), Some(now + ms(expected)));
            now += ms(expected);
            pause.probe(now);
            pause.throttled(now, now, named);
        }
        now += ms(1000);
        pause.throttled(now, now, Some(secs(3)));
        assert_eq!(pause.holds(now), Some(now + secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn stragglers_neither_lengthen_nor_end_a_pause() {
        let now = Instant::now();
        let mut pause = Pause::new(now, Some(secs(2)));
        pause.throttled(now, now - secs(1), None);
        assert!(!pause.answered(now - secs(1), true));
        assert_eq!(pause.holds(now), Some(now + secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_goes_first_and_the_others_do_not_wait_for_ever() {
        let now = Instant::now();
        let mut pause = Pause::new(now, Some(secs(2)));
        let end = now + secs(2);
        assert_eq!(pause.holds(end), None);
        pause.probe(end);
        assert_eq!(pause.holds(end), Some(end + HEAD_START));
        assert_eq!(pause.holds(end + HEAD_START), None);
    }
}
