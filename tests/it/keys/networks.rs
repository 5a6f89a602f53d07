//! From where a key is one, and what others learn about it: nothing.

use wawp_gateway::sandbox::Settings;

use super::spelling::{MESSAGE, spellings};
use super::{ACME, BETA, REAL, WRONG, is_refused, settings};
use crate::support::{Message, World, post};

const INSIDE: &str = "10.1.2.3";
const OUTSIDE: &str = "192.0.2.1";

/// `acme` and its key are for 10/8 only; instance 300 is for no client of these tests.
fn world() -> World {
    let networks = "networks = [\"10.0.0.0/8\"]\nkey =";
    let text = settings().replacen("key =", networks, 1) + "networks = [\"203.0.113.0/24\"]\n";
    let sandbox = Settings {
        token: Some(REAL.to_owned()),
        ..Settings::default()
    };
    World::with_sandbox(&text, sandbox)
}

/// A response but for what differs from call to call.
fn comparable(response: &Message) -> (&str, Vec<&(String, String)>, &str) {
    let differs = ["date", "server-timing"];
    let fields = response.fields.iter();
    let fields = fields.filter(|(name, _)| !differs.contains(&&*name.to_ascii_lowercase()));
    (&response.start, fields.collect(), response.text())
}

#[tokio::test(start_paused = true)]
async fn outside_its_tenants_networks_a_right_key_is_answered_like_a_wrong_one() {
    for spelling in spellings() {
        for instance in ["123", "124", "200", "300", "777", ""] {
            let mut heard = Vec::new();
            for credential in [ACME, WRONG] {
                let asked = spelling.write(&(spelling.written)(credential), instance);
                for request in [asked.request(), asked.chunked(7)] {
                    let world = world();
                    let response = world.client_from(OUTSIDE).asks(request).await;
                    let calls = world.sandbox.calls();
                    if ["123", "124", "300"].contains(&instance) {
                        is_refused(&response, &calls, "tenant.networks");
                    } else {
                        // One spelling without an instance is no JSON.
                        let judged = response.status() == 401 || instance.is_empty();
                        assert!(judged, "{response:?} to {asked:?}");
                        let length = calls[0].headers.get("content-length");
                        asked.is(&calls[0], length.map(|_| asked.body.len()));
                    }
                    heard.push(response);
                }
            }
            assert_eq!(
                comparable(&heard[0]),
                comparable(&heard[2]),
                "{instance}: {spelling:?}"
            );
            assert_eq!(
                comparable(&heard[1]),
                comparable(&heard[3]),
                "{instance}: {spelling:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn inside_them_it_opens_its_own_instances_only() {
    let world = world();
    let send = |key, instance| {
        let target = format!("/v2/send/text?instance_id={instance}&access_token={key}");
        post(&target, MESSAGE)
    };
    // A tenant without networks is at home everywhere.
    for (from, key, instance) in [
        (INSIDE, ACME, "123"),
        (INSIDE, BETA, "200"),
        (OUTSIDE, BETA, "200"),
    ] {
        let response = world.client_from(from).asks(send(key, instance)).await;
        assert!(response.status() < 300, "{from}, {instance}: {response:?}");
    }
    let sent = world.sandbox.calls().len();
    // Whose the instance is, and from where it may be used, is not said.
    for (from, key, instance) in [
        (INSIDE, ACME, "200"),
        (INSIDE, ACME, "300"),
        (INSIDE, ACME, "777"),
        (OUTSIDE, BETA, "123"),
    ] {
        let response = world.client_from(from).asks(send(key, instance)).await;
        is_refused(&response, &world.sandbox.calls()[sent..], "does not open");
    }
}
