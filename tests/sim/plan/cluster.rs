//! Several gateways, and what becomes of the server that they share.

use std::num::NonZeroU32;
use std::time::Duration;

use wawp_gateway::config;
use wawp_gateway::testing::server::Path;

use super::ms;
use crate::rng::Rng;
use crate::wire::At;

/// Until then each gateway has reported itself for the second time: that it uses the server.
const SECOND_REPORT: Duration = Duration::from_millis(2_100);

/// The gateways of a run, and their server.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) gateways: usize,
    pub(crate) round_trip: Duration,
    /// In no order.
    pub(crate) faults: Vec<(Duration, ServerFault)>,
    /// Of different gateways, and not of all.
    pub(crate) crashes: Vec<Crash>,
    merge: bool,
}

/// The end of a gateway that neither drains nor deregisters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    pub(crate) at: Duration,
    pub(crate) gateway: usize,
    /// After this time another gateway takes its place.
    pub(crate) restart: Option<Duration>,
}

/// What happens to the server, or to the way to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ServerFault {
    /// From now on, this becomes of the operations of this gateway; of all for `None`.
    Way(Option<usize>, Path),
    /// It loses all data.
    Clear,
    /// A failover that will lose what is written from now on.
    Save,
    /// That failover.
    Restore,
    /// The connections that receive announcements end.
    EndAnnouncements,
}

impl Cluster {
    pub(super) fn drawn(rng: &mut Rng) -> Self {
        let gateways = rng.pick(&[2, 3]);
        let round_trip = rng.pick(&[ms(0), ms(1), ms(20)]);
        let mut faults = Vec::new();
        if rng.percent(60) {
            for _ in 0..1 + rng.below(3) {
                let (at, length) = (rng.millis(5000), rng.millis(3000));
                match rng.below(4) {
                    0 => faults.push((at, ServerFault::Clear)),
                    1 => {
                        faults.push((at, ServerFault::Save));
                        faults.push((at + length, ServerFault::Restore));
                    }
                    2 => faults.push((at, ServerFault::EndAnnouncements)),
                    _ => {
                        let gateway = rng.below(gateways + 1);
                        let gateway = (gateway < gateways).then_some(gateway);
                        let path = rng.pick(&[Path::Lost, Path::RepliesLost, Path::Refused]);
                        faults.push((at, ServerFault::Way(gateway, path)));
                        let open = Path::Open(round_trip);
                        faults.push((at + length, ServerFault::Way(gateway, open)));
                    }
                }
            }
        }
        let merge = rng.percent(90);
        Self {
            gateways,
            round_trip,
            faults,
            crashes: Crash::drawn(rng, gateways),
            merge,
        }
    }

    /// Until the first gateway that starts after a crash: it begins without the server, and the laws of
    /// what gateways share do not hold for it. The others believe the same of a gateway that crashes
    /// before its second report.
    pub(crate) fn undisturbed_until(&self) -> At {
        let times = self
            .crashes
            .iter()
            .filter_map(|crash| match crash.at < SECOND_REPORT {
                true => Some(crash.at),
                false => Some(crash.at + crash.restart?),
            });
        times.min().unwrap_or(At::MAX)
    }

    pub(super) fn settings(&self) -> config::Cluster {
        let gateways = u32::try_from(self.gateways).ok().and_then(NonZeroU32::new);
        config::Cluster {
            url: "redis://server.test/0".to_owned().try_into().unwrap(),
            ca: None,
            name: "wawp".to_owned(),
            replicas: gateways.unwrap(),
            merge: self.merge,
            timeout: ms(100),
        }
    }
}

impl Crash {
    /// At least one gateway does not crash.
    fn drawn(rng: &mut Rng, gateways: usize) -> Vec<Self> {
        if !rng.percent(40) {
            return Vec::new();
        }
        let first = rng.below(gateways);
        let count = 1 + rng.below(gateways - 1);
        let crash = |index| Self {
            at: rng.millis(4000),
            gateway: (first + index) % gateways,
            restart: rng.percent(50).then(|| rng.millis(3000)),
        };
        (0..count).map(crash).collect()
    }
}
