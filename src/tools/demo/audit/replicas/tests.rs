//! Each check of several gateways fails when its condition is broken, and a crash explains no more
//! than what was at the gateway.

use std::num::NonZeroU32;

use http::{HeaderValue, StatusCode};

use super::super::tests::{marked, receipt, send, sent};
use super::*;
use crate::tools::demo::figures::{Figures, Pair};

const QUOTA: Quota = Quota {
    rate: 10.0,
    burst: NonZeroU32::new(20).unwrap(),
};

fn upstream(gateway: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7_001 + u16::try_from(gateway).unwrap()))
}

/// Three gateways, of which the last was killed.
fn replicas() -> Replicas {
    Replicas {
        upstreams: (0..3).map(upstream).collect(),
        quota: Some(QUOTA),
        killed: Some(Killed {
            gateway: 2,
            after: Duration::from_secs(4),
        }),
    }
}

fn at(gateway: usize, observed: Observed) -> Observed {
    Observed {
        gateway,
        ..observed
    }
}

fn lost(observed: Observed) -> Observed {
    Observed {
        end: End::Lost,
        ..observed
    }
}

fn from(gateway: usize, mut call: Call) -> Call {
    let host = HeaderValue::from_str(&upstream(gateway).to_string());
    call.headers.insert(HOST, host.unwrap());
    call
}

/// Two receipts of one chat and a text, at the three gateways.
fn apps() -> [Observed; 3] {
    [at(0, receipt("a")), at(1, receipt("b")), at(2, send("x"))]
}

fn calls() -> [Call; 2] {
    [from(0, marked("c", &["a", "b"])), from(2, sent("x"))]
}

/// What the first two gateways count for [`apps`] and [`calls`].
fn figures() -> Figures {
    Figures {
        receipts: Pair {
            by_apps: 2,
            upstream: 1,
        },
        saved: 1,
        ..Figures::default()
    }
}

fn judge<T>(
    apps: &[Observed],
    sandbox: &[Call],
    replicas: &Replicas,
    of: impl FnOnce(&Accounts<'_>) -> T,
) -> T {
    of(&Accounts {
        apps,
        gateway: &figures(),
        sandbox,
        received: sandbox.len() as u64,
        ended: &check(true, String::new()),
        replicas: Some(replicas),
    })
}

/// The numbers of the checks that fail: 8 is the budget, 9 are the shared calls, 10 is the crash.
fn broken(apps: &[Observed], sandbox: &[Call]) -> Vec<usize> {
    let checks = judge(apps, sandbox, &replicas(), |it| it.checks());
    let checks = checks.into_iter().enumerate();
    let failed = checks.filter(|(_, check)| !check.passed);
    failed.map(|(index, _)| index).collect()
}

#[test]
fn correct_records_pass_every_check() {
    assert!(broken(&apps(), &calls()).is_empty());
}

#[test]
fn a_crash_explains_a_lost_text_and_an_abandoned_receipt() {
    let [a, b, x] = apps();
    // The text may have arrived or not.
    let lost_text = lost(x.clone());
    let all = [a.clone(), b.clone(), lost_text.clone()];
    assert!(broken(&all, &calls()).is_empty());
    assert!(broken(&all, &calls()[..1]).is_empty());
    let hung_up = Observed {
        end: End::HungUp,
        ..at(2, receipt("e"))
    };
    let all = [a.clone(), b.clone(), x.clone(), hung_up.clone()];
    assert!(broken(&all, &calls()).is_empty());
    let arrival = judge(&all, &calls(), &replicas(), |it| it.checks().swap_remove(0));
    assert!(
        arrival.text.contains("2 of 3, 1 abandoned"),
        "{}",
        arrival.text
    );
    // Nothing of that at a gateway that was not killed.
    let all = [a.clone(), b.clone(), at(0, lost_text)];
    assert_eq!(broken(&all, &calls()[..1]), [2, 3, 4, 10]);
    let all = [a, b, x, at(1, hung_up)];
    assert_eq!(broken(&all, &calls()), [0, 4]);
}

#[test]
fn a_lost_response_must_come_from_another_gateway() {
    let [a, b, x] = apps();
    let again = Observed {
        lost_at: vec![2],
        ..b
    };
    let all = [a.clone(), again.clone(), x.clone()];
    assert!(broken(&all, &calls()).is_empty());
    let failed = Observed {
        end: End::Failed("refused".to_owned()),
        ..again.clone()
    };
    assert_eq!(broken(&[a.clone(), failed, x.clone()], &calls()), [3, 10]);
    let elsewhere = Observed {
        lost_at: vec![0],
        ..again
    };
    // Its id was at both gateways, so the call is no proof that they share calls.
    assert_eq!(broken(&[a, elsewhere, x], &calls()), [9, 10]);
}

#[test]
fn calls_of_one_gateway_only_are_no_shared_calls() {
    let [a, b, x] = apps();
    assert_eq!(broken(&[a, at(0, b), x], &calls()), [9]);
}

#[test]
fn the_figures_of_the_killed_gateway_are_not_expected() {
    // One more call of a gateway that counts its calls.
    let [merged, text] = calls();
    assert_eq!(broken(&apps(), &[merged, from(1, text)]), [5]);
}

#[test]
fn a_demo_that_was_stopped_before_the_crash_is_judged_without_it() {
    let stopped = Replicas {
        killed: None,
        ..replicas()
    };
    let checks = judge(&[], &[], &stopped, |accounts| accounts.checks_of(&stopped));
    assert_eq!(checks.len(), 1);
    assert!(checks[0].passed);
}

#[test]
fn each_part_is_what_the_apps_and_the_sandbox_saw() {
    let [a, b, x] = apps();
    let again = Observed {
        lost_at: vec![2],
        ..b
    };
    let parts = judge(&[a, again, x], &calls(), &replicas(), |accounts| {
        accounts.parts(&replicas())
    });
    let part = |requests, calls, shared_calls, ids_of_others| Part {
        requests,
        calls,
        shared_calls,
        ids_of_others,
    };
    assert_eq!(
        parts,
        [part(1, 1, 1, 1), part(1, 0, 0, 0), part(2, 1, 0, 0)]
    );
}

#[test]
fn the_table_counts_what_arrived() {
    let [a, b, x] = apps();
    let hung_up = Observed {
        end: End::HungUp,
        ..at(2, receipt("e"))
    };
    let refused = Observed {
        end: End::Response(StatusCode::TOO_MANY_REQUESTS),
        ..send("y")
    };
    let all = [a, b, x, hung_up, refused];
    let figures = judge(&all, &calls(), &replicas(), |it| it.figures());
    let expected = Figures {
        receipts: Pair {
            by_apps: 3,
            upstream: 1,
        },
        others: Pair {
            by_apps: 2,
            upstream: 1,
        },
        // The abandoned one never arrived.
        saved: 1,
        refused: 1,
        in_flight: 0,
    };
    assert_eq!(figures, expected);
}

/// Calls of the instance beyond its limit at these times, in milliseconds.
fn campaign(times: impl IntoIterator<Item = u64>) -> Vec<Call> {
    let began = Instant::now();
    let call = |millis| Call {
        at: began + Duration::from_millis(millis),
        instance: Some(CAMPAIGN.to_owned()),
        ..marked("c", &[])
    };
    times.into_iter().map(call).collect()
}

#[test]
fn a_budget_is_that_of_one_bucket_with_the_delays_of_a_busy_machine() {
    let judge = |times: &mut dyn Iterator<Item = u64>| {
        let check = judge(&[], &campaign(times), &replicas(), |accounts| {
            accounts.budget_is_shared(QUOTA)
        });
        (check.passed, check.text)
    };
    // A quiet second, the burst, and the rate.
    let one_bucket = || {
        let burst = std::iter::repeat_n(1_000, 20);
        [0].into_iter()
            .chain(burst)
            .chain((1_100..6_000).step_by(100))
    };
    let (passed, text) = judge(&mut one_bucket());
    assert!(passed, "{text}");
    assert!(text.contains("at most 29 in a second"), "{text}");
    // Six may be late; with seven, more than one bucket was used.
    assert!(judge(&mut one_bucket().chain([3_000; 6])).0);
    let (passed, text) = judge(&mut one_bucket().chain([3_000; 7]));
    assert!(!passed, "{text}");
    // A second bucket of the same size that is used from the third second on.
    let (passed, text) = judge(&mut one_bucket().chain((3_050..6_000).step_by(100)));
    assert!(!passed, "{text}");
    assert!(judge(&mut std::iter::empty()).0);
}

#[test]
fn calls_are_counted_by_the_second() {
    let began = Instant::now();
    let calls = campaign([500, 600, 2_700]);
    let seconds = judge(&[], &calls, &replicas(), |accounts| {
        accounts.calls_by_second(began)
    });
    assert_eq!(seconds, [2, 0, 1]);
}
