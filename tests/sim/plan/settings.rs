//! The settings of a run: limits, batches, tenants, and what a reload changes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use wawp_gateway::config::{BatchEdge, Class, Config, PathPattern, Quota, Tenant};

use super::ms;
use crate::rng::Rng;

/// Makes a reload move instances between classes of the same requests, with other limits, and no
/// request to classes of others.
pub(super) fn moves(rng: &mut Rng, config: &mut Config, other: &mut Config) {
    let seen = config.limit.classes.iter().position(|it| it.name == "seen");
    let seen = seen.map(|at| config.limit.classes.remove(at));
    config.limit.classes.clear();
    // In front of the class without paths, which would otherwise take receipts of some instances.
    config.limit.classes.extend(seen);
    for (name, path, is_single) in [
        ("new-sends", Some("/v2/send/*"), true),
        ("sends", Some("/v2/send/*"), false),
        ("new", None, true),
    ] {
        let mut class = class(rng, name, path, None);
        if is_single {
            class.instances = some_instances(rng);
        }
        config.limit.classes.push(class);
    }
    other.limit.classes.clone_from(&config.limit.classes);
    for class in &mut other.limit.classes {
        if !class.instances.is_empty() {
            class.instances = some_instances(rng);
        }
        if rng.percent(30) {
            class.quota = quota(rng);
        }
        if rng.percent(20) {
            class.max_in_flight = max_in_flight(rng);
        }
    }
}

/// Half of the instances; never none, which would be all.
fn some_instances(rng: &mut Rng) -> Vec<String> {
    let all = ["i0", "i1", "i2"].into_iter();
    let mut some: Vec<_> = all.filter(|_| rng.percent(50)).collect();
    some.push("another");
    some.into_iter().map(str::to_owned).collect()
}

fn class(rng: &mut Rng, name: &str, path: Option<&str>, instance: Option<&str>) -> Class {
    let paths = path.map(|it| PathPattern::parse(it).unwrap());
    Class {
        name: name.to_owned(),
        paths: paths.into_iter().collect(),
        methods: Vec::new(),
        instances: instance.map(str::to_owned).into_iter().collect(),
        tenants: Vec::new(),
        quota: quota(rng),
        max_in_flight: max_in_flight(rng),
    }
}

fn max_in_flight(rng: &mut Rng) -> Option<NonZeroU32> {
    NonZeroU32::new(rng.pick(&[0, 0, 1, 2]))
}

pub(super) fn config(rng: &mut Rng, fault_free: bool) -> Config {
    let mut config = Config::default();
    config.upstream.url = "http://upstream.test".parse().unwrap();
    config.upstream.idle_timeout = rng.pick(&[ms(100), ms(1000), ms(30_000)]);
    config.upstream.max_idle = rng.pick(&[0, 1, 3, 10_000]);
    config.upstream.max_age = rng.pick(&[ms(0), ms(200), ms(2000), ms(300_000)]);
    config.limit.max_wait = rng.pick(&[ms(300), ms(1000), ms(4000)]);
    config.batch = batch(rng, config.limit.max_wait);
    config.limit.headers = rng.percent(30);
    if fault_free {
        config.limit.quota = None;
        return config;
    }
    config.upstream.response_timeout = rng.pick(&[ms(1500), ms(310_000)]);
    config.limit.quota = quota(rng);
    config.limit.max_queue = rng.pick(&[1, 3, 1000]);
    config.server.max_in_flight = rng.pick(&[3, 10_000, 10_000, 10_000]);
    for (name, path, instance) in [
        ("new-sends", Some("/v2/send/*"), Some("i0")),
        ("sends", Some("/v2/send/*"), None),
        ("new", None, Some("i1")),
        ("seen", Some("/v2/send/seen"), None),
    ] {
        if rng.percent(30) {
            let class = class(rng, name, path, instance);
            config.limit.classes.push(class);
        }
    }
    config
}

pub(super) fn batch(rng: &mut Rng, max_wait: Duration) -> wawp_gateway::config::Batch {
    let mut batch = Config::default().batch;
    batch.window = rng
        .pick(&[ms(0), ms(5), ms(50), ms(50), ms(250)])
        .min(max_wait - ms(1));
    batch.edge = rng.pick(&[BatchEdge::Trailing, BatchEdge::Leading]);
    batch.max_delay = rng.pick(&[ms(0), ms(300), ms(2000)]);
    batch.max_ids = rng.pick(&[3, 10, 100]);
    batch.max_callers = rng.pick(&[2, 1000]);
    batch.quarantine = rng.pick(&[ms(0), ms(1000), ms(60_000)]);
    batch
}

fn quota(rng: &mut Rng) -> Option<Quota> {
    let rate = rng.pick(&[0.0, 0.5, 2.0, 10.0, 50.0]);
    let burst = NonZeroU32::new(rng.pick(&[1, 3, 20])).unwrap();
    (rate > 0.0).then(|| Quota::new(rate, burst).unwrap())
}

/// An egress limit, tenants, or both: one tenant has two instances, the other one.
pub(super) fn sharing(rng: &mut Rng) -> (Option<Quota>, Vec<Tenant>) {
    let egress = quota(rng);
    let mut tenants = Vec::new();
    for (name, instances) in [("pair", &["i0", "i1"][..]), ("single", &["i2"])] {
        if rng.percent(60) {
            tenants.push(Tenant {
                name: name.to_owned(),
                instances: instances.iter().map(|&it| it.to_owned()).collect(),
                weight: NonZeroU32::new(rng.pick(&[1, 3])).unwrap(),
                quota: quota(rng),
                networks: Vec::new(),
                key: None,
                keys: Vec::new(),
                tokens: BTreeMap::new(),
            });
        }
    }
    (egress, tenants)
}
