//! Pass-through: what a call costs, how many fit, how long each takes.

use std::time::Duration;

use tokio::time::Instant;

use super::{CONNECTIONS, Field, INSTANCES, microseconds, names};
use crate::Result;
use crate::load::{Connections, Requests, percentile};
use crate::peers::{Peer, TestBed, Tuning};
use crate::process::Process;
use crate::settings::Settings;
use crate::table::Table;
use crate::upstream::SAMPLE;

/// Calls a second: little to do, and a good part of what one core can do.
const RATES: [usize; 2] = [2_000, 10_000];
/// At the fixed rate, before latencies count.
const WARM_UP: Duration = Duration::from_millis(100);

/// Processor time per call and calls a second in a closed loop.
pub(super) async fn capacity(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = format!("pass-through, 200 B each way, {CONNECTIONS} connections, cores: 1");
    let mut table = Table::new(title, names(bed, &Peer::ALL));
    let field = Field::start(bed, &Peer::ALL, &Tuning::default()).await?;
    fill(
        &mut table,
        "",
        &field,
        settings,
        &Requests::messages(INSTANCES),
    )
    .await?;
    Ok(table)
}

/// The same with responses of 3 KB, the size of the samples that the vendor shows.
pub(super) async fn responses(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = format!("responses of 3 KB, {CONNECTIONS} connections");
    let mut table = Table::new(title, names(bed, &Peer::ALL));
    let field = Field::start(bed, &Peer::ALL, &Tuning::default()).await?;
    let requests = Requests::messages_to(SAMPLE, INSTANCES);
    fill(&mut table, "", &field, settings, &requests).await?;
    Ok(table)
}

/// Adds the rows of a closed loop, whose names begin with `prefix`.
pub(super) async fn fill(
    table: &mut Table,
    prefix: &str,
    field: &Field,
    settings: &Settings,
    requests: &Requests,
) -> Result<()> {
    for round in 0..settings.rounds {
        for (peer, process) in field.in_turn(round) {
            let turn = full_tilt(process, requests, settings.turn).await?;
            let mut add = |name: &str, value| {
                table.add(&format!("{prefix}{name}"), peer.name(), value);
            };
            add("processor time per call, µs", turn.per_call());
            add("calls/s", turn.calls / turn.elapsed.as_secs_f64());
            // Below 100 the load generator was the bottleneck, not the proxy.
            let busy = turn.spent.as_secs_f64() / turn.elapsed.as_secs_f64();
            add("its core busy meanwhile, %", busy * 100.0);
        }
    }
    Ok(())
}

/// Whether a call's price stays the same when a second core is put to work.
/// The load generator shares that core, so requests per second would mean nothing.
pub(super) async fn scaling(bed: &TestBed, settings: &Settings) -> Result<Table> {
    // The plain proxy has one thread only.
    const PEERS: [Peer; 3] = [Peer::Nginx, Peer::Haproxy, Peer::Gateway];
    let title = format!("pass-through, 200 B each way, {CONNECTIONS} connections");
    let mut table = Table::new(title, names(bed, &PEERS));
    let tuning = Tuning {
        workers: 2,
        ..Tuning::default()
    };
    let one = Field::start(bed, &PEERS, &Tuning::default()).await?;
    let two = Field::start(bed, &PEERS, &tuning).await?;
    let requests = Requests::messages(INSTANCES);
    for round in 0..settings.rounds {
        // One beside the other, so that both fall on the same moments.
        for ((peer, one), (_, two)) in one.in_turn(round).zip(two.in_turn(round)) {
            let mut costs = [0.0; 2];
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for at in order {
                let process = [one, two][at];
                let turn = full_tilt(process, &requests, settings.turn).await?;
                costs[at] = turn.per_call();
            }
            let mut add = |name: &str, value| table.add(name, peer.name(), value);
            for (cost, cores) in costs.into_iter().zip(["one core", "two cores"]) {
                add(&format!("processor time per call, {cores}, µs"), cost);
                add(&format!("calls per second of it, {cores}"), 1e6 / cost);
            }
            add("its price with two cores / with one", costs[1] / costs[0]);
        }
    }
    Ok(table)
}

/// A turn of a closed loop: each response triggers the next request.
struct Turn {
    calls: f64,
    spent: Duration,
    elapsed: Duration,
}

impl Turn {
    fn per_call(&self) -> f64 {
        microseconds(self.spent) / self.calls
    }
}

async fn full_tilt(process: &Process, requests: &Requests, length: Duration) -> Result<Turn> {
    let mut connections = Connections::open(process.address, CONNECTIONS).await?;
    connections.each(requests, 20).await?;
    let (began, before) = (Instant::now(), process.processor_time()?);
    let calls = connections
        .closed_loop(|_| requests.clone(), length)
        .await? as f64;
    Ok(Turn {
        calls,
        spent: process.processor_time()? - before,
        elapsed: began.elapsed(),
    })
}

/// Latency at fixed rates, beyond that of the upstream called directly.
pub(super) async fn latency(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = format!("added latency, 200 B each way, {CONNECTIONS} connections");
    let mut table = Table::new(title, names(bed, &Peer::ALL));
    let field = Field::start(bed, &Peer::ALL, &Tuning::default()).await?;
    let requests = Requests::messages(INSTANCES);
    for rate in RATES {
        for round in 0..settings.rounds {
            let turn = async |process: Option<&Process>| -> Result<[f64; 3]> {
                let address = process.map_or(bed.upstream.address, |process| process.address);
                let spent = || process.map_or(Ok(Duration::ZERO), Process::processor_time);
                let mut connections = Connections::open(address, CONNECTIONS).await?;
                connections.each(&requests, 20).await?;
                connections.open_loop(&requests, rate, 1, WARM_UP).await?;
                let before = spent()?;
                let latencies = connections
                    .open_loop(&requests, rate, 1, settings.turn)
                    .await?;
                let per_call = microseconds(spent()? - before) / latencies.len() as f64;
                let [p50, p99] = [50, 99].map(|percent| percentile(&latencies, percent));
                Ok([p50, p99, per_call])
            };
            let direct = turn(None).await?;
            for (peer, process) in field.in_turn(round) {
                let through = turn(Some(process)).await?;
                let mut add = |name: &str, value| {
                    table.add(&format!("{name} at {rate} calls/s, µs"), peer.name(), value);
                };
                add("added p50", through[0] - direct[0]);
                add("added p99", through[1] - direct[1]);
                add("processor time per call", through[2]);
            }
        }
    }
    Ok(table)
}
