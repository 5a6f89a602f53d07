//! The script that lends tokens, in Rust.
//!
//! Invariant: line by line the same as `src/cluster/scripts/lease.lua`, which explains it.
//!
//! - [`fair`]: how many slots a tenant gets, and how many of these a gateway.

mod fair;

use std::collections::{BTreeMap, HashMap};

use super::strictest;
use fair::{Tenant, Waits, last_tag, part};

const HORIZON: i64 = 100_000;
const FRESH: i64 = 300_000;
const KEPT: i64 = 10_000_000;
const STEP: i64 = 1_000_000;
const FARTHEST: i64 = 1 << 44;
const LAST_TAG: i64 = 1 << 50;
const MOST_KEPT: usize = 16;

/// What is lent, as far as a data set holds it.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    egress: Option<Egress>,
    gateways: BTreeMap<i64, Record>,
    expires: i64,
    rates: HashMap<Vec<u8>, Rate>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    tat: i64,
    interval: i64,
    spare: i64,
    strict: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Egress {
    budget: Budget,
    virtual_time: i64,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    budget: Budget,
    expires: i64,
}

/// What a gateway waits for.
#[derive(Clone, Debug)]
struct Record {
    at: i64,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Vec<u8>,
    weight: i64,
    tag: i64,
    waits: Waits,
}

/// A tenant that waits on the gateway that asks.
#[derive(Debug)]
struct Own {
    key: Vec<u8>,
    waits: Waits,
    /// With the time between two slots.
    rate: Option<(Budget, i64)>,
    lent: i64,
}

/// What a gateway says of itself, and when.
#[derive(Clone, Copy, Debug)]
struct Asking {
    now: i64,
    born: i64,
    gateway: i64,
    asserts: bool,
    share: i64,
    virtual_time: i64,
}

impl Leases {
    /// Runs the script. `keys`: without that of the birth.
    pub(super) fn lend(
        &mut self,
        keys: &[Vec<u8>],
        arguments: &[i64],
        born: i64,
        now: i64,
    ) -> Vec<i64> {
        let &[
            gateway,
            birth,
            share,
            known,
            interval,
            spare,
            ref wanted @ ..,
        ] = arguments
        else {
            return Vec::new();
        };
        if self.expires <= now {
            self.egress = None;
            self.gateways.clear();
        }
        let stored = self.egress.unwrap_or_default();
        let mut asking = Asking {
            now,
            born,
            gateway,
            asserts: birth != born,
            share,
            virtual_time: Some(stored.virtual_time)
                .filter(|it| *it <= LAST_TAG)
                .unwrap_or(0),
        };
        let (mut tenants, mine) = self.tenants(asking);
        let mut owns = self.owns(asking, &mut tenants, keys, wanted);
        for known in tenants.values_mut() {
            known.step = (STEP / known.weight).max(1);
            known.start = known.tag.max(asking.virtual_time - known.step);
        }
        let mut egress =
            (interval != 0).then(|| asking.budget(stored.budget, known, interval, spare));
        self.lend_each(now, &mut tenants, &mut owns, &mut egress);
        let weights = asking.advance(&tenants);
        self.keep(asking, &tenants, &owns, &mine);
        let (budget, _) = egress.unwrap_or_default();
        if egress.is_some() {
            let virtual_time = asking.virtual_time;
            self.egress = Some(Egress {
                budget,
                virtual_time,
            });
        }
        self.expires = now + budget.kept_for(now, KEPT);
        let state = |of: Option<(Budget, i64)>| match of {
            Some((budget, between)) => [budget.tat - now, between, budget.spare],
            None => [0; 3],
        };
        let mut reply = vec![born];
        reply.extend(state(egress));
        reply.push(weights);
        for own in &owns {
            let others = tenants[&own.key].others.iter();
            reply.extend([own.lent, others.map(|other| other.waiting).sum()]);
            reply.extend(state(own.rate));
        }
        reply
    }

    /// The keys that have expired by now.
    pub(super) fn expired(&self, egress: &[u8], now: i64) -> Vec<Vec<u8>> {
        let rates = self.rates.iter().filter(|(_, rate)| rate.expires <= now);
        let mut expired: Vec<_> = rates.map(|(key, _)| key.clone()).collect();
        if self.expires <= now {
            expired.push(egress.to_vec());
        }
        expired
    }

    /// For how long the rate of a tenant is kept, or the egress; `None` where there is none.
    pub(super) fn kept(&self, tenant: Option<&[u8]>, now: i64) -> Option<i64> {
        let expires = match tenant {
            None => self.expires,
            Some(tenant) => self.rates.get(tenant)?.expires,
        };
        Some(expires - now).filter(|left| *left > 0)
    }

    /// The tenants that are stored, and those that the gateway had before.
    fn tenants(&mut self, asking: Asking) -> (HashMap<Vec<u8>, Tenant>, Vec<Vec<u8>>) {
        let (mut tenants, mut mine) = (HashMap::new(), Vec::new());
        let is_kept = |record: &Record| (0..=KEPT).contains(&(asking.now - record.at));
        self.gateways.retain(|_, record| is_kept(record));
        for (gateway, record) in &self.gateways {
            for entry in &record.entries {
                let known = tenant(&mut tenants, &entry.key);
                known.weight = known.weight.max(entry.weight);
                if entry.tag <= asking.virtual_time + FARTHEST {
                    known.tag = known.tag.max(entry.tag);
                }
                if *gateway == asking.gateway {
                    mine.push(entry.key.clone());
                } else if asking.now - record.at <= FRESH {
                    known.others.push(entry.waits);
                    known.ready += entry.waits.ready;
                }
            }
        }
        (tenants, mine)
    }

    /// The tenants that wait on the gateway.
    fn owns(
        &self,
        asking: Asking,
        tenants: &mut HashMap<Vec<u8>, Tenant>,
        keys: &[Vec<u8>],
        wanted: &[i64],
    ) -> Vec<Own> {
        let mut owns = Vec::new();
        for (key, wanted) in keys.iter().zip(wanted.chunks(6)) {
            let &[weight, waiting, waited, known_tat, interval, spare] = wanted else {
                break;
            };
            let known = tenant(tenants, key);
            known.weight = weight;
            let mut waits = Waits {
                gateway: asking.gateway,
                waiting,
                ready: waiting,
                since: asking.now - waited,
            };
            let rate = (interval != 0).then(|| {
                let stored = self.rates.get(key).filter(|rate| rate.expires > asking.now);
                let stored = stored.map(|rate| rate.budget).unwrap_or_default();
                asking.budget(stored, known_tat, interval, spare)
            });
            if let Some((rate, between)) = rate {
                let slots = rate.slots(between, asking.now);
                waits.ready = part(slots, &waits, &known.others, |it| it.waiting);
            }
            known.ready += waits.ready;
            owns.push(Own {
                key: key.clone(),
                waits,
                rate,
                lent: 0,
            });
        }
        owns
    }

    fn lend_each(
        &mut self,
        now: i64,
        tenants: &mut HashMap<Vec<u8>, Tenant>,
        owns: &mut [Own],
        egress: &mut Option<(Budget, i64)>,
    ) {
        let slots = egress.map(|(budget, between)| budget.slots(between, now));
        let mut left = slots.unwrap_or(i64::MAX);
        let last_tag = last_tag(tenants, left);
        for own in owns {
            let known = tenant(tenants, &own.key);
            let calls = last_tag.map_or(known.ready, |tag| known.calls_before(tag));
            own.lent = left.min(part(calls, &own.waits, &known.others, |it| it.ready));
            left -= own.lent;
            known.ready -= own.waits.ready;
            own.waits.waiting -= own.lent;
            own.waits.ready = own.waits.waiting;
            if let Some((rate, between)) = &mut own.rate {
                rate.tat += own.lent * *between;
                own.waits.ready = own.waits.ready.min(rate.slots(*between, now));
                let expires = now + rate.kept_for(now, 0);
                let rate = Rate {
                    budget: *rate,
                    expires,
                };
                self.rates.insert(own.key.clone(), rate);
            }
            known.ready += own.waits.ready;
            if let Some((egress, between)) = egress
                && own.lent > 0
            {
                egress.tat += own.lent * *between;
                known.tag = known.start + own.lent * known.step;
            }
        }
    }

    fn keep(
        &mut self,
        asking: Asking,
        tenants: &HashMap<Vec<u8>, Tenant>,
        owns: &[Own],
        mine: &[Vec<u8>],
    ) {
        let entry = |key: &Vec<u8>, waits| Entry {
            key: key.clone(),
            weight: tenants[key].weight,
            tag: tenants[key].tag,
            waits,
        };
        let is_wanted = |key: &Vec<u8>| owns.iter().any(|own| own.key == *key);
        let says_more = |key: &Vec<u8>| {
            let known = &tenants[key];
            known.tag > (asking.virtual_time - known.step).max(0)
        };
        let others = mine.iter().filter(|key| !is_wanted(key) && says_more(key));
        let nothing = Waits {
            gateway: asking.gateway,
            ..Waits::default()
        };
        let others = others
            .take(owns.len() + MOST_KEPT)
            .map(|key| entry(key, nothing));
        let record = Record {
            at: asking.now,
            entries: owns
                .iter()
                .map(|own| entry(&own.key, own.waits))
                .chain(others)
                .collect(),
        };
        self.gateways.insert(asking.gateway, record);
    }
}

impl Asking {
    /// Advances the virtual time; returns the weights of what still waits.
    fn advance(&mut self, tenants: &HashMap<Vec<u8>, Tenant>) -> i64 {
        let (mut weights, mut low, mut high) = (0, None, self.virtual_time);
        for known in tenants.values() {
            high = high.max(known.tag);
            if known.ready > 0 {
                weights += known.weight;
                low = Some(low.unwrap_or(known.tag).min(known.tag));
            }
        }
        self.virtual_time = low.map_or(high, |low| self.virtual_time.max(low));
        weights
    }

    fn budget(self, stored: Budget, known_tat: i64, interval: i64, spare: i64) -> (Budget, i64) {
        let limit = (stored.interval, stored.spare, stored.strict);
        let (interval, spare, strict) = strictest(limit, (interval, spare), self.now);
        let mut tat = stored.tat.max(self.now).max(self.born + interval + spare);
        if self.asserts {
            tat = tat.max(self.now + known_tat);
        }
        let budget = Budget {
            tat,
            interval,
            spare,
            strict,
        };
        (budget, interval * self.share / 1000)
    }
}

impl Budget {
    fn slots(self, between: i64, now: i64) -> i64 {
        let until_last = now + HORIZON - (self.tat - self.spare);
        (until_last.div_euclid(between) + 1).max(0)
    }

    fn kept_for(self, now: i64, least: i64) -> i64 {
        let until_same = (self.tat - now).max(self.strict - now).max(least);
        // The server counts in milliseconds.
        (until_same / 1000 + 1000) * 1000
    }
}

fn tenant<'t>(tenants: &'t mut HashMap<Vec<u8>, Tenant>, key: &[u8]) -> &'t mut Tenant {
    tenants.entry(key.to_vec()).or_insert_with(|| Tenant {
        weight: 1,
        ..Tenant::default()
    })
}
