//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::scenarios::Scenario;

const USAGE: &str =
    "cargo bench --bench compare -- [--quick] [--rounds N] [--gateway FILE] [--against FILE] [SCENARIO…]
scenarios: pass responses tls inflight latency memory bodies receipts merged lone cores population cluster";

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Rounds of each scenario; each takes every proxy once.
    pub(crate) rounds: usize,
    /// One proxy's turn in a round.
    pub(crate) turn: Duration,
    pub(crate) scenarios: Vec<Scenario>,
    /// The gateway's program.
    pub(crate) gateway: PathBuf,
    /// Another build of it, which is measured in the same rounds.
    pub(crate) other_gateway: Option<PathBuf>,
}

impl Settings {
    /// Reads the arguments.
    pub(crate) fn read(arguments: &[String]) -> Result<Self> {
        let mut settings = Self {
            rounds: 7,
            turn: Duration::from_millis(1500),
            scenarios: Vec::new(),
            gateway: PathBuf::from(env!("CARGO_BIN_EXE_wawp-gateway")),
            other_gateway: None,
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
                "--against" => settings.other_gateway = Some(PathBuf::from(value()?)),
                name => settings.scenarios.push(Scenario::named(name).ok_or(USAGE)?),
            }
        }
        if settings.scenarios.is_empty() {
            settings.scenarios = Scenario::ALL.to_vec();
        }
        Ok(settings)
    }
}
