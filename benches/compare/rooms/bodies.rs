//! Bodies of 20 MB, there and back.

use tokio::time::Instant;

use super::{Field, names};
use crate::Result;
use crate::load::post;
use crate::peers::{Peer, Place, Tuning};
use crate::settings::Settings;
use crate::table::Table;
use crate::upstream::{BODY, DOWNLOAD};
use crate::wire::Connection;

/// Bodies in one turn.
const BODIES: usize = 5;
/// Bytes written at once.
const PIECE: usize = 64 * 1024;

pub(super) async fn measure(place: &Place, settings: &Settings) -> Result<Table> {
    let mut table = Table::new("bodies of 20 MB, one connection", names(&Peer::ALL));
    let field = Field::start(place, &Peer::ALL, &Tuning::default()).await?;
    let megabytes = (BODIES * BODY) as f64 / 1e6;
    for round in 0..settings.rounds {
        for (peer, process) in field.in_turn(round) {
            let mut connection = Connection::open_wide(process.address).await?;
            connection
                .call(post("/v2/send/text", 0, "{}").as_bytes())
                .await?;
            for up in [true, false] {
                let (began, before) = (Instant::now(), process.processor_time()?);
                for _ in 0..BODIES {
                    match up {
                        true => upload(&mut connection).await?,
                        false => download(&mut connection).await?,
                    }
                }
                let spent = (process.processor_time()? - before).as_secs_f64();
                let elapsed = began.elapsed().as_secs_f64();
                let way = if up { "up" } else { "down" };
                let mut add = |name: &str, value| {
                    table.add(&format!("{way}: {name}"), peer.name(), value);
                };
                add("MB/s", megabytes / elapsed);
                add("processor time per MB, µs", spent * 1e6 / megabytes);
            }
        }
    }
    Ok(table)
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
    connection.answer().await?;
    Ok(())
}

async fn download(connection: &mut Connection) -> Result<()> {
    let request = post(DOWNLOAD, 0, "{}");
    match connection.call(request.as_bytes()).await? {
        BODY => Ok(()),
        length => Err(format!("{length} bytes instead of {BODY}").into()),
    }
}
