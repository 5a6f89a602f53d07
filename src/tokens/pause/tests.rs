//! Pauses by themselves.

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
        pause.on_429(now, now, None);
    }
    now += secs(60);
    assert!(pause.on_other_result(now, true) && pause.is_over);
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
        pause.on_429(now, now, named);
    }
    now += ms(1000);
    pause.on_429(now, now, Some(secs(3)));
    assert_eq!(pause.holds(now), Some(now + secs(3)));
}

#[tokio::test(start_paused = true)]
async fn stragglers_neither_lengthen_nor_end_a_pause() {
    let now = Instant::now();
    let mut pause = Pause::new(now, Some(secs(2)));
    pause.on_429(now, now - secs(1), None);
    assert!(!pause.on_other_result(now - secs(1), true));
    assert_eq!(pause.holds(now), Some(now + secs(2)));
}

#[tokio::test(start_paused = true)]
async fn one_probe_goes_first_and_the_others_do_not_wait_for_ever() {
    let now = Instant::now();
    let mut pause = Pause::new(now, Some(secs(2)));
    let end = now + secs(2);
    assert_eq!(pause.holds(end), None);
    pause.probe(end);
    assert_eq!(pause.holds(end), Some(end + PROBE_TIMEOUT));
    assert_eq!(pause.holds(end + PROBE_TIMEOUT), None);
}

/// Its doubling counts for a minute after it ended.
#[tokio::test(start_paused = true)]
async fn a_pause_without_a_success_is_kept_for_a_minute() {
    let now = Instant::now();
    let mut tokens = LocalTokens::new(None, now);
    tokens.on_429(now, now, Some(secs(5)));
    for (after, is_full) in [(0, false), (5, false), (64, false), (65, true)] {
        assert_eq!(tokens.is_full(now + secs(after)), is_full, "{after} s");
    }
}

/// It belongs to a request that was sent before the pause began.
#[tokio::test(start_paused = true)]
async fn a_late_429_can_only_move_the_end_of_a_pause() {
    let now = Instant::now();
    let mut pause = Pause::new(now, Some(secs(5)));
    pause.on_429(now, now - secs(1), Some(secs(3)));
    assert_eq!(pause.refuses_until(), now + secs(5));
    pause.on_429(now, now - secs(1), Some(secs(8)));
    assert_eq!(pause.refuses_until(), now + secs(8));
    // The next pause is the first of its kind: nothing has doubled.
    pause.on_429(now + secs(8), now + secs(8), None);
    assert_eq!(pause.refuses_until(), now + secs(9));
}
