//! Three gateways behave as one towards the upstream, also while the server fails.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::gateways::{BUDGET, Gateways, MAX_WAIT};
use super::laws::{self, Budget, SLACK, USABLE};
use super::load::{self, Outcome};
use super::recorder::Arrival;
use super::relay::Relay;
use super::servers::{Server, Watched, until};

/// Twice the rate.
const OFFERED: u32 = 40;
const EVEN: [u32; 3] = [1; 3];

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// How long callers send: longer with `WAWP_CLUSTER_SECONDS`.
fn at_least(count: u64) -> Duration {
    let longer = std::env::var("WAWP_CLUSTER_SECONDS").ok();
    seconds(longer.map_or(count, |it| it.parse::<u64>().unwrap().max(count)))
}

/// The laws that hold in any case, without failures.
fn judge(what: &str, gateways: &Gateways, outcomes: &[Outcome]) -> Vec<Arrival> {
    let arrivals = gateways.upstream.arrivals();
    laws::each_caller_is_answered(outcomes, &arrivals, MAX_WAIT, |_| false);
    BUDGET.holds(what, &laws::of(&arrivals, "1"));
    arrivals
}

/// One line at the start of an outage, and one at its end.
fn one_outage_is_logged(gateways: &Gateways) {
    for gateway in &gateways.gateways {
        assert_eq!(gateway.logged("the cluster's server cannot be used"), 1);
        assert_eq!(gateway.logged("the cluster's server is used again"), 1);
    }
}

/// At least half of the rate was used, in this interval.
fn is_served(arrivals: &[Arrival], from: Instant, to: Instant) {
    let count = laws::between(arrivals, from, to).len() as f64;
    let permitted = BUDGET.rate * (to - from).as_secs_f64();
    println!("{count} of {permitted:.0} served");
    assert!(count >= permitted / 2.0, "{count} of {permitted:.0}");
}

#[tokio::test]
async fn requests_of_three_gateways_leave_as_from_one() {
    for (what, weights) in [("even", EVEN), ("uneven", [12, 2, 1])] {
        let all = Gateways::start(weights).await;
        let begun = Instant::now();
        let outcomes = load::send(all.port, "1", OFFERED, at_least(6))
            .await
            .unwrap();
        let arrivals = judge(what, &all, &outcomes);
        laws::in_order(&outcomes, &arrivals);
        is_served(&arrivals, begun, begun + at_least(6));
    }
}

#[tokio::test]
async fn a_server_that_hangs_leaves_each_gateway_its_share() {
    let all = Gateways::start(EVEN).await;
    let shared = load::send(all.port, "1", OFFERED, at_least(9));
    // All of this instance at one gateway.
    let alone = load::send(all.gateways[0].port, "2", OFFERED, at_least(9));
    sleep(seconds(2)).await;
    all.server.signal(Signal::STOP);
    let stopped = Instant::now();
    sleep(seconds(4)).await;
    let back = Instant::now();
    all.server.signal(Signal::CONT);
    println!("shared again after {:?}", all.until_shared().await);
    assert!(back.elapsed() < seconds(3) + laws::CALLER_SLACK);
    let outcomes = [shared.await.unwrap(), alone.await.unwrap()].concat();
    one_outage_is_logged(&all);
    let arrivals = judge("hang", &all, &outcomes);
    let alone = laws::of(&arrivals, "2");
    BUDGET.holds("hang, one gateway", &alone);
    let gap = laws::longest_gap(&laws::of(&arrivals, "1"), stopped, back);
    println!("longest gap {gap:?}");
    assert!(gap < seconds(1) + 2 * SLACK, "gap {gap:?}");
    is_served(&laws::of(&arrivals, "1"), stopped + seconds(2), back);
    let share = Budget {
        rate: BUDGET.rate / 3.0,
        burst: BUDGET.burst / 3.0,
    };
    // What was reserved before is used for as long as callers wait.
    let during = laws::between(&alone, stopped + MAX_WAIT + USABLE, back);
    share.holds("its share", &during);
    assert!(!during.is_empty());
}

#[tokio::test]
async fn a_server_that_returns_without_its_data_grants_nothing_twice() {
    let mut all = Gateways::start(EVEN).await;
    let load = load::send(all.port, "1", OFFERED, at_least(10));
    sleep(seconds(2)).await;
    // An instance that only the first gateway has seen, and after the server's end only the others.
    let first = load::send(all.gateways[0].port, "2", 2 * OFFERED, seconds(2));
    sleep(seconds(2)).await;
    all.server.kill();
    let others =
        [1, 2].map(|index| load::send(all.gateways[index].port, "2", OFFERED / 2, seconds(3)));
    let stopped = Instant::now();
    sleep(seconds(3)).await;
    all.server.start_again().await;
    let back = Instant::now();
    println!("shared again after {:?}", all.until_shared().await);
    assert!(back.elapsed() < seconds(3) + laws::CALLER_SLACK);
    let mut outcomes = load.await.unwrap();
    for load in [first].into_iter().chain(others) {
        outcomes.extend(load.await.unwrap());
    }
    one_outage_is_logged(&all);
    let arrivals = judge("kill", &all, &outcomes);
    // What the first has reserved is used beside the shares of the others.
    let handed_over = laws::of(&arrivals, "2");
    let excess = BUDGET.excess(&handed_over);
    println!(
        "handed over: {} arrived; excess {excess:?}",
        handed_over.len()
    );
    assert!(
        excess <= MAX_WAIT * 2 / 3 + USABLE + SLACK,
        "excess {excess:?}"
    );
    let arrivals = laws::of(&arrivals, "1");
    let gap = laws::longest_gap(&arrivals, stopped, back);
    println!("longest gap {gap:?}");
    assert!(gap < seconds(1) + 2 * SLACK, "gap {gap:?}");
}

#[tokio::test]
async fn a_pause_of_the_server_lost_scripts_and_lost_data_change_nothing() {
    let all = Gateways::start(EVEN).await;
    let begun = Instant::now();
    let load = load::send(all.port, "1", OFFERED, at_least(9));
    let commands: [&[&str]; 4] = [
        &["CLIENT", "PAUSE", "300"],
        &["SCRIPT", "FLUSH"],
        &["FLUSHALL"],
        &["CLIENT", "KILL", "TYPE", "normal"],
    ];
    for command in commands {
        sleep(seconds(2)).await;
        all.server.ask(command).unwrap();
    }
    let outcomes = load.await.unwrap();
    let arrivals = judge("pause, flush", &all, &outcomes);
    is_served(&arrivals, begun, begun + at_least(9));
}

#[tokio::test]
async fn a_gateway_that_is_killed_takes_only_its_own_callers_along() {
    let mut all = Gateways::start(EVEN).await;
    let begun = Instant::now();
    let load = load::send(all.port, "1", OFFERED, at_least(6));
    sleep(seconds(2)).await;
    all.gateways[1].kill();
    let killed = Instant::now();
    let outcomes = load.await.unwrap();
    let arrivals = all.upstream.arrivals();
    // Its callers, and those that HAProxy sent there before it noticed.
    let was_there = |outcome: &Outcome| {
        outcome.begun < killed + seconds(1) && outcome.begun + outcome.took >= killed
    };
    laws::each_caller_is_answered(&outcomes, &arrivals, MAX_WAIT, was_there);
    BUDGET.holds("gateway killed", &arrivals);
    let failed = outcomes
        .iter()
        .filter(|it| ![200, 429].contains(&it.status))
        .count();
    println!("{failed} failed");
    assert!(failed > 0 && failed < outcomes.len() / 2, "{failed} failed");
    is_served(&arrivals, begun, begun + at_least(6));
}

#[tokio::test]
async fn no_request_fails_while_all_gateways_are_replaced() {
    let mut all = Gateways::start(EVEN).await;
    let begun = Instant::now();
    let load = load::send(all.port, "1", OFFERED, at_least(14));
    for index in 0..all.gateways.len() {
        sleep(seconds(1)).await;
        assert!(all.gateways[index].stop().await);
        all.gateways[index].start_again().await;
        all.until_shared().await;
    }
    println!("replaced after {:?}", begun.elapsed());
    let outcomes = load.await.unwrap();
    let arrivals = judge("rolling restart", &all, &outcomes);
    is_served(&arrivals, begun, begun + at_least(14));
}

#[tokio::test]
async fn a_429_pauses_all_gateways() {
    let all = Gateways::start(EVEN).await;
    let load = load::send(all.port, "1", OFFERED, at_least(8));
    sleep(seconds(2)).await;
    all.upstream.refuse_next(3);
    let outcomes = load.await.unwrap();
    let arrivals = judge("429", &all, &outcomes);
    let refused = arrivals
        .iter()
        .find(|arrival| arrival.status == 429)
        .unwrap();
    let paused = refused.at + SLACK;
    let end = refused.at + seconds(3);
    assert_eq!(laws::between(&arrivals, paused, end).len(), 0);
    let after = laws::between(&arrivals, end, end + seconds(60));
    // Without a burst.
    let slow = Budget {
        burst: 1.0,
        ..BUDGET
    };
    slow.holds("after the pause", &after);
    assert!(after.len() > 10, "{} after the pause", after.len());
}

#[tokio::test]
async fn a_gateway_that_is_cut_off_takes_its_share_and_the_others_the_rest() {
    let server = Server::start(&[]).await;
    let relay = Relay::start(server.directory.path().join("relay"), &server.socket());
    let urls = [relay.url(), server.url(), server.url()];
    let all = Gateways::start_with(EVEN, server, urls, "").await;
    let load = load::send(all.port, "1", OFFERED, at_least(18));
    sleep(seconds(2)).await;
    relay.set_open(false);
    let cut = Instant::now();
    until("the others notice", || {
        all.gateways[1].shows("cluster_replicas 2\n")
    })
    .await;
    println!("noticed after {:?}", cut.elapsed());
    // What was reserved before is used for as long as callers wait.
    let noticed = Instant::now() + MAX_WAIT + USABLE;
    sleep(seconds(5)).await;
    let back = Instant::now();
    relay.set_open(true);
    println!("shared again after {:?}", all.until_shared().await);
    let outcomes = load.await.unwrap();
    let arrivals = all.upstream.arrivals();
    laws::each_caller_is_answered(&outcomes, &arrivals, MAX_WAIT, |_| false);
    // Until the others notice, after 8 s at most, its share comes on top of the whole rate.
    let excess = BUDGET.excess(&arrivals);
    println!("cut off: excess {excess:?}");
    assert!(
        excess <= seconds(8) / 3 + USABLE + SLACK,
        "excess {excess:?}"
    );
    let full = Budget {
        burst: 5.0,
        ..BUDGET
    };
    full.holds("all noticed", &laws::between(&arrivals, noticed, back));
    is_served(&arrivals, noticed, back);
}

#[tokio::test]
async fn a_failover_under_load_grants_nothing_twice() {
    let watched = Watched::start().await;
    let urls = [(); 3].map(|()| watched.url());
    let Watched {
        primary,
        _replica,
        _sentinel,
        ..
    } = watched;
    let mut all = Gateways::start_with(EVEN, primary, urls, "").await;
    let begun = Instant::now();
    let load = load::send(all.port, "1", OFFERED, at_least(14));
    sleep(seconds(2)).await;
    all.server.kill();
    let killed = Instant::now();
    let is_left =
        |all: &Gateways| all.gateways[0].logged("the cluster's server cannot be used") > 0;
    until("the primary is left", || is_left(&all)).await;
    all.until_shared().await;
    println!(
        "shared again {:?} after the primary's end",
        killed.elapsed()
    );
    let outcomes = load.await.unwrap();
    // At most half a second of the rate is granted twice, which is the slack.
    let arrivals = judge("failover", &all, &outcomes);
    is_served(&arrivals, begun, begun + at_least(14));
}
