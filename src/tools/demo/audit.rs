//! The promises of the gateway, checked against what the upstream saw.
//!
//! Owns the comparison of three accounts: what the apps asked for, what the
//! gateway counted, what the sandbox received. Invariant: a promise is kept
//! only if the sandbox's own record says so.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::apps::{End, Seen};
use super::figures::Figures;
use super::plan::{CAMPAIGN, What};
use crate::app::Ended;
use crate::tools::sandbox::Call;

/// Where receipts and texts go.
const RECEIPTS: &str = "/v2/send/seen";
const TEXTS: &str = "/v2/send/text";

/// A promise, and whether it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) kept: bool,
    pub(super) text: String,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accounts<'a> {
    /// What the apps saw.
    pub(super) apps: &'a [Seen],
    /// What the gateway counted.
    pub(super) gateway: &'a Figures,
    /// What the sandbox remembers, and how much it received.
    pub(super) sandbox: &'a [Call],
    pub(super) received: u64,
    /// How the gateway ended.
    pub(super) ended: Ended,
}

impl Accounts<'_> {
    /// Checks every promise.
    pub(super) fn promises(&self) -> Vec<Promise> {
        vec![
            self.receipts_arrived(),
            self.no_foreign_ids(),
            self.sends_arrived_once(),
            self.everybody_was_answered(),
            self.calls_are_counted(),
            self.upstream_calls_are_counted(),
            self.savings_add_up(),
            promise(
                self.ended == Ended::Drained,
                match self.ended {
                    Ended::Drained => "the gateway ended with everything answered".to_owned(),
                    Ended::Cut {
                        requests: calls,
                        connections,
                    } => {
                        format!("the gateway cut {calls} calls and {connections} connections")
                    }
                },
            ),
        ]
    }

    /// Every id that an app was not refused stands in an accepted call for
    /// its instance and chat, also where the app had hung up.
    fn receipts_arrived(&self) -> Promise {
        let arrived: BTreeSet<_> = self
            .marked()
            .filter(|(call, ..)| (200..300).contains(&call.status))
            .map(|(_, mark)| mark)
            .collect();
        let asked: BTreeSet<_> = self
            .apps
            .iter()
            .filter(|seen| !seen.was_refused())
            .filter_map(Seen::mark)
            .collect();
        let there = asked.intersection(&arrived).count();
        let kept = there == asked.len();
        promise(
            kept,
            format!("message ids that arrived: {there} of {}", asked.len()),
        )
    }

    /// No chat was marked with an id that nobody sent for it.
    fn no_foreign_ids(&self) -> Promise {
        let asked: BTreeSet<_> = self.apps.iter().filter_map(Seen::mark).collect();
        let foreign = self
            .marked()
            .filter(|(_, mark)| !asked.contains(mark))
            .count();
        promise(
            foreign == 0,
            format!("message ids in a call they do not belong to: {foreign}"),
        )
    }

    fn sends_arrived_once(&self) -> Promise {
        let mut arrived = HashMap::new();
        for call in self.sandbox.iter().filter(|call| call.path() == TEXTS) {
            *arrived.entry(field(call, "message")).or_insert(0_u32) += 1;
        }
        let (mut sends, mut lost, mut duplicated) = (0, 0, 0);
        for seen in self.apps {
            if let What::Text { text, .. } = &seen.order.what {
                sends += 1;
                let times = arrived.remove(&Some(text.clone())).unwrap_or(0);
                lost += u32::from(times == 0 && !seen.was_refused());
                duplicated += u32::from(times > 1);
            }
        }
        // What is left was sent by nobody.
        let made_up = arrived.len();
        promise(
            lost == 0 && duplicated == 0 && made_up == 0,
            format!("sends: {sends}, lost {lost}, duplicated {duplicated}"),
        )
    }

    /// An answer is a success, or a refusal that the gateway counted.
    fn everybody_was_answered(&self) -> Promise {
        let count = |of: fn(&Seen) -> bool| self.apps.iter().filter(|seen| of(seen)).count();
        let answered = count(|seen| matches!(seen.end, End::Answered(_)));
        let hung_up = count(|seen| seen.end == End::HungUp);
        let refused = count(Seen::was_refused);
        let good = count(|seen| matches!(seen.end, End::Answered(status) if status.is_success()));
        let failure = self.apps.iter().find_map(|seen| match &seen.end {
            End::Failed(why) => Some(format!("; one failed: {why}")),
            End::Answered(_) | End::HungUp => None,
        });
        // Who hung up does not know whether it would have been refused.
        let refusals = refused as u64..=(refused + hung_up) as u64;
        let kept =
            good + refused + hung_up == self.apps.len() && refusals.contains(&self.gateway.refused);
        promise(
            kept,
            format!(
                "calls: {}, answered {answered}, hung up by their app {hung_up}{}",
                self.apps.len(),
                failure.unwrap_or_default()
            ),
        )
    }

    fn calls_are_counted(&self) -> Promise {
        let counted = self.gateway.all().by_apps;
        promise(
            counted == self.apps.len() as u64,
            format!(
                "calls by the apps: {counted} by the gateway's count, {} by theirs",
                self.apps.len()
            ),
        )
    }

    fn upstream_calls_are_counted(&self) -> Promise {
        let counted = self.gateway.all().upstream;
        // Beyond what it remembers, the sandbox's record proves nothing.
        let remembers_all = self.received == self.sandbox.len() as u64;
        promise(
            counted == self.received && remembers_all,
            format!(
                "upstream calls: {counted} by the gateway's count, {} by the sandbox's",
                self.received
            ),
        )
    }

    fn savings_add_up(&self) -> Promise {
        let receipts = self.gateway.receipts;
        let saved = self.gateway.saved;
        let refused = self.refused_receipts();
        promise(
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
            .filter(|seen| seen.was_refused() && seen.mark().is_some())
            .count() as u64
    }

    /// How many receipts shared a call, second by second, on the instance
    /// whose sends use up its budget; `None` for a second without one.
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
            |&(ids, calls): &(usize, usize)| (calls > 0).then(|| (ids + calls / 2) / calls);
        seconds.iter().map(average).collect()
    }

    fn receipts(&self) -> impl Iterator<Item = &Call> {
        self.sandbox.iter().filter(|call| call.path() == RECEIPTS)
    }

    /// Every id that arrived, with the call it came in.
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

impl Seen {
    /// What a receipt marks.
    fn mark(&self) -> Option<Mark> {
        match &self.order.what {
            What::Receipt { chat, id } => {
                Some((self.order.instance.clone(), chat.clone(), id.clone()))
            }
            What::Typing { .. } | What::Text { .. } | What::Chats => None,
        }
    }

    /// The gateway said 429: the call never went upstream.
    fn was_refused(&self) -> bool {
        self.end == End::Answered(http::StatusCode::TOO_MANY_REQUESTS)
    }

    /// What the gateway added to the upstream's time.
    pub(super) fn added(&self, latency: Duration) -> Option<Duration> {
        matches!(self.end, End::Answered(status) if status.is_success())
            .then(|| self.took.saturating_sub(latency))
    }
}

/// A text of the call's JSON body.
fn field(call: &Call, name: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&call.body).ok()?;
    Some(body.get(name)?.as_str()?.to_owned())
}

fn promise(kept: bool, text: String) -> Promise {
    Promise { kept, text }
}

#[cfg(test)]
mod tests;
