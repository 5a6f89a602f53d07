//! Requests whose target has bytes that a URI may not contain.
//!
//! Only the fast path can send such a target (rule: pass-through). Invariant: the
//! target leaves byte for byte, or the response names the byte that cannot be sent.

use std::pin::pin;

use http::header::{EXPECT, TE, TRAILER, UPGRADE};
use http::{HeaderName, Method};
use tokio::time::Instant;

use super::Proxy;
use super::error::Error;
use crate::body::ClientBody;
use crate::http::raw_target::RawTarget;
use crate::http::request_head::RequestHead;

/// Headers with a meaning that the fast path does not implement.
static FOR_HYPER: [HeaderName; 4] = [EXPECT, TE, TRAILER, UPGRADE];

impl Proxy {
    /// Prepares a request with such a target for the fast path, which sends
    /// bodies in one piece.
    ///
    /// # Errors
    /// The fast path cannot send this request, or its body broke off.
    pub(super) async fn prepare_raw_target(
        &self,
        head: &RequestHead,
        body: &mut ClientBody,
        raw: &RawTarget,
    ) -> Result<(), Error> {
        let needs_hyper = head.method == Method::HEAD
            || FOR_HYPER.iter().any(|name| head.headers.contains_key(name));
        if needs_hyper || !raw.is_path() {
            return Err(Error::RawTarget(raw.byte()));
        }
        if body.is_empty() || body.arrived_at().is_some() {
            return Ok(());
        }
        let settings = &self.shared.settings;
        let whole = self
            .in_time(settings.header_timeout, pin!(body.whole()))
            .await?;
        // A longer body streams, and only hyper can do that.
        let whole = whole.flatten().ok_or(Error::RawTarget(raw.byte()))?;
        *body = ClientBody::complete(whole, settings.body_timeout, Instant::now());
        Ok(())
    }
}
