//! The registry under a flood of names.

use std::num::NonZeroU32;

use http::{Request, StatusCode};

use super::*;
use crate::config::{Classes, Config, Quota};
use crate::identity::Findings;
use crate::limit::lane::{TokenRequest, WaitRules};
use crate::limit::policy::Sharing;
use crate::limit::{Admission, Kind, Lane};
use crate::observe::metrics::Metrics;
use crate::queue::egress::{Egress, QueueLimits};
use crate::sharded::SHARDS;

const CAPACITY: usize = 8;

const RULES: WaitRules = WaitRules {
    max_wait: Duration::from_secs(4),
    limits: QueueLimits {
        max_delay: Duration::from_secs(2),
        max_queue: 1000,
    },
    observes: false,
};

fn world(rate: f64, burst: u32) -> World {
    let quota = Quota::new(rate, NonZeroU32::new(burst).unwrap()).unwrap();
    World {
        registry: Arc::new(Registry::with_capacity(policy(quota), CAPACITY)),
        metrics: Arc::new(Metrics::new(1)),
    }
}

/// What the calls of a test have in common.
struct World {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
}

fn policy(quota: Quota) -> Policy {
    let mut config = Config::default();
    config.limit.quota = Some(quota);
    let egress = Arc::new(Egress::new(None, config.limit.max_wait, None));
    let sharing = Sharing::new(&config.tenants, &egress, false);
    Policy {
        shared: None,
        credentials: None,
        classes: Arc::new(Classes::new(&config)),
        of_unnamed: Arc::new(Classes::new(&config)),
        group: 0,
        sharing: Arc::new(sharing),
        headers: false,
        max_delay: config.batch.max_delay,
    }
}

fn token_request(wait: Duration) -> TokenRequest {
    let now = Instant::now();
    RULES.token_request(Kind::Request, now, now + wait)
}

fn named(instance: &str) -> Identity {
    let (head, ()) = Request::get(format!("/?instance_id={instance}&access_token=t"))
        .body(())
        .unwrap()
        .into_parts();
    Findings::of_head(&head).identity()
}

impl World {
    /// Asks for a token; tells whether there was one.
    fn call(&self, identity: &Identity) -> bool {
        let account = self.registry.account(identity, &[]);
        let lane = Lane::new(
            account,
            identity.credential,
            true,
            (&Arc::from([Arc::clone(&self.registry)]), 0),
            RULES,
            Arc::clone(&self.metrics),
        );
        let admitted = lane.admit(token_request(Duration::ZERO));
        matches!(admitted, Ok(Admission::Now(_)))
    }
}

impl Registry {
    fn len(&self) -> usize {
        let instances = self.instances.all().map(|shard| shard.accounts.len());
        let credentials = self.credentials.all().map(|shard| shard.accounts.len());
        instances.chain(credentials).sum()
    }
}

/// A million made-up names: bounded memory, one budget of their own, and
/// debt is kept.
#[tokio::test(start_paused = true)]
async fn a_flood_of_names_is_bounded_and_forgives_no_debt() {
    let world = world(0.01, 20);
    let debtors: Vec<_> = (0..50).map(|n| named(&format!("debtor{n}"))).collect();
    for debtor in &debtors {
        for _ in 0..20 {
            assert!(world.call(debtor));
        }
    }
    let mut name = named("x");
    for n in 0..1_000_000 {
        name.instance = InstanceId::new(&format!("made-up-{n}"));
        drop(world.registry.account(&name, &[]));
        if n % 100_000 == 0 {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
    assert!(
        world.registry.len() <= SHARDS * CAPACITY,
        "{}",
        world.registry.len()
    );
    for debtor in &debtors {
        // Ten seconds have passed, and a token takes a hundred to come back.
        assert!(!world.call(debtor));
    }
}

#[tokio::test(start_paused = true)]
async fn newcomers_share_one_account_while_the_registry_is_full() {
    let world = world(1.0, 10);
    let mut granted = 0;
    for n in 0..20_000 {
        granted += usize::from(world.call(&named(&format!("n{n}"))));
    }
    assert!(world.registry.len() <= SHARDS * CAPACITY);
    // One token each for those with an account, and ten for all the others.
    assert_eq!(granted, SHARDS * CAPACITY + 10);
}

#[tokio::test(start_paused = true)]
async fn the_idle_make_room() {
    let world = world(1.0, 2);
    for n in 0..10_000 {
        world.call(&named(&format!("n{n}")));
    }
    assert_eq!(world.registry.len(), SHARDS * CAPACITY);
    tokio::time::advance(Duration::from_secs(5)).await;
    for n in 0..SHARDS / 2 {
        assert!(world.call(&named(&format!("late{n}"))));
    }
    assert!(world.registry.len() <= SHARDS * CAPACITY);
}

/// A flood must not buy a search with every name.
#[tokio::test(start_paused = true)]
async fn a_full_registry_is_searched_once_a_second() {
    let world = world(10.0, 1);
    let flood = |prefix: &str, count: usize| {
        for n in 0..count {
            world.call(&named(&format!("{prefix}{n}")));
        }
    };
    flood("a", 20_000);
    assert_eq!(world.registry.len(), SHARDS * CAPACITY);
    // All tokens are back, so all accounts are idle.
    tokio::time::advance(Duration::from_millis(900)).await;
    flood("b", SHARDS * CAPACITY);
    assert_eq!(world.registry.len(), SHARDS * CAPACITY);
    assert!(world.registry.known("b0").is_none());
    tokio::time::advance(Duration::from_millis(100)).await;
    flood("c", 1);
    assert!(world.registry.known("c0").is_some());
}

#[tokio::test(start_paused = true)]
async fn verified_accounts_stay_where_the_idle_others_make_room() {
    let world = world(10.0, 1);
    let owner = named("owner");
    let quota = Quota::new(10.0, NonZeroU32::MIN).unwrap();
    let account = world.registry.account(&owner, &[]);
    let change = Change {
        credential: owner.credential.unwrap(),
        is_accepted: true,
    };
    account.verify(change, || Arc::new(policy(quota)));
    drop(account);
    // Few at a time: all others are idle again, and no shard is short of room.
    for round in 0..60 {
        tokio::time::advance(Duration::from_secs(2)).await;
        for n in 0..20 {
            world.call(&named(&format!("{round}-{n}")));
        }
        assert!(world.registry.known("owner").is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_verified_account_outlives_its_calls_by_an_hour_unless_room_is_short() {
    let quota = Quota::new(1.0, NonZeroU32::MIN).unwrap();
    let account = Account::new(InstanceId::new("1"), &policy(quota));
    let account = Arc::new(account);
    let identity = named("1");
    let lane = Lane::new(
        Arc::clone(&account),
        identity.credential,
        true,
        (&Arc::from([Arc::new(Registry::new(policy(quota)))]), 0),
        RULES,
        Arc::new(Metrics::new(1)),
    );
    let Ok(Admission::Now(permit)) = lane.admit(token_request(Duration::ZERO)) else {
        panic!("a full bucket");
    };
    lane.on_response(&permit, StatusCode::CREATED, None);
    let at = |seconds| Instant::now() + Duration::from_secs(seconds);
    for (seconds, is_table_full, idle) in [
        (0, true, false),
        (2, true, true),
        (2, false, false),
        (3590, false, false),
        (3610, false, true),
    ] {
        assert_eq!(
            account.is_idle(at(seconds), is_table_full),
            idle,
            "{seconds} {is_table_full}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_with_a_waiting_request_is_not_idle() {
    let quota = Quota::new(1.0, NonZeroU32::MIN).unwrap();
    let account = Arc::new(Account::new(None, &policy(quota)));
    let lane = Lane::new(
        Arc::clone(&account),
        None,
        true,
        (&Arc::from([Arc::new(Registry::new(policy(quota)))]), 0),
        RULES,
        Arc::new(Metrics::new(1)),
    );
    let ask = || lane.admit(token_request(Duration::from_secs(60)));
    let far = Instant::now() + Duration::from_secs(86_400);
    assert!(matches!(ask(), Ok(Admission::Now(_))));
    let waiting = ask();
    assert!(matches!(waiting, Ok(Admission::Queued(_))));
    assert!(!account.is_idle(far, true));
    drop(waiting);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(account.is_idle(far, true));
}

/// With its place in the table and its name it takes at most 200 bytes.
#[test]
fn an_account_is_small() {
    assert!(size_of::<Account>() <= 144, "{}", size_of::<Account>());
}
