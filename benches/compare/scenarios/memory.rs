//! Memory: at rest, with idle connections, with calls in flight, per bucket.
//!
//! Each proxy is started afresh for each, so that no earlier load's memory is
//! counted. What the kernel holds for sockets is not in it.

use std::time::Duration;

use tokio::time::Instant;

use super::population::RATE;
use super::{CONNECTIONS, INSTANCES, names};
use crate::Result;
use crate::load::{Connections, Requests};
use crate::peers::{Peer, TestBed, Tuning};
use crate::process::Process;
use crate::settings::Settings;
use crate::table::Table;

/// Connections on which a call was made and none is now.
const IDLE: usize = 10_000;
/// How long they lie idle before memory is read: one may give some back after
/// about a second.
const LIE_IDLE: Duration = Duration::from_secs(3);
/// Calls that wait for the upstream.
const ACTIVE: usize = 5_000;
/// Instances that each have a bucket which owes something.
const BUCKETS: usize = 100_000;
/// Instances that are known before those are.
const FEW: usize = 10;
/// A proxy that has not passed them all on by then never will.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Figures hardly differ from one round to the next.
pub(super) const ROUNDS: usize = 3;

pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let mut table = Table::new("memory (Pss)", names(bed, &Peer::ALL));
    let requests = Requests::messages(INSTANCES);
    for _ in 0..settings.rounds.min(ROUNDS) {
        for peer in bed.peers(&Peer::ALL) {
            let mut add = |name: &str, value| table.add(name, peer.name(), value);
            let (process, rest) = at_rest(peer, bed, &requests).await?;
            add("at rest, MiB", rest / 1024.0 / 1024.0);

            let mut connections = Connections::open(process.address, IDLE).await?;
            // A few at a time: a call of everyone at once would be another measurement.
            for connection in &mut connections.connections {
                connection.call(requests.next()).await?;
            }
            tokio::time::sleep(LIE_IDLE).await;
            let idle = process.memory()? - rest;
            add(
                "per idle connection (10,000), KiB",
                idle / 1024.0 / IDLE as f64,
            );
            drop(connections);
            drop(process);

            let (process, rest) = at_rest(peer, bed, &requests).await?;
            let mut connections = Connections::open(process.address, ACTIVE).await?;
            bed.upstream.hold(true);
            let expected = bed.upstream.calls() + ACTIVE as u64;
            let until = Instant::now() + TIMEOUT;
            let watch = async {
                while bed.upstream.calls() < expected && Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let memory = process.memory();
                let missing = expected.saturating_sub(bed.upstream.calls());
                bed.upstream.hold(false);
                match missing {
                    0 => memory,
                    _ => Err(format!("{missing} calls did not arrive in time").into()),
                }
            };
            let (made, active) = tokio::join!(connections.each(&requests, 1), watch);
            made?;
            let active = active? - rest;
            add(
                "per call in flight (5,000), KiB",
                active / 1024.0 / ACTIVE as f64,
            );
        }
        let bytes = per_bucket(bed).await?;
        table.add("per bucket (100,000), bytes", Peer::Gateway.name(), bytes);
    }
    Ok(table)
}

/// What the gateway holds for each of many instances that all owe something:
/// its bucket, and whatever else is kept and counted by instance.
async fn per_bucket(bed: &TestBed) -> Result<f64> {
    let tuning = Tuning {
        gateway: vec![("LIMIT__RATE", RATE.to_owned())],
        ..Tuning::default()
    };
    let process = Peer::Gateway.start(bed, &tuning).await?;
    let mut connections = Connections::open(process.address, CONNECTIONS).await?;
    connections.each(&Requests::messages(FEW), 20).await?;
    tokio::time::sleep(LIE_IDLE).await;
    let before = process.memory()?;
    let requests = Requests::messages(BUCKETS);
    connections
        .each(&requests, BUCKETS.div_ceil(CONNECTIONS))
        .await?;
    tokio::time::sleep(LIE_IDLE).await;
    Ok((process.memory()? - before) / BUCKETS as f64)
}

/// A proxy that has made one call, and what it holds then.
pub(super) async fn at_rest(
    peer: Peer,
    bed: &TestBed,
    requests: &Requests,
) -> Result<(Process, f64)> {
    let process = peer.start(bed, &Tuning::default()).await?;
    let mut connections = Connections::open(process.address, 1).await?;
    connections.each(requests, 1).await?;
    drop(connections);
    let rest = process.memory()?;
    Ok((process, rest))
}
