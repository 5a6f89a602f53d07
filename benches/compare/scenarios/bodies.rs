//! Bodies of 20 MB, there and back: what they cost, and what is held of them.
//!
//! Memory is looked at in turns of their own, which are not timed: looking
//! takes the load generator's time, and the proxy's lock over its memory.

use std::time::Duration;

use tokio::time::Instant;

use super::{Field, INSTANCES, memory, names};
use crate::Result;
use crate::load::{Requests, post};
use crate::peers::{Peer, TestBed, Tuning};
use crate::settings::Settings;
use crate::table::Table;
use crate::upstream::{BODY, DOWNLOAD};
use crate::wire::Connection;

/// Bodies in one turn.
const BODIES: usize = 5;
/// Bodies in a turn in which memory is looked at: a second of them, or less.
const WATCHED: usize = 25;
/// Between two looks at memory.
const SAMPLE: Duration = Duration::from_millis(10);
/// Bytes written at once.
const PIECE: usize = 64 * 1024;

pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let mut table = Table::new("bodies of 20 MB, one connection", names(bed, &Peer::ALL));
    let field = Field::start(bed, &Peer::ALL, &Tuning::default()).await?;
    let megabytes = (BODIES * BODY) as f64 / 1e6;
    for round in 0..settings.rounds {
        for (peer, process) in field.in_turn(round) {
            let mut connection = Connection::open_wide(process.address).await?;
            connection
                .call(post("/v2/send/text", 0, "{}").as_bytes())
                .await?;
            for up in [true, false] {
                let (began, before) = (Instant::now(), process.processor_time()?);
                pass(&mut connection, up, BODIES).await?;
                let spent = (process.processor_time()? - before).as_secs_f64();
                let elapsed = began.elapsed().as_secs_f64();
                let mut add = |name: &str, value| {
                    table.add(&format!("{}: {name}", way(up)), peer.name(), value);
                };
                add("MB/s", megabytes / elapsed);
                add("processor time per MB, µs", spent * 1e6 / megabytes);
            }
        }
    }
    drop(field);
    for _ in 0..settings.rounds.min(memory::ROUNDS) {
        for peer in bed.peers(&Peer::ALL) {
            for up in [true, false] {
                let name = format!("{}: memory taken meanwhile, MiB", way(up));
                table.add(&name, peer.name(), taken(peer, bed, up).await?);
            }
        }
    }
    Ok(table)
}

fn way(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

/// The most that a proxy, freshly started, holds while bodies pass, beyond
/// what it holds at rest.
async fn taken(peer: Peer, bed: &TestBed, up: bool) -> Result<f64> {
    let (process, rest) = memory::at_rest(peer, bed, &Requests::messages(INSTANCES)).await?;
    let mut connection = Connection::open_wide(process.address).await?;
    let mut most = rest;
    let watch = async {
        loop {
            tokio::time::sleep(SAMPLE).await;
            most = process.memory()?.max(most);
        }
    };
    tokio::select! {
        passed = pass(&mut connection, up, WATCHED) => passed?,
        failed = watch => return failed,
    }
    Ok((most - rest) / 1024.0 / 1024.0)
}

async fn pass(connection: &mut Connection, up: bool, bodies: usize) -> Result<()> {
    for _ in 0..bodies {
        match up {
            true => upload(connection).await?,
            false => download(connection).await?,
        }
    }
    Ok(())
}

async fn upload(connection: &mut Connection) -> Result<()> {
    let head = format!(
        "POST /v2/media/upload?instance_id=bench0&access_token=0123456789ab HTTP/1.1\r\n\
         Host: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nContent-Length: {BODY}\r\n\r\n"
    );
    connection.send(head.as_bytes()).await?;
    let piece = vec![b'a'; PIECE];
    for _ in 0..BODY / PIECE {
        connection.send(&piece).await?;
    }
    connection.response().await?;
    Ok(())
}

async fn download(connection: &mut Connection) -> Result<()> {
    let request = post(DOWNLOAD, 0, "{}");
    match connection.call(request.as_bytes()).await? {
        BODY => Ok(()),
        length => Err(format!("{length} bytes instead of {BODY}").into()),
    }
}
