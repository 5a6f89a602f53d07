//! The forecast is what serving then does.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::shares::tenant;
use super::*;

/// The budgets of one history. Intervals are whole milliseconds, as timers are.
#[derive(Clone, Debug)]
struct Budgets {
    own: Option<(u64, u32)>,
    class: Option<(u64, u32)>,
    tenant: Option<(u64, u32)>,
    egress: Option<(u64, u32)>,
    max_delay: u64,
    max_wait: u64,
}

/// What happens, so many ms after what happened before.
#[derive(Clone, Debug)]
struct Event {
    gap: u64,
    caller: Caller,
    what: What,
}

#[derive(Clone, Copy, Debug)]
struct Caller {
    instance: usize,
    token: usize,
    class: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Request,
    Receipt {
        age: u64,
    },
    FollowUp {
        age: u64,
    },
    /// An upstream 429 that names so many ms.
    Throttled(u64),
    /// The oldest waiter leaves.
    Leaves,
}

const INSTANCES: [&str; 5] = ["a1", "a2", "b1", "x", "y"];

fn budget() -> impl Strategy<Value = Option<(u64, u32)>> {
    let interval = prop_oneof![Just(50), Just(100), Just(250), Just(400)];
    prop_oneof![1 => Just(None), 3 => (interval, 1_u32..4).prop_map(Some)]
}

fn budgets() -> impl Strategy<Value = Budgets> {
    let delays = (
        prop_oneof![Just(0), Just(300), Just(2000)],
        prop_oneof![Just(1000), Just(4000)],
    );
    (budget(), budget(), budget(), budget(), delays).prop_map(
        |(own, class, tenant, egress, (max_delay, max_wait))| Budgets {
            own,
            class,
            tenant,
            egress,
            max_delay,
            max_wait,
        },
    )
}

fn caller() -> impl Strategy<Value = Caller> {
    let class = prop_oneof![3 => Just(false), 1 => Just(true)];
    (0..INSTANCES.len(), 0_usize..3, class).prop_map(|(instance, token, class)| Caller {
        instance,
        token,
        class,
    })
}

fn age() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => (0_u64..60).prop_map(|n| n * 50)]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let what = prop_oneof![
        8 => Just(What::Request),
        5 => age().prop_map(|age| What::Receipt { age }),
        1 => age().prop_map(|age| What::FollowUp { age }),
        1 => (1_u64..20).prop_map(|n| What::Throttled(n * 100)),
        1 => Just(What::Leaves),
    ];
    let gap = prop_oneof![5 => Just(0), 3 => (0_u64..6).prop_map(|n| n * 25), 1 => 0_u64..300];
    let event = (gap, caller(), what).prop_map(|(gap, caller, what)| Event { gap, caller, what });
    proptest::collection::vec(event, 0..80)
}

/// A limiter with a history.
struct World {
    limiter: Limiter,
    waiting: Vec<tokio::task::JoinHandle<()>>,
}

impl World {
    /// Verifies a credential of most instances. Only requests of the history
    /// count for usage.
    fn new(budgets: &Budgets) -> Self {
        let quota = |budget: Option<(u64, u32)>| {
            budget.and_then(|(interval, burst)| quota(1000.0 / interval as f64, burst))
        };
        let mut config = settings(quota(budgets.own));
        config.limit.classes = vec![classes::class("c", "*", quota(budgets.class))];
        config.egress.quota = quota(budgets.egress);
        config.tenants = vec![
            tenant("a", 2, quota(budgets.tenant), &["a1", "a2"]),
            tenant("b", 1, None, &["b1"]),
        ];
        config.batch.max_delay = ms(budgets.max_delay);
        config.limit.max_wait = ms(budgets.max_wait);
        let world = Self {
            limiter: limiter(&config),
            waiting: Vec::new(),
        };
        for instance in 0..4 {
            for class in [false, true] {
                let caller = Caller {
                    instance,
                    token: 0,
                    class,
                };
                world.lane(caller).verify();
            }
        }
        world
    }

    fn lane(&self, caller: Caller) -> Lane {
        let identity = who(INSTANCES[caller.instance], &format!("t{}", caller.token));
        let class = caller.class.then_some(0);
        self.limiter
            .lane(&self.limiter.rules(), &identity, |_, _| class, false)
    }

    /// Applies an event. A request that gets its token has its response at once: a
    /// forecast expects that probes succeed.
    fn apply(&mut self, event: &Event) {
        let lane = self.lane(event.caller);
        let kind = match event.what {
            What::Request => Kind::Request,
            What::Receipt { age } => Kind::Receipt {
                opened: Instant::now() - ms(age),
            },
            What::FollowUp { age } => Kind::FollowUp {
                opened: Instant::now() - ms(age),
            },
            What::Throttled(pause) => {
                let verified = event.caller.token == 0 && event.caller.instance < 4;
                let is_main = verified || event.caller.instance == 4;
                let permit = Permit {
                    granted: Instant::now(),
                    usable_until: None,
                    remaining: None,
                    bucket: if is_main {
                        BucketRole::Main
                    } else {
                        BucketRole::Unverified
                    },
                    place: None,
                };
                return lane.on_response(&permit, StatusCode::TOO_MANY_REQUESTS, Some(ms(pause)));
            }
            What::Leaves => {
                if !self.waiting.is_empty() {
                    self.waiting.remove(0).abort();
                }
                return;
            }
        };
        let deadline = Instant::now() + lane.rules().max_wait;
        match self.limiter.admit(&lane, kind, deadline) {
            Ok(Admission::Now(permit)) => lane.on_response(&permit, StatusCode::OK, None),
            Ok(Admission::Queued(ticket)) => self.waiting.push(tokio::spawn(async move {
                if let Ok(permit) = ticket.await {
                    lane.on_response(&permit, StatusCode::OK, None);
                }
            })),
            Err(_) => {}
        }
    }
}

/// Applies a history, then compares the forecast for one more with the result.
async fn compare(mut budgets: Budgets, events: Vec<Event>, last: Event) -> TestCaseResult {
    if events
        .iter()
        .any(|event| matches!(event.what, What::Throttled(_)))
    {
        // The response to a probe ends a pause. Here it comes at the same time, but after
        // other buckets have taken the tokens of that time: one, so that it makes no difference.
        budgets.tenant = budgets.tenant.map(|(interval, _)| (interval, 1));
        // At the egress it does: the probe may have ended a busy period, after which tenants
        // take turns in another order than if the bucket had been ready throughout.
        budgets.egress = None;
    }
    tokio::time::advance(ms(10_000)).await;
    let mut world = World::new(&budgets);
    for event in &events {
        tokio::time::sleep(ms(event.gap)).await;
        world.apply(event);
    }
    // What is due at this time goes, and has its response.
    tokio::time::sleep(ms(last.gap + 1)).await;
    let kind = match last.what {
        What::Receipt { age } => Kind::Receipt {
            opened: Instant::now() - ms(age),
        },
        _ => Kind::Request,
    };
    let lane = world.lane(last.caller);
    let rules = lane.rules();
    let now = Instant::now();
    let request = rules.token_request(kind, now, now + rules.max_wait);
    let forecast = lane.forecast(request);
    match lane.admit(request) {
        Ok(Admission::Now(permit)) => {
            prop_assert_eq!(forecast, permit.granted);
        }
        Ok(Admission::Queued(ticket)) => {
            let permit = tokio::time::timeout(ms(60_000), ticket).await;
            prop_assert!(permit.is_ok(), "forgotten in the queue");
            let permit = permit.unwrap();
            prop_assert!(
                permit.is_ok(),
                "forecast after {:?}, {permit:?}",
                forecast - now
            );
            prop_assert_eq!(forecast - now, permit.unwrap().granted - now);
        }
        Err(refused) if refused.waiting == 0 && refused.refusal != Refusal::Paused => {
            prop_assert!(forecast > request.deadline || refused.scope != Scope::Instance);
        }
        Err(_) => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// With budgets of instance, class, tenant and egress, pauses, requests,
    /// receipts and their further calls, waiters that leave, and credentials
    /// with and without verification.
    #[test]
    fn the_forecast_is_what_serving_does_without_further_arrivals(
        budgets in budgets(),
        events in events(),
        last in (0_u64..4, caller(), prop_oneof![
            Just(What::Request),
            age().prop_map(|age| What::Receipt { age }),
        ]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (gap, caller, what) = last;
        let last = Event { gap: gap * 25, caller, what };
        runtime.block_on(compare(budgets, events, last))?;
    }
}
