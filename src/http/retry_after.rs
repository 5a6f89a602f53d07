//! The `Retry-After` header, read and written.
//!
//! RFC 9110 §10.2.3 allows whole seconds or a date. Some servers write fractions
//! of a second.

use std::time::{Duration, SystemTime};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

use super::response_head::ResponseHead;

/// The wait that a 429 asks for; `None` where it asks for none or cannot be
/// understood, and for every other status.
pub(crate) fn of_429(head: &ResponseHead) -> Option<Duration> {
    let is_throttled = head.status() == StatusCode::TOO_MANY_REQUESTS;
    is_throttled.then(|| of(head)).flatten()
}

/// The wait that a response asks for, whatever its status.
pub(crate) fn of(head: &ResponseHead) -> Option<Duration> {
    let value = str::from_utf8(head.get(&RETRY_AFTER)?).ok()?.trim();
    if value.starts_with(|first: char| first.is_ascii_digit()) {
        // Parsing as a float accepts `inf` and exponents; `Duration` refuses what it
        // cannot hold.
        return Duration::try_from_secs_f64(value.parse().ok()?).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    // Relative to the upstream's own clock, which may differ from ours.
    let now = head.get(&DATE).and_then(|now| {
        let now = str::from_utf8(now).ok()?;
        httpdate::parse_http_date(now.trim()).ok()
    });
    let now = now.unwrap_or_else(SystemTime::now);
    // A date in the past asks for no wait.
    Some(date.duration_since(now).unwrap_or_default())
}

/// The wait in whole seconds, rounded up so that a client does not retry too
/// early; at least one.
pub(crate) fn seconds(wait: Duration) -> u64 {
    let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    whole.max(1)
}

/// The value of the header for this wait.
pub(crate) fn value(wait: Duration) -> HeaderValue {
    HeaderValue::from(seconds(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Duration> {
        let mut head = ResponseHead::new(StatusCode::TOO_MANY_REQUESTS);
        head.append(RETRY_AFTER, value.parse().unwrap());
        of(&head)
    }

    #[test]
    fn seconds_fractions_and_dates_are_understood() {
        assert_eq!(read("2"), Some(Duration::from_secs(2)));
        assert_eq!(read(" 0.25 "), Some(Duration::from_millis(250)));
        let soon = SystemTime::now() + Duration::from_secs(90);
        let wait = read(&httpdate::fmt_http_date(soon)).unwrap();
        assert!((88..=90).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
    }

    #[test]
    fn a_date_is_relative_to_the_date_of_its_response() {
        let asked = |date: &str| {
            let mut head = ResponseHead::new(StatusCode::TOO_MANY_REQUESTS);
            head.append(DATE, date.parse().unwrap());
            let until = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
            head.append(RETRY_AFTER, until);
            of(&head)
        };
        let asked_in = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:34 GMT"), asked_in(3));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:38 GMT"), asked_in(0));
        // Without a valid one, our own clock is all there is.
        assert_eq!(asked("soon"), asked_in(0));
    }

    #[test]
    fn nonsense_asks_for_nothing() {
        for nonsense in [
            "",
            "soon",
            "-1",
            "1e400",
            "2 s",
            "inf",
            "NaN",
            "99999999999999999999999",
        ] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(of(&ResponseHead::new(StatusCode::OK)), None);
    }

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_millis(1001)), 2);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
    }
}
