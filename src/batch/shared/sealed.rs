//! What gateways write for each other about a batch.
//!
//! Invariants: it is encrypted and authenticated (AES-256-GCM) with a key that follows from the merge
//! key and the key of the cluster. So the server can neither read nor change it, and what a gateway
//! reads was written by one that holds a receipt with the same credential, chat and instance.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexSet;
use serde::{Deserialize, Serialize};

use crate::batch::caller::{Caller, SharedResponse};
use crate::batch::reply::{CallSize, LastCall, Reply};
use crate::body::SCAN_LIMIT;
use crate::cluster::SealingKey;
use crate::http::h1::{FinalResponse, ResponseRead, read_response, write_response};

/// The length of the id of a batch in bytes.
pub(super) const ID_LENGTH: usize = 16;
/// The longest response that is stored, with its head.
const MAX_RESPONSE: usize = 64 * 1024;

/// The most bytes of the ids that a batch adds. More would not fit into a merged body.
const MAX_CONTRIBUTION: usize = SCAN_LIMIT;

/// The key of one merge key.
pub(super) struct Sealing(SealingKey);

/// What a batch adds to that of another gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contribution {
    #[serde(skip)]
    pub(super) id: String,
    pub(super) callers: usize,
    pub(super) ids: Vec<String>,
}

/// What stands before the response in a verdict.
#[derive(Serialize, Deserialize)]
struct Summary {
    /// The followers whose ids the call carried.
    followers: Vec<String>,
    callers: usize,
    ids: usize,
    /// From sending the call to the end of its response.
    took_us: u64,
    remaining: Option<u32>,
}

impl Contribution {
    /// The distinct ids of these callers; `None` where they are too long to be handed over.
    pub(super) fn of(id: String, callers: &[Caller]) -> Option<Self> {
        let (mut ids, mut bytes) = (IndexSet::new(), 0);
        for caller in callers {
            for id in caller.receipt.ids().iter() {
                let id = String::from_utf8_lossy(&id);
                if !ids.contains(&*id) {
                    bytes += id.len();
                    ids.insert(id.into_owned());
                }
            }
            // Within the loop, so that no more is copied.
            if bytes > MAX_CONTRIBUTION {
                return None;
            }
        }
        Some(Self {
            id,
            callers: callers.len(),
            ids: ids.into_iter().collect(),
        })
    }
}

impl Sealing {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self(SealingKey::new(key))
    }

    /// The id of a batch that follows this leader, and what it adds.
    pub(super) fn contribution(&self, leader: &str, own: &Contribution) -> Vec<u8> {
        let text = serde_json::to_vec(own).expect("numbers and texts can be written");
        let mut sealed = own.id.clone().into_bytes();
        sealed.extend(self.seal(&[leader, &own.id], text));
        sealed
    }

    /// What the batch of this id has added; `None` where it was not written for this leader.
    pub(super) fn open_contribution(
        &self,
        leader: &str,
        id: &str,
        sealed: &[u8],
    ) -> Option<Contribution> {
        let text = self.open(&[leader, id], sealed)?;
        let added: Contribution = serde_json::from_slice(&text).ok()?;
        // The seal is bound to this id, so the text does not repeat it.
        let id = id.to_owned();
        Some(Contribution { id, ..added })
    }

    /// The result of the leader's call for these followers. Without a call, or where the response
    /// cannot be shared, it names none of them.
    pub(super) fn verdict<'f>(
        &self,
        leader: &str,
        last: Option<&LastCall>,
        followers: impl Iterator<Item = &'f str>,
    ) -> Vec<u8> {
        let shared = last.and_then(|last| Some((last, response(last)?)));
        let followers = followers.filter(|_| shared.is_some()).map(str::to_owned);
        let summary = Summary {
            followers: followers.collect(),
            callers: last.map_or(0, |last| last.size.callers),
            ids: last.map_or(0, |last| last.size.ids),
            took_us: last.map_or(0, |last| {
                last.took.as_micros().try_into().unwrap_or(u64::MAX)
            }),
            remaining: shared.as_ref().and_then(|(_, (_, remaining))| *remaining),
        };
        let mut text = serde_json::to_vec(&summary).expect("numbers and texts can be written");
        // The JSON has no raw newline, so the first one ends the summary.
        text.push(b'\n');
        text.extend(shared.into_iter().flat_map(|(_, (response, _))| response));
        self.seal(&[leader], text)
    }

    /// The call of this leader, if it carried the ids of the batch `own`.
    pub(super) fn open_verdict(&self, leader: &str, own: &str, sealed: &[u8]) -> Option<LastCall> {
        let text = self.open(&[leader], sealed)?;
        let end = text.iter().position(|byte| *byte == b'\n')?;
        let summary: Summary = serde_json::from_slice(&text[..end]).ok()?;
        if !summary.followers.iter().any(|follower| follower == own) {
            return None;
        }
        let mut body = Bytes::from(text).split_off(end + 1);
        let Ok(Some(ResponseRead::Final(FinalResponse { head, .. }))) = read_response(&mut body)
        else {
            return None;
        };
        Some(LastCall {
            reply: Reply::Whole(Arc::new(SharedResponse {
                head: *head,
                body,
                trailers: None,
                remaining: summary.remaining,
            })),
            size: CallSize {
                callers: summary.callers,
                ids: summary.ids,
            },
            took: Duration::from_micros(summary.took_us),
        })
    }

    /// Encrypts a text, and binds it to these ids.
    fn seal(&self, ids: &[&str], text: Vec<u8>) -> Vec<u8> {
        self.0.seal(ids.concat().as_bytes(), text)
    }

    fn open(&self, ids: &[&str], sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.open(ids.concat().as_bytes(), sealed)
    }
}

/// The response of a call as HTTP/1.1, and the tokens that were left; `None` where it is too long or
/// has trailers.
fn response(last: &LastCall) -> Option<(Vec<u8>, Option<u32>)> {
    let Reply::Whole(shared) = &last.reply else {
        return None;
    };
    let (mut text, mut head) = (Vec::new(), shared.head.clone());
    write_response(&mut text, &mut head, Some(shared.body.len() as u64));
    text.extend_from_slice(&shared.body);
    let is_stored = shared.trailers.is_none() && text.len() <= MAX_RESPONSE;
    is_stored.then_some((text, shared.remaining))
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;
    use http::{HeaderMap, HeaderValue, Request, StatusCode};
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;
    use crate::http::response_head::ResponseHead;
    use crate::receipt::{NotMerged, Receipt};

    const LEADER: &str = "0123456789abcdef";
    const OWN: &str = "fedcba9876543210";

    fn sealing() -> Sealing {
        Sealing::new([7; 32])
    }

    fn last(body: &str, trailers: Option<HeaderMap>) -> LastCall {
        let mut head = ResponseHead::new(StatusCode::CREATED);
        head.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        LastCall {
            reply: Reply::Whole(Arc::new(SharedResponse {
                head,
                body: Bytes::copy_from_slice(body.as_bytes()),
                trailers,
                remaining: Some(3),
            })),
            size: CallSize { callers: 5, ids: 9 },
            took: Duration::from_micros(1234),
        }
    }

    fn verdict(last: Option<&LastCall>, followers: &[&str]) -> Vec<u8> {
        sealing().verdict(LEADER, last, followers.iter().copied())
    }

    #[test]
    fn a_contribution_is_read_with_the_key_and_the_ids_it_was_written_with_only() {
        let own = Contribution {
            id: OWN.to_owned(),
            callers: 2,
            ids: vec!["false_1@c.us_A".to_owned()],
        };
        let text = sealing().contribution(LEADER, &own);
        let (id, sealed) = text.split_at(ID_LENGTH);
        assert_eq!(id, OWN.as_bytes());
        let read = |sealing: Sealing, leader, id, sealed: &[u8]| {
            sealing.open_contribution(leader, id, sealed)
        };
        assert_eq!(read(sealing(), LEADER, OWN, sealed), Some(own));
        assert_eq!(read(Sealing::new([8; 32]), LEADER, OWN, sealed), None);
        assert_eq!(read(sealing(), OWN, OWN, sealed), None);
        assert_eq!(read(sealing(), LEADER, LEADER, sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(read(sealing(), LEADER, OWN, &changed), None, "{at}");
            assert_eq!(read(sealing(), LEADER, OWN, &sealed[..at]), None, "{at}");
        }
        assert!(!text.windows(5).any(|part| part == b"false"));
    }

    #[test]
    fn a_verdict_is_the_response_for_those_that_it_names() {
        let sealed = verdict(Some(&last("{\"a\":1}", None)), &[OWN]);
        let read = sealing().open_verdict(LEADER, OWN, &sealed).unwrap();
        let Reply::Whole(shared) = &read.reply else {
            panic!("no response")
        };
        assert_eq!(shared.head.status(), StatusCode::CREATED);
        let content_type = shared.head.get(&CONTENT_TYPE);
        assert_eq!(content_type, Some(&b"application/json"[..]));
        assert_eq!(&*shared.body, b"{\"a\":1}");
        assert_eq!(shared.remaining, Some(3));
        assert_eq!((read.size.callers, read.size.ids), (5, 9));
        assert_eq!(read.took, Duration::from_micros(1234));
        assert!(sealing().open_verdict(LEADER, LEADER, &sealed).is_none());
        assert!(sealing().open_verdict(OWN, OWN, &sealed).is_none());
        assert!(
            Sealing::new([8; 32])
                .open_verdict(LEADER, OWN, &sealed)
                .is_none()
        );
    }

    #[test]
    fn a_response_that_cannot_be_stored_names_no_follower() {
        let long = "x".repeat(MAX_RESPONSE);
        for last in [
            None,
            Some(last(&long, None)),
            Some(last("", Some(HeaderMap::new()))),
        ] {
            let sealed = verdict(last.as_ref(), &[OWN]);
            assert!(sealing().open_verdict(LEADER, OWN, &sealed).is_none());
        }
        assert!(verdict(Some(&last(&long, None)), &[OWN]).len() < 300);
    }

    fn caller(ids: &[String]) -> Caller {
        let (head, ()) = Request::post("/v2/send/seen")
            .body(())
            .unwrap()
            .into_parts();
        let body = format!(
            r#"{{"chatId":"1","messageIds":["{}"]}}"#,
            ids.join(r#"",""#)
        );
        let now = Instant::now();
        Caller {
            receipt: Box::new(Receipt::by_default(head, Bytes::from(body)).expect("a receipt")),
            if_alone: NotMerged::Alone,
            arrived: now,
            deadline: now,
            in_calls: Duration::ZERO,
            member: 0,
            verdict: oneshot::channel().0,
        }
    }

    #[test]
    fn a_contribution_has_each_id_once_in_the_order_of_the_callers() {
        let ids = |names: &[&str]| names.iter().map(|it| format!("true_1_{it}")).collect();
        let lists: [Vec<_>; 3] = [ids(&["B", "A"]), ids(&["B", "A"]), ids(&["A", "C"])];
        let callers: Vec<_> = lists.iter().map(|list| caller(list)).collect();
        let own = Contribution::of(OWN.to_owned(), &callers).unwrap();
        assert_eq!((own.callers, own.ids), (3, ids(&["B", "A", "C"])));
    }

    #[test]
    fn ids_that_are_too_long_for_a_merged_body_are_not_handed_over() {
        let list = |from: usize, count: usize| -> Vec<_> {
            let id = |n| format!("true_{}_{n:04}", "1".repeat(400));
            (from..from + count).map(id).collect()
        };
        let of = |count| {
            let callers = [caller(&list(0, 100)), caller(&list(100, count))];
            Contribution::of(OWN.to_owned(), &callers)
        };
        // Each has 410 bytes.
        assert!(of(59).is_some());
        assert!(of(60).is_none());
    }
}
