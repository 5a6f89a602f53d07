//! Who shares the way out, and who may use it: `[egress]`, `[[tenant]]` and `[access]`.
//!
//! Owns these settings and the rules between the tenants. Refuses to judge a call: that is for whoever has one in
//! hand. Invariant: no two tenants share a name, an instance or a key, and a token belongs to one of its tenant's
//! instances.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    fmt,
    num::NonZeroU32,
};

use ipnet::IpNet;

use super::{
    Quota, kind,
    read::Section,
    schema,
    secret::{Secret, Sources},
};

/// The keys of `[[tenant]]`, to recognise one that slipped into the table of tokens behind it.
const KEYS: [&str; 8] = [
    "name",
    "instances",
    "weight",
    "rate",
    "burst",
    "networks",
    "key",
    "tokens",
];

/// `[egress]`: one budget over all upstream calls together.
#[derive(Clone, Debug, PartialEq)]
pub struct Egress {
    /// The budget, shared by weight where it is scarce; `None` is unlimited.
    pub quota: Option<Quota>,
}

/// `[[tenant]]`: instances that share one part of the way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// What it is called in metrics and messages; no other tenant has it, and it is never `other` or `none`.
    pub name: String,
    /// Its instances, at least one; no other tenant has any of them.
    pub instances: Vec<String>,
    /// Its share of a scarce egress beside the other tenants' weights; at most 1000.
    pub weight: NonZeroU32,
    /// The budget over all its instances together; `None` is unlimited.
    pub quota: Option<Quota>,
    /// From where its instances may be used; empty means from wherever `[access]` lets in.
    pub networks: Vec<IpNet>,
    /// What may stand where an access token would; it opens the instances in `tokens` and no others.
    pub key: Option<Secret>,
    /// The real access token of each instance that the key opens; never one of another tenant's.
    pub tokens: BTreeMap<String, Secret>,
}

/// `[access]`: who may use the gateway at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// From where calls are taken; empty means from everywhere.
    pub networks: Vec<IpNet>,
    /// Which instances may be called.
    pub instances: Instances,
    /// The proxies in front whose word on a client's address is believed; empty believes none.
    pub trusted_proxies: Vec<IpNet>,
}

/// Which instances may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// All.
    Any,
    /// Those of a tenant.
    Listed,
}

/// What the tenants read so far have taken for themselves.
#[derive(Default)]
struct Taken {
    names: HashSet<String>,
    instances: HashSet<String>,
    keys: HashSet<String>,
}

/// Reads `[egress]`.
pub(super) fn egress(s: &mut Section<'_>) -> Egress {
    let rate = s.get("rate", kind::rate);
    let burst = s.get("burst", kind::burst);
    Egress {
        quota: schema::quota(s, rate, burst, &["egress.rate", "egress.burst"]),
    }
}

/// Reads every `[[tenant]]`.
pub(super) fn tenants(root: &mut Section<'_>, sources: &Sources<'_>) -> Vec<Tenant> {
    let mut taken = Taken::default();
    root.each("tenant", |s| tenant(s, sources, &mut taken))
}

fn tenant(s: &mut Section<'_>, sources: &Sources<'_>, taken: &mut Taken) -> Option<Tenant> {
    let name = s.required("name", kind::tenant);
    if let Some(name) = &name
        && !taken.names.insert(name.clone())
    {
        s.report
            .forbid(&[&s.path_of("name")], "a name that no tenant before has");
    }
    let instances = instances(s, &mut taken.instances);
    // A weight of 1, no budget and no key: a tenant that says nothing more is like an instance of none.
    let weight = s.optional("weight", kind::weight);
    let rate = s.optional("rate", kind::rate).unwrap_or_default();
    let burst = s.optional("burst", kind::burst).unwrap_or_default();
    let quota = schema::quota(s, rate, burst, &[&s.path_of("rate"), &s.path_of("burst")]);
    let networks = s.list("networks", kind::network);
    let key = s.optional("key", |value| sources.key(value));
    if let Some(key) = &key
        && !taken.keys.insert(key.expose().to_owned())
    {
        s.report
            .forbid(&[&s.path_of("key")], "a key that no tenant before has");
    }
    let tokens = tokens(s, &instances, sources);
    Some(Tenant {
        name: name?,
        instances,
        weight: weight.unwrap_or(NonZeroU32::MIN),
        quota,
        networks,
        key,
        tokens,
    })
}

fn instances(s: &mut Section<'_>, taken: &mut HashSet<String>) -> Vec<String> {
    let taken = RefCell::new(taken);
    s.required_list("instances", |value| {
        let instance = kind::instance(value)?;
        if taken.borrow_mut().insert(instance.clone()) {
            Ok(instance)
        } else {
            Err("an instance that is not listed before, here or in another tenant".to_owned())
        }
    })
}

fn tokens(
    s: &mut Section<'_>,
    instances: &[String],
    sources: &Sources<'_>,
) -> BTreeMap<String, Secret> {
    // Where the list itself is wrong, a token's instance may be one that was meant.
    let is_list_wrong = s.report.is_wrong(&s.path_of("instances"));
    let stranger = |name: &str| {
        if KEYS.contains(&name) {
            return Some(format!(
                "\"{name}\" is no instance of this tenant; a setting of the tenant stands before [tenant.tokens]"
            ));
        }
        (!is_list_wrong).then(|| "each name here is one of the tenant's instances".to_owned())
    };
    s.map("tokens", instances, stranger, |value| sources.token(value))
}

/// Reads `[access]`.
pub(super) fn access(s: &mut Section<'_>) -> Access {
    Access {
        networks: s.list("networks", kind::network),
        instances: s.get("instances", kind::instances),
        trusted_proxies: s.list("trusted_proxies", kind::network),
    }
}

// === impl Instances ===

impl fmt::Display for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Listed => "listed",
        })
    }
}
