//! The policy in a response of `GET /v2/session/rate-limit`.
//!
//! The vendor documents `policies` (each with `available` and `limits`), `free_policies`,
//! `has_active_plan` and the names of the limits. Which field has the policy in force is not
//! documented; the sandbox calls it `policy`. Invariants: an unknown field changes nothing and is
//! noted; a value that is out of bounds or of another type is a mistake; nothing is quoted but
//! names and numbers, because a response can repeat a token.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// What a limit may be. Above these, no class could express it.
const LIMITS: [(&str, RangeInclusive<u64>); 8] = [
    ("send_message_per_minute", 0..=1_000_000),
    ("send_message_daily_cap", 0..=1_000_000_000),
    ("account_protection_seconds", 0..=10_000),
    ("concurrent_limit", 0..=100_000),
    ("group_req_per_minute", 0..=1_000_000),
    ("group_daily_cap", 0..=1_000_000_000),
    ("check_req_per_minute", 0..=1_000_000),
    ("check_daily_cap", 0..=1_000_000_000),
];
/// The only limit of which 0 has one meaning.
const GAP: &str = "account_protection_seconds";
const RESPONSE: [&str; 5] = [
    "instance_id",
    "policy",
    "policies",
    "free_policies",
    "has_active_plan",
];
const POLICY: [&str; 3] = ["slug", "available", "limits"];
/// More notes would not be read.
const MAX_NOTES: usize = 20;
/// Characters of a name that is shown.
const MAX_NAME: usize = 60;
/// Bytes of an instance id that becomes part of the name of a class, which has at most 64.
const MAX_INSTANCE: usize = 48;

/// A policy, as far as it is understood.
#[derive(Debug)]
pub(super) struct Policy {
    /// Its name; safe to be written into a comment.
    pub(super) slug: String,
    /// The instance that it belongs to; safe to be written into a setting.
    pub(super) instance: Option<String>,
    pub(super) limits: Limits,
    /// What of the response is not used, and why.
    pub(super) notes: Vec<String>,
}

/// The limits that have a value with a known meaning.
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<&'static str, u64>);

#[derive(Default)]
struct Reader {
    mistakes: Vec<String>,
    notes: Vec<String>,
    more_notes: usize,
}

/// Reads a response. `chosen` is the slug of one of its `policies`; without it, the policy in
/// force is read.
///
/// # Errors
/// Every mistake, with its place and what is allowed.
pub(super) fn read(text: &[u8], chosen: Option<&str>) -> Result<Policy, Vec<String>> {
    let response: Value = serde_json::from_slice(text)
        .map_err(|error| vec![format!("not JSON ({error}); {EXPECTED}")])?;
    let Value::Object(response) = response else {
        return Err(vec![format!("{}; {EXPECTED}", kind(&response))]);
    };
    let mut reader = Reader::default();
    reader.note_unknown("", &response, &RESPONSE);
    let instance = reader.instance(response.get("instance_id"));
    let found = match chosen {
        Some(slug) => listed(&response, slug),
        None => in_force(&response),
    };
    let (place, policy) = match found {
        Ok(found) => found,
        Err(mistake) => {
            reader.mistakes.push(mistake);
            return Err(reader.mistakes);
        }
    };
    reader.note_unknown(&format!("{place}."), policy, &POLICY);
    let slug = reader.slug(&place, policy, chosen);
    let limits = reader.limits(&place, policy.get("limits"));
    if !reader.mistakes.is_empty() {
        return Err(reader.mistakes);
    }
    if reader.more_notes > 0 {
        reader.notes.push(format!("and {} more", reader.more_notes));
    }
    Ok(Policy {
        slug,
        instance,
        limits,
        notes: reader.notes,
    })
}

const EXPECTED: &str =
    "the body of a response of GET /v2/session/rate-limit is expected: a JSON object";

/// The policy in force, with its place.
fn in_force(response: &Map<String, Value>) -> Result<(String, &Map<String, Value>), String> {
    match response.get("policy") {
        Some(Value::Object(policy)) => Ok(("policy".to_owned(), policy)),
        Some(Value::String(slug)) => listed(response, slug),
        None | Some(Value::Null) => Err(format!(
            "policy: missing: an object or the slug of one of `policies` is expected; --policy SLUG \
             chooses one of them{}",
            slugs(response)
        )),
        Some(other) => Err(format!(
            "policy: {}: an object or the slug of one of `policies` is expected",
            kind(other)
        )),
    }
}

/// The policy of the list with this slug, with its place.
fn listed<'r>(
    response: &'r Map<String, Value>,
    slug: &str,
) -> Result<(String, &'r Map<String, Value>), String> {
    let Some(Value::Array(policies)) = response.get("policies") else {
        return Err("policies: a list of policies is expected".to_owned());
    };
    let mut found = policies.iter().enumerate().filter_map(|(at, policy)| {
        let policy = policy.as_object()?;
        let is_it = policy.get("slug")?.as_str()? == slug;
        is_it.then(|| (format!("policies[{at}]"), policy))
    });
    match (found.next(), found.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(format!("policies: {} is there twice", name(slug))),
        (None, _) => Err(format!(
            "policies: {} is not there{}",
            name(slug),
            slugs(response)
        )),
    }
}

/// The policies that can be chosen, as the end of a sentence.
fn slugs(response: &Map<String, Value>) -> String {
    let policies = response.get("policies").and_then(Value::as_array);
    let slugs = policies.into_iter().flatten();
    let slugs: Vec<String> = slugs
        .filter_map(|policy| Some(name(policy.get("slug")?.as_str()?)))
        .take(MAX_NOTES)
        .collect();
    match slugs.is_empty() {
        true => String::new(),
        false => format!(": {}", slugs.join(", ")),
    }
}

impl Reader {
    fn note_unknown(&mut self, place: &str, object: &Map<String, Value>, known: &[&str]) {
        for key in object.keys().filter(|key| !known.contains(&&***key)) {
            self.note(format!("{place}{}: unknown field", name(key)));
        }
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        } else {
            self.more_notes += 1;
        }
    }

    fn instance(&mut self, value: Option<&Value>) -> Option<String> {
        let is_plain = |id: &str| {
            let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
            (1..=MAX_INSTANCE).contains(&id.len()) && id.bytes().all(allowed)
        };
        match value {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if is_plain(id) => Some(id.clone()),
            Some(other) => {
                let kind = kind(other);
                self.mistakes.push(format!(
                    "instance_id: {kind}: a text of 1 to {MAX_INSTANCE} letters, digits, \".\", \"_\" or \
                     \"-\" is expected"
                ));
                None
            }
        }
    }

    fn slug(&mut self, place: &str, policy: &Map<String, Value>, chosen: Option<&str>) -> String {
        let slug = match policy.get("slug") {
            Some(Value::String(slug)) => name(slug),
            None | Some(Value::Null) => "without a name".to_owned(),
            Some(other) => {
                let kind = kind(other);
                self.mistakes
                    .push(format!("{place}.slug: {kind}: a text is expected"));
                String::new()
            }
        };
        match policy.get("available") {
            Some(Value::Bool(false)) if chosen.is_some() => {
                self.note(format!("{slug} is not available for this number now"));
            }
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(other) => {
                let kind = kind(other);
                self.mistakes.push(format!(
                    "{place}.available: {kind}: true or false is expected"
                ));
            }
        }
        slug
    }

    fn limits(&mut self, place: &str, value: Option<&Value>) -> Limits {
        let place = format!("{place}.limits");
        let Some(Value::Object(values)) = value else {
            let what = value.map_or("missing", kind);
            self.mistakes
                .push(format!("{place}: {what}: an object is expected"));
            return Limits::default();
        };
        let known: Vec<&str> = LIMITS.iter().map(|(name, _)| *name).collect();
        self.note_unknown(&format!("{place}."), values, &known);
        let mut limits = Limits::default();
        for (name, allowed) in LIMITS {
            let place = format!("{place}.{name}");
            let Some(value) = values.get(name) else {
                continue;
            };
            match value.as_u64() {
                _ if value.is_null() => {
                    self.note(format!("{place} = null: its meaning is not documented"))
                }
                Some(0) if name != GAP => self.note(format!(
                    "{place} = 0: whether this means none or no limit is not documented"
                )),
                Some(limit) if allowed.contains(&limit) => {
                    limits.0.insert(name, limit);
                }
                _ => {
                    let (from, to) = (allowed.start(), allowed.end());
                    let shown = match value {
                        Value::Number(number) => number.to_string(),
                        other => kind(other).to_owned(),
                    };
                    self.mistakes.push(format!(
                        "{place}: {shown}: a whole number from {from} to {to} is expected"
                    ));
                }
            }
        }
        limits
    }
}

impl Limits {
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Those of these limits that have a value, as `name = value`.
    pub(super) fn shown(&self, names: &[&str]) -> String {
        let shown = names.iter();
        let shown = shown.filter_map(|name| Some(format!("{name} = {}", self.get(name)?)));
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// A name of the response, in quotes and on one line.
fn name(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_NAME).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// What a value is, without the value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
