//! Receipts, eight callers a chat at one moment: what merging costs and saves.

use std::time::Duration;

use super::{Field, INSTANCES, microseconds, names};
use crate::Result;
use crate::load::{Connections, Requests, percentile};
use crate::peers::{Peer, TestBed, Tuning};
use crate::settings::Settings;
use crate::table::Table;

/// Callers who mark messages of one chat at one moment.
const CALLERS: usize = 8;
/// Callers a second.
const RATE: usize = 4_000;
/// A caller through the gateway takes its window and the upstream's time: this
/// many are enough for the rate with scenario to spare.
const CONNECTIONS: usize = 1024;
/// What the upstream takes for a call.
const UPSTREAM: Duration = Duration::from_millis(20);

pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = format!("receipts, {CALLERS} callers a chat, {RATE} callers/s, upstream 20 ms");
    let mut table = Table::new(title, names(&Peer::ALL));
    let field = Field::start(bed, &Peer::ALL, &Tuning::default()).await?;
    let chats = (settings.turn.as_secs_f64() * RATE as f64) as usize / CALLERS;
    let requests = Requests::receipts(chats, CALLERS, INSTANCES);
    bed.upstream.delay(UPSTREAM);
    for round in 0..settings.rounds {
        for (peer, process) in field.in_turn(round) {
            let mut connections = Connections::open(process.address, CONNECTIONS).await?;
            let warm = Duration::from_millis(200);
            connections
                .open_loop(&requests, RATE, CALLERS, warm)
                .await?;
            let arrived = bed.upstream.calls();
            let before = process.processor_time()?;
            let turn = connections.open_loop(&requests, RATE, CALLERS, settings.turn);
            let latencies = turn.await?;
            let spent = process.processor_time()? - before;
            let arrived = (bed.upstream.calls() - arrived) as f64;
            let callers = latencies.len() as f64;
            let mut add = |name: &str, value| table.add(name, peer.name(), value);
            add(
                "processor time per caller, µs",
                microseconds(spent) / callers,
            );
            add("upstream calls per caller", arrived / callers);
            add("p50, ms", percentile(&latencies, 50) / 1e3);
            add("p99, ms", percentile(&latencies, 99) / 1e3);
        }
    }
    bed.upstream.delay(Duration::ZERO);
    Ok(table)
}
