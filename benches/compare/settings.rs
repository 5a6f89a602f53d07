//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::rooms::Room;

const USAGE: &str = "cargo bench --bench compare -- [--quick] [--rounds N] [--gateway FILE] [ROOM…]
rooms: pass latency memory bodies receipts lone cores population";

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Rounds of each room; each takes every proxy once.
    pub(crate) rounds: usize,
    /// One proxy's turn in a round.
    pub(crate) turn: Duration,
    pub(crate) rooms: Vec<Room>,
    /// The gateway's program.
    pub(crate) gateway: PathBuf,
}

impl Settings {
    /// Reads the arguments.
    pub(crate) fn read(arguments: &[String]) -> Result<Self> {
        let mut settings = Self {
            rounds: 7,
            turn: Duration::from_millis(1500),
            rooms: Vec::new(),
            gateway: PathBuf::from(env!("CARGO_BIN_EXE_wawp-gateway")),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(USAGE);
            match argument.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--quick" => {
                    settings.rounds = 3;
                    settings.turn = Duration::from_millis(600);
                }
                "--rounds" => settings.rounds = value()?.parse::<usize>()?.clamp(1, 100),
                "--gateway" => settings.gateway = PathBuf::from(value()?),
                name => settings.rooms.push(Room::named(name).ok_or(USAGE)?),
            }
        }
        if settings.rooms.is_empty() {
            settings.rooms = Room::ALL.to_vec();
        }
        Ok(settings)
    }
}
