//! The scenarios, one for each question.
//!
//! Invariants: every round measures each proxy once, starting with another one each
//! time; a scenario leaves no program running.

mod bodies;
mod cluster;
mod in_flight;
mod lone;
mod memory;
mod pass;
mod population;
mod receipts;
mod tls;

use std::time::Duration;

use crate::Result;
use crate::peers::{Peer, TestBed, Tuning};
use crate::process::Process;
use crate::settings::Settings;

/// Keep-alive connections of a busy client side.
const CONNECTIONS: usize = 64;
/// Instances, unless the scenario is about their number.
const INSTANCES: usize = 64;

/// A kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Pass,
    Responses,
    Tls,
    InFlight,
    Latency,
    Memory,
    Bodies,
    Receipts,
    Merged,
    Lone,
    Cores,
    Population,
    Cluster,
}

impl Scenario {
    pub(crate) const ALL: [Self; 13] = [
        Self::Pass,
        Self::Responses,
        Self::Tls,
        Self::InFlight,
        Self::Latency,
        Self::Memory,
        Self::Bodies,
        Self::Receipts,
        Self::Merged,
        Self::Lone,
        Self::Cores,
        Self::Population,
        Self::Cluster,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        let of = |scenario: &Self| format!("{scenario:?}").eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(of)
    }
}

/// Measures all requested scenarios and prints a table for each.
pub(crate) async fn all(bed: &TestBed, settings: &Settings) -> Result<()> {
    println!(
        "median (ratio to nginx) of {} rounds of {:.1} s; proxy on core {}, load and upstream on core {}",
        settings.rounds,
        settings.turn.as_secs_f64(),
        bed.proxy_core,
        bed.load_core,
    );
    for scenario in &settings.scenarios {
        let table = match scenario {
            Scenario::Pass => pass::capacity(bed, settings).await?,
            Scenario::Responses => pass::responses(bed, settings).await?,
            Scenario::Tls => tls::measure(bed, settings).await?,
            Scenario::InFlight => in_flight::measure(bed, settings).await?,
            Scenario::Latency => pass::latency(bed, settings).await?,
            Scenario::Memory => memory::measure(bed, settings).await?,
            Scenario::Bodies => bodies::measure(bed, settings).await?,
            Scenario::Receipts => receipts::measure(bed, settings).await?,
            Scenario::Merged => receipts::merged(bed, settings).await?,
            Scenario::Lone => lone::measure(bed, settings).await?,
            Scenario::Cores => pass::scaling(bed, settings).await?,
            Scenario::Population => population::measure(bed, settings).await?,
            Scenario::Cluster => cluster::measure(bed, settings).await?,
        };
        println!("{table}");
    }
    Ok(())
}

/// Proxies that run side by side; each works only in its turn.
#[derive(Debug)]
struct Field(Vec<(Peer, Process)>);

impl Field {
    async fn start(bed: &TestBed, peers: &[Peer], tuning: &Tuning) -> Result<Self> {
        let mut running = Vec::new();
        for peer in bed.peers(peers) {
            running.push((peer, peer.start(bed, tuning).await?));
        }
        Ok(Self(running))
    }

    /// All of them, beginning with another one each round.
    fn in_turn(&self, round: usize) -> impl Iterator<Item = &(Peer, Process)> {
        let count = self.0.len();
        self.0.iter().cycle().skip(round % count).take(count)
    }
}

fn names(bed: &TestBed, peers: &[Peer]) -> Vec<&'static str> {
    bed.peers(peers).into_iter().map(Peer::name).collect()
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
