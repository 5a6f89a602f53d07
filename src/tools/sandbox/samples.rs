//! Plausible bodies of successful responses.
//!
//! They follow WAHA's WEBJS engine where the vendor documents its responses.
//! Invariant: no body carries `error`, or `code` with `message`: clients treat those as failures whatever the status.

use std::time::Duration;

use serde_json::{Value, json};

use super::params::Params;

/// A picture of one transparent pixel, in base64.
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=";

/// The phone number of every instance.
const OWN: &str = "201000000000@c.us";

/// The request for which a body is made.
pub(super) struct About<'a> {
    pub(super) instance: &'a str,
    pub(super) chat: &'a str,
    pub(super) params: &'a Params,
    /// Time since the Unix epoch.
    pub(super) now: Duration,
}

/// A sent message; `number` counts the messages of this sandbox.
pub(super) fn sent(about: &About<'_>, number: u64) -> Value {
    let chat = about.chat;
    // WhatsApp Web's ids begin with 3EB0. The number makes each id unique, so that a test finds a
    // duplicate.
    let id = format!("3EB0{number:016X}");
    json!({
        "id": { "fromMe": true, "remote": chat, "id": id, "_serialized": format!("true_{chat}_{id}") },
        "ack": 1,
        "hasMedia": false,
        "body": about.params.text("message").unwrap_or_default(),
        "type": "chat",
        "timestamp": about.now.as_secs(),
        "from": OWN,
        "to": chat,
        "deviceType": "web",
    })
}

/// A new instance.
pub(super) fn created(number: u64) -> Value {
    json!({ "instance_id": format!("SANDBOX{number:05}"), "status": "STARTING" })
}

pub(super) fn done(_: &About<'_>) -> Value {
    json!({ "success": true })
}

pub(super) fn list(_: &About<'_>) -> Value {
    json!([{ "id": "201000000001@c.us", "name": "Example" }])
}

pub(super) fn me(_: &About<'_>) -> Value {
    json!({ "id": OWN, "pushName": "Sandbox" })
}

pub(super) fn session(about: &About<'_>) -> Value {
    json!({ "instance_id": about.instance, "name": about.instance, "status": "WORKING", "me": me(about) })
}

pub(super) fn qr(_: &About<'_>) -> Value {
    json!({ "mimetype": "image/png", "data": PIXEL })
}

pub(super) fn code(_: &About<'_>) -> Value {
    // `code` alone is allowed: clients see a failure only in `code` with `message`.
    json!({ "code": "ABCD-EFGH" })
}

pub(super) fn chats(about: &About<'_>) -> Value {
    json!([
        { "id": "201000000001@c.us", "name": "Example", "unreadCount": 2, "timestamp": about.now.as_secs() },
        { "id": "120000000000000001@g.us", "name": "Example group", "unreadCount": 0, "timestamp": about.now.as_secs() },
    ])
}

pub(super) fn messages(about: &About<'_>) -> Value {
    let chat = if about.chat.is_empty() {
        "201000000001@c.us"
    } else {
        about.chat
    };
    let message = |n: u32| {
        json!({
            "id": format!("false_{chat}_3EB0{n:016X}"),
            "from": chat, "to": OWN, "fromMe": false, "ack": 1, "hasMedia": false,
            "body": format!("message {n}"), "timestamp": about.now.as_secs(),
        })
    };
    json!([message(1), message(2)])
}

/// The ids that `chats/read` has marked as read.
pub(super) fn read(about: &About<'_>) -> Value {
    json!({ "ids": [format!("false_{}_3EB0{:016X}", about.chat, 1)] })
}

/// The rate limit policies of the vendor; `policy_slug` chooses one.
pub(super) fn rate_limit(about: &About<'_>) -> Value {
    let policy = |slug: &str, per_minute: u32, gap_seconds: u32| {
        json!({
            "slug": slug,
            "limits": {
                "send_message_per_minute": per_minute, "send_message_daily_cap": per_minute * 100,
                "account_protection_seconds": gap_seconds, "concurrent_limit": 1,
                "group_req_per_minute": per_minute, "group_daily_cap": per_minute * 50,
                "check_req_per_minute": per_minute, "check_daily_cap": per_minute * 50,
            },
        })
    };
    let policies = [
        policy("strict", 10, 5),
        policy("standard_policy", 30, 2),
        policy("high_throughput", 120, 0),
    ];
    // An unknown policy falls back to the default one, so that the response always has a valid
    // policy.
    let chosen = about
        .params
        .text("policy_slug")
        .unwrap_or_else(|| "standard_policy".to_owned());
    json!({
        "instance_id": about.instance,
        "policy": policies.iter().find(|policy| policy["slug"] == chosen.as_str()).unwrap_or(&policies[1]),
        "policies": policies,
        "free_policies": ["strict", "standard_policy"],
        "has_active_plan": true,
    })
}
