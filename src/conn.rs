//! One client connection: its state, its timer, its stream, its end.
//!
//! Invariant: nothing here knows what a request means.
//!
//! - [`state`]: what happens on the connection, and since when;
//! - [`lifecycle`]: its deadline, and what follows when that has passed;
//! - [`timer`]: what wakes the connection besides its stream;
//! - [`rewind`], [`tracked_io`], [`escaped_io`]: its stream;
//! - [`pending_body`]: request bodies that were not read to their end;
//! - [`send_tracker`], [`tracked_body`]: HTTP/2 responses that the client does not read;
//! - [`permit`]: its part of `server.max_connections`;
//! - [`drain`]: the end of all connections.

pub(crate) mod drain;
pub(crate) mod escaped_io;
pub(crate) mod lifecycle;
pub(crate) mod pending_body;
pub(crate) mod permit;
pub(crate) mod rewind;
pub(crate) mod send_tracker;
pub(crate) mod state;
pub(crate) mod timer;
pub(crate) mod tracked_body;
pub(crate) mod tracked_io;

use std::time::Duration;

/// How long a connection without a request stays open when a drain begins: the
/// client may have sent a request that has not arrived yet.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// The longest lingering close: how long a connection that is about to end may
/// take to read the rest of a request, to deliver a response or to shut down.
pub(crate) const LINGERING_CLOSE: Duration = Duration::from_secs(5);
