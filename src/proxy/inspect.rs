//! What the gateway would do with a request, without doing it.
//!
//! Invariant: the steps are those of a request that is served; nothing is sent.

use std::sync::Arc;

use bytes::Bytes;

use super::Proxy;
use super::error::Error;
use super::prepare::{Kind, Prepared};
use super::receipts::Arrived;
use super::request_ctx::RequestCtx;
use crate::body::{ClientBody, RequestBody, SCAN_LIMIT, UpstreamRequest};
use crate::http::forwarded_for::Client;
use crate::http::request_head::RequestHead;
use crate::identity::{Identity, Places};
use crate::limit::Lane;
use crate::receipt::{NotMerged, Receipt};
use crate::tenant::Denied;

/// What was found out about a request.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) request: Inspection,
    pub(crate) identity: Identity,
    /// Where it names instance and credential.
    pub(crate) places: Places,
    /// The name of the instance's tenant.
    pub(crate) tenant: Option<Arc<str>>,
    /// What it draws on (a preflight: nothing), or the access rule that refuses it.
    pub(crate) lane: Result<Option<Lane>, Denied>,
    /// A token has replaced a tenant key.
    pub(crate) key_was_replaced: bool,
}

/// What a request is.
#[derive(Debug)]
pub(crate) enum Inspection {
    Receipt(Box<Receipt>),
    /// Any other request, as it would be forwarded.
    Other {
        request: Box<UpstreamRequest>,
        /// Why it is not merged, if it is on a path of receipts.
        not_merged: Option<NotMerged>,
        is_preflight: bool,
    },
}

impl Proxy {
    /// Takes the steps of a request, except those that wait or send. The client is in this
    /// process, so rules about networks do not apply.
    ///
    /// # Errors
    /// The gateway itself would respond with this error.
    pub(crate) async fn inspect(
        &self,
        mut head: Box<RequestHead>,
        mut body: ClientBody,
    ) -> Result<Inspected, Error> {
        let settings = self.shared.reloadable.load_full();
        let route = settings.route(head.uri.path());
        let mut log_entry = self.shared.access_log.begin(&head, route);
        let ctx = &mut RequestCtx {
            client: Client::Local,
            settings: &settings,
            route,
            log_entry: &mut log_entry,
        };
        let Prepared { kind, substitution } = self.prepare(ctx, &mut head, &mut body).await?;
        let (identity, lane) = match &kind {
            Kind::Receipt(arrived) => {
                let (identity, head) = (&arrived.receipt.identity, arrived.receipt.head());
                (identity.clone(), self.lane(ctx, identity, head).map(Some))
            }
            Kind::Preflight => {
                let (identity, allowed) = self.prepare_preflight(ctx, &mut head);
                (identity, allowed.map(|()| None))
            }
            Kind::Other => {
                let identity = self.identify(ctx, &head, &mut body).await?;
                let lane = self.lane(ctx, &identity, &head).map(Some);
                (identity, lane)
            }
        };
        let instance = identity.instance.as_deref();
        let tenant = instance.and_then(|instance| settings.tenants.name_of(instance));
        let (places, request) = match kind {
            Kind::Receipt(Arrived { receipt, .. }) => {
                let own = receipt.own_request();
                let places = Places::of(&own.head, own.body.held().unwrap_or_default());
                (places, Inspection::Receipt(receipt))
            }
            kind => {
                let mut held = body.held();
                held.truncate(SCAN_LIMIT);
                let places = Places::of(&head, Bytes::from(held));
                let request = Box::new(UpstreamRequest {
                    head,
                    body: RequestBody::take(&mut body),
                });
                let other = Inspection::Other {
                    request,
                    not_merged: ctx.log_entry.not_merged(),
                    is_preflight: matches!(kind, Kind::Preflight),
                };
                (places, other)
            }
        };
        Ok(Inspected {
            request,
            identity,
            places,
            tenant,
            lane,
            key_was_replaced: substitution.is_some(),
        })
    }
}
