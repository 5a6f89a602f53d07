//! One client connection: its state, its timer, its stream, its end.
//!
//! Invariant: nothing here knows what a request means.
//!
//! - [`state`]: what the connection is doing, and since when;
//! - [`timer`]: what wakes it besides its stream;
//! - [`rewind`], [`tracked_io`]: its stream;
//! - [`send_tracker`]: responses that their client does not read;
//! - [`discard_body`]: request bodies that nothing reads;
//! - [`drain`]: the end of all connections.

pub(crate) mod discard_body;
pub(crate) mod drain;
pub(crate) mod permit;
pub(crate) mod rewind;
pub(crate) mod send_tracker;
pub(crate) mod state;
pub(crate) mod timer;
pub(crate) mod tracked_io;

use std::time::Duration;

/// How long a connection without a call stays open when a drain begins: a
/// request may be on its way to us already.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// How long a connection that was asked to end may take over it.
pub(crate) const FAREWELL: Duration = Duration::from_secs(5);
