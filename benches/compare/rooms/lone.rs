//! A lone receipt: how much later than its window's end and the upstream's
//! time its answer comes.
//!
//! Invariant: one receipt at a time, each in another chat, each beginning at
//! another place between two ticks of a millisecond, so that no timer is met
//! at the same good or bad moment every time.

use std::time::Duration;

use tokio::time::Instant;

use super::INSTANCES;
use crate::Result;
use crate::load::{Crew, Requests, percentile};
use crate::peers::{Peer, Place, Tuning};
use crate::settings::Settings;
use crate::table::Table;

/// Receipts in one round: a p99 needs as many.
const RECEIPTS: usize = 100;
/// The gateway's default, said here since it is taken off.
const WINDOW: Duration = Duration::from_millis(50);
/// Begins are this much further on within a millisecond each time.
const STEP_MICROS: u64 = 377;

/// Adds rows about the gateway, the only one that waits for others. The
/// upstream answers at once: its own timer would be in the figures.
pub(super) async fn measure(place: &Place, settings: &Settings, table: &mut Table) -> Result<()> {
    let tuning = Tuning {
        gateway: vec![("BATCH__WINDOW", format!("{}ms", WINDOW.as_millis()))],
        ..Tuning::default()
    };
    let process = Peer::Gateway.start(place, &tuning).await?;
    let requests = Requests::receipts(RECEIPTS, 1, INSTANCES);
    for _ in 0..settings.rounds {
        let mut direct = Crew::open(place.upstream.address, 1).await?;
        let mut through = Crew::open(process.address, 1).await?;
        for crew in [&mut direct, &mut through] {
            crew.each(&requests, 2).await?;
        }
        let direct = one_by_one(&mut direct, &requests).await?;
        let through = one_by_one(&mut through, &requests).await?;
        for percent in [50, 99] {
            let name = format!("lone receipt: beyond window and upstream, p{percent}, ms");
            let beyond = percentile(&through, percent) - percentile(&direct, percent);
            let value = beyond / 1e3 - WINDOW.as_secs_f64() * 1e3;
            table.add(&name, Peer::Gateway.name(), value);
        }
    }
    Ok(())
}

/// Latencies of one receipt after the other, sorted.
async fn one_by_one(crew: &mut Crew, requests: &Requests) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(RECEIPTS);
    for connection in &mut crew.connections {
        for number in 0..RECEIPTS as u64 {
            let begin = Instant::now() + Duration::from_micros(STEP_MICROS * number % 1000);
            // The runtime's timer knows whole milliseconds only; this core is the bench's own.
            while Instant::now() < begin {
                tokio::task::yield_now().await;
            }
            let began = Instant::now();
            connection.call(requests.next()).await?;
            latencies.push(began.elapsed());
        }
    }
    latencies.sort_unstable();
    Ok(latencies)
}
