//! A lone receipt on a quiet machine: how much later its response comes than the
//! upstream's own, and through the gateway than its window's end, too.
//!
//! Invariant: one receipt at a time after a pause, each in another chat, each
//! beginning at another point between two ticks of a millisecond, so that no
//! timer is met at the same good or bad moment every time.

use std::time::Duration;

use tokio::time::Instant;

use super::{Field, INSTANCES, microseconds, names};
use crate::Result;
use crate::load::{Connections, Requests, percentile};
use crate::peers::{Peer, TestBed, Tuning};
use crate::process::Awake;
use crate::settings::Settings;
use crate::table::Table;

/// Receipts in one turn.
const RECEIPTS: usize = 40;
/// The gateway's default, said here since it is taken off.
const WINDOW: Duration = Duration::from_millis(50);
/// Before each call: as long as a window, so that a proxy without one is
/// called as cold.
const PAUSE: Duration = WINDOW;
/// Begins are this much further on within a millisecond each time.
const STEP_MICROS: u64 = 377;

/// The upstream responds at once: its timer would be in the figures.
pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = "a lone receipt, upstream responds at once: added to the window, µs";
    let mut table = Table::new(title, names(bed, &Peer::ALL));
    let tuning = Tuning {
        gateway: vec![("BATCH__WINDOW", format!("{}ms", WINDOW.as_millis()))],
        ..Tuning::default()
    };
    let field = Field::start(bed, &Peer::ALL, &tuning).await?;
    let requests = Requests::receipts(RECEIPTS, 1, INSTANCES);
    let (proxy, load) = (bed.proxy_core, bed.load_core);
    // The upstream is on the load's core, and only a call that waits for its
    // window finds that asleep.
    let states: [(&str, &[usize]); 3] = [
        ("both cores may sleep", &[]),
        ("the proxy's may", &[load]),
        ("none may", &[proxy, load]),
    ];
    for (state, awake) in states {
        let awake = Awake::keep(awake)?;
        for round in 0..settings.rounds {
            let mut direct = Connections::open(bed.upstream.address, 1).await?;
            let direct = one_by_one(&mut direct, &requests).await?;
            for (peer, process) in field.in_turn(round) {
                let mut through = Connections::open(process.address, 1).await?;
                let through = one_by_one(&mut through, &requests).await?;
                let window = match peer {
                    Peer::Gateway | Peer::OtherGateway => microseconds(WINDOW),
                    _ => 0.0,
                };
                for percent in [50, 90] {
                    let added = percentile(&through, percent) - percentile(&direct, percent);
                    let name = format!("{state}: p{percent}");
                    table.add(&name, peer.name(), added - window);
                }
            }
        }
        awake.end()?;
    }
    Ok(table)
}

/// Latencies of one receipt after the other, sorted; the first does not count.
async fn one_by_one(connections: &mut Connections, requests: &Requests) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(RECEIPTS);
    for connection in &mut connections.connections {
        connection.call(requests.next()).await?;
        for number in 0..RECEIPTS as u64 {
            let begin = Instant::now() + PAUSE + Duration::from_micros(STEP_MICROS * number % 1000);
            tokio::time::sleep(PAUSE - Duration::from_millis(2)).await;
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
