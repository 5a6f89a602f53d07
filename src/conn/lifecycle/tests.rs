//! Which action follows which event, and when, in paused time.

use std::pin::pin;

use super::*;
use crate::config::Config;
use crate::conn::drain_signal::Drain;
use crate::conn::timer::sleep;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A connection whose timeouts differ from each other and from all constants.
fn state() -> Arc<ConnState> {
    let mut settings = Config::default().server;
    settings.header_timeout = s(10);
    settings.idle_timeout = s(60);
    settings.body_timeout = s(30);
    Arc::new(ConnState::new(&settings))
}

/// Runs a test with the lifecycle of a new connection.
macro_rules! lifecycle {
    ($lifecycle:ident, $drain:ident) => {
        let $drain = Drain::default();
        let (sleep, begun) = (pin!(sleep()), pin!($drain.begun()));
        let mut $lifecycle = Lifecycle::new(state(), ConnTimer::new(sleep, &$drain, begun));
    };
}

/// The next action, and the time until it.
async fn next(lifecycle: &mut Lifecycle<'_>) -> (Action, Duration) {
    let start = Instant::now();
    let action = std::future::poll_fn(|cx| lifecycle.poll(cx)).await;
    let took = start.elapsed();
    // The timer counts whole milliseconds.
    (action, s((took.as_millis() / 1000) as u64))
}

fn serve_one(state: &ConnState) {
    state.on_request_started(Instant::now());
    state.on_response_ended(Instant::now());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_cut_after_the_header_timeout() {
    lifecycle!(lifecycle, drain);
    assert_eq!(next(&mut lifecycle).await, (Action::Cut, s(10)));
    assert_eq!(drain.cut_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_then_cut() {
    lifecycle!(lifecycle, _drain);
    serve_one(lifecycle.state());
    assert_eq!(next(&mut lifecycle).await, (Action::Close, s(60)));
    assert_eq!(next(&mut lifecycle).await, (Action::Cut, LINGERING_CLOSE));
}

#[tokio::test(start_paused = true)]
async fn only_a_quiet_connection_of_hyper_is_parked() {
    lifecycle!(lifecycle, _drain);
    serve_one(lifecycle.state());
    lifecycle.set_can_park(true);
    lifecycle.state().on_body_started(false);
    assert_eq!(next(&mut lifecycle).await, (Action::Close, s(60)));

    lifecycle!(lifecycle, _drain);
    serve_one(lifecycle.state());
    lifecycle.set_can_park(true);
    assert_eq!(next(&mut lifecycle).await, (Action::Park, PARK_AFTER));
}

#[tokio::test(start_paused = true)]
async fn an_unread_response_cuts_the_connection_although_a_request_is_in_flight() {
    lifecycle!(lifecycle, _drain);
    lifecycle.state().on_request_started(Instant::now());
    lifecycle.state().on_write(false);
    assert_eq!(next(&mut lifecycle).await, (Action::Cut, s(30)));
}

#[tokio::test(start_paused = true)]
async fn other_streams_have_a_while_to_end_before_an_unread_response_cuts_them() {
    lifecycle!(lifecycle, _drain);
    lifecycle.state().on_http2();
    lifecycle.state().on_request_started(Instant::now());
    lifecycle.state().on_write(false);
    assert_eq!(next(&mut lifecycle).await, (Action::Close, s(30)));
    assert_eq!(next(&mut lifecycle).await, (Action::Cut, LINGERING_CLOSE));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_read_in_the_end_cuts_nothing() {
    lifecycle!(lifecycle, _drain);
    lifecycle.state().on_http2();
    lifecycle.state().on_request_started(Instant::now());
    lifecycle.state().on_write(false);
    assert_eq!(next(&mut lifecycle).await, (Action::Close, s(30)));
    lifecycle.state().on_write(true);
    let none = tokio::time::timeout(s(100), next(&mut lifecycle)).await;
    assert!(none.is_err(), "{none:?}");
    lifecycle.state().on_response_ended(Instant::now());
    assert_eq!(next(&mut lifecycle).await, (Action::Cut, LINGERING_CLOSE));
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_a_busy_connection_at_once_and_an_idle_one_after_its_grace() {
    lifecycle!(lifecycle, drain);
    lifecycle.state().on_request_started(Instant::now());
    drain.begin();
    assert_eq!(next(&mut lifecycle).await, (Action::Close, s(0)));
    // A response without `Connection: close` was sent: another request may be on its way.
    lifecycle.state().on_response_ended(Instant::now());
    lifecycle.on_response_sent();
    assert_eq!(next(&mut lifecycle).await, (Action::Close, DRAIN_GRACE));

    lifecycle!(lifecycle, drain);
    serve_one(lifecycle.state());
    drain.begin();
    assert_eq!(next(&mut lifecycle).await, (Action::Close, DRAIN_GRACE));
}

#[tokio::test(start_paused = true)]
async fn a_request_within_the_grace_of_a_drain_is_served() {
    lifecycle!(lifecycle, drain);
    serve_one(lifecycle.state());
    drain.begin();
    let start = Instant::now();
    let half = std::future::poll_fn(|cx| lifecycle.poll_until(cx, start + DRAIN_GRACE / 2));
    half.await;
    lifecycle.state().on_request_started(Instant::now());
    let none = tokio::time::timeout(s(100), next(&mut lifecycle)).await;
    assert!(none.is_err(), "{none:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_counts_a_cut_only_if_a_response_was_unread() {
    for is_unread in [true, false] {
        lifecycle!(lifecycle, drain);
        lifecycle.state().on_request_started(Instant::now());
        drain.begin();
        assert_eq!(next(&mut lifecycle).await, (Action::Close, s(0)));
        lifecycle.state().on_write(!is_unread);
        lifecycle.state().on_response_ended(Instant::now());
        assert_eq!(next(&mut lifecycle).await.0, Action::Cut);
        assert_eq!(drain.cut_count(), usize::from(is_unread));
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_bounded_and_no_drain_extends_it() {
    lifecycle!(lifecycle, drain);
    lifecycle.on_shutdown();
    drain.begin();
    assert_eq!(next(&mut lifecycle).await, (Action::Cut, LINGERING_CLOSE));
}
