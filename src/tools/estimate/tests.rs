//! Estimates of whole logs.

use std::io::Cursor;

use super::*;
use crate::config::BatchEdge;

fn of(text: impl Into<String>) -> Result<Report, Error> {
    let input: Box<dyn Read> = Box::new(Cursor::new(text.into().into_bytes()));
    estimate(&Config::default(), vec![("log".into(), input)])
}

fn receipt(millis: u32, chat: usize) -> String {
    format!(
        "{{\"time\":\"2026-11-25T06:45:{:02}.{:03}Z\",\"method\":\"POST\",\"path\":\"/v2/send/seen\",\"instance\":\"1\",\"ids\":1,\"merge_key\":\"{chat:016x}\"}}\n",
        millis / 1000,
        millis % 1000
    )
}

#[test]
fn receipts_within_a_window_share_a_call_in_any_order_of_their_lines() {
    let log = [49, 0, 51, 20, 70].map(|at| receipt(at, 1)).concat();
    let report = of(log).unwrap();
    // 0, 20 and 49 together, then 51 and 70.
    assert_eq!((report.saved(), report.refused()), (3, 0));
}

#[test]
fn requests_of_an_instance_beyond_its_quota_are_refused() {
    let log: String = (0..100).map(|chat| receipt(0, chat)).collect();
    // 20 after the window, and 39 in the rest of the four seconds that a request may wait.
    assert_eq!(of(log).unwrap().refused(), 41);
}

#[test]
fn lines_in_no_known_format_are_counted_and_never_shown() {
    let log = format!(
        "{}SECRET-TOKEN is no line\n\n{}",
        receipt(0, 1),
        receipt(9, 1)
    );
    let text = of(log).unwrap().to_string();
    assert!(
        text.contains("2 lines not understood, the first is log:2"),
        "{text}"
    );
    assert!(!text.contains("SECRET"), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}

#[test]
fn a_sampled_an_empty_and_a_missing_log_are_refused() {
    let sampled = receipt(0, 1).replace("\"ids\"", "\"sampled\":10,\"ids\"");
    let error = of(format!("{}{sampled}", receipt(0, 1))).unwrap_err();
    assert!(
        error.to_string().starts_with("log:2: the log is sampled"),
        "{error}"
    );
    assert!(matches!(of("x\ny\n"), Err(Error::Empty { lines: 2 })));
    let nowhere = run(&Config::default(), &["/nowhere/at/all".into()]);
    assert!(matches!(nowhere, Err(Error::Io { .. })));
}

#[test]
fn very_long_lines_are_skipped() {
    let endless = "x".repeat(1 << 20);
    let report = of(format!("{}{endless}\n{}", receipt(0, 1), receipt(9, 1))).unwrap();
    assert_eq!(report.saved(), 1);
    assert!(report.to_string().contains("1 lines not understood"));
}

#[test]
fn requests_with_whole_seconds_are_spread_over_the_second() {
    let line = "h - - [25/Nov/2026:06:45:01 +0000] \"POST /v2/send/seen?instance_id=1&chatId=2 HTTP/1.1\" 201 1\n";
    // 100 ms apart: 50 ms do not hold two of them.
    let report = of(line.repeat(10)).unwrap();
    assert_eq!(report.saved(), 0);
    assert!(
        report
            .to_string()
            .contains("10 requests have a time in whole seconds")
    );
}

/// Several logs, named in this order.
fn logs(texts: &[String]) -> Report {
    let logs = texts.iter().enumerate().map(|(n, text)| {
        let input: Box<dyn Read> = Box::new(Cursor::new(text.clone().into_bytes()));
        (format!("log{n}").into(), input)
    });
    estimate(&Config::default(), logs.collect()).unwrap()
}

fn at(second: u64, millis: u64, chat: u64) -> String {
    let (minute, second) = (second / 60, second % 60);
    let (hour, minute) = (6 + minute / 60, minute % 60);
    format!(
        "{{\"time\":\"2026-11-25T{hour:02}:{minute:02}:{second:02}.{millis:03}Z\",\"method\":\"POST\",\"path\":\"/v2/send/seen\",\"instance\":\"1\",\"ids\":1,\"merge_key\":\"{chat:016x}\"}}\n"
    )
}

#[test]
fn logs_of_one_period_after_another_may_be_named_in_any_order() {
    let log = |from: u64| -> String {
        let second = |n| at(from + n, 0, n) + &at(from + n, 20, n);
        (0..300).map(second).collect()
    };
    let texts = [log(0), log(2000), log(4000)];
    let of = |order: [usize; 3]| logs(&order.map(|n| texts[n].clone()));
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let report = of(order);
        assert_eq!((report.saved(), report.refused()), (900, 0), "{order:?}");
        assert!(!report.to_string().contains("left out"), "{report}");
    }
}

#[test]
fn logs_of_replicas_become_one() {
    let log = |millis: u64| -> String { (0..300).map(|n| at(n, millis, n)).collect() };
    // Receipts that arrived together are in different logs.
    let report = logs(&[log(0), log(20)]);
    assert_eq!((report.saved(), report.refused()), (300, 0));
}

#[test]
fn requests_far_out_of_order_are_left_out_and_reported() {
    let log = |from: u64| -> String { (0..300).map(|n| at(from + n, 0, n)).collect() };
    let report = of(log(2000) + &log(0)).unwrap();
    let text = report.to_string();
    assert!(
        text.contains("300 requests are left out, because they took more than a minute")
            && text.contains("log:301,\n  after a request that arrived 2299 s later"),
        "{text}"
    );
    assert_eq!((report.saved(), report.refused()), (0, 0));
    // A request may end, and so be logged, a minute after its arrival.
    let tidy = of(at(59, 0, 1) + &at(0, 0, 2)).unwrap().to_string();
    assert!(!tidy.contains("left out"), "{tidy}");
}

#[test]
fn whole_seconds_of_two_logs_are_spread_over_the_same_second() {
    let line = |chat: u64| {
        format!(
            "h - - [25/Nov/2026:06:45:01 +0000] \"POST /v2/send/seen?instance_id=1&chatId={chat} HTTP/1.1\" 201 1\n"
        )
    };
    let log: String = (0..10).map(line).collect();
    // One after the other they would be half a second apart.
    assert_eq!(logs(&[log.clone(), log]).saved(), 10);
}

#[test]
fn exact_times_sort_between_spread_seconds() {
    let coarse = "h - - [25/Nov/2026:06:00:00 +0000] \"POST /v2/send/text?instance_id=1 HTTP/1.1\" 201 1 \"-\" \"-\" 1 \"r\" \"u\" ";
    let mut order = arrival_order::ArrivalOrder::default();
    let config = Config::default();
    let reader = LineReader::new(&config);
    for line in [
        format!("{coarse}0ms"),
        format!("{coarse}0ms"),
        at(0, 250, 1),
    ] {
        let read = reader.read(line.trim_end()).unwrap();
        assert!(order.push(read.arrival, read.is_coarse, 0));
    }
    let mut ready = Vec::new();
    order.finish(&mut ready);
    let millis: Vec<_> = ready
        .iter()
        .map(|call| call.at / 1_000_000 % 1000)
        .collect();
    assert_eq!(millis, [0, 250, 500]);
}

#[test]
fn requests_without_an_instance_are_left_out() {
    let line = "h - - [25/Nov/2026:06:45:01 +0000] \"POST /v2/send/text HTTP/1.1\" 201 1\n";
    let withheld = receipt(0, 1).replace("\"1\"", "\"…\"");
    let text = format!("{}{withheld}", line.repeat(500));
    let blind = of(text.as_str()).unwrap();
    assert_eq!((blind.saved(), blind.refused()), (0, 0));
    let blind = blind.to_string();
    assert!(
        blind.contains("501 requests are left out, because the log does not show their instance")
            && blind.contains("limit.rate: no recommendation")
            && !blind.contains("limit.rate ="),
        "{blind}"
    );
    let receipts: String = (0..60).map(|n| at(n, 0, n) + &at(n, 9, n)).collect();
    let both = of(text + &receipts).unwrap();
    assert_eq!((both.saved(), both.refused()), (60, 0));
}

#[test]
fn settings_are_recommended_with_enough_evidence_only() {
    let has = |text: &str, window: &str, rate: &str| {
        assert!(text.contains(&format!("\nbatch.window{window}")), "{text}");
        assert!(text.contains(&format!("\nlimit.rate{rate}")), "{text}");
        let hint = text.contains("batch.mode = \"observe\"");
        assert_eq!(hint, window.starts_with(':'), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    };
    let enough: String = (0..60).map(|n| at(n, 0, n) + &at(n, 9, n)).collect();
    let text = of(enough.as_str()).unwrap().to_string();
    has(&text, " = \"20ms\"", " = 5");
    // Too few requests.
    let text = of(receipt(0, 1) + &receipt(9, 1)).unwrap().to_string();
    has(&text, ": no recommendation", ": no recommendation");
    // nginx shows the instance but not the chat, which is in the body.
    let nginx =
        "h - - [25/Nov/2026:06:45:01 +0000] \"POST /v2/send/seen?instance_id=1 HTTP/1.1\" 201 1\n";
    let text = of(nginx.repeat(100)).unwrap().to_string();
    has(&text, ": no recommendation", " = ");
    // Receipts of different chats do not merge.
    let apart: String = (0..100).map(|n| at(n, 0, n)).collect();
    let text = of(apart.as_str()).unwrap().to_string();
    has(&text, ": no recommendation, because no receipts", " = 5");
    // A file with some lines of a log in it.
    let text = of(enough + &"no log\n".repeat(200)).unwrap().to_string();
    has(
        &text,
        ": no recommendation, because most lines",
        ": no recommendation",
    );
}

#[test]
fn compressed_logs_are_read() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let log = [0, 20].map(|at| receipt(at, 1)).concat();
    std::io::Write::write_all(&mut gzip, log.as_bytes()).unwrap();
    // Rotated logs are often joined: several members in one file.
    let compressed = gzip.finish().unwrap().repeat(2);
    let input: Box<dyn Read> = Box::new(Cursor::new(compressed.clone()));
    let report = estimate(&Config::default(), vec![("log.gz".into(), input)]).unwrap();
    assert_eq!((report.saved(), report.refused()), (3, 0));
    let input: Box<dyn Read> = Box::new(Cursor::new(compressed[..20].to_vec()));
    let broken = estimate(&Config::default(), vec![("log.gz".into(), input)]);
    assert!(matches!(broken, Err(Error::Io { .. })));
}

#[test]
fn three_rows_are_shown_unmerged_in_force_and_advised() {
    let log: String = (0..60).map(|n| at(n, 0, n) + &at(n, 9, n)).collect();
    let text = of(log).unwrap().to_string();
    let rows = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(
        (
            rows("unmerged 0ms, 10/s "),
            rows("in force 50ms, 10/s "),
            rows("advised 20ms, 5/s ")
        ),
        (1, 1, 1),
        "{text}"
    );
    let table = text.lines().filter(|line| line.ends_with(" -/-"));
    assert_eq!(table.count(), 3, "{text}");
}

#[test]
fn the_page_shows_every_trial_and_requests_nothing() {
    let log: String = (0..60).map(|n| at(n, 0, n) + &at(n, 9, n)).collect();
    let report = of(log + "SECRET-TOKEN is no line\n").unwrap();
    let page = report.page();
    for text in [
        "<b>120</b>",
        "60 <small>50 %",
        "Calls saved by window and rate",
        "2026-11-25 06:",
    ] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
    assert_eq!(page.matches("<rect").count(), report.trials.len());
    assert!(!page.contains("SECRET"), "{page}");
    for trace in ["://", "<script", "<img", "<link", "url(", "src="] {
        assert!(!page.contains(trace), "{trace} is in {page}");
    }
}

#[test]
fn with_the_leading_edge_a_burst_costs_one_more_call_and_a_loop_waits_for_no_window() {
    let line = |at: u32, took: &str| {
        receipt(at, 1).replace("\"ids\"", &format!("\"upstream_time\":{took},\"ids\""))
    };
    let saved = |edge, log: String| {
        let mut config = Config::default();
        config.batch.edge = edge;
        let input: Box<dyn Read> = Box::new(Cursor::new(log.into_bytes()));
        estimate(&config, vec![("log".into(), input)])
            .unwrap()
            .saved()
    };
    let burst = || (0..40).map(|at| line(at, "0.02")).collect::<String>();
    assert_eq!(saved(BatchEdge::Trailing, burst()), 39);
    assert_eq!(saved(BatchEdge::Leading, burst()), 38);
    // The first call takes 300 ms: the receipts at 100 and 140 share a window.
    let slow = || [0, 100, 140].map(|at| line(at, "0.3")).concat();
    assert_eq!(saved(BatchEdge::Leading, slow()), 1);
    let fast = || [0, 100, 140].map(|at| line(at, "0.03")).concat();
    assert_eq!(saved(BatchEdge::Leading, fast()), 0);
}

#[test]
fn calls_of_a_class_wait_for_a_place_as_long_as_the_log_shows() {
    let line = |at: u32| {
        format!(
            "{{\"time\":\"2026-11-25T06:45:00.{at:03}Z\",\"method\":\"POST\",\"path\":\"/v2/send/text\",\"instance\":\"1\",\"upstream_time\":1.5}}\n"
        )
    };
    let refused = |instances: &str| {
        let file = format!(
            "[limit.class]\nname = \"sends\"\npaths = [\"/v2/send/*\"]\n{instances}rate = 0\nmax_in_flight = 1\n"
        );
        let file = file.replace("[limit.class]", "[[limit.class]]");
        let overrides = crate::config::Overrides::default();
        let config = crate::config::load_text(file.as_bytes(), std::iter::empty(), &overrides);
        let log: String = (0..6).map(line).collect();
        let input: Box<dyn Read> = Box::new(Cursor::new(log.into_bytes()));
        estimate(&config.unwrap().config, vec![("log".into(), input)])
            .unwrap()
            .refused()
    };
    // One goes at once, and within four seconds one after 1.5 s and one after 3 s.
    assert_eq!(refused(""), 3);
    assert_eq!(refused("instances = [\"2\"]\n"), 0);
}
