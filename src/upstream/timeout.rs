//! How long an answer is waited for.
//!
//! Invariant: a connection that serves one call after another arms its timer
//! once, not with every call. The timer may ring for a call that was answered
//! long ago; then it is set for the one that is waited for now.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::body::Progress;

/// How long one call's answer is waited for.
#[derive(Debug)]
pub(super) struct Patience {
    /// When the call was sent.
    pub(super) began: Instant,
    /// The longest wait after the last piece of the request went out.
    pub(super) length: Duration,
    /// Knows of those pieces, where the request is streamed.
    pub(super) progress: Option<Progress>,
}

impl Patience {
    /// Waits for an answer; `None` if it did not come. `timer` rings no later
    /// than at the end of this call's patience.
    pub(super) async fn wait<T>(
        &self,
        mut answer: Pin<&mut impl Future<Output = T>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Option<T> {
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            loop {
                ready!(timer.as_mut().poll(cx));
                let end = self.end();
                if end <= Instant::now() {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(end);
            }
        })
        .await
    }

    /// When it ends, as things stand.
    pub(super) fn end(&self) -> Instant {
        let last = self.progress.as_ref().map(Progress::last_piece);
        last.map_or(self.began, |last| last.max(self.began)) + self.length
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn patience() -> Patience {
        Patience {
            began: Instant::now(),
            length: LENGTH,
            progress: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_rings_for_an_earlier_call_cuts_no_later_one() {
        let began = Instant::now();
        let mut timer = pin!(tokio::time::sleep_until(began + LENGTH));
        for _ in 0..7 {
            let patience = patience();
            let answer = pin!(tokio::time::sleep(Duration::from_secs(4)));
            assert!(patience.wait(answer, timer.as_mut()).await.is_some());
        }
        assert_eq!(began.elapsed(), Duration::from_secs(28));
        let asked = Instant::now();
        let never = pin!(std::future::pending::<()>());
        assert!(patience().wait(never, timer.as_mut()).await.is_none());
        assert_eq!(asked.elapsed(), LENGTH);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_rang_while_the_connection_was_idle_is_set_anew() {
        let mut timer = pin!(tokio::time::sleep(LENGTH));
        timer.as_mut().await;
        tokio::time::sleep(LENGTH).await;
        let asked = Instant::now();
        let never = pin!(std::future::pending::<()>());
        assert!(patience().wait(never, timer.as_mut()).await.is_none());
        assert_eq!(asked.elapsed(), LENGTH);
    }
}
