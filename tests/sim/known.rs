//! Plans that once broke a law, or that a seed rarely draws; they run every time.

use std::num::NonZeroU32;
use std::time::Duration;

use wawp_gateway::config::{Class, Config, PathPattern, Quota};

use crate::plan::{Client, CredentialSource, Manner, Plan, RequestKind, Step, UpstreamBehaviour};

/// Every such plan with its description.
pub(crate) fn plans() -> Vec<(&'static str, Plan)> {
    vec![
        (
            "a credential is verified while a request of its own waits in the queue of unverified ones",
            accepted_while_waiting(),
        ),
        (
            "an instance moves to another class while its requests wait",
            moved_while_waiting(),
        ),
    ]
}

/// The first app is verified and takes the token of the main bucket at 0 s. The
/// other app's first request leaves at 0.1 s with the token of the unverified
/// bucket; its second waits there until 1.1 s. The response to the first, at 0.2 s,
/// verifies its credential; its third request, at 0.7 s, could have the main
/// bucket's token at 1 s.
fn accepted_while_waiting() -> Plan {
    let mut config = config();
    config.limit.quota = Some(Quota::new(1.0, NonZeroU32::MIN).unwrap());
    Plan {
        config,
        reload: None,
        fault_free: false,
        behaviour: UpstreamBehaviour {
            latency: 100,
            ..UpstreamBehaviour::default()
        },
        clients: vec![
            app(vec![send(1, "good00", 0)]),
            app(vec![
                send(2, "good01", 100),
                send(3, "good01", 5),
                send(4, "good01", 595),
            ]),
        ],
        drain: None,
        cluster: None,
    }
}

/// Three requests at 0 s may leave at 0, 1 and 2 s. At 1.5 s a reload moves their instance to the
/// class of all others, where it has one in 2 s: the third may leave at 3.5 s. With the debt lost
/// it would leave at 1.5 s, and in a bucket of its own the fourth, of 1.6 s, would overtake it.
fn moved_while_waiting() -> Plan {
    let class = |name: &str, instances: &[&str], rate| Class {
        name: name.to_owned(),
        paths: vec![PathPattern::parse("/v2/send/*").unwrap()],
        methods: Vec::new(),
        instances: instances.iter().map(|&it| it.to_owned()).collect(),
        tenants: Vec::new(),
        quota: Some(Quota::new(rate, NonZeroU32::MIN).unwrap()),
        max_in_flight: None,
    };
    let with = |instances| {
        let mut config = config();
        config.limit.classes = vec![class("new", instances, 1.0), class("others", &[], 0.5)];
        config
    };
    let mut sends: Vec<_> = (1..=3).map(|tag| send(tag, "good00", 0)).collect();
    sends.push(send(4, "good00", 1600));
    Plan {
        config: with(&["i0"]),
        reload: Some((Duration::from_millis(1500), with(&["i1"]))),
        fault_free: false,
        behaviour: UpstreamBehaviour::default(),
        clients: vec![app(sends)],
        drain: None,
        cluster: None,
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.upstream.url = "http://upstream.test".parse().unwrap();
    config
}

/// A message of instance `i0`.
fn send(tag: usize, token: &str, think: u64) -> Step {
    Step {
        tag,
        think: Duration::from_millis(think),
        instance: "i0".to_owned(),
        token: token.to_owned(),
        source: CredentialSource::Bearer,
        kind: RequestKind::Send(10),
        manner: Manner::Waits,
    }
}

fn app(steps: Vec<Step>) -> Client {
    Client {
        http2: true,
        buffer: 64 * 1024,
        steps,
    }
}
