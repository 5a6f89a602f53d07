//! What is measured, one room a question.
//!
//! Invariant: in every round each proxy has its turn, beginning with another
//! one each time, and a room leaves no program behind.

mod bodies;
mod lone;
mod memory;
mod pass;
mod population;
mod receipts;

use std::time::Duration;

use crate::Result;
use crate::peers::{Peer, Place, Tuning};
use crate::process::Process;
use crate::settings::Settings;

/// Keep-alive connections of a busy client side.
const CONNECTIONS: usize = 64;
/// Instances that are called, unless the room is about their number.
const INSTANCES: usize = 64;

/// A kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Pass,
    Latency,
    Memory,
    Bodies,
    Receipts,
    Lone,
    Cores,
    Population,
}

impl Room {
    pub(crate) const ALL: [Self; 8] = [
        Self::Pass,
        Self::Latency,
        Self::Memory,
        Self::Bodies,
        Self::Receipts,
        Self::Lone,
        Self::Cores,
        Self::Population,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        let of = |room: &Self| format!("{room:?}").eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(of)
    }
}

/// Measures in all rooms that were asked for, and prints a table of each.
pub(crate) async fn all(place: &Place, settings: &Settings) -> Result<()> {
    println!(
        "median (ratio to nginx) of {} rounds of {:.1} s; proxy on core {}, load and upstream on core {}",
        settings.rounds,
        settings.turn.as_secs_f64(),
        place.proxy_core,
        place.load_core,
    );
    for room in &settings.rooms {
        let table = match room {
            Room::Pass => pass::capacity(place, settings).await?,
            Room::Latency => pass::latency(place, settings).await?,
            Room::Memory => memory::measure(place, settings).await?,
            Room::Bodies => bodies::measure(place, settings).await?,
            Room::Receipts => receipts::measure(place, settings).await?,
            Room::Lone => lone::measure(place, settings).await?,
            Room::Cores => pass::scaling(place, settings).await?,
            Room::Population => population::measure(place, settings).await?,
        };
        println!("{table}");
    }
    Ok(())
}

/// Proxies that run side by side; each works only in its turn.
#[derive(Debug)]
struct Field(Vec<(Peer, Process)>);

impl Field {
    async fn start(place: &Place, peers: &[Peer], tuning: &Tuning) -> Result<Self> {
        let mut running = Vec::new();
        for &peer in peers {
            running.push((peer, peer.start(place, tuning).await?));
        }
        Ok(Self(running))
    }

    /// All of them, beginning with another one each round.
    fn in_turn(&self, round: usize) -> impl Iterator<Item = &(Peer, Process)> {
        let count = self.0.len();
        self.0.iter().cycle().skip(round % count).take(count)
    }
}

fn names(peers: &[Peer]) -> Vec<&'static str> {
    peers.iter().map(|peer| peer.name()).collect()
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
