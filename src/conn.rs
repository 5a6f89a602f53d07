//! One client connection: its state, its timer, its stream, its end.
//!
//! Invariant: this layer does not know what a request means.
//!
//! - [`state`]: what the connection is doing, and since when;
//! - [`lifecycle`]: timeouts of the connection, and when it is closed or cut;
//! - [`timer`]: wakes the connection for its deadline and for a drain;
//! - [`rewind`], [`tracked_io`], [`escaped_io`]: its stream;
//! - [`pending_body`]: request bodies that are not yet read to their end;
//! - [`send_tracker`], [`tracked_body`]: HTTP/2 responses that the client does not read;
//! - [`connection_permit`]: its permit of `server.max_connections`;
//! - [`drain_signal`]: whether all connections must end.

pub(crate) mod connection_permit;
pub(crate) mod drain_signal;
pub(crate) mod escaped_io;
pub(crate) mod lifecycle;
pub(crate) mod pending_body;
pub(crate) mod rewind;
pub(crate) mod send_tracker;
pub(crate) mod state;
pub(crate) mod timer;
pub(crate) mod tracked_body;
pub(crate) mod tracked_io;

use std::time::Duration;

/// How long a connection without a request stays open when a drain begins: the
/// client may have sent a request that has not yet arrived.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// The longest lingering close: how long a connection that is about to end may
/// take to read the rest of a request, to deliver a response or to shut down.
/// (Closing a socket with unread bytes resets it, and the response may be lost:
/// RFC 9112 §9.6.)
pub(crate) const LINGERING_CLOSE: Duration = Duration::from_secs(5);
