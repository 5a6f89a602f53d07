//! Whole logs.

use std::io::Cursor;

use super::*;

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
fn receipts_within_a_window_share_a_call_in_whatever_order_they_stand() {
    let log = [49, 0, 51, 20, 70].map(|at| receipt(at, 1)).concat();
    let report = of(log).unwrap();
    // 0, 20 and 49 together, then 51 and 70.
    assert_eq!((report.saved(), report.refused()), (3, 0));
}

#[test]
fn an_instance_beyond_its_budget_has_calls_refused() {
    let log: String = (0..100).map(|chat| receipt(0, chat)).collect();
    // 20 after the window, and 39 in what is left of the four seconds that a call may wait.
    assert_eq!(of(log).unwrap().refused(), 41);
}

#[test]
fn what_is_not_understood_is_counted_and_never_shown() {
    let log = format!(
        "{}SECRET-TOKEN is no line\n\n{}",
        receipt(0, 1),
        receipt(9, 1)
    );
    let text = of(log).unwrap().to_string();
    assert!(
        text.contains("2 lines not understood, the first log:2"),
        "{text}"
    );
    assert!(!text.contains("SECRET"), "{text}");
    assert!(
        text.lines()
            .all(|line| line.chars().count() <= 100 || line.contains("in force")),
        "{text}"
    );
}

#[test]
fn a_log_that_cannot_tell_is_refused() {
    let sampled = receipt(0, 1).replace("\"ids\"", "\"sampled\":10,\"ids\"");
    let error = of(format!("{}{sampled}", receipt(0, 1))).unwrap_err();
    assert!(
        error.to_string().starts_with("log:2: a sampled log"),
        "{error}"
    );
    assert!(matches!(of("x\ny\n"), Err(Error::Empty { lines: 2 })));
    let nowhere = run(&Config::default(), &["/nowhere/at/all".into()]);
    assert!(matches!(nowhere, Err(Error::Io { .. })));
}

#[test]
fn lines_without_end_are_passed_over() {
    let endless = "x".repeat(1 << 20);
    let report = of(format!("{}{endless}\n{}", receipt(0, 1), receipt(9, 1))).unwrap();
    assert_eq!(report.saved(), 1);
    assert!(report.to_string().contains("1 lines not understood"));
}

#[test]
fn calls_of_a_whole_second_come_evenly_over_it() {
    let line = "h - - [25/Nov/2026:06:45:01 +0000] \"POST /v2/send/seen?instance_id=1&chatId=2 HTTP/1.1\" 201 1\n";
    // 100 ms apart: 50 ms do not hold two of them.
    let report = of(line.repeat(10)).unwrap();
    assert_eq!(report.saved(), 0);
    assert!(
        report
            .to_string()
            .contains("10 calls are timed to the second")
    );
}
