//! What the log says, and how often.

use super::*;

/// What is logged where one upstream call fails each second.
fn logged(kinds: &[Unreachable]) -> Vec<Option<u64>> {
    let (mut state, mut now) = (State::default(), Instant::now());
    kinds
        .iter()
        .map(|kind| {
            let message = state.record(*kind, now);
            now += Duration::from_secs(1);
            message.map(|(calls, _)| calls)
        })
        .collect()
}

#[test]
fn the_first_failure_is_logged_and_then_a_count_per_interval() {
    let messages = logged(&[Unreachable::Refused; 25]);
    for (second, message) in messages.into_iter().enumerate() {
        let calls = match second {
            0 => Some(1),
            10 | 20 => Some(10),
            _ => None,
        };
        assert_eq!(message, calls, "after {second} s");
    }
}

#[test]
fn another_cause_is_logged_at_once_but_not_each_time_it_returns() {
    use Unreachable::{Refused, Resolve};
    let messages = logged(&[Refused, Refused, Resolve, Refused, Resolve, Refused]);
    assert_eq!(messages, [Some(1), None, Some(2), None, None, None]);
}

#[test]
fn the_detail_is_that_of_its_cause() {
    let mut state = State::default();
    state.cause(Unreachable::Tls).detail = Some("expired".to_owned());
    let now = Instant::now();
    assert_eq!(state.record(Unreachable::Refused, now), Some((1, None)));
    assert_eq!(
        state.record(Unreachable::Tls, now),
        Some((1, Some("expired".to_owned())))
    );
}
