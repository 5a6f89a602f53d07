//! Runs of several gateways in which requests meet: at the bucket of their instance, at the egress, or
//! in a batch.
//!
//! Invariant: nothing but the limit holds a request, so the laws of the queues apply.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use wawp_gateway::config::{Config, Quota, Tenant};

use super::{Client, CredentialSource, Manner, Plan, RequestKind, Step, UpstreamBehaviour, ms};
use crate::rng::Rng;
use crate::writing::Writing;

/// How long requests arrive.
const LASTS: Duration = Duration::from_secs(4);

/// One or two instances with more requests than their buckets give, on all gateways. In most of the
/// runs the upstream throttles some.
pub(super) fn of_instances(rng: &mut Rng) -> Plan {
    let rate = rng.pick(&[2.0, 5.0, 10.0]);
    let mut plan = undisturbed(rng);
    plan.config.limit.quota = Some(quota(rng, rate));
    plan.config.limit.max_wait = rng.pick(&[ms(1000), ms(4000)]);
    if rng.percent(70) {
        plan.behaviour.throttles = rng.pick(&[5, 10]);
        // Requests of other gateways wait beyond a pause, and have slots before the probe has its
        // response.
        plan.behaviour.latency = rng.pick(&[300, 1500]);
        plan.config.limit.max_wait = ms(4000);
    }
    let instances = 1 + rng.below(2);
    let mut tags = 0;
    // One after the other, so that those of one instance are at different gateways.
    for instance in 0..instances {
        for _ in 0..3 {
            // Together half as many again as there are bucket tokens.
            plan.clients
                .push(client(rng, instance, rate / 2.0, &mut tags));
        }
    }
    plan
}

/// Two clients of one instance that are quiet most of the time, also after a 429.
pub(super) fn with_quiet_times(rng: &mut Rng) -> Plan {
    let mut plan = undisturbed(rng);
    let rate = rng.pick(&[2.0, 5.0, 10.0]);
    plan.config.limit.quota = Some(quota(rng, rate));
    plan.config.limit.max_wait = ms(4000);
    plan.behaviour.latency = rng.pick(&[20, 300]);
    plan.behaviour.throttles = rng.pick(&[10, 30]);
    plan.behaviour.fails = rng.pick(&[0, 20]);
    let mut tags = 0;
    for _ in 0..2 {
        let mut client = client(rng, 0, 2.0, &mut tags);
        for step in &mut client.steps[1..] {
            // Some come together, so that one waits for the probe of the other.
            step.think += rng.pick(&[ms(0), ms(1000), ms(5000)]);
        }
        plan.clients.push(client);
    }
    plan
}

/// Two tenants with more requests than their shares of the egress, on all gateways.
pub(super) fn of_tenants(rng: &mut Rng) -> Plan {
    let rate = rng.pick(&[15.0, 20.0]);
    let mut plan = undisturbed(rng);
    plan.config.egress.quota = Some(quota(rng, rate));
    let weights = rng.pick(&[[1, 2], [1, 3], [3, 1]]);
    // Of each tenant, more than the larger share: with any other shares they would wait, too.
    let largest = f64::from(weights[0].max(weights[1])) / f64::from(weights[0] + weights[1]);
    let mut tags = 0;
    for (index, weight) in weights.into_iter().enumerate() {
        plan.config.tenants.push(tenant(index, weight));
        let clients = 2 + rng.below(3);
        let offered = 1.5 * rate * largest / clients as f64;
        for _ in 0..clients {
            plan.clients.push(client(rng, index, offered, &mut tags));
        }
    }
    plan
}

/// Receipts for one chat, on all gateways, and nothing that limits them.
pub(super) fn of_receipts(rng: &mut Rng) -> Plan {
    let mut plan = undisturbed(rng);
    plan.config.batch.window = rng.pick(&[ms(50), ms(250)]);
    let (mut tags, mut ids) = (0, 0);
    for _ in 0..3 {
        let mut client = client(rng, 0, 8.0, &mut tags);
        for step in &mut client.steps {
            ids += 1;
            step.kind = RequestKind::Receipt {
                chat: "1@c.us".to_owned(),
                ids: vec![format!("false_1@c.us_A{ids}")],
                participant: None,
                writing: Writing::JSON,
            };
        }
        plan.clients.push(client);
    }
    plan
}

fn undisturbed(rng: &mut Rng) -> Plan {
    let mut config = Config::default();
    config.upstream.url = "http://upstream.test".parse().unwrap();
    config.limit.quota = None;
    Plan {
        config,
        reload: None,
        fault_free: false,
        behaviour: UpstreamBehaviour {
            latency: rng.pick(&[0, 20, 300, 1500]),
            ..UpstreamBehaviour::default()
        },
        clients: Vec::new(),
        drain: None,
        cluster: None,
    }
}

fn quota(rng: &mut Rng, rate: f64) -> Quota {
    Quota::new(rate, NonZeroU32::new(rng.pick(&[1, 3])).unwrap()).unwrap()
}

fn tenant(index: usize, weight: u32) -> Tenant {
    Tenant {
        name: format!("t{index}"),
        instances: vec![format!("i{index}")],
        weight: NonZeroU32::new(weight).unwrap(),
        quota: None,
        networks: Vec::new(),
        key: None,
        keys: Vec::new(),
        tokens: BTreeMap::new(),
    }
}

/// Sends so many requests per second of one instance, whether those before have left or not. The
/// first one has its response before the others begin.
fn client(rng: &mut Rng, instance: usize, rate: f64, tags: &mut usize) -> Client {
    let count = (rate * LASTS.as_secs_f64()) as usize;
    let longest = (2000.0 / rate) as usize;
    let steps = (0..=count).map(|index| {
        *tags += 1;
        Step {
            tag: *tags,
            think: match index {
                0 => Duration::ZERO,
                1 => ms(400) + rng.millis(longest),
                _ => rng.millis(longest),
            },
            instance: format!("i{instance}"),
            token: format!("good{instance}0"),
            source: CredentialSource::Bearer,
            kind: match rng.below(3) {
                0 => RequestKind::Send(10),
                1 => RequestKind::Typing,
                _ => RequestKind::Chats,
            },
            manner: Manner::Waits,
        }
    });
    Client {
        steps: steps.collect(),
        http2: true,
        buffer: 64 * 1024,
    }
}
