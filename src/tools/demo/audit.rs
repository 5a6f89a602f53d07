//! What the gateway promises, checked against what the upstream received.
//!
//! Compares three records: what the apps sent, what the gateways counted, what the
//! sandbox received. Invariant: a check passes only if the sandbox's own record
//! confirms it.
//!
//! - [`replicas`]: what several gateways promise in addition.

pub(super) mod replicas;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::apps::{End, Observed};
use super::figures::{Figures, Pair};
use super::plan::{CAMPAIGN, Operation};
use crate::tools::sandbox::Call;
use replicas::Replicas;

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
    /// What the gateways counted together, without one that was killed.
    pub(super) gateway: &'a Figures,
    /// What the sandbox recorded, and the number of requests it received.
    pub(super) sandbox: &'a [Call],
    pub(super) received: u64,
    /// How the gateways ended.
    pub(super) ended: &'a Check,
    /// `None` for a single gateway.
    pub(super) replicas: Option<&'a Replicas>,
}

impl Accounts<'_> {
    /// All checks.
    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![
            self.receipts_arrived(),
            self.no_foreign_ids(),
            self.sends_arrived_once(),
            self.every_request_has_a_response(),
            self.requests_are_counted(),
            self.upstream_calls_are_counted(),
            self.savings_add_up(),
            self.ended.clone(),
        ];
        checks.extend(self.replicas.iter().flat_map(|it| self.checks_of(it)));
        checks
    }

    /// The figures of the table. A gateway that was killed took its own with it, so those of several
    /// come from the records of the apps and the sandbox.
    pub(super) fn figures(&self) -> Figures {
        if self.replicas.is_none() {
            return *self.gateway;
        }
        let count = |of: &dyn Fn(&Observed) -> bool| {
            self.apps.iter().filter(|observed| of(observed)).count() as u64
        };
        let receipts = Pair {
            by_apps: count(&|observed| observed.mark().is_some()),
            upstream: self.receipts().count() as u64,
        };
        let arrived = self.arrived();
        let served = count(&|observed| {
            let mark = observed.mark().filter(|_| !observed.was_refused());
            mark.is_some_and(|mark| arrived.contains(&mark))
        });
        Figures {
            receipts,
            others: Pair {
                by_apps: self.apps.len() as u64 - receipts.by_apps,
                upstream: self.received - receipts.upstream,
            },
            saved: served.saturating_sub(receipts.upstream),
            refused: count(&Observed::was_refused),
            in_flight: 0,
        }
    }

    /// Every id that was not refused is in a successful call for its instance and
    /// chat, also if its app closed the connection early.
    fn receipts_arrived(&self) -> Check {
        let arrived = self.arrived();
        let marks = |of: &dyn Fn(&Observed) -> bool| -> BTreeSet<_> {
            let asked = self.apps.iter().filter(|observed| of(observed));
            asked.filter_map(Observed::mark).collect()
        };
        // A set, because two agents may send the same id.
        let asked = marks(&|observed| !observed.was_refused());
        let there = asked.intersection(&arrived).count();
        // The killed gateway may not have sent them, and their apps were gone.
        let abandoned = marks(&|observed| self.was_abandoned(observed));
        let lost = abandoned.difference(&arrived).count();
        let lost_text = match lost {
            0 => String::new(),
            _ => format!(", {lost} abandoned by their app and lost with the gateway"),
        };
        check(
            there + lost == asked.len(),
            format!(
                "message ids that arrived: {there} of {}{lost_text}",
                asked.len()
            ),
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
                let may_be_lost = observed.was_refused() || self.was_lost(observed);
                lost += u32::from(times == 0 && !may_be_lost);
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
            End::Response(_) | End::HungUp | End::Lost => None,
        });
        let lost = self.apps.iter().filter(|it| self.was_lost(it)).count();
        let lost_text = match lost {
            0 => String::new(),
            _ => format!(", lost {lost}"),
        };
        // An app that closed its connection does not know whether it was refused.
        let mut refusals = [0, 0];
        for observed in self.lasting() {
            refusals[0] += u64::from(observed.was_refused());
            refusals[1] += u64::from(observed.end == End::HungUp);
        }
        let refusals = refusals[0]..=refusals[0] + refusals[1];
        let kept = good + refused + hung_up + lost == self.apps.len()
            && refusals.contains(&self.gateway.refused);
        check(
            kept,
            format!(
                "requests: {}, responses {responses}, abandoned by their app {hung_up}{lost_text}{}",
                self.apps.len(),
                failure.unwrap_or_default()
            ),
        )
    }

    /// The gateway counted as many requests as the apps sent.
    fn requests_are_counted(&self) -> Check {
        let counted = self.gateway.all().by_apps;
        let sent = self.lasting().count();
        let (without, who) = self.whose();
        check(
            counted == sent as u64,
            format!("requests{without}: {counted} by {who} count, {sent} by the apps'"),
        )
    }

    /// The gateway counted as many upstream calls as the sandbox received.
    fn upstream_calls_are_counted(&self) -> Check {
        let counted = self.gateway.all().upstream;
        // The check needs the complete record of the sandbox.
        let is_complete = self.received == self.sandbox.len() as u64;
        let received = self.received.saturating_sub(self.calls_of_killed());
        let (without, who) = self.whose();
        check(
            counted == received && is_complete,
            format!(
                "upstream calls{without}: {counted} by {who} count, {received} by the sandbox's"
            ),
        )
    }

    /// Every receipt was sent, saved by merging, or refused.
    fn savings_add_up(&self) -> Check {
        let receipts = self.gateway.receipts;
        let saved = self.gateway.saved;
        let refused = self.refused_receipts();
        let (without, _) = self.whose();
        check(
            // Holds without retries and splits; the sandbox causes neither here.
            receipts.by_apps == receipts.upstream + saved + refused,
            format!(
                "receipts{without}: {} = {} upstream + {saved} saved + {refused} refused",
                receipts.by_apps, receipts.upstream
            ),
        )
    }

    fn refused_receipts(&self) -> u64 {
        self.lasting()
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

    /// What is marked as read by successful calls.
    fn arrived(&self) -> BTreeSet<Mark> {
        self.marked()
            .filter(|(call, ..)| (200..300).contains(&call.status))
            .map(|(_, mark)| mark)
            .collect()
    }

    /// Every id that arrived, with its call.
    fn marked(&self) -> impl Iterator<Item = (&Call, Mark)> {
        self.receipts()
            .flat_map(|call| marks(call).map(move |mark| (call, mark)))
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

/// What a receipt marks as read; nothing for another call.
fn marks(call: &Call) -> impl Iterator<Item = Mark> {
    let instance = call.instance.clone().unwrap_or_default();
    let chat = field(call, "chatId").unwrap_or_default();
    let mark = move |id: &String| (instance.clone(), chat.clone(), id.clone());
    call.ids.iter().map(mark)
}

/// A string in the JSON body of a call.
fn field(call: &Call, name: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&call.body).ok()?;
    Some(body.get(name)?.as_str()?.to_owned())
}

pub(super) fn check(passed: bool, text: String) -> Check {
    Check { passed, text }
}

#[cfg(test)]
mod tests;
