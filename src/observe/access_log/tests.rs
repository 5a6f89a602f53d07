//! What may be told, and that nobody waits for it to be written.

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
fn a_path_is_told_by_its_words() {
    for (path, told) in [
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
            "/an-endless-word-that-nobody-would-ever-name-an-endpoint",
            "/…",
        ),
    ] {
        assert_eq!(clean::path(path), told, "{path}");
    }
    let long = clean::path(&"/word".repeat(1000));
    assert!(long.len() <= 256 && long.ends_with('…'), "{long}");
}

#[test]
fn credentials_of_the_request_are_told_nowhere() {
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
        let guard = clean::Guard::new(None, &head);
        assert!(
            !guard.allows(token) && !guard.allows(&format!("x{token}y")),
            "{target}"
        );
        assert!(
            guard.allows("Letters") && guard.allows("Bearer"),
            "{target}"
        );
    }
    // As it was written, too.
    let encoded = head("/?access_token=Letters-And%2EWords", &[]);
    let guard = clean::Guard::new(None, &encoded);
    assert!(!guard.allows("Letters-And%2EWords"));
    // What only begins like one is none.
    let other = head("/?access_tokens=Letters-And.Words", &[]);
    assert!(clean::Guard::new(None, &other).allows(token));
    // A short one hides nothing but itself.
    let head = head("/?access_token=1", &[]);
    let guard = clean::Guard::new(None, &head);
    assert!(!guard.allows("1") && guard.allows("123"));
}

#[test]
fn the_clients_own_id_is_told_where_it_has_one() {
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
        assert_eq!(clean::request_id(&head("/", fields)), id);
    }
    let long = "a".repeat(500);
    let head = head("/", &[("x-request-id", &long)]);
    assert_eq!(clean::request_id(&head).map(str::len), Some(128));
}

/// Takes nothing until it is allowed to.
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
async fn nobody_waits_for_a_reader_that_is_stuck() {
    let metrics = Metrics::new(1);
    let log = Arc::new(AccessLog::new(&Config::default().log, None));
    let sink = Stuck::default();
    let shut = sink.gate.lock().unwrap();
    log.write_to(Box::new(sink.clone()), &metrics).unwrap();
    let head = head("/v2/chats", &[]);
    let total = 20_000;
    for _ in 0..total {
        let mut trail = log.begin(&head, Route::Other);
        trail.answered(StatusCode::OK, None);
        trail.end(1, true, Duration::from_millis(1));
    }
    // Nor for ever when everything ends.
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
        .end(0, true, Duration::ZERO);
    log.flush(Duration::from_secs(20));
    assert_eq!(metrics.access_log_dropped.get(), 1);
}

#[test]
fn off_costs_nothing_but_a_look() {
    let log = Arc::new(AccessLog::new(&Config::default().log, None));
    let mut trail = log.begin(&head("/", &[]), Route::Other);
    assert!(trail.record.is_none() && trail.request_bytes().is_none());
}
