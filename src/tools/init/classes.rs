//! The classes of a settings file to begin with, and the reason for each.
//!
//! Invariant: classes stand in the order in which they must match.

use super::pace::{self, Pace};
use super::policy::{Limits, Policy};
use super::wrap;

/// Typing indicators: below `/v2/send/`, but no messages.
const TYPING: &[&str] = &["/v2/send/start-typing", "/v2/send/stop-typing"];
/// Messages, also on the older paths.
const MESSAGES: &[&str] = &["/v2/send/*", "/wp-json/awp/v1/send*", "/send-text"];
const GROUPS: &[&str] = &["/v2/groups", "/v2/groups/*"];
const CHECKS: &[&str] = &["/v2/contacts/check*"];

/// A class of limits.
#[derive(Debug)]
pub(super) struct Class {
    name: String,
    reason: String,
    paths: &'static [&'static str],
    instance: Option<String>,
    pace: Pace,
    max_in_flight: Option<u64>,
    /// Written behind `#`.
    pub(super) is_example: bool,
}

/// Careful limits, where nothing is known of a number.
pub(super) fn recommended() -> Vec<Class> {
    let class = |name: &str, paths, pace, max_in_flight, reason: &str| Class {
        name: name.to_owned(),
        reason: reason.to_owned(),
        paths,
        instance: None,
        pace,
        max_in_flight,
        is_example: false,
    };
    vec![
        typing("", None),
        new_number(),
        class(
            "messages",
            MESSAGES,
            Pace::new(250_000, 3),
            Some(2),
            "Messages: numbers are banned for sending fast, above all to strangers. At one in \
             4 s the next message waits (limit.max_wait) where a lower rate would refuse it; three at once are an answer in three short messages. Two at the same \
             time, so that one slow upload does not hold up the others.",
        ),
        class(
            "groups",
            GROUPS,
            Pace::new(250_000, 5),
            None,
            "Group calls: the API counts them apart from messages, without saying how many are \
             allowed. Creating groups and adding members looks like spam sooner than messages do.",
        ),
        class(
            "checks",
            CHECKS,
            Pace::new(500_000, 1),
            None,
            "Number checks: the API asks for at most one a second, because checking lists of \
             numbers looks like scraping. Half of that leaves room for apps that do not use the \
             gateway.",
        ),
    ]
}

/// The class of a number that has just been linked.
fn new_number() -> Class {
    Class {
        name: "new-number".to_owned(),
        reason: "A new number: 30 to 60 s between messages to strangers are advised for the software \
                 behind such APIs (WAHA), and the API advises its policy `strict` at first. To use it, \
                 remove the # in front of these lines and write the id of the number. They stand above \
                 the class `messages`, because the first match counts."
            .to_owned(),
        paths: MESSAGES,
        instance: Some("ID".to_owned()),
        pace: Pace::per_minute(1, 0),
        max_in_flight: Some(1),
        is_example: true,
    }
}

fn typing(suffix: &str, instance: Option<String>) -> Class {
    Class {
        name: format!("typing{suffix}"),
        reason: "Typing indicators: their paths look like those of messages, so they need a class \
                 in front, or each would take the token of a message."
            .to_owned(),
        paths: TYPING,
        instance,
        pace: pace::base(),
        max_in_flight: None,
        is_example: false,
    }
}

/// The classes of a policy, and what of it no class can express.
pub(super) fn of_policy(policy: &Policy) -> (Vec<Class>, Vec<String>) {
    let limits = &policy.limits;
    let suffix = match &policy.instance {
        Some(instance) => format!("-{instance}"),
        None => String::new(),
    };
    let class = |name: &str, paths, reason, pace, max_in_flight| Class {
        name: format!("{name}{suffix}"),
        reason,
        paths,
        instance: policy.instance.clone(),
        pace,
        max_in_flight,
        is_example: false,
    };
    let (mut classes, mut unused) = (Vec::new(), Vec::new());
    match messages(limits) {
        Some((reason, pace)) => {
            let max_in_flight = limits.get("concurrent_limit");
            classes.push(typing(&suffix, policy.instance.clone()));
            classes.push(class("messages", MESSAGES, reason, pace, max_in_flight));
        }
        None => unused
            .push("messages have no class: the policy has no usable limit for them".to_owned()),
    }
    for (name, title, paths, rate, cap) in [
        (
            "groups",
            "Group calls",
            GROUPS,
            "group_req_per_minute",
            "group_daily_cap",
        ),
        (
            "checks",
            "Number checks",
            CHECKS,
            "check_req_per_minute",
            "check_daily_cap",
        ),
    ] {
        let Some(calls) = limits.get(rate) else {
            unused.push(format!(
                "{name} have no class: the policy has no usable {rate}"
            ));
            continue;
        };
        let pace = Pace::per_minute(calls, 0);
        let (known, daily) = (limits.shown(&[rate]), daily(limits, cap, pace));
        let reason = format!("{title}: {known}.{daily}");
        classes.push(class(name, paths, reason, pace, None));
    }
    (classes, unused)
}

/// The reason for the class of messages, and its pace; `None` if the policy limits no messages.
fn messages(limits: &Limits) -> Option<(String, Pace)> {
    let sends = limits.get("send_message_per_minute");
    let gap = limits
        .get("account_protection_seconds")
        .filter(|gap| *gap > 0);
    let concurrent = limits.get("concurrent_limit");
    sends.or(gap).or(concurrent)?;
    let pace = match sends {
        Some(sends) => Pace::per_minute(sends, gap.unwrap_or(0)),
        None => pace::base().with_gap(gap.unwrap_or(0)),
    };
    let known = limits.shown(&[
        "send_message_per_minute",
        "account_protection_seconds",
        "concurrent_limit",
    ]);
    let mut reason = format!("Messages: {known}.");
    if sends.or(gap).is_none() {
        reason.push_str(" The policy has no usable rate, so it is that of [limit].");
    }
    if concurrent.is_some() {
        let doubt =
            " Which requests concurrent_limit counts is not documented; here it is messages.";
        reason.push_str(doubt);
    }
    reason.push_str(&daily(limits, "send_message_daily_cap", pace));
    Some((reason, pace))
}

/// What becomes of a limit per day.
fn daily(limits: &Limits, name: &str, pace: Pace) -> String {
    let Some(cap) = limits.get(name) else {
        return String::new();
    };
    match pace.minutes_for(cap) {
        Some(minutes) => format!(
            " {name} = {cap} is not enforced, because the gateway has no limit per day; at the full \
             rate it is used up after {} h {} min.",
            minutes / 60,
            minutes % 60
        ),
        None => format!(" {name} = {cap} cannot be exceeded in a day at this rate."),
    }
}

impl Class {
    /// The lines of the comment above it.
    pub(super) fn about(&self) -> Vec<String> {
        let mut effect = format!("Effect for each number: {}", self.pace.effect());
        if let Some(calls) = self.max_in_flight {
            effect.push_str(&format!(", {calls} at the same time"));
        }
        let mut lines = wrap(&self.reason);
        lines.extend(wrap(&format!("{effect}.")));
        lines
    }

    /// The lines of its settings.
    pub(super) fn settings(&self) -> Vec<String> {
        let paths: Vec<String> = self
            .paths
            .iter()
            .map(|path| format!("\"{path}\""))
            .collect();
        let mut lines = vec![
            "[[limit.class]]".to_owned(),
            format!("name = \"{}\"", self.name),
            format!("paths = [{}]", paths.join(", ")),
        ];
        if let Some(instance) = &self.instance {
            lines.push(format!("instances = [\"{instance}\"]"));
        }
        lines.push(format!("rate = {}", self.pace.rate()));
        lines.push(format!("burst = {}", self.pace.burst));
        if let Some(calls) = self.max_in_flight {
            lines.push(format!("max_in_flight = {calls}"));
        }
        lines
    }
}
