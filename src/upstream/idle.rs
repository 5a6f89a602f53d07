//! Idle HTTP/1.1 connections of one kind, of one worker.
//!
//! Invariant: the connections of all workers are counted together while they are idle.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::connection::Http1Connection;

/// The number of idle HTTP/1.1 connections of all workers.
pub(super) type IdleCount = Arc<AtomicUsize>;

/// A connection that waits for its next request.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) connection: Http1Connection,
    pub(super) since: Instant,
    /// Closed at this time.
    pub(super) until: Instant,
}

/// In the order in which the connections became idle.
#[derive(Debug)]
pub(super) struct IdleConnections {
    connections: VecDeque<Idle>,
    count: IdleCount,
}

impl IdleConnections {
    /// None yet. Later ones are counted in `count`.
    pub(super) fn new(count: &IdleCount) -> Self {
        Self {
            connections: VecDeque::new(),
            count: Arc::clone(count),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn push(&mut self, idle: Idle) {
        self.connections.push_back(idle);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the one that became idle last. It is the least likely to be dead, and
    /// surplus connections reach their idle timeout.
    pub(super) fn pop_newest(&mut self) -> Option<Idle> {
        let idle = self.connections.pop_back()?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(idle)
    }

    /// Takes the one that became idle first.
    pub(super) fn pop_oldest(&mut self) -> Option<Idle> {
        let idle = self.connections.pop_front()?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(idle)
    }

    /// When the oldest one became idle.
    pub(super) fn oldest(&self) -> Option<Instant> {
        Some(self.connections.front()?.since)
    }

    /// Closes all others.
    pub(super) fn retain(&mut self, keep: impl FnMut(&mut Idle) -> bool) {
        let before = self.len();
        self.connections.retain_mut(keep);
        self.count.fetch_sub(before - self.len(), Ordering::Relaxed);
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        self.count.fetch_sub(self.len(), Ordering::Relaxed);
    }
}
