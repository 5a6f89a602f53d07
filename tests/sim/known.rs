//! Plans that once broke a law; they run every time.

use std::num::NonZeroU32;
use std::time::Duration;

use wawp_gateway::config::{Config, Quota};

use crate::plan::{Client, CredentialSource, Manner, Plan, RequestKind, Step, UpstreamBehaviour};

/// Every such plan with its description.
pub(crate) fn plans() -> Vec<(&'static str, Plan)> {
    vec![(
        "a credential is verified while a request of its own waits in the queue of unverified ones",
        accepted_while_waiting(),
    )]
}

/// The first app is verified and takes the token of the main bucket at 0 s. The
/// other app's first request leaves at 0.1 s with the token of the unverified
/// bucket; its second waits there until 1.1 s. The response to the first, at 0.2 s,
/// verifies its credential; its third request, at 0.7 s, could have the main
/// bucket's token at 1 s.
fn accepted_while_waiting() -> Plan {
    let mut config = Config::default();
    config.upstream.url = "http://upstream.test".parse().unwrap();
    config.limit.quota = Some(Quota::new(1.0, NonZeroU32::MIN).unwrap());
    let send = |tag, token: &str, think| Step {
        tag,
        think: Duration::from_millis(think),
        instance: "i0".to_owned(),
        token: token.to_owned(),
        source: CredentialSource::Bearer,
        kind: RequestKind::Send(10),
        manner: Manner::Waits,
    };
    let app = |steps| Client {
        http2: true,
        buffer: 64 * 1024,
        steps,
    };
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
    }
}
