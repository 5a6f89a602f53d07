//! What the cluster needs of a connection, so that tests and the simulation can replace the network.

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::failure::Failure;
use super::members::{Heartbeat, HeartbeatReply};
use super::script::{Call, Reply};

/// Makes connections to the server.
pub(crate) trait Connect: Send + Sync {
    /// Makes a connection to a server that is a primary. The caller bounds the time.
    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn Connection>, Failure>>;

    /// Makes a connection of its own, to the server of the last [`connect`](Self::connect), that
    /// receives what is announced on a channel. The receiver ends with the connection. The caller
    /// bounds the time until it is returned.
    fn listen<'a>(
        &'a self,
        channel: &'a [u8],
    ) -> BoxFuture<'a, Result<mpsc::Receiver<Vec<u8>>, Failure>>;
}

/// A connection, used by several threads at once.
///
/// Dropping a future abandons its operation; the server may execute it nevertheless. The caller
/// bounds the time.
pub(crate) trait Connection: Send + Sync {
    /// Runs a script.
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Reply, Failure>>;

    /// Reports this gateway, and returns all. It is a script too, so it fails where they do.
    fn heartbeat<'a>(
        &'a self,
        heartbeat: &'a Heartbeat,
    ) -> BoxFuture<'a, Result<HeartbeatReply, Failure>>;

    /// Resolves when the connection has ended.
    fn closed(&self) -> BoxFuture<'static, ()>;
}
