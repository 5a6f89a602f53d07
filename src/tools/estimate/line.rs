//! A line of an access log, read as the gateway would read the request.
//!
//! Invariant: only hashes and numbers of a line are kept, so that no token of a
//! log can get into a message.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use bytes::Bytes;
use http::{Method, Request};

use super::arrival::{Arrival, RequestKind};
use super::formats::{self, Json, Own, Parsed};
use super::offline::class_of;
use crate::config::{Classes, Config};
use crate::http::path::same_segments;
use crate::observe::access_log::WITHHELD;
use crate::receipt::parse::parse;
use crate::receipt::{MergeKey, NotMerged};

/// A line that was understood.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) arrival: Arrival,
    /// Its time is in whole seconds.
    pub(super) is_coarse: bool,
    /// It is a receipt, but the log shows no chat, so its merge key is unknown.
    pub(super) is_keyless: bool,
    /// The log shows no instance, so its bucket is unknown.
    pub(super) is_nameless: bool,
    /// Why it would merge at no time, or only with equal receipts.
    pub(super) reason: Option<NotMerged>,
}

/// Why a line cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineError {
    /// It is in no known format.
    Unknown,
    /// It is one of a sample of requests.
    Sampled,
}

/// Reads lines under the settings, which define what is a receipt.
pub(super) struct LineReader<'c> {
    config: &'c Config,
    classes: Classes,
    hasher: RandomState,
}

impl<'c> LineReader<'c> {
    pub(super) fn new(config: &'c Config) -> Self {
        Self {
            config,
            classes: Classes::new(config),
            hasher: RandomState::new(),
        }
    }

    /// Reads a line in any format.
    pub(super) fn read(&self, line: &str) -> Result<Line, LineError> {
        match formats::unwrapped(line) {
            Some(line) => self.read_unwrapped(line.trim_end()),
            None => self.read_unwrapped(line),
        }
    }

    fn read_unwrapped(&self, line: &str) -> Result<Line, LineError> {
        let json = Json::find(line);
        let parsed = json.as_ref().and_then(Json::parsed);
        let parsed = parsed.or_else(|| formats::text(line));
        let parsed = parsed.ok_or(LineError::Unknown)?;
        if parsed.own.as_ref().is_some_and(|own| own.sampled > 1) {
            return Err(LineError::Sampled);
        }
        Ok(self.understand(&parsed))
    }

    /// Classifies a request as the gateway would, as far as the log shows it.
    fn understand(&self, parsed: &Parsed<'_>) -> Line {
        let (path, query) = parsed.target.split_once('?').unwrap_or((parsed.target, ""));
        let method = Method::from_bytes(parsed.method.as_bytes()).unwrap_or(Method::GET);
        let mut instance = parsed.own.as_ref().and_then(|own| own.instance);
        // The first counts (rule: identity).
        instance = instance.or_else(|| value_of(query, "instance_id"));
        let mut paths = self.config.batch.paths.iter();
        let is_receipt = method == Method::POST && paths.any(|known| same_segments(known, path));
        let (kind, reason) = match &parsed.own {
            _ if !is_receipt => (RequestKind::Other, None),
            Some(own) => self.logged_by_the_gateway(own),
            None => self.logged_by_others(parsed.target),
        };
        // A withheld name may be any instance.
        let instance = instance.filter(|name| !name.is_empty() && *name != WITHHELD);
        let class = class_of((self.config, &self.classes), &method, path, instance);
        let bucket = instance.map_or(0, |instance| self.hasher.hash_one(instance));
        Line {
            arrival: Arrival {
                at: parsed.at.nanos,
                bucket: (class, bucket),
                kind,
                took: parsed.took,
            },
            is_coarse: parsed.at.is_coarse,
            is_keyless: reason.is_none() && matches!(kind, RequestKind::Receipt { key: None, .. }),
            reason,
            is_nameless: instance.is_none(),
        }
    }

    /// The gateway's own log names the merge key, or why the request has none.
    fn logged_by_the_gateway(&self, own: &Own<'_>) -> (RequestKind, Option<NotMerged>) {
        let reason = own.not_merged.and_then(NotMerged::named);
        let kind = match (own.ids, own.merge_key) {
            (Some(ids), Some(text)) => RequestKind::Receipt {
                key: Some(self.hasher.hash_one(text)),
                ids,
            },
            // The gateway that wrote the log did not understand it.
            _ => RequestKind::Other,
        };
        (kind, reason.filter(|reason| reason.is_of_the_request()))
    }

    /// Other logs show only what the target contains. It is read as the gateway would.
    fn logged_by_others(&self, target: &str) -> (RequestKind, Option<NotMerged>) {
        let keyless = RequestKind::Receipt { key: None, ids: 1 };
        let Ok(request) = Request::post(target).body(()) else {
            return (keyless, Some(NotMerged::RawTarget));
        };
        let (head, body) = (request.into_parts().0, Bytes::new());
        match parse(&self.config.batch, &head, &body) {
            Ok(parsed) => {
                let ids = parsed.id_count().max(1);
                let key = MergeKey::new(|writer| parsed.key_parts(writer));
                let kind = RequestKind::Receipt {
                    key: Some(self.hasher.hash_one(&key)),
                    ids: u32::try_from(ids).unwrap_or(u32::MAX),
                };
                let reason = Some(parsed.reason_if_alone());
                (kind, reason.filter(|reason| reason.is_of_the_request()))
            }
            // It may be in the body.
            Err(NotMerged::NoChat) => (keyless, None),
            Err(reason) => (keyless, Some(reason)),
        }
    }
}

/// The value of a key in a query, as it is written.
fn value_of<'q>(query: &'q str, key: &str) -> Option<&'q str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .into_iter()
        .find_map(|(name, value)| (name == key).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Line, LineError> {
        LineReader::new(&Config::default()).read(line)
    }

    const AT: u64 = 1_795_589_101_000_000_000;

    /// Reads a line and checks that it is a receipt with a key, at this time.
    fn assert_receipt(line: &str, at: u64) {
        let read = read(line).unwrap_or_else(|why| panic!("{why:?}: {line}"));
        assert_eq!(read.arrival.at, at, "{line}");
        let is_receipt = matches!(read.arrival.kind, RequestKind::Receipt { key: Some(_), .. });
        assert!(is_receipt, "{line}");
    }

    #[test]
    fn the_arrival_of_a_request_is_read_from_every_format() {
        for (line, at) in [
            (
                r#"10.0.0.5 - - [25/Nov/2026:06:45:01 +0000] "POST /v2/send/seen?instance_id=1&chatId=2 HTTP/1.1" 201 17"#,
                AT,
            ),
            (
                r#"10.0.0.5 - u [25/Nov/2026:08:45:01 +0200] "POST /v2/send/seen?chatId=2 HTTP/1.1" 201 17 "-" "curl {8}""#,
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
                r#"{"ts":"2026/11/25 06:45:01.099","request":{"method":"POST","uri":"/v2/send/seen?chatId=2"},"duration":99000000}"#,
                AT,
            ),
            (
                r#"{"ts":"25/Nov/2026:06:45:01 +0000","request":{"method":"POST","uri":"/v2/send/seen?chatId=2"},"duration":"250ms"}"#,
                AT - 250_000_000,
            ),
            (
                r#"{"StartUTC":"2026-11-25T06:45:01.25Z","Duration":5000,"RequestMethod":"POST","RequestPath":"/v2/send/seen?chatId=2","time":"2026-11-25T06:45:02Z"}"#,
                AT + 250_000_000,
            ),
            (
                r#"[25/Nov/2026:06:45:01 +0000] - 201 201 - POST https api.example.com "/v2/send/seen?instance_id=1&chatId=2" [Client 10.0.0.5] [Length 17] [Gzip -] [Sent-to 10.0.0.9] "curl/8" "-""#,
                AT,
            ),
            (OWN_JSON, AT + 1000),
            (OWN_TEXT, AT + 1000),
        ] {
            assert_receipt(line, at);
        }
    }

    const OWN_JSON: &str = r#"{"time":"2026-11-25T06:45:01.000001Z","duration":0.06,"method":"POST","path":"/v2/send/seen","instance":"1","ids":2,"merge_key":"00ff00ff00ff00ff","new":[1]}"#;
    const OWN_TEXT: &str = "2026-11-25T06:45:01.000001Z POST /v2/send/seen 201 0.060000s instance=1 \
        route=seen request_bytes=0 bytes=0 ids=2 merge_key=00ff00ff00ff00ff request_id=a client=10.0.0.5";

    #[test]
    fn lines_are_found_behind_the_prefix_of_a_collector() {
        let caddy = r#"{"ts":1795589101.5,"request":{"method":"POST","uri":"/v2/send/seen?chatId=2"},"duration":0.5}"#;
        let nginx = r#"10.0.0.5 - - [25/Nov/2026:06:45:01 +0000] "POST /v2/send/seen?chatId=2 HTTP/1.1" 201 17"#;
        for (line, at) in [
            (OWN_JSON, AT + 1000),
            (OWN_TEXT, AT + 1000),
            (caddy, AT),
            (nginx, AT),
        ] {
            for prefix in [
                "Nov 25 06:45:01 host gateway[123]: ",
                "gateway-1  | ",
                "[pod/gateway-7d9/gateway] ",
                "2026-11-25T06:45:01.123456789Z ",
                "2026-11-25T06:45:01.123456789Z stdout F ",
            ] {
                assert_receipt(&format!("{prefix}{line}"), at);
            }
            let text = serde_json::to_string(&format!("{line}\n")).unwrap();
            assert_receipt(
                &format!(r#"{{"log":{text},"stream":"stdout","time":"2026-11-25T07:00:00Z"}}"#),
                at,
            );
            assert_receipt(&format!(r#"{{"_PID":"1","MESSAGE":{text}}}"#), at);
        }
        let named = read(OWN_TEXT).unwrap();
        assert!(!named.is_nameless);
        let nameless = OWN_TEXT.replace("instance=1 ", "");
        assert!(read(&nameless).unwrap().is_nameless);
    }

    #[test]
    fn receipts_that_differ_only_in_their_ids_have_one_key() {
        let config = Config::default();
        let reader = LineReader::new(&config);
        let kind = |query: &str| {
            let line = format!(
                r#"h - - [25/Nov/2026:06:45:01 +0000] "POST /v2/send/seen?{query} HTTP/1.1" 201 1"#
            );
            reader.read(&line).unwrap().arrival.kind
        };
        let one = kind("instance_id=1&chatId=2&messageIds=%5B%22true_1_A%22%5D");
        let RequestKind::Receipt { key: same, ids: 1 } = one else {
            panic!("{one:?}")
        };
        let two = kind("chatId=2&messageIds=%5B%22true_1_A%22%2C%22true_1_B%22%5D&instance_id=1");
        assert_eq!(two, RequestKind::Receipt { key: same, ids: 2 });
        assert_ne!(kind("instance_id=1&chatId=3&messageIds=x"), one);
        let keyless = kind("instance_id=1&access_token=t");
        assert_eq!(keyless, RequestKind::Receipt { key: None, ids: 1 });
    }

    #[test]
    fn receipts_that_would_not_merge_have_a_reason() {
        let reason = |line: &str| read(line).unwrap().reason;
        let line = |query: &str| {
            format!(
                r#"h - - [25/Nov/2026:06:45:01 +0000] "POST /v2/send/seen?instance_id=1&{query} HTTP/1.1" 201 1"#
            )
        };
        for (query, expected) in [
            ("chatId=2", None),
            ("chatId=2&messageIds[]=true_1_A", None),
            ("x=1", None),
            ("chatId=2&messageIds=x", Some(NotMerged::IdsShape)),
            ("chatId=2&messageIds=true_1_A", Some(NotMerged::ListForm)),
            ("chatId=2&chatId=3", Some(NotMerged::AmbiguousKey)),
            ("chatId=2&instance_id=3", Some(NotMerged::AmbiguousInstance)),
        ] {
            assert_eq!(reason(&line(query)), expected, "{query}");
        }
        for (name, expected) in [
            ("multipart_file", Some(NotMerged::MultipartFile)),
            ("alone", None),
            ("something", None),
        ] {
            let text = format!("{OWN_TEXT} not_merged={name}");
            assert_eq!(reason(&text), expected, "{name}");
            let json = OWN_JSON.replacen('{', &format!(r#"{{"not_merged":"{name}","#), 1);
            assert_eq!(reason(&json), expected, "{name}");
        }
    }

    #[test]
    fn lines_in_no_known_format_are_reported() {
        for line in [
            "",
            "{",
            "{}",
            "hello",
            r#"h - - [31/Foo/2026:06:45:01 +0000] "GET / HTTP/1.1" 200 1"#,
            r#"h - - [25/Nov/2026:06:45:01 +0000] "nonsense" 400 1"#,
            r#"{"time":"soon","method":"GET","path":"/"}"#,
            r#"{"log":"hello","time":"2026-11-25T07:00:00Z"}"#,
        ] {
            assert_eq!(read(line).err(), Some(LineError::Unknown), "{line}");
        }
        let sampled = r#"{"time":"2026-11-25T06:45:01Z","method":"GET","path":"/","sampled":10}"#;
        assert_eq!(read(sampled).err(), Some(LineError::Sampled));
        let sampled = format!("{OWN_TEXT} sampled=10");
        assert_eq!(read(&sampled).err(), Some(LineError::Sampled));
    }
}
