//! Population: whether a call costs more where many instances and batches live.

use std::time::Duration;

use super::{CONNECTIONS, Field, microseconds, names};
use crate::Result;
use crate::load::{Connections, Requests};
use crate::peers::{Peer, TestBed, Tuning};
use crate::process::Process;
use crate::settings::Settings;
use crate::table::Table;

const FEW: usize = 10;
/// Instances that all owe something: their buckets cannot be dropped.
const INSTANCES: usize = 100_000;
/// Batches that wait for their window, one caller each.
const BATCHES: usize = 10_000;
/// More rounds would use up the few instances' buckets.
const MOST_ROUNDS: usize = 15;
/// A rate at which a bucket never fills up again while the bench runs, and
/// holds enough for all of its calls.
pub(super) const RATE: &str = "0.01";
/// The batches' window: the calls beside them are made in it.
const WINDOW: Duration = Duration::from_millis(3_900);

pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let mut table = Table::new("processor time per call, µs", names(bed, &Peer::ALL));
    instances(bed, settings, &mut table).await?;
    batches(bed, settings, &mut table).await?;
    Ok(table)
}

async fn instances(bed: &TestBed, settings: &Settings, table: &mut Table) -> Result<()> {
    let tuning = Tuning {
        gateway: vec![("LIMIT__RATE", RATE.to_owned())],
        ..Tuning::default()
    };
    let field = Field::start(bed, &Peer::ALL, &tuning).await?;
    for count in [FEW, INSTANCES] {
        let requests = Requests::messages(count);
        for (_, process) in &field.0 {
            let mut connections = Connections::open(process.address, CONNECTIONS).await?;
            // Everyone is known before anything is measured.
            connections
                .each(&requests, requests.len() / CONNECTIONS + 1)
                .await?;
        }
        for round in 0..settings.rounds.min(MOST_ROUNDS) {
            for (peer, process) in field.in_turn(round) {
                let mut connections = Connections::open(process.address, CONNECTIONS).await?;
                connections.each(&requests, 20).await?;
                let cost = per_call(process, &mut connections, &requests, settings.turn).await?;
                table.add(&format!("{count} instances"), peer.name(), cost);
            }
        }
    }
    Ok(())
}

/// Passing calls beside open batches. Only the gateway has any.
async fn batches(bed: &TestBed, settings: &Settings, table: &mut Table) -> Result<()> {
    let tuning = Tuning {
        gateway: vec![
            ("BATCH__WINDOW", format!("{}ms", WINDOW.as_millis())),
            ("LIMIT__MAX_WAIT", "10s".to_owned()),
        ],
        ..Tuning::default()
    };
    let process = Peer::Gateway.start(bed, &tuning).await?;
    let messages = Requests::messages(FEW);
    for _ in 0..settings.rounds {
        for count in [FEW, BATCHES] {
            let receipts = Requests::receipts(count, 1, FEW);
            let mut waiting = Connections::open(process.address, count).await?;
            let mut connections = Connections::open(process.address, CONNECTIONS).await?;
            connections.each(&messages, 20).await?;
            let beside = async {
                // All have arrived, and none is due before the turn ends.
                tokio::time::sleep(WINDOW / 3).await;
                per_call(
                    &process,
                    &mut connections,
                    &messages,
                    settings.turn.min(WINDOW / 3),
                )
                .await
            };
            let (waited, cost) = tokio::join!(waiting.each(&receipts, 1), beside);
            waited?;
            table.add(
                &format!("{count} open batches"),
                Peer::Gateway.name(),
                cost?,
            );
        }
    }
    Ok(())
}

async fn per_call(
    process: &Process,
    connections: &mut Connections,
    requests: &Requests,
    turn: Duration,
) -> Result<f64> {
    let before = process.processor_time()?;
    let calls = connections.closed_loop(|_| requests.clone(), turn).await? as f64;
    Ok(microseconds(process.processor_time()? - before) / calls)
}
