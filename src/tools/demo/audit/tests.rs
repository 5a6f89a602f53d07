//! Every check fails when its condition is broken.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};
use serde_json::json;

use super::super::plan::DemoRequest;
use super::*;

pub(super) fn observed(operation: Operation) -> Observed {
    Observed {
        request: DemoRequest {
            instance: "i".to_owned(),
            operation,
        },
        took: Duration::from_millis(130),
        end: End::Response(StatusCode::CREATED),
        gateway: 0,
        lost_at: Vec::new(),
    }
}

pub(super) fn receipt(id: &str) -> Observed {
    let chat = "c".to_owned();
    let id = id.to_owned();
    observed(Operation::Receipt { chat, id })
}

pub(super) fn send(text: &str) -> Observed {
    let chat = "c".to_owned();
    let text = text.to_owned();
    observed(Operation::Text { chat, text })
}

pub(super) fn call(path: &str, ids: &[&str], body: &serde_json::Value) -> Call {
    Call {
        at: Instant::now(),
        method: Method::POST,
        target: path.to_owned(),
        headers: HeaderMap::new(),
        version: Version::HTTP_11,
        body: Bytes::from(body.to_string()),
        body_bytes: 0,
        body_complete: true,
        instance: Some("i".to_owned()),
        status: 201,
        ids: ids.iter().map(|&id| id.to_owned()).collect(),
    }
}

pub(super) fn marked(chat: &str, ids: &[&str]) -> Call {
    call(RECEIPTS, ids, &json!({ "chatId": chat }))
}

pub(super) fn sent(text: &str) -> Call {
    call(TEXTS, &[], &json!({ "message": text }))
}

/// The numbers of the checks that fail with these figures of the gateway.
fn broken(apps: &[Observed], sandbox: &[Call], gateway: Figures, drained: bool) -> Vec<usize> {
    let accounts = Accounts {
        apps,
        gateway: &gateway,
        sandbox,
        received: sandbox.len() as u64,
        ended: &check(drained, String::new()),
        replicas: None,
    };
    let checks = accounts.checks().into_iter().enumerate();
    checks
        .filter(|(_, check)| !check.passed)
        .map(|(index, _)| index)
        .collect()
}

/// Two receipts that shared a call, and one send.
fn figures() -> Figures {
    Figures {
        receipts: Pair {
            by_apps: 2,
            upstream: 1,
        },
        others: Pair {
            by_apps: 1,
            upstream: 1,
        },
        saved: 1,
        ..Figures::default()
    }
}

#[test]
fn correct_records_pass_every_check() {
    let apps = [receipt("a"), receipt("b"), send("x")];
    let sandbox = [marked("c", &["a", "b"]), sent("x")];
    assert!(broken(&apps, &sandbox, figures(), true).is_empty());
    let mut hung_up = apps.clone();
    hung_up[0].end = End::HungUp;
    assert!(broken(&hung_up, &sandbox, figures(), true).is_empty());
}

#[test]
fn each_check_fails_for_its_own_reason() {
    let apps = [receipt("a"), receipt("b"), send("x")];
    let judge = |sandbox: &[Call]| broken(&apps, sandbox, figures(), true);
    assert_eq!(judge(&[marked("c", &["a"]), sent("x")]), [0], "lost id");
    assert_eq!(
        judge(&[marked("d", &["a", "b"]), sent("x")]),
        [0, 1],
        "another chat's call"
    );
    let mut refused = marked("c", &["a", "b"]);
    refused.status = 500;
    assert_eq!(judge(&[refused, sent("x")]), [0], "not accepted");
    assert_eq!(judge(&[marked("c", &["a", "b"])]), [2, 5], "lost send");
    assert_eq!(
        judge(&[marked("c", &["a", "b"]), sent("x"), sent("x")]),
        [2, 5],
        "duplicated send"
    );
    let sandbox = [marked("c", &["a", "b"]), sent("x")];
    assert_eq!(broken(&apps, &sandbox, figures(), false), [7]);

    let mut failed = apps.clone();
    failed[2].end = End::Failed("connection reset".to_owned());
    assert_eq!(broken(&failed, &sandbox, figures(), true), [3]);
    failed[2].end = End::Response(StatusCode::BAD_GATEWAY);
    assert_eq!(broken(&failed, &sandbox, figures(), true), [3]);
}

#[test]
fn figures_that_do_not_add_up_fail() {
    let apps = [receipt("a"), receipt("b"), send("x")];
    let sandbox = [marked("c", &["a", "b"]), sent("x")];
    let judge = |figures| broken(&apps, &sandbox, figures, true);
    let mut wrong = figures();
    wrong.others.by_apps = 2;
    assert_eq!(judge(wrong), [4]);
    wrong = figures();
    wrong.others.upstream = 0;
    assert_eq!(judge(wrong), [5]);
    wrong = figures();
    wrong.saved = 2;
    assert_eq!(judge(wrong), [6]);
}

#[test]
fn a_refused_request_is_neither_lost_nor_uncounted() {
    let mut apps = [receipt("a"), receipt("b"), send("x")];
    apps[2].end = End::Response(StatusCode::TOO_MANY_REQUESTS);
    let sandbox = [marked("c", &["a", "b"])];
    let mut figures = figures();
    figures.others.upstream = 0;
    figures.refused = 1;
    assert!(broken(&apps, &sandbox, figures, true).is_empty());
    figures.refused = 0;
    assert_eq!(broken(&apps, &sandbox, figures, true), [3]);
}

#[test]
fn growth_is_an_average_by_the_second() {
    let began = Instant::now();
    let at = |millis, ids: &[&str]| Call {
        at: began + Duration::from_millis(millis),
        instance: Some(CAMPAIGN.to_owned()),
        ..marked("c", ids)
    };
    let calls = [at(10, &["a"]), at(900, &["b", "c", "d"]), at(2_100, &["e"])];
    let accounts = Accounts {
        apps: &[],
        gateway: &Figures::default(),
        sandbox: &calls,
        received: 3,
        ended: &check(true, String::new()),
        replicas: None,
    };
    assert_eq!(accounts.growth(began), [Some(2), None, Some(1)]);
}
