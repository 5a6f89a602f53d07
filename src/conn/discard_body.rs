//! A request's body that has not come yet, as its connection sees it.
//!
//! Invariants: a body that is kept back until it is asked for is asked for or
//! declined, never both; a connection on which a body will not be read to its
//! end takes no other request.

use std::sync::Arc;
use std::time::Duration;

use http::Version;
use http::request::Parts;

use super::FAREWELL;
use super::state::Activity;
use crate::http::hop_by_hop;

/// A body that has not been read to its end. Only [`ended`](Self::ended) says
/// that it was; to drop this is to say that it never will be.
#[derive(Debug)]
pub(crate) struct Unread {
    activity: Arc<Activity>,
    patience: Duration,
    is_kept_back: bool,
    has_come: bool,
}

impl Unread {
    /// The body that follows this head.
    pub(crate) fn new(activity: &Arc<Activity>, head: &Parts) -> Self {
        // What hyper takes for it. Of HTTP/2 a body cannot be mistaken for
        // anything else.
        let is_kept_back =
            head.version == Version::HTTP_11 && hop_by_hop::expects_continue(&head.headers);
        activity.body_begins(is_kept_back);
        Self {
            // Where nothing can follow, somebody may wait for the end; and of
            // HTTP/2, the body takes the place of another call.
            patience: match hop_by_hop::may_persist(head) {
                true => activity.idle_timeout(),
                false => FAREWELL,
            },
            activity: Arc::clone(activity),
            is_kept_back,
            has_come: false,
        }
    }

    /// Asks the client for it, if it keeps it back: false where that is too
    /// late, its request having been answered. What the client sends then may
    /// be another request.
    pub(crate) fn ask(&mut self) -> bool {
        if self.is_kept_back {
            self.is_kept_back = !self.activity.asks_for_body();
        }
        !self.is_kept_back
    }

    /// Whether the client keeps it back until it is asked for.
    pub(crate) fn is_kept_back(&self) -> bool {
        self.is_kept_back
    }

    /// Whether it is a body of HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.activity.is_http2()
    }

    /// How long it may be read for nobody.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Its end has come.
    pub(crate) fn ended(mut self) {
        self.has_come = true;
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        match self.has_come {
            true => self.activity.body_came(),
            false => self.activity.body_given_up(),
        }
    }
}
