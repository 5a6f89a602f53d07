//! The formats of access logs: the gateway's own, Caddy's, Traefik's, the common
//! and combined formats of nginx and Apache, and nginx-proxy-manager's.
//!
//! Invariant: the format of each line is recognised separately, because a log may contain several.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::timestamp::{self, LogTime};

/// The fields of a line that an estimate needs.
pub(super) struct Parsed<'l> {
    /// When the request arrived.
    pub(super) at: LogTime,
    /// How long its upstream call took, in nanoseconds; 0 if the log does not show it.
    pub(super) took: u64,
    pub(super) method: &'l str,
    pub(super) target: &'l str,
    /// Fields of the gateway's own formats.
    pub(super) own: Option<Own<'l>>,
}

/// Fields that only the gateway's own formats have.
pub(super) struct Own<'l> {
    pub(super) instance: Option<&'l str>,
    pub(super) ids: Option<u32>,
    pub(super) merge_key: Option<&'l str>,
    pub(super) not_merged: Option<&'l str>,
    /// The line represents this many requests.
    pub(super) sampled: u64,
}

/// The line that a log collector has wrapped in JSON: Docker's json-file driver
/// and `journalctl -o json`.
pub(super) fn unwrapped(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Wrapped {
        #[serde(alias = "MESSAGE")]
        log: String,
    }
    // Parsing every line of other JSON logs twice would be slow.
    if !line.starts_with("{\"log\":") && !line.contains("\"MESSAGE\"") {
        return None;
    }
    let wrapped: Wrapped = serde_json::from_str(line).ok()?;
    Some(wrapped.log)
}

/// The fields of all JSON formats; others are ignored.
#[derive(Deserialize)]
pub(super) struct Json<'l> {
    #[serde(borrow)]
    time: Option<&'l RawValue>,
    #[serde(borrow)]
    duration: Option<&'l RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'l, str>>,
    #[serde(borrow)]
    path: Option<Cow<'l, str>>,
    #[serde(borrow)]
    instance: Option<Cow<'l, str>>,
    ids: Option<u32>,
    #[serde(borrow)]
    merge_key: Option<Cow<'l, str>>,
    #[serde(borrow)]
    not_merged: Option<Cow<'l, str>>,
    sampled: Option<u64>,
    upstream_time: Option<f64>,
    // Caddy.
    #[serde(borrow)]
    ts: Option<&'l RawValue>,
    #[serde(borrow)]
    request: Option<CaddyRequest<'l>>,
    // Traefik.
    #[serde(borrow, rename = "StartUTC")]
    start_utc: Option<Cow<'l, str>>,
    #[serde(borrow, rename = "StartLocal")]
    start_local: Option<Cow<'l, str>>,
    #[serde(borrow, rename = "RequestMethod")]
    request_method: Option<Cow<'l, str>>,
    #[serde(borrow, rename = "RequestPath")]
    request_path: Option<Cow<'l, str>>,
    /// In nanoseconds.
    #[serde(rename = "Duration")]
    traefik_duration: Option<u64>,
}

#[derive(Deserialize)]
struct CaddyRequest<'l> {
    #[serde(borrow)]
    method: Cow<'l, str>,
    #[serde(borrow)]
    uri: Cow<'l, str>,
}

impl<'l> Json<'l> {
    /// Reads the JSON object of a line; collectors may have put text before it.
    pub(super) fn find(line: &'l str) -> Option<Self> {
        // serde_json refuses text after the object, so a brace in a text line is not taken for one.
        serde_json::from_str(&line[line.find('{')?..]).ok()
    }

    /// The fields, if the object is a line of Caddy, Traefik or the gateway.
    pub(super) fn parsed(&self) -> Option<Parsed<'_>> {
        if let Some(request) = &self.request {
            // Caddy logs the time when a request ended; the replay needs the arrival.
            let end = LogTime::read(unquoted(self.ts?))?;
            let spent = self
                .duration
                // Without a duration the end is the best estimate of the arrival.
                .map_or(Some(0), |duration| timestamp::duration(duration.get()))?;
            return Some(Parsed {
                at: end.before(spent),
                took: spent,
                method: &request.method,
                target: &request.uri,
                own: None,
            });
        }
        if let (Some(method), Some(target)) = (&self.request_method, &self.request_path) {
            // Traefik has the start itself. Its `time` is the time of the log entry.
            let start = self.start_utc.as_ref().or(self.start_local.as_ref())?;
            return Some(Parsed {
                at: LogTime::read(start)?,
                took: self.traefik_duration.unwrap_or(0),
                method,
                target,
                own: None,
            });
        }
        Some(Parsed {
            at: LogTime::read(unquoted(self.time?))?,
            took: seconds(self.upstream_time.unwrap_or(0.0)),
            method: self.method.as_deref()?,
            target: self.path.as_deref()?,
            own: Some(Own {
                instance: self.instance.as_deref(),
                ids: self.ids,
                merge_key: self.merge_key.as_deref(),
                not_merged: self.not_merged.as_deref(),
                sampled: self.sampled.unwrap_or(1),
            }),
        })
    }
}

fn unquoted(value: &RawValue) -> &str {
    value.get().trim_matches('"')
}

/// Reads a line of text in any format.
pub(super) fn text(line: &str) -> Option<Parsed<'_>> {
    // Each format refuses the lines of the others, so the order matters only for speed.
    common(line)
        .or_else(|| proxy_manager(line))
        .or_else(|| own(line))
}

/// Reads `host ident user [25/Nov/2026:06:45:01 +0000] "POST /x HTTP/1.1" 201 …`.
/// Traefik's lines end in the duration of the request.
fn common(line: &str) -> Option<Parsed<'_>> {
    let (_, rest) = line.split_once(" [")?;
    let (time, rest) = rest.split_once("] \"")?;
    let (request, rest) = rest.split_once('"')?;
    let mut words = request.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    // A request that is not HTTP is logged as it arrived, for example a TLS handshake on a
    // cleartext port.
    if !version.starts_with("HTTP/") || words.next().is_some() {
        return None;
    }
    is_status(rest.trim_start().split(' ').next()?).then_some(())?;
    // Only Traefik ends its lines in `123ms`; those of nginx and Apache show no duration.
    let millis = rest.rsplit(' ').next()?.strip_suffix("ms");
    let millis = millis.and_then(|millis| millis.parse::<u64>().ok());
    let spent = millis.unwrap_or(0).saturating_mul(1_000_000);
    Some(Parsed {
        at: LogTime::common(time)?.before(spent),
        took: spent,
        method,
        target,
        own: None,
    })
}

/// Reads `[25/Nov/2026:06:45:01 +0000] - 200 200 - GET https host "/x?y=1" …` of
/// nginx-proxy-manager.
fn proxy_manager(line: &str) -> Option<Parsed<'_>> {
    let (_, rest) = line.split_once('[')?;
    let (time, rest) = rest.split_once("] ")?;
    let (head, rest) = rest.split_once(" \"")?;
    let (target, _) = rest.split_once('"')?;
    // From the right: the fields on the left differ between versions.
    let mut words = head.rsplit(' ');
    let (_host, scheme, method) = (words.next()?, words.next()?, words.next()?);
    let is_request = words.next()? == "-" && is_status(words.next()?);
    (is_request && ["http", "https"].contains(&scheme)).then_some(())?;
    Some(Parsed {
        at: LogTime::common(time)?,
        took: 0,
        method,
        target,
        own: None,
    })
}

/// Reads the gateway's own text format: `time method path status duration`, then
/// `name=value` pairs.
fn own(line: &str) -> Option<Parsed<'_>> {
    /// Words that a collector may have put before the line.
    const MAX_PREFIX: usize = 8;
    let (head, pairs) = line
        .split_once("s instance=")
        .or_else(|| line.split_once("s route="))?;
    // `splitn` bounds the work for a long line that is in no known format.
    let words: Vec<_> = head.splitn(MAX_PREFIX + 6, ' ').collect();
    let [time, method, target, status, _duration] = *words.last_chunk()?;
    // `-` is a request without a response.
    (is_status(status) || status == "-").then_some(())?;
    let pair = |name: &str| {
        pairs
            .split(' ')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let instance = line
        .contains("s instance=")
        .then(|| pairs.split(' ').next())
        .flatten();
    Some(Parsed {
        at: LogTime::read(time)?,
        took: pair("upstream_time")
            .and_then(|took| took.strip_suffix('s')?.parse().ok())
            .map_or(0, seconds),
        method,
        target,
        own: Some(Own {
            instance,
            ids: pair("ids").and_then(|ids| ids.parse().ok()),
            merge_key: pair("merge_key"),
            not_merged: pair("not_merged"),
            sampled: pair("sampled")
                .and_then(|times| times.parse().ok())
                .unwrap_or(1),
        }),
    })
}

/// Seconds of the gateway's own formats in nanoseconds; what is no time becomes 0.
fn seconds(seconds: f64) -> u64 {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from(duration.as_nanos()).unwrap_or(0)
}

fn is_status(text: &str) -> bool {
    text.len() == 3 && text.parse::<u16>().is_ok()
}
