//! One line of an access log: the gateway's own, Caddy's, Traefik's, or the
//! combined and common formats of nginx and Apache.
//!
//! Invariant: nothing of a line outlives it but hashes and numbers, so that no
//! token of a log can get into a message.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::moment;
use super::offline::class_of;
use super::play::{Arrival, What};
use crate::config::Config;
use crate::observe::access_log::WITHHELD;

/// What a line said.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) arrival: Arrival,
    /// Its time is in whole seconds.
    pub(super) coarse: bool,
    /// It is a receipt whose ids and chat the log does not tell.
    pub(super) keyless: bool,
    /// Whose call it is the log does not tell: it belongs to no bucket.
    pub(super) nameless: bool,
}

/// Why a line says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// In no known format.
    Unknown,
    /// One of a sample of calls.
    Sampled,
}

/// Reads lines under the settings that say what is a receipt.
pub(super) struct Reader<'c> {
    config: &'c Config,
    hasher: RandomState,
}

/// A call as any of the formats tells it.
struct Told<'l> {
    at: u64,
    coarse: bool,
    method: &'l str,
    target: &'l str,
    own: Option<&'l Json<'l>>,
}

/// The fields of all JSON formats together; others are passed over.
#[derive(Deserialize)]
struct Json<'l> {
    #[serde(borrow)]
    time: Option<&'l RawValue>,
    duration: Option<f64>,
    #[serde(borrow)]
    method: Option<Cow<'l, str>>,
    #[serde(borrow)]
    path: Option<Cow<'l, str>>,
    #[serde(borrow)]
    instance: Option<Cow<'l, str>>,
    ids: Option<u32>,
    #[serde(borrow)]
    merge_key: Option<Cow<'l, str>>,
    sampled: Option<u64>,
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
}

#[derive(Deserialize)]
struct CaddyRequest<'l> {
    #[serde(borrow)]
    method: Cow<'l, str>,
    #[serde(borrow)]
    uri: Cow<'l, str>,
}

impl<'c> Reader<'c> {
    pub(super) fn new(config: &'c Config) -> Self {
        Self {
            config,
            hasher: RandomState::new(),
        }
    }

    /// Reads a line.
    pub(super) fn read(&self, line: &str) -> Result<Read, Unread> {
        if !line.starts_with('{') {
            return Ok(self.understand(&common(line).ok_or(Unread::Unknown)?));
        }
        let json: Json<'_> = serde_json::from_str(line).map_err(|_| Unread::Unknown)?;
        if json.sampled.is_some_and(|one_in| one_in > 1) {
            return Err(Unread::Sampled);
        }
        let told = json.tell().ok_or(Unread::Unknown)?;
        Ok(self.understand(&told))
    }

    fn understand(&self, told: &Told<'_>) -> Read {
        let (path, query) = told.target.split_once('?').unwrap_or((told.target, ""));
        let method = Method::from_bytes(told.method.as_bytes()).unwrap_or(Method::GET);
        let mut instance = told.own.and_then(|own| own.instance.as_deref());
        let mut key = self.hasher.build_hasher();
        path.hash(&mut key);
        let (mut ids, mut chat) = (1, false);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "messageIds" => {
                    ids = 1 + value.matches(',').count() + value.matches("%2C").count();
                    continue;
                }
                "instance_id" => instance = instance.or(Some(value)),
                "chatId" => chat = true,
                _ => {}
            }
            pair.hash(&mut key);
        }
        let receipt = method == Method::POST && self.config.batch.paths.iter().any(|p| p == path);
        let own = told.own.map(|own| (own.ids, own.merge_key.as_deref()));
        let what = match own {
            _ if !receipt => What::Call,
            Some((Some(ids), Some(text))) => What::Receipt {
                key: Some(self.hasher.hash_one(text)),
                ids,
            },
            // The gateway itself did not understand it.
            Some(_) => What::Call,
            None => What::Receipt {
                key: chat.then(|| key.finish()),
                ids: u32::try_from(ids).unwrap_or(u32::MAX),
            },
        };
        let class = class_of(self.config, &method, path);
        // What the access log withholds may be anybody's.
        let instance = instance.filter(|name| !name.is_empty() && *name != WITHHELD);
        let nameless = instance.is_none();
        let instance = instance.map_or(0, |instance| self.hasher.hash_one(instance));
        Read {
            arrival: Arrival {
                at: told.at,
                bucket: (class, instance),
                what,
            },
            coarse: told.coarse,
            keyless: matches!(what, What::Receipt { key: None, .. }),
            nameless,
        }
    }
}

impl<'l> Json<'l> {
    fn tell(&'l self) -> Option<Told<'l>> {
        if let Some(request) = &self.request {
            let ts = self.ts?.get();
            let end = match ts.parse::<f64>() {
                Ok(seconds) => moment::of_seconds(seconds)?,
                Err(_) => moment::rfc3339(ts.trim_matches('"'))?,
            };
            let spent = moment::of_seconds(self.duration.unwrap_or_default())?;
            return Some(Told {
                at: end.saturating_sub(spent),
                coarse: false,
                method: &request.method,
                target: &request.uri,
                own: None,
            });
        }
        if let (Some(method), Some(path)) = (&self.request_method, &self.request_path) {
            // Traefik tells the beginning itself.
            let start = self.start_utc.as_ref().or(self.start_local.as_ref())?;
            return Some(Told {
                at: moment::rfc3339(start)?,
                coarse: false,
                method,
                target: path,
                own: None,
            });
        }
        Some(Told {
            at: moment::rfc3339(self.time?.get().trim_matches('"'))?,
            coarse: false,
            method: self.method.as_deref()?,
            target: self.path.as_deref()?,
            own: Some(self),
        })
    }
}

/// Reads `host ident user [25/Nov/2026:06:45:01 +0000] "POST /x HTTP/1.1" …`;
/// Traefik's ends in the call's duration.
fn common(line: &str) -> Option<Told<'_>> {
    let (_, rest) = line.split_once(" [")?;
    let (time, rest) = rest.split_once("] \"")?;
    let end = moment::common(time)?;
    let (request, rest) = rest.split_once('"')?;
    let mut words = request.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if !version.starts_with("HTTP/") || words.next().is_some() {
        return None;
    }
    let status = rest.trim_start().split(' ').next()?;
    if status.len() != 3 || status.parse::<u16>().is_err() {
        return None;
    }
    let millis = rest
        .rsplit(' ')
        .next()
        .and_then(|word| word.strip_suffix("ms"));
    let spent = millis
        .and_then(|millis| millis.parse::<u64>().ok())
        .unwrap_or(0);
    Some(Told {
        at: end.saturating_sub(spent.saturating_mul(1_000_000)),
        // A duration says more than the second it is taken from.
        coarse: true,
        method,
        target,
        own: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Read, Unread> {
        Reader::new(&Config::default()).read(line)
    }

    const AT: u64 = 1_795_589_101_000_000_000;

    #[test]
    fn every_format_tells_when_a_call_came() {
        for (line, at) in [
            (
                r#"10.0.0.5 - - [25/Nov/2026:06:45:01 +0000] "POST /v2/send/seen?instance_id=1&chatId=2 HTTP/1.1" 201 17"#,
                AT,
            ),
            (
                r#"10.0.0.5 - u [25/Nov/2026:08:45:01 +0200] "POST /v2/send/seen?chatId=2 HTTP/1.1" 201 17 "-" "curl 8""#,
                AT,
            ),
            (
                r#"10.0.0.5 - - [25/Nov/2026:06:45:01 +0000] "POST /v2/send/seen?chatId=2 HTTP/1.1" 201 17 "-" "-" 9 "r" "http://u" 250ms"#,
                AT - 250_000_000,
            ),
            (
                r#"{"level":"info","ts":1795589101.5,"request":{"method":"POST","uri":"/v2/send/seen?chatId=2","headers":{}},"duration":0.5,"status":201}"#,
                AT,
            ),
            (
                r#"{"StartUTC":"2026-11-25T06:45:01.25Z","Duration":5000,"RequestMethod":"POST","RequestPath":"/v2/send/seen?chatId=2","time":"2026-11-25T06:45:02Z"}"#,
                AT + 250_000_000,
            ),
            (
                r#"{"time":"2026-11-25T06:45:01.000001Z","duration":0.06,"method":"POST","path":"/v2/send/seen","instance":"1","ids":2,"merge_key":"00ff00ff00ff00ff","new":[1]}"#,
                AT + 1000,
            ),
        ] {
            let read = read(line).unwrap_or_else(|why| panic!("{why:?}: {line}"));
            assert_eq!(read.arrival.at, at, "{line}");
            assert!(
                matches!(read.arrival.what, What::Receipt { key: Some(_), .. }),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_equal_but_for_its_ids_has_one_key() {
        let config = Config::default();
        let reader = Reader::new(&config);
        let key = |query: &str| {
            let line = format!(
                r#"h - - [25/Nov/2026:06:45:01 +0000] "POST /v2/send/seen?{query} HTTP/1.1" 201 1"#
            );
            reader.read(&line).unwrap().arrival.what
        };
        let one = key("instance_id=1&chatId=2&messageIds=%5B%22a%22%5D");
        let What::Receipt { key: same, ids: 1 } = one else {
            panic!("{one:?}")
        };
        let two = key("instance_id=1&chatId=2&messageIds=%5B%22a%22%2C%22b%22%5D");
        assert_eq!(two, What::Receipt { key: same, ids: 2 });
        assert_ne!(key("instance_id=1&chatId=3&messageIds=x"), one);
        let blind = key("instance_id=1&access_token=t");
        assert_eq!(blind, What::Receipt { key: None, ids: 1 });
    }

    #[test]
    fn what_is_not_understood_is_said_to_be() {
        for line in [
            "",
            "{",
            "{}",
            "hello",
            r#"h - - [31/Foo/2026:06:45:01 +0000] "GET / HTTP/1.1" 200 1"#,
            r#"h - - [25/Nov/2026:06:45:01 +0000] "nonsense" 400 1"#,
            r#"{"time":"soon","method":"GET","path":"/"}"#,
        ] {
            assert_eq!(read(line).err(), Some(Unread::Unknown), "{line}");
        }
        let sampled = r#"{"time":"2026-11-25T06:45:01Z","method":"GET","path":"/","sampled":10}"#;
        assert_eq!(read(sampled).err(), Some(Unread::Sampled));
    }
}
