//! Times and durations as access logs write them.
//!
//! Invariant: a time without a fraction of a second is marked as coarse.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The time format of nginx and Apache: `25/Nov/2026:06:45:01 +0000`.
const COMMON: &str = "%d/%b/%Y:%H:%M:%S %z";
/// Caddy's `wall` formats, without a zone: `2026/11/25 06:45:01.123`.
const WALL: &str = "%Y/%m/%d %H:%M:%S%.f";

/// A time in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogTime {
    /// Nanoseconds since 1970.
    pub(super) nanos: u64,
    /// The log has whole seconds only.
    pub(super) is_coarse: bool,
}

impl LogTime {
    /// Reads RFC 3339, any of Caddy's formats, or a number since 1970.
    pub(super) fn read(text: &str) -> Option<Self> {
        if let Some(nanos) = unix(text) {
            return Some(Self {
                nanos,
                is_coarse: false,
            });
        }
        let time: Timestamp = text.parse().ok().or_else(|| common(text)).or_else(|| {
            // Only differences matter, so the missing zone may be UTC.
            let time = strtime::parse(WALL, text).ok()?.to_datetime().ok()?;
            TimeZone::UTC.to_timestamp(time).ok()
        })?;
        // A fraction is the only sign of precision; `.000` counts as one.
        Self::new(time, !text.contains('.'))
    }

    /// Reads `25/Nov/2026:06:45:01 +0000`.
    pub(super) fn common(text: &str) -> Option<Self> {
        // This format has no fraction of a second.
        Self::new(common(text)?, true)
    }

    fn new(time: Timestamp, is_coarse: bool) -> Option<Self> {
        let nanos = u64::try_from(time.as_nanosecond()).ok()?;
        Some(Self { nanos, is_coarse })
    }

    /// The time that much earlier.
    pub(super) fn before(self, nanos: u64) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(nanos),
            ..self
        }
    }
}

fn common(text: &str) -> Option<Timestamp> {
    strtime::parse(COMMON, text).ok()?.to_timestamp().ok()
}

/// Reads a number since 1970; its size shows its unit: seconds have 10 digits
/// today, milliseconds 13, microseconds 16 and nanoseconds 19.
fn unix(text: &str) -> Option<u64> {
    let number: f64 = text.parse().ok()?;
    let unit = match number {
        1e8..1e11 => 1_000_000_000,
        1e11..1e14 => 1_000_000,
        1e14..1e17 => 1_000,
        1e17..1.8e19 => 1,
        _ => return None,
    };
    // A float has too few digits for nanoseconds.
    match text.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        Err(_) => Some((number * unit as f64) as u64),
    }
}

/// Reads a duration of Caddy in nanoseconds: seconds with a fraction, whole
/// nanoseconds or milliseconds, or a text such as `1.5ms`.
pub(super) fn duration(text: &str) -> Option<u64> {
    /// Longer ones are nanoseconds: a request of a minute in milliseconds.
    const MOST_MILLIS: u64 = 60_000;
    // Caddy's `duration_format` is `string`, or a number whose unit the line does not name.
    if let Some(text) = text.strip_prefix('"') {
        let duration: SignedDuration = text.trim_end_matches('"').parse().ok()?;
        return u64::try_from(duration.as_nanos()).ok();
    }
    match text.parse::<u64>() {
        Ok(millis) if millis <= MOST_MILLIS => Some(millis * 1_000_000),
        Ok(nanos) => Some(nanos),
        Err(_) => seconds(text.parse().ok()?),
    }
}

/// Converts seconds to nanoseconds.
fn seconds(seconds: f64) -> Option<u64> {
    let duration = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    u64::try_from(duration.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_795_589_101_000_000_000;

    #[test]
    fn every_notation_of_a_time_is_read() {
        for (text, nanos, is_coarse) in [
            ("2026-11-25T06:45:01Z", AT, true),
            ("2026-11-25 06:45:01.25Z", AT + 250_000_000, false),
            ("2026-11-25T08:45:01.000000001+02:00", AT + 1, false),
            ("2026-11-25T06:45:01.500+0000", AT + 500_000_000, false),
            ("25/Nov/2026:08:45:01 +0200", AT, true),
            ("2026/11/25 06:45:01", AT, true),
            ("2026/11/25 06:45:01.250", AT + 250_000_000, false),
            ("2026/11/25 06:45:01.000000001", AT + 1, false),
            ("1795589101.5", AT + 500_000_000, false),
            ("1795589101500.0", AT + 500_000_000, false),
            ("1795589101000000001", AT + 1, false),
        ] {
            assert_eq!(
                LogTime::read(text),
                Some(LogTime { nanos, is_coarse }),
                "{text}"
            );
        }
        for text in ["", "soon", "7", "-1", "31/Foo/2026:06:45:01 +0000", "1e300"] {
            assert_eq!(LogTime::read(text), None, "{text}");
        }
    }

    #[test]
    fn every_notation_of_a_duration_is_read() {
        for (text, nanos) in [
            ("0.25", 250_000_000),
            ("250", 250_000_000),
            ("99000000", 99_000_000),
            ("\"12.5ms\"", 12_500_000),
            ("\"1m2.5s\"", 62_500_000_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Some(nanos), "{text}");
        }
        assert_eq!(duration("-1.5"), None);
    }
}
