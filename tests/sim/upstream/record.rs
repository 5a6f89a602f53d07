//! What the upstream saw.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::wire::{At, Parsed};

/// Everything that reached the upstream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) connections: Vec<ConnectionRecord>,
    pub(crate) attempts: Vec<Attempt>,
    /// When connections were cut that may have had a response on the way.
    pub(crate) kills: Vec<At>,
    /// From when to when no connection could be made.
    pub(crate) absences: Vec<(At, At)>,
}

/// A call that reached the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: At,
    pub(crate) tag: usize,
    /// The number of its connection.
    pub(crate) connection: usize,
    /// `None` if its body was not complete.
    pub(crate) parsed: Option<Parsed>,
    pub(crate) response: Option<SentResponse>,
    /// When the response began, or the connection was gone.
    pub(crate) ended: Option<At>,
}

/// The response to it.
#[derive(Clone, Debug)]
pub(crate) struct SentResponse {
    pub(crate) at: At,
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
    /// Only part of the body was sent.
    pub(crate) cut: bool,
    /// It was sent when nothing arrived any more.
    pub(crate) lost: bool,
}

/// A stream that was not processed, as the upstream said.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) at: At,
    /// How many calls had arrived before.
    pub(crate) arrivals: usize,
    pub(crate) tag: usize,
    pub(crate) connection: usize,
}

/// A connection to the upstream.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionRecord {
    /// The number of the gateway that made it.
    pub(crate) gateway: usize,
    /// When the attempt to connect began.
    pub(crate) dialled: At,
    pub(crate) opened: At,
    /// From when on nothing arrived any more.
    pub(crate) lost_from: Option<At>,
    pub(crate) closed: Option<At>,
    /// Streams that began long after that, or after a GOAWAY.
    pub(crate) late_streams: usize,
}

/// An attempt to connect to one address.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) at: At,
    pub(crate) ip: IpAddr,
    /// The first one after a lookup.
    pub(crate) is_first: bool,
    pub(crate) ended: Option<(At, AttemptEnd)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    Connected,
    Failed,
    /// The gateway gave it up.
    Abandoned,
}

impl ConnectionRecord {
    /// When bytes were lost first, if it was still open.
    pub(crate) fn loss(&self) -> Option<At> {
        let closed = self.closed.unwrap_or(At::MAX);
        self.lost_from.filter(|from| *from <= closed)
    }
}
