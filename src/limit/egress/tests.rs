//! The sharing alone, with claimants that always have calls.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A claimant with so many calls left, which notes when each went.
#[derive(Default)]
struct Source {
    left: Mutex<usize>,
    went: Mutex<Vec<Instant>>,
}

impl Source {
    fn of(calls: usize) -> Arc<Self> {
        Arc::new(Self {
            left: Mutex::new(calls),
            went: Mutex::default(),
        })
    }

    fn went(&self) -> usize {
        self.went.lock().unwrap().len()
    }

    fn went_between(&self, from: Instant, to: Instant) -> usize {
        self.went
            .lock()
            .unwrap()
            .iter()
            .filter(|at| **at >= from && **at < to)
            .count()
    }
}

impl Claimant for Source {
    fn release(&self, _: u64, now: Instant) -> Option<Released> {
        let mut left = self.left.lock().unwrap();
        *left = left.checked_sub(1)?;
        self.went.lock().unwrap().push(now);
        Some(Released {
            next: (*left > 0).then_some(Claim::Call),
        })
    }
}

fn egress(rate: f64, burst: u32) -> Arc<Egress> {
    let quota = Quota::new(rate, NonZeroU32::new(burst).unwrap()).unwrap();
    Arc::new(Egress::new(Some(quota)))
}

fn member(name: &str, weight: u32) -> Membership {
    Membership::new(name, NonZeroU32::new(weight).unwrap(), None)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(start_paused = true)]
async fn saturated_tenants_share_by_weight() {
    let egress = egress(70.0, 1);
    let sources: Vec<_> = [1, 2, 4].map(|weight| (weight, Source::of(100_000))).into();
    for (weight, source) in &sources {
        egress.claim(
            &member(&format!("t{weight}"), *weight),
            source.clone(),
            Claim::Call,
        );
    }
    tokio::time::sleep(secs(20)).await;
    for (weight, source) in sources {
        let rate = source.went() as f64 / 20.0;
        let share = f64::from(weight) * 10.0;
        assert!(
            (rate - share).abs() <= share * 0.05,
            "weight {weight}: {rate}/s, not {share}/s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_nobody_uses_goes_to_the_others_by_weight_at_once() {
    let egress = egress(70.0, 1);
    let began = Instant::now();
    let (one, two, four) = (
        Source::of(100_000),
        Source::of(100_000),
        Source::of(40 * 10),
    );
    egress.claim(&member("one", 1), one.clone(), Claim::Call);
    egress.claim(&member("two", 2), two.clone(), Claim::Call);
    egress.claim(&member("four", 4), four.clone(), Claim::Call);
    tokio::time::sleep(secs(20)).await;
    let quiet_from = began + secs(11);
    let (one, two) = (
        one.went_between(quiet_from, began + secs(20)) as f64 / 9.0,
        two.went_between(quiet_from, began + secs(20)) as f64 / 9.0,
    );
    assert!((one - 70.0 / 3.0).abs() < 1.5, "{one}/s");
    assert!((two - 140.0 / 3.0).abs() < 2.5, "{two}/s");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_tenant_waits_for_one_slot_behind_a_flood() {
    let egress = egress(10.0, 1);
    let flood = Source::of(100_000);
    egress.claim(&member("flood", 1), flood.clone(), Claim::Call);
    tokio::time::sleep(secs(30)).await;
    for _ in 0..20 {
        let quiet = Source::of(1);
        let asked = Instant::now();
        egress.claim(&member("quiet", 1), quiet.clone(), Claim::Call);
        tokio::time::sleep(secs(1)).await;
        let wait = quiet.went.lock().unwrap()[0] - asked;
        assert!(wait <= Duration::from_millis(101), "{wait:?}");
        tokio::time::sleep(Duration::from_millis(737)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn having_been_quiet_saves_nothing_up() {
    let egress = egress(10.0, 1);
    let (early, late) = (Source::of(100_000), Source::of(100_000));
    egress.claim(&member("early", 1), early.clone(), Claim::Call);
    tokio::time::sleep(secs(60)).await;
    let joined = Instant::now();
    egress.claim(&member("late", 1), late.clone(), Claim::Call);
    tokio::time::sleep(secs(10)).await;
    let (early, late) = (early.went_between(joined, joined + secs(10)), late.went());
    assert!(early.abs_diff(late) <= 2, "{early} and {late}");
}

#[tokio::test(start_paused = true)]
async fn instances_of_a_tenant_take_turns() {
    let egress = egress(10.0, 1);
    let tenant = member("t", 1);
    let (busy, other) = (Source::of(100_000), Source::of(100_000));
    egress.claim(&tenant, busy.clone(), Claim::Call);
    egress.claim(&tenant, other.clone(), Claim::Call);
    tokio::time::sleep(secs(10)).await;
    assert!(busy.went().abs_diff(other.went()) <= 1);
}

#[tokio::test(start_paused = true)]
async fn receipts_yield_to_calls_until_they_are_overdue() {
    let egress = egress(1.0, 1);
    let tenant = member("t", 1);
    let (calls, receipt) = (Source::of(100_000), Source::of(1));
    let asked = Instant::now();
    egress.claim(
        &tenant,
        receipt.clone(),
        Claim::Receipt {
            overdue: asked + secs(3),
        },
    );
    egress.claim(&tenant, calls.clone(), Claim::Call);
    tokio::time::sleep(secs(10)).await;
    let went = receipt.went.lock().unwrap()[0] - asked;
    assert!((secs(3)..=secs(4)).contains(&went), "{went:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tenants_own_budget_binds_it_and_nobody_else() {
    let egress = egress(100.0, 1);
    let slow = Membership::new(
        "slow",
        NonZeroU32::MIN,
        Some(Quota::new(5.0, NonZeroU32::MIN).unwrap()),
    );
    let (bound, free) = (Source::of(100_000), Source::of(100_000));
    egress.claim(&slow, bound.clone(), Claim::Call);
    egress.claim(&member("free", 1), free.clone(), Claim::Call);
    tokio::time::sleep(secs(10)).await;
    assert!((49..=51).contains(&bound.went()), "{}", bound.went());
    assert!(
        (945..=951).contains(&free.went()),
        "no slot was lost: {}",
        free.went()
    );
}

#[tokio::test(start_paused = true)]
async fn a_free_egress_is_passed_at_once_and_a_contended_one_is_not() {
    let egress = egress(10.0, 2);
    let tenant = member("t", 1);
    let now = Instant::now();
    assert!(egress.pass(&tenant, now));
    assert!(egress.pass(&tenant, now));
    assert!(!egress.pass(&tenant, now), "the burst is used up");
    let source = Source::of(1);
    egress.claim(&tenant, source.clone(), Claim::Call);
    tokio::time::sleep(Duration::from_millis(99)).await;
    assert!(!egress.pass(&tenant, Instant::now()), "somebody waits");
    tokio::time::sleep(Duration::from_millis(102)).await;
    assert_eq!(source.went(), 1);
    assert!(egress.pass(&tenant, Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn idle_tenants_are_forgotten() {
    let egress = egress(1_000_000.0, 100_000);
    for name in 0..20_000 {
        egress.pass(&member(&format!("i{name}"), 1), Instant::now());
    }
    assert!(egress.lock().tenants.len() <= TENANTS_KEPT + 1);
}

/// What happens to an egress, each so many ms after the one before.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A call of this tenant finds nobody before it, or is not made.
    Passes(usize),
    /// So many calls of this tenant join the line.
    Claims(usize, usize),
    /// A claimant of this tenant joins whose callers then leave.
    Leaves(usize),
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        2 => (0_usize..3).prop_map(Event::Passes),
        3 => (0_usize..3, 1_usize..5).prop_map(|(tenant, calls)| Event::Claims(tenant, calls)),
        1 => (0_usize..3).prop_map(Event::Leaves),
    ];
    let gap = prop_oneof![3 => Just(0_u64), 3 => (0_u64..12).prop_map(|n| n * 50), 2 => 0_u64..900];
    proptest::collection::vec((gap, event), 1..60)
}

/// Runs events against an egress whose tenants have these budgets, and says
/// when calls of each tenant went.
fn run(quotas: &[Option<Quota>; 4], events: &[(u64, Event)]) -> Vec<Vec<Instant>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let [all, tenants @ ..] = quotas;
    runtime.block_on(async {
        let egress = Arc::new(Egress::new(*all));
        let members: Vec<_> = ["a", "b", "c"]
            .iter()
            .zip(tenants)
            .map(|(name, quota)| Membership::new(name, NonZeroU32::MIN, *quota))
            .collect();
        let mut went = vec![Vec::new(); members.len()];
        let mut sources = Vec::new();
        for (gap, event) in events {
            tokio::time::sleep(Duration::from_millis(*gap)).await;
            let (tenant, calls) = match *event {
                Event::Passes(tenant) => {
                    let now = Instant::now();
                    if egress.pass(&members[tenant], now) {
                        went[tenant].push(now);
                    }
                    continue;
                }
                Event::Claims(tenant, calls) => (tenant, calls),
                Event::Leaves(tenant) => (tenant, 0),
            };
            let source = Source::of(calls);
            egress.claim(&members[tenant], source.clone(), Claim::Call);
            sources.push((tenant, calls, source));
        }
        tokio::time::sleep(secs(3600)).await;
        for (tenant, calls, source) in sources {
            assert_eq!(source.went(), calls, "somebody was forgotten");
            went[tenant].extend(&*source.went.lock().unwrap());
        }
        went
    })
}

/// Whether no interval between these moments saw more of them than the quota
/// has to give.
fn is_within(quota: Quota, mut went: Vec<Instant>) -> bool {
    went.sort();
    went.iter().enumerate().all(|(first, from)| {
        went[first..].iter().enumerate().all(|(more, to)| {
            let due = quota.interval() * u32::try_from(more + 1).unwrap();
            due <= *to - *from + quota.interval() * quota.burst.get()
        })
    })
}

fn quotas() -> impl Strategy<Value = [Option<Quota>; 4]> {
    let quota = prop_oneof![
        1 => Just(None),
        4 => (prop_oneof![Just(2.0), Just(3.0), Just(10.0)], 1_u32..4).prop_map(|(rate, burst)| {
            Some(Quota::new(rate, NonZeroU32::new(burst).unwrap()).unwrap())
        }),
    ];
    [quota.clone(), quota.clone(), quota.clone(), quota]
}

proptest! {
    /// Over any interval at most `burst + rate × length` calls go, of all
    /// tenants together and of each that has a budget of its own.
    #[test]
    fn no_interval_sees_more_calls_than_a_budget_has(quotas in quotas(), events in events()) {
        let went = run(&quotas, &events);
        for (quota, went) in quotas.iter().zip([vec![went.concat()], went].concat()) {
            if let Some(quota) = quota {
                prop_assert!(is_within(*quota, went.clone()), "{quota:?}: {went:?}");
            }
        }
    }
}
