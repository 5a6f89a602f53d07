//! The egress and the rates of tenants, which several gateways share.

mod faults;
mod histories;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::shares::tenant;
use super::*;
use crate::config::Tenant;

/// The calls of one instance at one gateway.
#[derive(Clone, Default)]
struct Calls {
    /// When they left.
    times: Arc<Mutex<Vec<Instant>>>,
    has_ended: Arc<AtomicBool>,
}

impl Calls {
    fn record(&self) {
        self.times.lock().unwrap().push(Instant::now());
    }

    fn times(&self) -> Vec<Instant> {
        self.times.lock().unwrap().clone()
    }

    fn between(&self, from: Instant, to: Instant) -> usize {
        let times = self.times.lock().unwrap();
        times.iter().filter(|at| (from..to).contains(at)).count()
    }

    fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// Gateways whose instances have no limit of their own.
fn sharing(egress: Option<Quota>, tenants: Vec<Tenant>) -> Config {
    let mut config = settings(None);
    config.egress.quota = egress;
    config.tenants = tenants;
    config
}

/// A request of an instance, which the upstream accepts.
async fn accept(member: &Member, instance: &str) {
    let acquired = member.send(instance).await.unwrap().0.unwrap();
    member.respond(instance, &acquired, 201, None);
}

/// Keeps so many requests of an instance waiting at a gateway.
async fn saturate(member: &Member, instance: &'static str, requests: usize) -> Calls {
    accept(member, instance).await;
    let calls = Calls::default();
    for _ in 0..requests {
        let (calls, limiter) = (calls.clone(), Arc::clone(&member.limiter));
        tokio::spawn(async move {
            while !calls.has_ended.load(Ordering::Relaxed) {
                let lane = lane_of(&limiter, instance, "t");
                let acquired = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
                if acquired.await.is_ok() {
                    calls.record();
                } else {
                    tokio::time::sleep(ms(20)).await;
                }
            }
        });
    }
    calls
}

/// Sends a request of an instance so often, whether those before have left or not.
async fn send_every(member: &Member, instance: &'static str, every: Duration) -> Calls {
    accept(member, instance).await;
    let calls = Calls::default();
    let (limiter, all) = (Arc::clone(&member.limiter), calls.clone());
    tokio::spawn(async move {
        loop {
            let (calls, limiter) = (all.clone(), Arc::clone(&limiter));
            tokio::spawn(async move {
                let lane = lane_of(&limiter, instance, "t");
                let acquired = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
                acquired.await.unwrap();
                calls.record();
            });
            tokio::time::sleep(every).await;
        }
    });
    calls
}

/// In each two seconds of a time, these calls together are as many as that, to within a tenth.
#[track_caller]
fn assert_share(calls: &[&Calls], (from, lasts): (Instant, Duration), per_second: f64) {
    let expected = 2.0 * per_second;
    let mut at = from;
    while at + ms(2_000) <= from + lasts {
        let count: usize = calls.iter().map(|it| it.between(at, at + ms(2_000))).sum();
        let count = count as f64;
        assert!(
            (count - expected).abs() <= (expected * 0.1).max(1.0) + 1e-6,
            "{count} instead of {expected} calls in 2 s, {:?} after the beginning",
            at - from
        );
        at += ms(100);
    }
}

#[track_caller]
fn assert_total(calls: &[&Calls], rate: f64, burst: u32, extra: f64) {
    let all: Vec<_> = calls.iter().flat_map(|calls| calls.times()).collect();
    assert_conform(&all, rate, burst, extra);
}

#[tokio::test(start_paused = true)]
async fn tenants_on_different_gateways_share_the_egress_by_weight() {
    for round_trip in [1, 20] {
        let tenants = vec![
            tenant("one", 1, None, &["a"]),
            tenant("three", 3, None, &["b"]),
        ];
        let all = Members::start(2, ms(round_trip), sharing(quota(50.0, 1), tenants)).await;
        let one = saturate(&all[0], "a", 20).await;
        let three = saturate(&all[1], "b", 20).await;
        tokio::time::sleep(ms(1_000)).await;
        let asked = all.server.calls();
        let time = (Instant::now(), ms(10_000));
        tokio::time::sleep(time.1).await;
        // At most twenty times per second.
        let asked = all.server.calls() - asked;
        assert!((280..=400).contains(&asked), "{asked}");
        assert_share(&[&one], time, 12.5);
        assert_share(&[&three], time, 37.5);
        assert_share(&[&one, &three], time, 50.0);
        assert_total(&[&one, &three], 50.0, 1, 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_on_several_gateways_has_one_share() {
    let tenants = vec![
        tenant("many", 1, None, &["a", "b", "c"]),
        tenant("one", 1, None, &["d"]),
    ];
    let all = Members::start(3, ms(2), sharing(quota(60.0, 5), tenants)).await;
    let mut many = Vec::new();
    for (index, instance) in ["a", "b", "c"].into_iter().enumerate() {
        many.push(saturate(&all[index], instance, 20).await);
    }
    let one = saturate(&all[0], "d", 20).await;
    tokio::time::sleep(ms(1_000)).await;
    let time = (Instant::now(), ms(10_000));
    tokio::time::sleep(time.1).await;
    assert_share(&many.iter().collect::<Vec<_>>(), time, 30.0);
    assert_share(&[&one], time, 30.0);
    // What waits on each is alike, and so is what leaves.
    for calls in &many {
        let count = calls.between(time.0, time.0 + time.1);
        assert!((85..=115).contains(&count), "{count}");
    }
}

/// It sends each request after the one before, through one gateway after the other.
#[tokio::test(start_paused = true)]
async fn a_tenant_that_goes_round_the_gateways_has_one_share() {
    let tenants = vec![
        tenant("round", 1, None, &["a"]),
        tenant("one", 1, None, &["b"]),
    ];
    let all = Arc::new(Members::start(3, ms(1), sharing(quota(8.0, 1), tenants)).await);
    for member in &all.members {
        accept(member, "a").await;
    }
    let one = saturate(&all[0], "b", 20).await;
    let round = Calls::default();
    let (calls, members) = (round.clone(), Arc::clone(&all));
    tokio::spawn(async move {
        for index in (0..3).cycle() {
            members[index].send("a").await.unwrap().0.unwrap();
            calls.record();
        }
    });
    tokio::time::sleep(ms(2_000)).await;
    let (from, to) = (Instant::now(), Instant::now() + ms(20_000));
    tokio::time::sleep(ms(20_000)).await;
    let (round, one) = (round.between(from, to), one.between(from, to));
    assert!(round <= 88, "{round}");
    assert!(round + one >= 155, "{round} {one}");
}

#[tokio::test(start_paused = true)]
async fn what_a_tenant_does_not_use_goes_to_the_others_at_once() {
    let tenants = vec![
        tenant("idle", 9, None, &["a"]),
        tenant("busy", 1, None, &["b"]),
    ];
    let all = Members::start(2, ms(2), sharing(quota(50.0, 1), tenants)).await;
    let busy = saturate(&all[1], "b", 20).await;
    let idle = send_every(&all[0], "a", ms(200)).await;
    tokio::time::sleep(ms(1_000)).await;
    let time = (Instant::now(), ms(10_000));
    tokio::time::sleep(time.1).await;
    assert_share(&[&idle], time, 5.0);
    assert_share(&[&busy], time, 45.0);
}

#[tokio::test(start_paused = true)]
async fn a_tenants_own_rate_is_used_by_one_gateway_or_by_all() {
    for egress in [None, quota(1_000.0, 100)] {
        let tenants = vec![tenant("t", 1, quota(10.0, 2), &["a", "b"])];
        let all = Members::start(3, ms(2), sharing(egress, tenants)).await;
        let one = saturate(&all[2], "a", 20).await;
        tokio::time::sleep(ms(1_000)).await;
        let time = (Instant::now(), ms(6_000));
        tokio::time::sleep(time.1).await;
        assert_share(&[&one], time, 10.0);
        let other = saturate(&all[0], "b", 20).await;
        tokio::time::sleep(ms(1_000)).await;
        let time = (Instant::now(), ms(6_000));
        tokio::time::sleep(time.1).await;
        assert_share(&[&one, &other], time, 10.0);
        let count = other.between(time.0, time.0 + time.1);
        assert!((25..=35).contains(&count), "{count}");
        assert_total(&[&one, &other], 10.0, 2, 1.0);
    }
}

/// One tenant has less than its share of the egress, by its own rate.
#[tokio::test(start_paused = true)]
async fn a_tenant_with_a_low_rate_of_its_own_leaves_the_egress_to_the_others() {
    let tenants = vec![
        tenant("bound", 3, quota(5.0, 1), &["a"]),
        tenant("free", 1, None, &["b"]),
    ];
    let all = Members::start(2, ms(2), sharing(quota(50.0, 1), tenants)).await;
    let bound = saturate(&all[0], "a", 20).await;
    let free = saturate(&all[1], "b", 20).await;
    tokio::time::sleep(ms(1_000)).await;
    let time = (Instant::now(), ms(10_000));
    tokio::time::sleep(time.1).await;
    assert_share(&[&bound], time, 5.0);
    assert_share(&[&free], time, 45.0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_a_token_waits_for_one_round_trip() {
    let mut config = of_rate(10.0, 5, 4_000);
    config.egress.quota = quota(20.0, 10);
    let all = Members::start(2, ms(20), config).await;
    // The first request of an instance asks for its verified credentials, too.
    accept(&all[0], "123").await;
    tokio::time::sleep(ms(2_000)).await;
    let (began, calls) = (Instant::now(), all.server.calls());
    all[0].send("123").await.unwrap().0.unwrap();
    assert!(began.elapsed() <= ms(22), "{:?}", began.elapsed());
    tokio::time::sleep(ms(200)).await;
    // One for the slot of the instance, and one for that of the egress.
    assert_eq!(all.server.calls() - calls, 2);
}

#[tokio::test(start_paused = true)]
async fn the_first_request_at_an_idle_gateway_is_not_kept_waiting_by_busy_ones() {
    let all = Members::start(3, ms(2), sharing(quota(50.0, 1), Vec::new())).await;
    let _busy = [
        saturate(&all[0], "a", 50).await,
        saturate(&all[1], "b", 50).await,
    ];
    accept(&all[2], "c").await;
    tokio::time::sleep(ms(3_000)).await;
    for pause in [1_000, 730, 2_310, 5_000] {
        let began = Instant::now();
        all[2].send("c").await.unwrap().0.unwrap();
        let waited = began.elapsed();
        assert!(waited <= ms(200), "{waited:?}");
        tokio::time::sleep(ms(pause)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn low_rates_starve_no_tenant_and_no_gateway() {
    let tenants = vec![
        tenant("one", 1, None, &["a", "c"]),
        tenant("two", 1, None, &["b"]),
    ];
    let all = Members::start(3, ms(2), sharing(quota(1.0, 1), tenants)).await;
    let one = saturate(&all[0], "a", 3).await;
    let two = saturate(&all[1], "b", 3).await;
    let same = saturate(&all[2], "c", 3).await;
    tokio::time::sleep(ms(10_000)).await;
    let (from, to) = (Instant::now(), Instant::now() + ms(60_000));
    tokio::time::sleep(ms(60_000)).await;
    let counts = [one, same, two].map(|calls| calls.between(from, to));
    let total = counts.iter().sum::<usize>();
    assert!((58..=61).contains(&total), "{counts:?}");
    assert!((28..=32).contains(&counts[2]), "{counts:?}");
    assert!(counts[..2].iter().all(|count| *count >= 12), "{counts:?}");
}

/// There are more of them than a question is about, where there are so many gateways.
#[tokio::test(start_paused = true)]
async fn of_very_many_tenants_none_starves() {
    let all = Members::start(16, ms(2), sharing(quota(20.0, 1), Vec::new())).await;
    let mut calls = Vec::new();
    for index in 0..40 {
        let instance: &'static str = format!("i{index}").leak();
        calls.push(saturate(&all[index % 2], instance, 1).await);
    }
    tokio::time::sleep(ms(2_000)).await;
    let asked = all.server.calls();
    let (from, to) = (Instant::now(), Instant::now() + ms(10_000));
    tokio::time::sleep(ms(10_000)).await;
    let counts = calls.iter().map(|calls| calls.between(from, to));
    let counts: Vec<_> = counts.collect();
    let total = counts.iter().sum::<usize>();
    assert!((195..=202).contains(&total), "{total}");
    assert!(counts.iter().all(|it| (4..=6).contains(it)), "{counts:?}");
    let asked = all.server.calls() - asked;
    assert!(asked <= 2 * 200, "{asked}");
}

/// Their buckets have fewer tokens than the egress, and more than its share.
#[tokio::test(start_paused = true)]
async fn the_egress_is_used_up_where_tokens_of_instances_are_rare() {
    let mut config = of_rate(2.0, 1, 60_000);
    config.egress.quota = quota(10.0, 1);
    let all = Members::start(2, ms(2), config).await;
    let mut calls = Vec::new();
    for (index, instance) in ["a", "b", "c", "d", "e", "f", "g", "h"]
        .into_iter()
        .enumerate()
    {
        calls.push(saturate(&all[index % 2], instance, 5).await);
    }
    tokio::time::sleep(ms(5_000)).await;
    let (from, to) = (Instant::now(), Instant::now() + ms(20_000));
    tokio::time::sleep(ms(20_000)).await;
    let counts: Vec<_> = calls.iter().map(|calls| calls.between(from, to)).collect();
    let total = counts.iter().sum::<usize>();
    assert!(total >= 180, "{counts:?}");
    assert!(
        counts.iter().all(|count| (20..=30).contains(count)),
        "{counts:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_was_quiet_has_saved_nothing() {
    let tenants = vec![
        tenant("quiet", 1, None, &["a"]),
        tenant("busy", 1, None, &["b"]),
    ];
    let all = Members::start(2, ms(2), sharing(quota(50.0, 1), tenants)).await;
    let busy = saturate(&all[1], "b", 20).await;
    tokio::time::sleep(ms(30_000)).await;
    let began = Instant::now();
    let quiet = saturate(&all[0], "a", 20).await;
    tokio::time::sleep(ms(3_000)).await;
    assert_share(&[&quiet], (began + ms(200), ms(2_000)), 25.0);
    assert_share(&[&busy], (began + ms(200), ms(2_000)), 25.0);
}

/// Twice the rate arrives, and what cannot leave in time is refused on arrival.
#[tokio::test(start_paused = true)]
async fn under_overload_few_promises_are_broken() {
    let tenants = vec![
        tenant("one", 1, None, &["a"]),
        tenant("three", 3, None, &["b"]),
    ];
    let mut config = sharing(quota(20.0, 5), tenants);
    config.limit.max_wait = ms(4_000);
    let all = Members::start(2, ms(2), config).await;
    accept(&all[0], "a").await;
    accept(&all[1], "b").await;
    let began = Instant::now();
    let mut requests = Vec::new();
    while began.elapsed() < ms(40_000) {
        for (member, instance) in all.members.iter().zip(["a", "b"]) {
            requests.push((Instant::now(), member.send(instance)));
        }
        tokio::time::sleep(ms(50)).await;
    }
    let (mut sent, mut broken, mut refused) = ([0, 0], 0, 0);
    for (index, (arrived, request)) in requests.into_iter().enumerate() {
        let (acquired, ended) = request.await.unwrap();
        if arrived < began + ms(10_000) {
            continue;
        }
        match acquired {
            Ok(_) => sent[index % 2] += 1,
            Err(_) if ended - arrived > ms(100) => broken += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{sent:?} sent, {refused} refused, {broken} promises broken");
    assert!(
        (140..=160).contains(&sent[0]) && (430..=470).contains(&sent[1]),
        "{sent:?}"
    );
    assert!(broken * 50 <= sent[0] + sent[1], "{broken}");
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_what_is_lent() {
    let tenants = vec![
        tenant("one", 1, None, &["a"]),
        tenant("two", 1, None, &["b"]),
    ];
    let mut all = Members::start(2, ms(2), sharing(quota(20.0, 1), tenants)).await;
    let calls = [
        saturate(&all[0], "a", 20).await,
        saturate(&all[1], "b", 20).await,
    ];
    tokio::time::sleep(ms(1_000)).await;
    all.config.tenants[1].weight = NonZeroU32::new(4).unwrap();
    all.config.egress.quota = quota(10.0, 1);
    let reload = |all: &Members| {
        let members = all.members.iter();
        members.for_each(|it| it.limiter.reconfigure(&all.config));
    };
    reload(&all);
    tokio::time::sleep(ms(1_000)).await;
    let time = (Instant::now(), ms(6_000));
    tokio::time::sleep(time.1).await;
    assert_share(&[&calls[0]], time, 2.0);
    assert_share(&[&calls[1]], time, 8.0);
    // Without a budget nothing is asked, and what waits leaves at once.
    calls.iter().for_each(Calls::end);
    all.config.egress.quota = quota(0.01, 1);
    reload(&all);
    let waiting = all[0].send("c");
    tokio::time::sleep(ms(10_000)).await;
    assert!(!waiting.is_finished());
    let lifted = Instant::now();
    all.config.egress.quota = None;
    reload(&all);
    assert_eq!(waiting.await.unwrap().1, lifted);
}
