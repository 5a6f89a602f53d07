//! Where the system has no timer that a runtime could wait for.
//!
//! Invariant: there is never one.

use std::io;
use std::time::Duration;

/// A timer that cannot be had.
#[derive(Debug)]
pub(super) enum Timer {}

impl Timer {
    /// Says that there is none.
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called.
    pub(super) fn set(&self, _after: Duration) -> io::Result<()> {
        match *self {}
    }

    /// Never called.
    pub(super) async fn fired(&self) -> io::Result<()> {
        match *self {}
    }
}
