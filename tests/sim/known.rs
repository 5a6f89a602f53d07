//! Plans that once broke a law, written down: they need no luck.

use std::num::NonZeroU32;
use std::time::Duration;

use wawp_gateway::config::{Config, Quota};

use crate::plan::{Client, Manner, Place, Plan, Step, Temper, What};

/// Every such plan, and what goes on in it.
pub(crate) fn plans() -> Vec<(&'static str, Plan)> {
    vec![(
        "a credential is accepted while a call of its own waits among strangers",
        accepted_while_waiting(),
    )]
}

/// The owner is accepted and spends the first bucket's token at 0 s. The other
/// app's first call goes at 0.1 s from the strangers' bucket, its second waits
/// there for 1.1 s. The answer to the first, by 0.2 s, makes it an owner
/// too; the third call, at 0.7 s, could have the first bucket's token at 1 s.
fn accepted_while_waiting() -> Plan {
    let mut config = Config::default();
    config.upstream.url = "http://upstream.test".parse().unwrap();
    config.limit.quota = Some(Quota::new(1.0, NonZeroU32::MIN).unwrap());
    let send = |tag, token: &str, think| Step {
        tag,
        think: Duration::from_millis(think),
        instance: "i0".to_owned(),
        token: token.to_owned(),
        place: Place::Bearer,
        what: What::Send(10),
        manner: Manner::Patient,
    };
    let app = |steps| Client {
        http2: true,
        buffer: 64 * 1024,
        steps,
    };
    Plan {
        config,
        reload: None,
        calm: false,
        temper: Temper {
            latency: 100,
            ..Temper::default()
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
