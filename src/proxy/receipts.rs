//! A read receipt: from a call that may be one to the verdict of its batch.
//!
//! Invariant: a call that is no receipt after all goes on untouched, and a
//! receipt is held against the rules before it takes a place in a batch.

use http::Method;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::Error;
use super::{Proxy, Who, count, server_timing};
use crate::batch::{Given, Told, Untold};
use crate::body::{ClientBody, ClientResponse, LOOK, ResponseBody};
use crate::http::content_length;
use crate::http::request_head::RequestHead;
use crate::identity::Certainty;
use crate::limit::{Lane, Refused};
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::Route;
use crate::receipt::Receipt;
use crate::tenant::Denied;
use crate::upstream::UpstreamError;

/// A receipt, and when its last byte came.
pub(super) type Understood = (Box<Receipt>, Instant);

/// A receipt's place, and the lane in which its call travels.
pub(super) struct Joined {
    place: Place,
    lane: Lane,
}

/// Where a receipt is to be told.
enum Place {
    Batch(Result<oneshot::Receiver<Told>, Refused>),
    /// Merging is only observed: it goes out by itself.
    Alone(Box<Receipt>),
}

/// Whether it is worth reading the body to find out.
pub(super) fn may_be_receipt(head: &Parts) -> bool {
    let length = head.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| content_length::parse(length.as_bytes()));
    head.method == Method::POST && length.is_none_or(|length| length <= LOOK as u64)
}

impl Proxy {
    /// A call that may be a read receipt: understood, its head is taken.
    pub(super) async fn understand(
        &self,
        head: &mut RequestHead,
        body: &mut ClientBody,
    ) -> Result<Option<Understood>, Error> {
        let limit = self.shared.settings.header_timeout;
        let Some(whole) = self.in_time(limit, body.whole()).await?.flatten() else {
            return Ok(None);
        };
        let came = body.arrived_at().unwrap_or_else(Instant::now);
        Ok(match Receipt::read(std::mem::take(head), whole) {
            // Its ids may belong to another instance than the one that counts.
            Ok(receipt) if receipt.identity.certainty == Certainty::Ambiguous => {
                *head = receipt.into_request().head;
                None
            }
            Ok(receipt) => Some((Box::new(receipt), came)),
            Err(untouched) => {
                *head = *untouched;
                None
            }
        })
    }

    /// A read receipt: it joins a batch.
    pub(super) fn join(
        &self,
        (receipt, came): Understood,
        who: Who<'_>,
        log_entry: &mut LogEntry,
    ) -> Result<Joined, Denied> {
        log_entry.set_receipt(&receipt);
        let lane = self.lane(
            &receipt.identity,
            receipt.head(),
            who,
            Route::Seen,
            log_entry,
        )?;
        let batcher = &self.shared.batcher;
        let place = if batcher.observes() {
            Place::Alone(receipt)
        } else {
            Place::Batch(batcher.join(receipt, came, &lane, &self.upstream))
        };
        Ok(Joined { place, lane })
    }

    /// Waits for what a receipt's batch is told.
    pub(super) async fn receive(
        &self,
        Joined { place, lane }: Joined,
        log_entry: &mut LogEntry,
    ) -> Result<Box<ClientResponse>, Error> {
        let answer = match place {
            // Boxed: most gateways merge.
            Place::Alone(receipt) => Box::pin(self.send_alone(*receipt, &lane, log_entry)).await,
            Place::Batch(Ok(told)) => match told.await {
                Ok(told) => {
                    log_entry.set_timing(&told.timing);
                    self.tell(told, &lane)
                }
                // The batch's task was cut off: the gateway is being ended.
                Err(_) => Err(Error::Upstream(UpstreamError::BrokeOff)),
            },
            Place::Batch(Err(refused)) => Err(refused.into()),
        };
        count(&lane, Route::Seen, &answer, log_entry);
        answer
    }

    /// What a receipt's caller is told.
    fn tell(&self, told: Told, lane: &Lane) -> Result<Box<ClientResponse>, Error> {
        let (mut answer, remaining) = match told.verdict {
            Ok(Given::Shared(shared)) => {
                let body = ResponseBody::whole(shared.body.clone(), shared.trailers.clone());
                let head = shared.head.clone();
                (Box::new(ClientResponse { head, body }), shared.remaining)
            }
            Ok(Given::Own(answer)) => (answer, None),
            Err(Untold::Refused(refused)) => return Err(refused.into()),
            Err(Untold::Failed(failure)) => return Err(failure.into()),
        };
        if self.shared.settings.timing_header {
            server_timing::of_receipt(&mut answer.head, &told.timing);
        }
        self.tell_limit(&mut answer.head, lane, remaining);
        Ok(answer)
    }
}
