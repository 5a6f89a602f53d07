//! What a scrape shows, and that no client can make it grow.

use std::collections::BTreeSet;
use std::time::Duration;

use wawp_gateway::sandbox::{Fault, Settings};

use crate::support::{Stage, World, at_rest, get, post, receipt, receipt_of, text};

/// The series of an exposition, without their values.
fn series(world: &World) -> BTreeSet<String> {
    let text = world.gateway.exposition();
    assert!(text.len() < 1_000_000, "{} bytes", text.len());
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.rsplit_once(' '));
    names.map(|(series, _)| series.to_owned()).collect()
}

/// Everything a client can make up, in calls on one connection.
async fn flood(world: &World, round: usize) {
    let mut client = world.client();
    for n in 0..150 {
        let instance = format!("{round}-{n}");
        // Half of them the upstream takes, the other half it does not.
        let token = if n % 2 == 0 { "t" } else { "invalid" };
        client
            .asks(receipt_of(
                &instance,
                token,
                "1@c.us",
                &[format!("false_1@c.us_{n}")],
            ))
            .await;
        let path =
            format!("/v2/made-up-{round}-{n}?instance_id={instance}%22%0a&access_token={token}");
        client.asks(get(&path)).await;
        let method = format!("M{round}X{n}");
        client.asks(get(&path).replacen("GET", &method, 1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn made_up_instances_paths_methods_and_codes_end_at_the_full_sets() {
    let world = World::new("batch.window = \"0ms\"\nlimit.rate = 0\nlimit.burst = 0");
    for code in 200..1_000 {
        world.sandbox.script(Fault::status(code).path("/odd"));
        assert_eq!(world.call(get("/odd")).await.status(), code);
    }
    flood(&world, 0).await;
    flood(&world, 1).await;
    let full = series(&world);
    for round in 2..4 {
        flood(&world, round).await;
        let more: Vec<_> = series(&world).difference(&full).cloned().collect();
        assert!(more.is_empty(), "{more:#?}");
    }
    let named = full
        .iter()
        .filter(|name| name.starts_with("wawp_gateway_limit_queued{"));
    assert_eq!(named.count(), 100 + 2, "and other, and none");
}

#[tokio::test(start_paused = true)]
async fn tokens_and_pauses_are_read_off_at_the_scrape() {
    let world = World::new(
        "limit.rate = 2\nlimit.burst = 4\nlimit.max_queue = 33\n\
         [[limit.class]]\nname = \"sends\"\npaths = [\"/v2/send/*\"]\nrate = 1\nburst = 9",
    );
    let of =
        |name: &str| world.counted(&format!("wawp_gateway_limit_{name}"), &["instance=\"123\""]);
    assert_eq!(world.counted("wawp_gateway_limit_max_queue", &[]), 33.0);
    world.call(receipt([1])).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((of("tokens"), of("paused")), (4.0, 0.0));
    for n in 0..7 {
        world.call(text(&n.to_string())).await;
    }
    assert_eq!(of("tokens"), 2.0, "of the class, which has fewer left");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(of("tokens"), 2.5);

    let busy = Fault::status(429).header(
        http::header::RETRY_AFTER,
        http::HeaderValue::from_static("20"),
    );
    world.sandbox.script(busy);
    assert_eq!(world.call(text("throttled")).await.status(), 429);
    assert_eq!(of("paused"), 20.0);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(of("paused"), 5.0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let since_the_pause = (2.0, 0.0);
    assert_eq!(
        (of("tokens"), of("paused")),
        since_the_pause,
        "it began empty"
    );

    // Forgotten, an instance has a full bucket; and a lifted limit has none.
    world.reload("limit.rate = 5\nlimit.burst = 7\nlimit.max_queue = 44");
    assert_eq!(of("tokens"), 7.0);
    assert_eq!(world.counted("wawp_gateway_limit_max_queue", &[]), 44.0);
    world.reload("limit.rate = 0\nlimit.burst = 0");
    assert!(!world.gateway.exposition().contains("limit_tokens{"));
}

#[tokio::test(start_paused = true)]
async fn a_tenants_upstream_calls_are_counted_beside_its_weight() {
    let tenants = "[[tenant]]\nname = \"acme\"\ninstances = [\"123\"]\nweight = 4\n\
                   [[tenant]]\nname = \"zoo\"\ninstances = [\"9\"]\n";
    let world = World::new(tenants);
    let upstream = |tenant: &str| {
        let tenant = format!("tenant=\"{tenant}\"");
        world.counted("wawp_gateway_tenant_upstream_requests_total", &[&tenant])
    };
    let weight = |tenant: &str| {
        let tenant = format!("tenant=\"{tenant}\"");
        world.counted("wawp_gateway_tenant_weight", &[&tenant])
    };
    assert_eq!((weight("acme"), weight("zoo")), (4.0, 1.0));
    world
        .together([receipt([1]), receipt([2]), receipt([3])])
        .await;
    world.call(text("a")).await;
    world
        .call(get("/v2/session/info?instance_id=5&access_token=t"))
        .await;
    world.sandbox.script(Fault::new(
        wawp_gateway::sandbox::FaultKind::ResetBeforeHead,
    ));
    world
        .call(post("/v2/chats?instance_id=123&access_token=t", "{}"))
        .await;
    at_rest().await;
    assert_eq!(
        (upstream("acme"), upstream("zoo"), upstream("other")),
        (3.0, 0.0, 1.0)
    );
    world.reload("");
    let weights = "wawp_gateway_tenant_weight{";
    assert!(!world.gateway.exposition().contains(weights));
    assert_eq!(upstream("acme"), 3.0, "a count stays");
}

#[tokio::test(start_paused = true)]
async fn upstream_connections_are_idle_or_active() {
    let mut stage = Stage::new("");
    let open = |stage: &Stage| {
        let text = stage.gateway.exposition();
        let of = |state: &str| {
            let name = format!("wawp_gateway_upstream_connections{{state=\"{state}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&*name));
            line.expect("it is shown").parse::<usize>().unwrap()
        };
        (of("idle"), of("active"))
    };
    assert_eq!(open(&stage), (0, 0));
    let mut client = stage.client();
    client.says(text("a")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    assert_eq!(open(&stage), (0, 1));
    let another = stage.gateway.for_another_worker();
    assert!(
        another.exposition().contains("{state=\"active\"} 1\n"),
        "all workers tell of all"
    );
    line.says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    client.response().await;
    at_rest().await;
    assert_eq!(open(&stage), (1, 0));
    line.hangs_up();
    client.says(text("b")).await;
    let _line = stage.upstream.accepts().await;
    assert_eq!(open(&stage), (0, 1), "the dead one is gone");
}

#[tokio::test(start_paused = true)]
async fn as_many_connections_stay_idle_as_were_in_use_until_their_time_is_over() {
    let settings = Settings {
        latency: Duration::from_secs(1),
        ..Settings::default()
    };
    let world = World::with_sandbox("limit.rate = 0\nlimit.burst = 0", settings);
    let idle = || world.counted("wawp_gateway_upstream_connections", &["state=\"idle\""]);
    world.together((0..700).map(|n| text(&n.to_string()))).await;
    assert_eq!(idle(), 700.0);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(idle(), 0.0, "upstream.idle_timeout");
}

#[tokio::test(start_paused = true)]
async fn a_drain_shows() {
    let world = World::new("");
    assert_eq!(world.counted("wawp_gateway_draining", &[]), 0.0);
    world.gateway.drain();
    assert_eq!(world.counted("wawp_gateway_draining", &[]), 1.0);
}
