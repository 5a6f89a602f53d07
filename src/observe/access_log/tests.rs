//! Which text is logged, and that no request waits for the log.

use std::io;
use std::sync::Mutex;

use http::Request;

use super::*;
use crate::config::Config;

fn head(target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn only_words_of_a_path_are_logged() {
    for (path, logged) in [
        ("/v2/send/seen", "/v2/send/seen"),
        ("/wp-json/awp/v1/sendSeen", "/wp-json/awp/v1/sendSeen"),
        ("/", "/"),
        ("*", "…"),
        ("/v2/4915112345678", "/v2/…"),
        ("/v2/1@c.us/x", "/v2/…/x"),
        ("/v2/s3cr3t/T0ken+with=signs", "/v2/…/…"),
        ("/a%0ab/%1b[31m", "/…/…"),
        ("/AbCdEfGh", "/…"),
        ("/v2//x", "/v2//x"),
        ("/abc123", "/…"),
        (
            "/an-endless-word-that-could-not-be-that-of-an-endpoint",
            "/…",
        ),
    ] {
        assert_eq!(sanitize::path(path), logged, "{path}");
    }
    let long = sanitize::path(&"/word".repeat(1000));
    assert!(long.len() <= 256 && long.ends_with('…'), "{long}");
}

#[test]
fn credentials_of_the_request_are_withheld() {
    let token = "Letters-And.Words";
    for (target, fields) in [
        ("/?access_token=Letters-And%2EWords", &[][..]),
        ("/", &[("authorization", "Bearer Letters-And.Words")]),
        ("/?access_token=first&access_token=Letters-And.Words", &[]),
        ("/?access_token[]=Letters-And.Words", &[]),
        ("/?access_token%5B0%5D=Letters-And.Words", &[]),
        ("/", &[("authorization", "Bearer\tLetters-And.Words")]),
        ("/", &[("access-token", token)]),
        ("/", &[("access-token", "first"), ("access-token", token)]),
        ("/", &[("cookie", "a=b; session=\"Letters-And.Words\"; c")]),
        ("/", &[("cookie", "a=b"), ("cookie", token)]),
    ] {
        let head = head(target, fields);
        let filter = sanitize::SecretFilter::new(None, &head);
        assert!(
            !filter.allows(token) && !filter.allows(&format!("x{token}y")),
            "{target}"
        );
        assert!(
            filter.allows("Letters") && filter.allows("Bearer"),
            "{target}"
        );
    }
    // The encoded form is withheld too.
    let encoded = head("/?access_token=Letters-And%2EWords", &[]);
    let filter = sanitize::SecretFilter::new(None, &encoded);
    assert!(!filter.allows("Letters-And%2EWords"));
    // A field whose name only starts with it holds no token.
    let other = head("/?access_tokens=Letters-And.Words", &[]);
    assert!(sanitize::SecretFilter::new(None, &other).allows(token));
    // A short credential withholds only itself.
    let head = head("/?access_token=1", &[]);
    let filter = sanitize::SecretFilter::new(None, &head);
    assert!(!filter.allows("1") && filter.allows("123"));
}

#[test]
fn the_clients_own_request_id_is_logged() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    for (fields, id) in [
        (&[("x-request-id", "a-1")][..], Some("a-1")),
        (&[("traceparent", &traceparent)], Some(trace)),
        (
            &[("traceparent", &traceparent), ("x-request-id", "a")],
            Some("a"),
        ),
        (&[("traceparent", "00-zz-1-01")], None),
        (&[("x-request-id", "")], None),
        (&[("x-request-id", "\u{fc}")], None),
    ] {
        assert_eq!(sanitize::request_id(&head("/", fields)), id);
    }
    let long = "a".repeat(500);
    let head = head("/", &[("x-request-id", &long)]);
    assert_eq!(sanitize::request_id(&head).map(str::len), Some(128));
}

/// Accepts nothing while the gate is locked.
#[derive(Clone, Default)]
struct Stuck {
    gate: Arc<Mutex<()>>,
    text: Arc<Mutex<Vec<u8>>>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(self.gate.lock().unwrap());
        self.text.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_request_waits_for_a_reader_that_is_stuck() {
    let metrics = Metrics::new(1);
    let log = Arc::new(AccessLog::new(&Config::default().log, None));
    let sink = Stuck::default();
    let shut = sink.gate.lock().unwrap();
    log.write_to(Box::new(sink.clone()), &metrics).unwrap();
    let head = head("/v2/chats", &[]);
    let total = 20_000;
    for _ in 0..total {
        let mut log_entry = log.begin(&head, Route::Other);
        log_entry.set_response(StatusCode::OK, None, None);
        log_entry.finish(1, true, Duration::from_millis(1));
    }
    // The end of the program has a time limit too.
    log.flush(Duration::from_millis(20));
    assert!(metrics.access_log_dropped.get() > 0);
    drop(shut);
    log.flush(Duration::from_secs(20));
    let text = String::from_utf8(sink.text.lock().unwrap().clone()).unwrap();
    let lines = text.lines().count() as u64;
    assert_eq!(lines + metrics.access_log_dropped.get(), total);
    assert!(
        text.lines()
            .all(|line| line.contains(" GET /v2/chats 200 ")),
        "whole lines"
    );
}

#[tokio::test]
async fn an_unwritable_log_is_counted() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let metrics = Metrics::new(1);
    let log = Arc::new(AccessLog::new(&Config::default().log, None));
    log.write_to(Box::new(Broken), &metrics).unwrap();
    log.begin(&head("/", &[]), Route::Other)
        .finish(0, true, Duration::ZERO);
    log.flush(Duration::from_secs(20));
    assert_eq!(metrics.access_log_dropped.get(), 1);
}

#[test]
fn nothing_is_recorded_while_the_log_is_off() {
    let log = Arc::new(AccessLog::new(&Config::default().log, None));
    let mut log_entry = log.begin(&head("/", &[]), Route::Other);
    assert!(log_entry.record.is_none() && log_entry.request_bytes().is_none());
}
