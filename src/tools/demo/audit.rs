//! What the gateway promises, checked against what the upstream received.
//!
//! Compares three records: what the apps sent, what the gateway counted, what the
//! sandbox received. Invariant: a check passes only if the sandbox's own record
//! confirms it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::apps::{End, Observed};
use super::figures::Figures;
use super::plan::{CAMPAIGN, Operation};
use crate::app::Ended;
use crate::tools::sandbox::Call;

/// The paths of receipts and texts.
const RECEIPTS: &str = "/v2/send/seen";
const TEXTS: &str = "/v2/send/text";

/// A check and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) passed: bool,
    pub(super) text: String,
}

/// The records that are compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accounts<'a> {
    /// What the apps observed.
    pub(super) apps: &'a [Observed],
    /// What the gateway counted.
    pub(super) gateway: &'a Figures,
    /// What the sandbox recorded, and the number of requests it received.
    pub(super) sandbox: &'a [Call],
    pub(super) received: u64,
    /// How the gateway ended.
    pub(super) ended: Ended,
}

impl Accounts<'_> {
    /// All checks.
    pub(super) fn checks(&self) -> Vec<Check> {
        vec![
            self.receipts_arrived(),
            self.no_foreign_ids(),
            self.sends_arrived_once(),
            self.every_request_has_a_response(),
            self.requests_are_counted(),
            self.upstream_calls_are_counted(),
            self.savings_add_up(),
            check(
                self.ended == Ended::Drained,
                match self.ended {
                    Ended::Drained => {
                        "the gateway ended after all responses were complete".to_owned()
                    }
                    Ended::Cut {
                        requests: calls,
                        connections,
                    } => {
                        format!("the gateway cut {calls} requests and {connections} connections")
                    }
                },
            ),
        ]
    }

    /// Every id that was not refused is in a successful call for its instance and
    /// chat, also if its app closed the connection early.
    fn receipts_arrived(&self) -> Check {
        let arrived: BTreeSet<_> = self
            .marked()
            .filter(|(call, ..)| (200..300).contains(&call.status))
            .map(|(_, mark)| mark)
            .collect();
        // A set, because two agents may send the same id.
        let asked: BTreeSet<_> = self
            .apps
            .iter()
            .filter(|observed| !observed.was_refused())
            .filter_map(Observed::mark)
            .collect();
        let there = asked.intersection(&arrived).count();
        let kept = there == asked.len();
        check(
            kept,
            format!("message ids that arrived: {there} of {}", asked.len()),
        )
    }

    /// Every id in a call was sent by an app for that chat.
    fn no_foreign_ids(&self) -> Check {
        let asked: BTreeSet<_> = self.apps.iter().filter_map(Observed::mark).collect();
        let foreign = self
            .marked()
            .filter(|(_, mark)| !asked.contains(mark))
            .count();
        check(
            foreign == 0,
            format!("message ids in a call they do not belong to: {foreign}"),
        )
    }

    /// Every text arrived exactly once, or was refused.
    fn sends_arrived_once(&self) -> Check {
        let mut arrived = HashMap::new();
        for call in self.sandbox.iter().filter(|call| call.path() == TEXTS) {
            *arrived.entry(field(call, "message")).or_insert(0_u32) += 1;
        }
        let (mut sends, mut lost, mut duplicated) = (0, 0, 0);
        for observed in self.apps {
            if let Operation::Text { text, .. } = &observed.request.operation {
                sends += 1;
                let times = arrived.remove(&Some(text.clone())).unwrap_or(0);
                // A send that its app abandoned must arrive too, because the gateway finishes it
                // (rule: sent once).
                lost += u32::from(times == 0 && !observed.was_refused());
                // A message that was sent twice cannot be taken back, so the demo fails.
                duplicated += u32::from(times > 1);
            }
        }
        // The rest was not sent by any app.
        let made_up = arrived.len();
        check(
            lost == 0 && duplicated == 0 && made_up == 0,
            format!("sends: {sends}, lost {lost}, duplicated {duplicated}"),
        )
    }

    /// A response is a success, or a refusal that the gateway counted.
    fn every_request_has_a_response(&self) -> Check {
        let count =
            |of: fn(&Observed) -> bool| self.apps.iter().filter(|observed| of(observed)).count();
        let responses = count(|observed| matches!(observed.end, End::Response(_)));
        let hung_up = count(|observed| observed.end == End::HungUp);
        let refused = count(Observed::was_refused);
        let good =
            count(|observed| matches!(observed.end, End::Response(status) if status.is_success()));
        let failure = self.apps.iter().find_map(|observed| match &observed.end {
            End::Failed(why) => Some(format!("; one failed: {why}")),
            End::Response(_) | End::HungUp => None,
        });
        // An app that closed its connection does not know whether it was refused.
        let refusals = refused as u64..=(refused + hung_up) as u64;
        let kept =
            good + refused + hung_up == self.apps.len() && refusals.contains(&self.gateway.refused);
        check(
            kept,
            format!(
                "requests: {}, responses {responses}, abandoned by their app {hung_up}{}",
                self.apps.len(),
                failure.unwrap_or_default()
            ),
        )
    }

    /// The gateway counted as many requests as the apps sent.
    fn requests_are_counted(&self) -> Check {
        let counted = self.gateway.all().by_apps;
        check(
            counted == self.apps.len() as u64,
            format!(
                "requests: {counted} by the gateway's count, {} by the apps'",
                self.apps.len()
            ),
        )
    }

    /// The gateway counted as many upstream calls as the sandbox received.
    fn upstream_calls_are_counted(&self) -> Check {
        let counted = self.gateway.all().upstream;
        // The check needs the complete record of the sandbox.
        let is_complete = self.received == self.sandbox.len() as u64;
        check(
            counted == self.received && is_complete,
            format!(
                "upstream calls: {counted} by the gateway's count, {} by the sandbox's",
                self.received
            ),
        )
    }

    /// Every receipt was sent, saved by merging, or refused.
    fn savings_add_up(&self) -> Check {
        let receipts = self.gateway.receipts;
        let saved = self.gateway.saved;
        let refused = self.refused_receipts();
        check(
            // Holds without retries and splits; the sandbox causes neither here.
            receipts.by_apps == receipts.upstream + saved + refused,
            format!(
                "receipts: {} = {} upstream + {saved} saved + {refused} refused",
                receipts.by_apps, receipts.upstream
            ),
        )
    }

    fn refused_receipts(&self) -> u64 {
        self.apps
            .iter()
            .filter(|observed| observed.was_refused() && observed.mark().is_some())
            .count() as u64
    }

    /// Receipts per call in each second, for the instance whose messages use up its
    /// bucket; `None` for a second without a call.
    pub(super) fn growth(&self, began: Instant) -> Vec<Option<usize>> {
        let mut seconds: Vec<(usize, usize)> = Vec::new();
        for call in self.receipts() {
            if call.instance.as_deref() == Some(CAMPAIGN) {
                let second = call.at.saturating_duration_since(began).as_secs();
                let second = usize::try_from(second).unwrap_or(0);
                seconds.resize(seconds.len().max(second + 1), (0, 0));
                seconds[second].0 += call.ids.len();
                seconds[second].1 += 1;
            }
        }
        let average =
            // Rounded to the nearest whole number.
            |&(ids, calls): &(usize, usize)| (calls > 0).then(|| (ids + calls / 2) / calls);
        seconds.iter().map(average).collect()
    }

    fn receipts(&self) -> impl Iterator<Item = &Call> {
        self.sandbox.iter().filter(|call| call.path() == RECEIPTS)
    }

    /// Every id that arrived, with its call.
    fn marked(&self) -> impl Iterator<Item = (&Call, Mark)> {
        self.receipts().flat_map(|call| {
            let instance = call.instance.clone().unwrap_or_default();
            let chat = field(call, "chatId").unwrap_or_default();
            let mark = move |id: &String| (call, (instance.clone(), chat.clone(), id.clone()));
            call.ids.iter().map(mark)
        })
    }
}

/// Instance, chat and message.
type Mark = (String, String, String);

impl Observed {
    /// What a receipt marks as read.
    fn mark(&self) -> Option<Mark> {
        match &self.request.operation {
            Operation::Receipt { chat, id } => {
                Some((self.request.instance.clone(), chat.clone(), id.clone()))
            }
            Operation::Typing { .. } | Operation::Text { .. } | Operation::Chats => None,
        }
    }

    /// The gateway responded with 429: the request never went upstream.
    fn was_refused(&self) -> bool {
        self.end == End::Response(http::StatusCode::TOO_MANY_REQUESTS)
    }

    /// The time that the gateway added to the upstream's.
    pub(super) fn added(&self, latency: Duration) -> Option<Duration> {
        matches!(self.end, End::Response(status) if status.is_success())
            .then(|| self.took.saturating_sub(latency))
    }
}

/// A string in the JSON body of a call.
fn field(call: &Call, name: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&call.body).ok()?;
    Some(body.get(name)?.as_str()?.to_owned())
}

fn check(passed: bool, text: String) -> Check {
    Check { passed, text }
}

#[cfg(test)]
mod tests;
