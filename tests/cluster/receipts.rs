//! Receipts of one chat that reach three gateways leave as one upstream call.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{self, Instant, sleep};

use super::gateways::{BUDGET, Gateways, MAX_WAIT};
use super::laws::CALLER_SLACK;
use super::load::{self, Outcome};
use super::recorder::{Arrival, CALL};

/// Callers that send receipts of one chat at the same time.
const CALLERS: usize = 12;
/// From one group of them to the next: below the rate, with a call for each gateway.
const EVERY: Duration = Duration::from_millis(250);

/// Groups of receipts, for this time. The id of an outcome is that of its message.
fn send(port: u16, length: Duration) -> JoinHandle<Vec<Outcome>> {
    tokio::spawn(async move {
        let mut ticks = time::interval(EVERY);
        let end = Instant::now() + length;
        let (mut callers, mut group) = (JoinSet::new(), 0);
        while Instant::now() < end {
            ticks.tick().await;
            for caller in 0..CALLERS {
                callers.spawn(receipt(port, group, caller));
            }
            group += 1;
        }
        callers.join_all().await
    })
}

async fn receipt(port: u16, group: usize, caller: usize) -> Outcome {
    let chat = format!("4915{group}@c.us");
    let id = format!("false_{chat}_M{caller}");
    let body = format!("{{\"chatId\":\"{chat}\",\"messageIds\":[\"{id}\"]}}");
    let token = load::token("1");
    let request = format!(
        "POST /v2/send/seen?instance_id=1&access_token={token} HTTP/1.1\r\nHost: a\r\n\
         Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    load::outcome(id, load::send_raw(port, &request)).await
}

/// Every caller has the response to a call that was made after its request and carried its id, and
/// nothing else was sent. Returns the calls for each group.
fn judge(outcomes: &[Outcome], arrivals: &[Arrival], may_fail: impl Fn(&Outcome) -> bool) -> f64 {
    let mut calls: HashMap<&str, Vec<Instant>> = HashMap::new();
    for arrival in arrivals {
        for id in &arrival.ids {
            calls.entry(id).or_default().push(arrival.at);
        }
    }
    for outcome in outcomes {
        let calls = calls.remove(&*outcome.id).unwrap_or_default();
        let end = outcome.begun + outcome.took;
        let is_carried = calls.iter().any(|at| (outcome.begun..end).contains(at));
        assert!(
            outcome.status == 200 && is_carried || may_fail(outcome),
            "{outcome:?}: {calls:?}"
        );
        assert!(
            outcome.took <= MAX_WAIT + CALL + CALLER_SLACK,
            "{outcome:?}"
        );
    }
    assert!(calls.is_empty(), "sent without a caller: {calls:?}");
    BUDGET.holds("receipts", arrivals);
    let groups = outcomes.len() / CALLERS;
    let calls = arrivals.len() as f64 / groups as f64;
    println!("{groups} groups of {CALLERS} callers: {calls:.2} calls each");
    calls
}

#[tokio::test]
async fn receipts_of_one_chat_share_a_call_while_nothing_fails() {
    let all = Gateways::start([1; 3]).await;
    let outcomes = send(all.port, Duration::from_secs(8)).await.unwrap();
    let calls = judge(&outcomes, &all.upstream.arrivals(), |_| false);
    // One, unless a process waits for its processor until the window of another has ended. Without a
    // cluster there are three.
    assert!(calls < 1.5, "{calls} calls");
    for gateway in &all.gateways {
        assert!(!gateway.shows("cluster_merges_total{role=\"follow\"} 0\n"));
    }
}

#[tokio::test]
async fn receipts_get_their_responses_while_the_server_hangs() {
    let all = Gateways::start([1; 3]).await;
    let load = send(all.port, Duration::from_secs(8));
    sleep(Duration::from_secs(2)).await;
    all.server.signal(Signal::STOP);
    sleep(Duration::from_secs(3)).await;
    all.server.signal(Signal::CONT);
    let outcomes = load.await.unwrap();
    let calls = judge(&outcomes, &all.upstream.arrivals(), |_| false);
    assert!(calls < 3.0, "{calls} calls");
}

#[tokio::test]
async fn a_gateway_that_is_killed_with_open_batches_loses_only_its_own_callers() {
    let mut all = Gateways::start([1; 3]).await;
    let load = send(all.port, Duration::from_secs(6));
    // Within the window of a group.
    sleep(2 * Duration::from_secs(1) + Duration::from_millis(20)).await;
    all.gateways[0].kill();
    let killed = Instant::now();
    let outcomes = load.await.unwrap();
    let was_there = |outcome: &Outcome| {
        outcome.begun < killed + Duration::from_secs(1) && outcome.begun + outcome.took >= killed
    };
    let is_own = |outcome: &Outcome| outcome.status != 429 && was_there(outcome);
    judge(&outcomes, &all.upstream.arrivals(), is_own);
    let failed = outcomes.iter().filter(|it| it.status != 200).count();
    println!("{failed} failed");
    assert!(failed <= 3 * CALLERS, "{failed} failed");
}
