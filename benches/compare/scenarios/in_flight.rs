//! Thousands of requests in flight: what a request costs whose memory is cold when its
//! response arrives.

use std::time::Duration;

use super::{Field, INSTANCES, microseconds, names};
use crate::Result;
use crate::load::{Connections, Requests};
use crate::peers::{Peer, TestBed, Tuning};
use crate::settings::Settings;
use crate::table::Table;

/// Without the plain hyper proxy, which looks through all idle connections for each call.
const PEERS: [Peer; 3] = [Peer::Nginx, Peer::Haproxy, Peer::Gateway];
const IN_FLIGHT: usize = 4_096;
/// What the upstream takes for a call: long enough that nearly all calls wait for it.
const UPSTREAM: Duration = Duration::from_millis(150);

/// Receipts, of which none is merged.
pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = format!("receipts without merging, {IN_FLIGHT} in flight, upstream 150 ms");
    let mut table = Table::new(title, names(bed, &PEERS));
    let tuning = Tuning {
        keepalive: 2 * IN_FLIGHT,
        gateway: vec![("BATCH__WINDOW", "0ms".to_owned())],
        ..Tuning::default()
    };
    let field = Field::start(bed, &PEERS, &tuning).await?;
    let requests = Requests::receipts(IN_FLIGHT, 1, INSTANCES);
    bed.upstream.delay(UPSTREAM);
    for round in 0..settings.rounds {
        for (peer, process) in field.in_turn(round) {
            let mut connections = Connections::open(process.address, IN_FLIGHT).await?;
            // Connections to the upstream are made before anything is measured.
            connections.each(&requests, 2).await?;
            let opened = bed.upstream.connections();
            let before = process.processor_time()?;
            let turn = connections.closed_loop(|_| requests.clone(), settings.turn);
            let calls = turn.await? as f64;
            let spent = process.processor_time()? - before;
            let opened = bed.upstream.connections() - opened;
            let mut add = |name: &str, value| table.add(name, peer.name(), value);
            add("processor time per call, µs", microseconds(spent) / calls);
            add("upstream connections opened", opened as f64);
        }
    }
    bed.upstream.delay(Duration::ZERO);
    Ok(table)
}
