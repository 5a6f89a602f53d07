//! Receipts of several callers a chat at one moment: what merging costs and saves.

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

/// A load of many callers.
const BUSY: Load = Load {
    callers: 64,
    rate: 20_000,
    connections: 4096,
};
/// Chats whose callers send their next receipt with the response to the last one.
const CHATS: usize = 16;

/// Receipts that fall due at a fixed rate.
#[derive(Clone, Copy)]
struct Load {
    /// Callers of one chat at one moment.
    callers: usize,
    /// Callers a second.
    rate: usize,
    connections: usize,
}

pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = format!("receipts, {CALLERS} callers a chat, {RATE} callers/s, upstream 20 ms");
    let mut table = Table::new(title, names(bed, &Peer::ALL));
    let field = Field::start(bed, &Peer::ALL, &Tuning::default()).await?;
    let load = Load {
        callers: CALLERS,
        rate: RATE,
        connections: CONNECTIONS,
    };
    open_loop(bed, settings, &mut table, "", &field, load).await?;
    Ok(table)
}

/// As many callers as one merged request can carry: in a closed loop, and at a fixed rate.
pub(super) async fn merged(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = format!("merged receipts, {} callers a chat", BUSY.callers);
    let mut table = Table::new(title, names(bed, &Peer::ALL));
    let field = Field::start(bed, &Peer::ALL, &Tuning::default()).await?;
    let requests = Requests::receipts(CHATS, BUSY.callers, INSTANCES);
    for round in 0..settings.rounds {
        for (peer, process) in field.in_turn(round) {
            let mut connections = Connections::open(process.address, requests.len()).await?;
            connections.each(&requests, 1).await?;
            let (arrived, before) = (bed.upstream.calls(), process.processor_time()?);
            // Each connection stays in its chat.
            let turn = connections.closed_loop(|number| requests.only(number), settings.turn);
            let callers = turn.await? as f64;
            let spent = process.processor_time()? - before;
            let arrived = (bed.upstream.calls() - arrived) as f64;
            let mut add = |name: &str, value| {
                table.add(&format!("closed loop: {name}"), peer.name(), value);
            };
            add(
                "processor time per caller, µs",
                microseconds(spent) / callers,
            );
            add("upstream calls per caller", arrived / callers);
        }
    }
    let prefix = format!("{}/s, upstream 20 ms: ", BUSY.rate);
    open_loop(bed, settings, &mut table, &prefix, &field, BUSY).await?;
    Ok(table)
}

/// Adds the rows of a load, whose names begin with `prefix`.
async fn open_loop(
    bed: &TestBed,
    settings: &Settings,
    table: &mut Table,
    prefix: &str,
    field: &Field,
    load: Load,
) -> Result<()> {
    let Load { callers, rate, .. } = load;
    let chats = (settings.turn.as_secs_f64() * rate as f64) as usize / callers;
    let requests = Requests::receipts(chats, callers, INSTANCES);
    bed.upstream.delay(UPSTREAM);
    for round in 0..settings.rounds {
        for (peer, process) in field.in_turn(round) {
            let mut connections = Connections::open(process.address, load.connections).await?;
            let warm = Duration::from_millis(200);
            connections
                .open_loop(&requests, rate, callers, warm)
                .await?;
            let arrived = bed.upstream.calls();
            let before = process.processor_time()?;
            let turn = connections.open_loop(&requests, rate, callers, settings.turn);
            let latencies = turn.await?;
            let spent = process.processor_time()? - before;
            let arrived = (bed.upstream.calls() - arrived) as f64;
            let callers = latencies.len() as f64;
            let mut add = |name: &str, value| {
                table.add(&format!("{prefix}{name}"), peer.name(), value);
            };
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
    Ok(())
}
