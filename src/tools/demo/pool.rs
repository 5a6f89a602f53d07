//! The connections of the apps, and which gateway gets the next request.
//!
//! Invariants: the gateways take turns; one that was left gets no further request, and the last one is
//! never left.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// A connection to a gateway, and the task that drives it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

/// The gateways, and the connections to them.
#[derive(Debug)]
pub(super) struct Pool {
    gateways: Vec<Gateway>,
    /// The gateway whose turn it is.
    next: usize,
}

#[derive(Debug)]
struct Gateway {
    address: SocketAddr,
    /// Connections without a request.
    idle: Vec<Connection>,
    was_left: bool,
}

/// Where the next request goes.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) gateway: usize,
    pub(super) address: SocketAddr,
    /// A connection that can be used, if there is one.
    pub(super) idle: Option<Connection>,
}

impl Pool {
    /// There must be a gateway.
    pub(super) fn new(gateways: Vec<SocketAddr>) -> Self {
        let gateway = |address| Gateway {
            address,
            idle: Vec::new(),
            was_left: false,
        };
        Self {
            gateways: gateways.into_iter().map(gateway).collect(),
            next: 0,
        }
    }

    /// The next gateway in turn.
    pub(super) fn turn(&mut self) -> Turn {
        while self.gateways[self.next].was_left {
            self.next = (self.next + 1) % self.gateways.len();
        }
        let index = self.next;
        self.next = (self.next + 1) % self.gateways.len();
        let gateway = &mut self.gateways[index];
        // The last one used: it is the least likely to have been closed by the gateway.
        let idle = gateway.idle.pop();
        Turn {
            gateway: index,
            address: gateway.address,
            idle: idle.filter(|idle| idle.sender.is_ready()),
        }
    }

    /// Keeps a connection whose request has ended.
    pub(super) fn put(&mut self, gateway: usize, connection: Connection) {
        self.gateways[gateway].idle.push(connection);
    }

    /// Sends no further request to a gateway. False, and nothing changes, if there is no other.
    pub(super) fn leave(&mut self, gateway: usize) -> bool {
        let is_other = |(index, other): (usize, &Gateway)| index != gateway && !other.was_left;
        let has_others = self.gateways.iter().enumerate().any(is_other);
        self.gateways[gateway].was_left |= has_others;
        has_others
    }

    /// Closes all connections without a request.
    pub(super) fn close(&mut self) {
        for gateway in &mut self.gateways {
            gateway.idle.clear();
        }
    }
}

impl Connection {
    pub(super) async fn open(
        gateway: SocketAddr,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(gateway).await?;
        // Nagle's algorithm would add up to 40 ms to the measured times.
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The error is not lost: the request in progress receives it too.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, task })
    }

    /// Closes the socket at once, as an app does that does not wait for the response.
    pub(super) fn abort(&self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_take_turns_and_the_last_one_is_never_left() {
        let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut pool = Pool::new(addresses.to_vec());
        let turns = |pool: &mut Pool| [(); 4].map(|()| pool.turn().gateway);
        assert_eq!(turns(&mut pool), [0, 1, 2, 0]);
        assert!(pool.leave(1));
        // Others find out, too.
        assert!(pool.leave(1));
        assert_eq!(turns(&mut pool), [2, 0, 2, 0]);
        assert!(pool.leave(0));
        assert!(!pool.leave(2));
        assert_eq!(turns(&mut pool), [2, 2, 2, 2]);
        assert_eq!(pool.turn().address, addresses[2]);
    }
}
