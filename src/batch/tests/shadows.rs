//! Shadows of receipts count what merging would have saved (rule: observe mode).

use super::*;
use crate::config::{BatchEdge, BatchMode, LimitMode};
use crate::limit::{Admission, Refusal};
use crate::observe::metrics::{Reason, Route};

fn observing(change: impl FnOnce(&mut Config)) -> World {
    World::with(|config| {
        config.batch.mode = BatchMode::Observe;
        change(config);
    })
}

impl World {
    fn shadow(&self, receipt: &Receipt) {
        let lane = self.lane_of(receipt);
        self.batcher.shadow(&self.settings, receipt, &lane);
    }

    /// Shadows of receipts with one id each.
    fn shadows(&self, names: &[&str]) {
        for name in names {
            self.shadow(&receipt_of(&[name]).receipt());
        }
    }

    fn would_save(&self) -> u64 {
        self.lane().series().would_save.get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_shadow_batch_saves_as_many_calls_as_it_has_further_callers() {
    let world = observing(|_| ());
    world.shadows(&["a", "b", "c"]);
    tokio::time::sleep(ms(40)).await;
    assert_eq!(world.would_save(), 0, "its window has not ended");
    tokio::time::sleep(ms(20)).await;
    assert_eq!(world.would_save(), 2);
    world.shadows(&["d", "e"]);
    tokio::time::sleep(ms(60)).await;
    assert_eq!(world.would_save(), 3);
    assert_eq!(world.calls().len(), 0, "nothing is sent for a shadow");
}

#[tokio::test(start_paused = true)]
async fn where_merging_is_real_shadows_save_nothing() {
    let world = World::with(|config| config.limit.mode = LimitMode::Observe);
    world.shadows(&["a", "b", "c"]);
    tokio::time::sleep(ms(60)).await;
    assert_eq!(world.would_save(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shadow_batch_holds_no_more_than_a_batch() {
    // So many ids or callers; the batches of seven receipts then save this many calls.
    for (max_ids, max_callers, saved) in [(2, 1000, 3), (3, 1000, 4), (100, 2, 3), (100, 7, 6)] {
        let world = observing(|config| {
            config.batch.max_ids = max_ids;
            config.batch.max_callers = max_callers;
        });
        world.shadows(&["a", "b", "c", "d", "e", "f", "g"]);
        tokio::time::sleep(ms(60)).await;
        assert_eq!(world.would_save(), saved, "{max_ids} {max_callers}");
    }
}

/// The bytes of the ids count too: in a query they are bounded.
#[tokio::test(start_paused = true)]
async fn a_shadow_batch_saves_as_much_as_a_batch_of_long_ids() {
    let receipt = |n: usize| {
        let id = format!("false_1%40c.us_{}{n}", "%40".repeat(400));
        let target = format!(
            "/v2/send/seen?instance_id=1&access_token=t&chatId=1@c.us&messageIds=%5B%22{id}%22%5D"
        );
        let (head, ()) = Request::post(target).body(()).unwrap().into_parts();
        Receipt::by_default(head, Bytes::new()).expect("a receipt")
    };
    let (merged, observed) = (World::with(|_| ()), observing(|_| ()));
    for n in 0..30 {
        drop(merged.join_as(receipt(n)).unwrap());
        observed.shadow(&receipt(n));
    }
    tokio::time::sleep(ms(60)).await;
    let calls = merged.calls().len() as u64;
    assert!((2..30).contains(&calls), "{calls}");
    assert_eq!(observed.would_save(), 30 - calls);
}

#[tokio::test(start_paused = true)]
async fn with_a_leading_edge_a_shadow_key_is_busy_for_a_window() {
    let world = observing(|config| config.batch.edge = BatchEdge::Leading);
    world.shadows(&["a"]);
    tokio::time::sleep(ms(40)).await;
    // The key is busy: these two wait for a window and share a call.
    world.shadows(&["b", "c"]);
    tokio::time::sleep(ms(60)).await;
    assert_eq!(world.would_save(), 1);
    assert_eq!(world.batcher.open_shadows.len(), 1, "busy since 90 ms");
    tokio::time::sleep(ms(60)).await;
    assert_eq!(world.batcher.open_shadows.len(), 0);
    // The key is idle: each of these goes at once.
    world.shadows(&["d"]);
    tokio::time::sleep(ms(60)).await;
    world.shadows(&["e"]);
    tokio::time::sleep(ms(60)).await;
    assert_eq!(world.would_save(), 1);
}

/// Where budgets are only observed, shadows take the tokens and are refused.
#[tokio::test(start_paused = true)]
async fn where_budgets_are_observed_a_shadow_batch_takes_one_token_or_is_refused() {
    let world = observing(|config| {
        config.limit.mode = LimitMode::Observe;
        config.limit.quota = quota(0.2, 2);
    });
    let tokens = || world.limiter.budgets("1")[0].tokens;
    let refused = || {
        let lane = world.lane();
        let series = lane.series();
        series.would_reject(Reason::MaxWait).get()
    };
    world.shadows(&["a", "b", "c"]);
    tokio::time::sleep(ms(60)).await;
    assert_eq!(tokens().map(f64::floor), Some(1.0), "one for all three");
    world.shadows(&["d"]);
    tokio::time::sleep(ms(60)).await;
    assert_eq!(tokens().map(f64::floor), Some(0.0));
    assert_eq!(refused(), 0);
    // The next token comes after `limit.max_wait`.
    world.shadows(&["e"]);
    assert_eq!(refused(), 1);
    assert_eq!(
        world
            .metrics
            .would_delay(Route::ReceiptPath)
            .get_sample_count(),
        2
    );
}

/// Where budgets are enforced, a shadow batch takes no token: the receipts do.
#[tokio::test(start_paused = true)]
async fn where_budgets_are_enforced_shadows_take_no_token() {
    let world = observing(|config| config.limit.quota = quota(0.2, 2));
    world.shadows(&["a"]);
    tokio::time::sleep(ms(60)).await;
    let lane = world.lane();
    for _ in 0..2 {
        let token = world.limiter.admit(&lane, Kind::Request, Instant::now());
        assert!(matches!(token, Ok(Admission::Now(_))), "{token:?}");
    }
    let refused = world.limiter.admit(&lane, Kind::Request, Instant::now());
    assert_eq!(refused.unwrap_err().refusal, Refusal::WaitTooLong);
    world.shadows(&["b"]);
    tokio::time::sleep(ms(60)).await;
    assert_eq!(
        world
            .metrics
            .would_delay(Route::ReceiptPath)
            .get_sample_count(),
        0
    );
}
