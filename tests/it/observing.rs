//! Watching without touching: `limit.mode` and `batch.mode` as `"observe"`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderValue;
use http::header::{HOST, RETRY_AFTER};
use proptest::prelude::*;
use tokio::time::Instant;
use wawp_gateway::sandbox::{Call, Fault, Sandbox, Settings};

use crate::support::{ClientConn, World, at_rest, ids, post, receipt, receipt_of, text};

const ENFORCE: &str = "";
const OBSERVE_ALL: &str = "limit.mode = \"observe\"\nbatch.mode = \"observe\"\n";
const OBSERVE_LIMIT: &str = "limit.mode = \"observe\"\n";
const OBSERVE_BATCH: &str = "batch.mode = \"observe\"\n";

/// Longer than anything may wait in these tests.
const END: Duration = Duration::from_secs(120);

/// A call of a story.
#[derive(Clone, Debug)]
struct Comes {
    /// After the one before, in seconds.
    gap: u64,
    instance: usize,
    /// A receipt for a chat with these messages, or else a text.
    receipt: Option<(usize, usize, usize)>,
}

fn story() -> impl Strategy<Value = Vec<Comes>> {
    let comes = (
        // Whole seconds: windows, tokens and deadlines are due in between, so that no two things happen at once, of
        // which either may come first.
        prop_oneof![6 => Just(1_u64), 2 => 1_u64..5, 1 => 10_u64..40],
        0_usize..2,
        prop_oneof![
            3 => (0_usize..2, 0_usize..30, 1_usize..4).prop_map(Some),
            1 => Just(None),
        ],
    );
    let comes = comes.prop_map(|(gap, instance, receipt)| Comes {
        gap,
        instance,
        receipt,
    });
    proptest::collection::vec(comes, 20..120)
}

impl Comes {
    fn request(&self, number: usize) -> String {
        let instance = format!("i{}", self.instance);
        match self.receipt {
            Some((chat, first, count)) => {
                let chat = format!("{chat}@c.us");
                let ids: Vec<_> = (first..first + count)
                    .map(|n| format!("false_{chat}_{n}"))
                    .collect();
                receipt_of(&instance, "token-1", &chat, &ids)
            }
            None => {
                // The token where the receipts have it: elsewhere it would be another credential, accepted by a response
                // of its own, and responses come sooner where nothing waits.
                let body = format!(
                    r#"{{"instance_id":"{instance}","access_token":"token-1","chatId":"1@c.us","message":"{number}"}}"#
                );
                post("/v2/send/text", &body)
            }
        }
    }
}

/// What came of a story.
#[derive(Debug)]
struct Told {
    calls: Vec<(Duration, Call)>,
    statuses: BTreeMap<String, usize>,
    /// Metrics by name and a label that tells them apart.
    figures: BTreeMap<String, f64>,
}

impl Told {
    fn of(&self, name: &str) -> f64 {
        self.figures[name]
    }
}

/// Plays a story before a gateway with these settings; before the upstream itself without any.
fn play(story: &[Comes], settings: Option<&str>) -> Told {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = settings.map(World::new);
        let sandbox = match &world {
            Some(world) => world.sandbox.clone(),
            None => Sandbox::new(Settings::default()),
        };
        let client = || match &world {
            Some(world) => world.client(),
            None => {
                let (near, far) = tokio::io::duplex(1 << 16);
                let sandbox = sandbox.clone();
                tokio::spawn(async move { sandbox.serve_io(far).await });
                ClientConn::new(near)
            }
        };
        let began = Instant::now();
        let mut calling = Vec::new();
        let mut at = began;
        for (number, comes) in story.iter().enumerate() {
            at += Duration::from_secs(comes.gap);
            tokio::time::sleep_until(at).await;
            let mut client = client();
            let request = comes.request(number);
            calling.push(tokio::spawn(async move { client.asks(request).await }));
        }
        let mut statuses = BTreeMap::new();
        for call in calling {
            let response = call.await.unwrap();
            let timed = response.field("server-timing").is_some();
            let status = format!("{}{}", response.status(), if timed { " timed" } else { "" });
            *statuses.entry(status).or_default() += 1;
        }
        tokio::time::sleep(END).await;
        let calls = sandbox.calls().into_iter();
        Told {
            calls: calls.map(|call| (call.at - began, call)).collect(),
            statuses,
            figures: world.as_ref().map(figures).unwrap_or_default(),
        }
    })
}

fn figures(world: &World) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    let mut note = |name: &str, label: &str| {
        let counted = world.counted(&format!("wawp_gateway_{name}"), &[label]);
        figures.insert(format!("{name} {label}"), counted);
    };
    for route in ["route=\"seen\"", "route=\"other\""] {
        for name in ["limit_wait_seconds", "would_delay_seconds"] {
            note(&format!("{name}_sum"), route);
            note(&format!("{name}_count"), route);
        }
    }
    for reason in ["queue_full", "max_wait", "paused"] {
        let reason = format!("reason=\"{reason}\"");
        note("limit_rejected_total", &reason);
        note("would_reject_total", &reason);
    }
    for name in [
        "upstream_requests_saved_total",
        "would_save_upstream_requests_total",
        "limit_queued",
        "batches_open",
    ] {
        note(name, "");
    }
    figures
}

/// The upstream saw in `observed` what it saw without a gateway: the same calls, at the same moments.
fn same_upstream(observed: &Told, direct: &Told) -> Result<(), TestCaseError> {
    prop_assert_eq!(observed.calls.len(), direct.calls.len());
    for ((at, call), (expected_at, expected)) in observed.calls.iter().zip(&direct.calls) {
        prop_assert_eq!(at, expected_at);
        prop_assert_eq!(&call.method, &expected.method);
        prop_assert_eq!(&call.target, &expected.target);
        prop_assert_eq!(&call.body, &expected.body);
        let but_host = |call: &Call| {
            let mut headers = call.headers.clone();
            headers.remove(HOST);
            headers
        };
        prop_assert_eq!(but_host(call), but_host(expected));
    }
    prop_assert_eq!(&observed.statuses, &direct.statuses);
    Ok(())
}

/// What observing counted is what another run really did.
fn same(observed: &Told, would: &str, enforced: &Told, did: &str) -> Result<(), TestCaseError> {
    let (observed, enforced) = (observed.of(would), enforced.of(did));
    prop_assert!(
        (observed - enforced).abs() < 1e-6,
        "{would} {observed}, but {did} {enforced}"
    );
    Ok(())
}

fn same_waits(observed: &Told, enforced: &Told) -> Result<(), TestCaseError> {
    for route in ["seen", "other"] {
        for what in ["sum", "count"] {
            same(
                observed,
                &format!("would_delay_seconds_{what} route=\"{route}\""),
                enforced,
                &format!("limit_wait_seconds_{what} route=\"{route}\""),
            )?;
        }
    }
    for reason in ["queue_full", "max_wait", "paused"] {
        same(
            observed,
            &format!("would_reject_total reason=\"{reason}\""),
            enforced,
            &format!("limit_rejected_total reason=\"{reason}\""),
        )?;
    }
    Ok(())
}

fn same_savings(observed: &Told, merged: &Told) -> Result<(), TestCaseError> {
    let (would, did) = (
        "would_save_upstream_requests_total ",
        "upstream_requests_saved_total ",
    );
    same(observed, would, merged, did)
}

fn rules() -> impl Strategy<Value = String> {
    (
        prop_oneof![Just(1002_u64), Just(2002), Just(5002)],
        1_usize..6,
        prop_oneof![Just(1_usize), Just(3), Just(1000)],
        prop_oneof![Just(4801_u64), Just(12_801), Just(30_801)],
        prop_oneof![Just(5_usize), Just(100)],
    )
        .prop_map(|(interval, burst, max_queue, max_wait, max_ids)| {
            let rate = 1000.0 / interval as f64;
            format!(
                "limit.rate = {rate}\nlimit.burst = {burst}\nlimit.max_queue = {max_queue}\n\
                 limit.max_wait = \"{max_wait}ms\"\nbatch.window = \"3501ms\"\nbatch.max_delay = \"9301ms\"\n\
                 batch.max_ids = {max_ids}\n"
            )
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// Nothing changes upstream, and what is counted is what enforcing does.
    #[test]
    fn both_observed(story in story(), rules in rules()) {
        let enforced = play(&story, Some(&format!("{ENFORCE}{rules}")));
        let observed = play(&story, Some(&format!("{OBSERVE_ALL}{rules}")));
        same_upstream(&observed, &play(&story, None))?;
        same_waits(&observed, &enforced)?;
        same_savings(&observed, &enforced)?;
        for gauge in ["limit_queued ", "batches_open "] {
            prop_assert_eq!(observed.of(gauge), 0.0);
        }
    }

    /// Receipts are merged as without limits, and waits are those of enforcing.
    #[test]
    fn limits_observed(story in story(), rules in rules()) {
        let enforced = play(&story, Some(&format!("{ENFORCE}{rules}")));
        let observed = play(&story, Some(&format!("{OBSERVE_LIMIT}{rules}")));
        let unlimited = play(&story, Some(&format!("{ENFORCE}{rules}").replace("limit.rate = ", "limit.rate = 0 #")));
        same_upstream(&observed, &unlimited)?;
        same_waits(&observed, &enforced)?;
        prop_assert_eq!(observed.of("would_save_upstream_requests_total "), 0.0);
    }

    /// Each receipt pays for itself, and window and caps alone say what is saved.
    #[test]
    fn batches_observed(story in story(), rules in rules()) {
        let observed = play(&story, Some(&format!("{OBSERVE_BATCH}{rules}")));
        let alone = play(&story, Some(&format!("{ENFORCE}{rules}").replace("\"3501ms\"", "\"0ms\"")));
        prop_assert_eq!(observed.calls.len(), alone.calls.len());
        for name in alone.figures.keys() {
            if name.starts_with("limit_") {
                same(&observed, name, &alone, name)?;
            }
        }
        let unlimited = play(&story, Some(&format!("{ENFORCE}{rules}").replace("limit.rate = ", "limit.rate = 0 #")));
        same_savings(&observed, &unlimited)?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_learnt_and_kept_by_ghosts_alone() {
    let world = World::new(&format!("{OBSERVE_LIMIT}limit.headers = true"));
    let busy = Fault::status(429).header(RETRY_AFTER, HeaderValue::from_static("2"));
    world.sandbox.script(busy.clone());
    assert_eq!(world.call(text("a")).await.status(), 429);
    let began = Instant::now();
    let response = world.call(text("b")).await;
    assert_eq!((response.status(), began.elapsed()), (201, Duration::ZERO));
    assert_eq!(response.field("ratelimit"), None);
    assert_eq!(response.field("server-timing"), None);
    tokio::time::sleep(END).await;
    let would =
        |what: &str| world.counted(&format!("wawp_gateway_would_delay_seconds_{what}"), &[]);
    assert_eq!((would("count"), would("sum")), (2.0, 2.0));

    // A 429 of the upstream reaches receipts at once: without a queue, retries would be a flood.
    world.sandbox.script(busy);
    let before = world.sandbox.received();
    assert_eq!(world.call(receipt([1])).await.status(), 429);
    assert_eq!(world.sandbox.received(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_switch_surprises_nobody() {
    let rules = "limit.rate = 1\nlimit.burst = 3\n";
    let world = World::new(&format!("{OBSERVE_ALL}{rules}"));
    world.together((0..5).map(|n| text(&n.to_string()))).await;
    world.reload(&format!("{ENFORCE}{rules}"));
    let began = Instant::now();
    assert_eq!(world.call(text("after")).await.status(), 201);
    // Three of the burst and two ghosts in line went before.
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    world.reload(&format!("{OBSERVE_ALL}{rules}"));
    world.call(text("free")).await;
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn no_drain_waits_for_ghosts() {
    let world = World::new(&format!(
        "{OBSERVE_ALL}limit.rate = 0.01\nlimit.burst = 1\nlimit.max_wait = \"1h\"\n"
    ));
    world.together((0..5).map(|n| text(&n.to_string()))).await;
    world.together((0..5).map(|n| receipt([n]))).await;
    at_rest().await;
    let began = Instant::now();
    world.gateway.drain();
    assert_eq!(world.gateway.unfinished().0, 0);
    world.gateway.drained().await;
    assert!(began.elapsed() < Duration::from_millis(10));
    assert_eq!(world.sandbox.received(), 10);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_repeated_or_split_for_an_observed_receipt() {
    let world = World::new(OBSERVE_ALL);
    world.sandbox.script(Fault::status(503));
    assert_eq!(world.call(receipt([1])).await.status(), 503);
    world.sandbox.script(Fault::status(400));
    assert_eq!(world.call(receipt([2])).await.status(), 400);
    assert_eq!(world.sandbox.received(), 2);
    assert_eq!(world.sandbox.calls()[1].ids, ids([2]));
}

#[tokio::test(start_paused = true)]
async fn what_would_wait_is_counted_by_instance_and_the_mode_is_exposed() {
    let world = World::new("limit.mode = \"observe\"\nlimit.rate = 1\nlimit.burst = 1\n");
    for n in 0..3 {
        assert_eq!(
            world.client().asks(text(&n.to_string())).await.status(),
            201
        );
    }
    tokio::time::sleep(END).await;
    // The first takes the token, the others would wait for one and two seconds.
    let delayed = world.counted("wawp_gateway_would_delay_total", &["instance=\"123\""]);
    assert_eq!(delayed, 2.0);
    let mode = |what: &str| world.counted("wawp_gateway_mode", &[what]);
    assert_eq!((mode("what=\"limit\""), mode("what=\"batch\"")), (1.0, 0.0));
    world.reload("batch.mode = \"observe\"\n");
    assert_eq!((mode("what=\"limit\""), mode("what=\"batch\"")), (0.0, 1.0));
}
