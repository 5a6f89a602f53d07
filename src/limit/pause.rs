//! What a bucket has learned from an upstream 429 (rule: pauses).
//!
//! Owns the pause, its doubling and the probe. Invariant: only a response to a
//! request sent after the pause ended can lengthen or end it. Requests that are
//! held back, and responses to requests sent before, change nothing.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause where the upstream names none; it doubles with each 429.
const FIRST: Duration = Duration::from_secs(1);

/// A named pause that proved too short is followed by one twice as long, up to
/// this length: a receipt that is retried after each would else retry forever.
const LEAST: Duration = Duration::from_secs(1);

/// A longer `Retry-After` is cut to this length. The upstream has been seen to
/// send six days.
const LONGEST: Duration = Duration::from_secs(60);

/// How long the others wait for the response to the probe before the next
/// request goes as another probe: a probe may be a video that uploads for
/// minutes.
const HEAD_START: Duration = Duration::from_secs(2);

/// A pause after an upstream 429.
#[derive(Clone, Debug)]
pub(super) struct Pause {
    until: Instant,
    /// The length of the next pause, if the next 429 names none.
    step: Duration,
    /// The least length of the next pause, if the next 429 names one.
    least: Duration,
    /// When the probe was sent that has no response yet.
    probe: Option<Instant>,
    /// The probe before had no response within its head start.
    hangs: bool,
}

impl Pause {
    pub(super) fn new(now: Instant, retry_after: Option<Duration>) -> Self {
        let mut pause = Self {
            until: now,
            step: FIRST,
            least: Duration::ZERO,
            probe: None,
            hangs: false,
        };
        pause.begin(now, retry_after);
        pause
    }

    /// Until when requests are held back, if they are: by the pause, or by a
    /// probe without a response.
    pub(super) fn holds(&self, now: Instant) -> Option<Instant> {
        let probing = self.probe.map(|sent| sent + HEAD_START);
        let until = probing.map_or(self.until, |probing| probing.max(self.until));
        (now < until).then_some(until)
    }

    /// Until when no waiting request will get a token. A probe counts once the
    /// one before it hung: the first is mostly answered soon.
    pub(super) fn refuses_until(&self) -> Instant {
        let probing = self.probe.filter(|_| self.hangs);
        probing.map_or(self.until, |sent| self.until.max(sent + HEAD_START))
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.holds(now).is_none()
    }

    /// A request goes out now: it is the probe.
    pub(super) fn probe(&mut self, now: Instant) {
        self.hangs = self.probe.is_some();
        self.probe = Some(now);
    }

    /// Records another 429, to a request sent at `sent`.
    pub(super) fn throttled(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        if sent >= self.until {
            self.begin(now, retry_after);
        } else if let Some(named) = believed(retry_after) {
            // A late response of the same incident that knows more.
            self.until = self.until.max(now + named);
        }
    }

    /// Records any other response, or none, to a request sent at `sent`.
    /// `let_through`: the upstream took the request (which may have failed for
    /// reasons of its own).
    pub(super) fn answered(&mut self, sent: Instant, let_through: bool) -> Probed {
        if sent < self.until {
            return Probed::Stale;
        }
        self.probe = None;
        self.hangs = false;
        if let_through {
            Probed::Success
        } else {
            Probed::Failure
        }
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
        self.hangs = false;
    }
}

/// What a response says about a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// Nothing: its request was sent before the pause ended.
    Stale,
    /// The pause is over, and its doubling with it.
    Success,
    /// The upstream is not well: the next request is another probe.
    Failure,
}

/// The pause that the upstream asked for, within reason. A `Retry-After: 0`
/// says nothing.
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
        assert_eq!(pause.answered(now, true), Probed::Success);
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
        assert_eq!(pause.answered(now - secs(1), true), Probed::Stale);
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
