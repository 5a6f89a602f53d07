//! How the upstream behaves: what it responds, how its connections end, and where it is.
//!
//! Invariant: at any time its name has an address that accepts connections, unless it restarts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::ms;
use crate::rng::Rng;
use crate::wire::At;

/// When the operating system ends a connection on which nothing arrives any more: the gateway's
/// `TCP_USER_TIMEOUT`.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(30);

/// How long an address is tried alone (RFC 8305 §5).
pub(crate) const ATTEMPT_DELAY: Duration = ms(250);

/// How the upstream behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamBehaviour {
    /// Longest time until a response, in milliseconds, and how many per cent
    /// take far longer.
    pub(crate) latency: usize,
    pub(crate) very_slow: usize,
    /// Longest time until a connection stands, in milliseconds.
    pub(crate) dial: usize,
    /// In per cent of calls.
    pub(crate) throttles: usize,
    pub(crate) fails: usize,
    pub(crate) unavailable: usize,
    pub(crate) resets: usize,
    pub(crate) cuts: usize,
    /// A 204 or 304 that announces a body, which follows late (HTTP/1.1).
    pub(crate) late_bodies: usize,
    /// In per cent of connections: from some time on nothing arrives any more.
    pub(crate) losses: usize,
    /// Longest life of a connection, in milliseconds; 0 is unlimited.
    pub(crate) life: usize,
    /// When the upstream is killed, and for how long it is then unreachable.
    pub(crate) restarts: Vec<(Duration, Duration)>,
    /// It speaks HTTP/2 alone.
    pub(crate) http2: Option<Http2Behaviour>,
    pub(crate) names: Names,
}

/// How an upstream ends streams and connections of HTTP/2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http2Behaviour {
    /// In per cent of streams: REFUSED_STREAM.
    pub(crate) refusals: usize,
    /// The most streams that a connection serves before its GOAWAY; 0 is unlimited.
    pub(crate) streams: usize,
    /// The time from the last of these streams to the GOAWAY, in milliseconds. Streams that
    /// arrive meanwhile are not processed.
    pub(crate) goaway_delay: u64,
}

/// The addresses of the upstream, and from when on its name has them.
#[derive(Clone, Debug)]
pub(crate) struct Names(pub(crate) Vec<(At, Vec<Address>)>);

/// One address of the upstream. It is the same during the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) state: AddressState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressState {
    Alive,
    /// Nothing responds.
    Dead,
    Refuses,
}

impl UpstreamBehaviour {
    /// Only what the gateway must hide from its clients.
    pub(super) fn fault_free(rng: &mut Rng) -> Self {
        let mut behaviour = Self {
            latency: 500,
            ..Self::default()
        };
        if rng.percent(50) {
            behaviour.late_bodies = rng.pick(&[0, 10, 40]);
            behaviour.http2 = Http2Behaviour::drawn(rng).map(|http2| Http2Behaviour {
                // Two in a row fail a request.
                refusals: 0,
                ..http2
            });
            behaviour.names = Names::drawn(rng);
        }
        behaviour
    }

    pub(super) fn drawn(rng: &mut Rng) -> Self {
        // Each fault in some runs only, otherwise all runs would be alike.
        let mut maybe = |share: &[usize]| {
            if rng.percent(40) { rng.pick(share) } else { 0 }
        };
        let mut behaviour = Self {
            latency: maybe(&[20, 300, 2000]),
            very_slow: maybe(&[5, 20]),
            dial: maybe(&[50, 500]),
            throttles: maybe(&[3, 20]),
            fails: maybe(&[5, 30]),
            unavailable: maybe(&[5, 30]),
            resets: maybe(&[5, 30]),
            cuts: maybe(&[5, 30]),
            late_bodies: maybe(&[5, 30]),
            life: maybe(&[100, 1000]),
            ..Self::default()
        };
        if rng.percent(40) {
            for _ in 0..1 + rng.below(3) {
                let restart = (rng.millis(5000), rng.millis(2000));
                behaviour.restarts.push(restart);
            }
        }
        behaviour.http2 = Http2Behaviour::drawn(rng);
        behaviour.names = Names::drawn(rng);
        if rng.percent(if behaviour.http2.is_some() { 40 } else { 15 }) {
            behaviour.losses = rng.pick(&[10, 50]);
        }
        behaviour
    }

    /// The longest time until one connection stands: each address that does not respond delays it.
    fn longest_connect(&self) -> Duration {
        let restarts = !self.restarts.is_empty();
        let delays = |addresses: &Vec<Address>| {
            let is_slow = |address: &&Address| restarts || address.state == AddressState::Dead;
            // The last one that is tried delays none.
            let slow = addresses.iter().filter(is_slow).count();
            slow.min(addresses.len() - 1) as u64
        };
        let delays = self.names.0.iter().map(|(_, addresses)| delays(addresses));
        let delay = ATTEMPT_DELAY.as_millis() as u64 * delays.max().unwrap_or_default();
        ms(self.dial as u64 + delay)
    }

    /// The longest time from the bucket token of one of so many requests to its arrival.
    pub(crate) fn longest_send(&self, requests: usize) -> Duration {
        let Some(http2) = self.http2 else {
            // Three connections may be tried.
            return 3 * self.longest_connect();
        };
        // Requests wait for a connection that they share. If it refuses them, they wait for
        // the next one.
        let connections = match (http2.refusals, http2.streams) {
            (0, 0) => 3,
            (0, streams) => 3 + requests / streams,
            (_, _) => 3 + requests,
        };
        // A slow body may be refused at its end.
        let body = if http2.refusals > 0 { ms(200) } else { ms(0) };
        let each = self.longest_connect() + ms(http2.goaway_delay) + body;
        each * u32::try_from(connections).unwrap()
    }
}

impl Http2Behaviour {
    fn drawn(rng: &mut Rng) -> Option<Self> {
        if !rng.percent(25) {
            return None;
        }
        let streams = rng.pick(&[0, 0, 0, 1, 3, 20]);
        Some(Self {
            refusals: rng.pick(&[0, 0, 5, 30]),
            streams,
            goaway_delay: if streams > 0 {
                rng.pick(&[0, 20, 40])
            } else {
                0
            },
        })
    }
}

impl Default for Names {
    fn default() -> Self {
        let address = Address::new(1, AddressState::Alive);
        Self(vec![(At::ZERO, vec![address])])
    }
}

impl Names {
    fn drawn(rng: &mut Rng) -> Self {
        if rng.percent(60) {
            return Self::default();
        }
        let mut count = 0;
        let mut names = vec![(At::ZERO, Self::addresses(rng, &mut count))];
        if rng.percent(50) {
            names.push((rng.millis(4000), Self::addresses(rng, &mut count)));
        }
        Self(names)
    }

    /// New addresses of which one accepts connections; `count` is the number of all.
    fn addresses(rng: &mut Rng, count: &mut u8) -> Vec<Address> {
        let mut address = |state| {
            *count += 1;
            Address::new(*count, state)
        };
        let mut addresses = vec![address(AddressState::Alive)];
        for _ in 0..rng.below(3) {
            use AddressState::{Alive, Dead, Refuses};
            let state = rng.pick(&[Alive, Dead, Dead, Refuses]);
            addresses.insert(rng.below(addresses.len() + 1), address(state));
        }
        addresses
    }

    /// What a lookup returns now.
    pub(crate) fn at(&self, now: At) -> &[Address] {
        let known = self.0.iter().rfind(|(from, _)| *from <= now);
        known.map_or(&[], |(_, addresses)| addresses)
    }

    pub(crate) fn state_of(&self, ip: IpAddr) -> AddressState {
        let mut all = self.0.iter().flat_map(|(_, addresses)| addresses);
        all.find(|address| address.ip == ip).unwrap().state
    }
}

impl Address {
    fn new(number: u8, state: AddressState) -> Self {
        let ip = match number % 2 {
            0 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)),
            _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into())),
        };
        Self { ip, state }
    }
}
