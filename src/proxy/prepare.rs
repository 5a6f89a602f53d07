//! The steps of a request before it may wait: what it is, and whether it may merge.
//!
//! Invariant: nothing is sent, and no bucket token is taken.

use http::Version;

use super::Proxy;
use super::error::Error;
use super::preflight::is_preflight;
use super::receipts::Arrived;
use super::request_ctx::RequestCtx;
use crate::body::ClientBody;
use crate::http::hop_by_hop;
use crate::http::raw_target::RawTarget;
use crate::http::request_head::RequestHead;
use crate::observe::metrics::Route;
use crate::receipt::NotMerged;
use crate::tenant::key::Substitution;

/// A request whose head is as it will be sent.
pub(super) struct Prepared {
    pub(super) kind: Kind,
    /// The token that replaced a tenant key.
    pub(super) substitution: Option<Substitution>,
}

/// How a request is processed.
pub(super) enum Kind {
    Preflight,
    /// It holds head and body of the request, which are empty now.
    Receipt(Arrived),
    Other,
}

impl Proxy {
    /// Checks a request, replaces a tenant key, and reads it as a receipt. Why it is not
    /// one is in the log entry.
    ///
    /// # Errors
    /// A rule refuses it, or its body broke off.
    pub(super) async fn prepare(
        &self,
        ctx: &mut RequestCtx<'_>,
        head: &mut RequestHead,
        body: &mut ClientBody,
    ) -> Result<Prepared, Error> {
        let settings = &self.shared.settings;
        ctx.settings.tenants.may_connect(ctx.client)?;
        // hyper checks HTTP/1 itself, but has no such limit for HTTP/2.
        if head.headers.len() > settings.max_headers {
            return Err(Error::TooManyHeaders(settings.max_headers));
        }
        // Before `strip`, which removes the headers that this checks.
        self.shared.this_host.check(head)?;
        // HTTP/2 has no `Upgrade` (RFC 9113 §8.6).
        let is_upgradable = head.version == Version::HTTP_11 && body.is_empty();
        hop_by_hop::strip(&mut head.headers, is_upgradable);
        head.set_announces_body(!body.is_empty());
        if head.version == Version::HTTP_2 {
            hop_by_hop::from_http2(head, body.is_empty());
        }
        if let Some(raw) = RawTarget::of(head) {
            Box::pin(self.prepare_raw_target(head, body, raw)).await?;
        }
        if is_preflight(head, body) {
            ctx.log_entry.set_merging(Err(NotMerged::Method));
            let (kind, substitution) = (Kind::Preflight, None);
            return Ok(Prepared { kind, substitution });
        }
        // Before the credentials are read: buckets and merge keys use the real token.
        let substitution = match ctx.settings.keyring {
            Some(_) => Box::pin(self.substitute_key(ctx, head, body)).await?,
            None => None,
        };
        let kind = match ctx.route {
            Route::ReceiptPath => match self.read_receipt(&ctx.settings.batch, head, body).await? {
                Ok(receipt) => Kind::Receipt(receipt),
                Err(reason) => {
                    ctx.log_entry.set_merging(Err(reason));
                    Kind::Other
                }
            },
            Route::Other => Kind::Other,
        };
        Ok(Prepared { kind, substitution })
    }
}
