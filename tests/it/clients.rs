//! Receipts as real clients write them, byte for byte: which merge, and into what.
//!
//! `clients/` has one request of each, recorded from the client itself (requests 2.34,
//! httpx 0.28, aiohttp 3.14, axios 1.21, got 14.6, undici 7.30, Node 20's `fetch`, PHP 8.2
//! with curl and streams, Guzzle 7, Go 1.19, Java 17, curl 7.88; qs as n8n configures it),
//! or written after its documentation (.NET). All have the ids 0 of chat 1, and those that
//! need two ids for a list also 1000.

use std::path::Path;

use serde_json::Value;
use tokio::time::Instant;
use wawp_gateway::sandbox::Call;

use crate::support::{Message, World};

const CALLERS: usize = 50;

/// What becomes of 50 receipts of a client, each with another id.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Becomes {
    /// One upstream call, of which every backend reads all ids.
    OneCall,
    /// One upstream call. Of a key that is simply repeated PHP reads one value, of the call as of
    /// each receipt.
    OneCallToListReaders,
    /// Each its own call, for this reason.
    Unmerged(&'static str),
}

use Becomes::{OneCall, OneCallToListReaders, Unmerged};

const CLIENTS: [(&str, Becomes); 53] = [
    ("aiohttp-form", OneCall),
    ("aiohttp-json", OneCall),
    ("aiohttp-multipart", OneCall),
    ("aiohttp-query", OneCallToListReaders),
    ("axios-form", OneCall),
    ("axios-json", OneCall),
    ("axios-multipart", OneCall),
    ("axios-query", OneCall),
    ("axios-urlsearchparams", OneCall),
    ("curl-form", OneCall),
    ("curl-json", OneCall),
    ("curl-json-as-form", Unmerged("content_type")),
    ("curl-multipart", OneCall),
    ("dotnet-form", OneCall),
    ("dotnet-json-expect", OneCall),
    ("dotnet-multipart", OneCall),
    ("fetch-formdata", OneCall),
    ("fetch-json", OneCall),
    ("fetch-query-commas", OneCall),
    ("fetch-query-single", Unmerged("list_form")),
    ("fetch-text", OneCall),
    ("fetch-urlsearchparams", OneCall),
    ("go-form", OneCallToListReaders),
    ("go-form-brackets", OneCall),
    ("go-json", OneCall),
    ("go-multipart", OneCall),
    ("go-query", OneCallToListReaders),
    ("got-form", OneCall),
    ("got-formdata", OneCall),
    ("got-json", OneCall),
    ("guzzle-form", OneCall),
    ("guzzle-json", OneCall),
    ("guzzle-multipart", OneCall),
    ("guzzle-query", OneCall),
    ("httpx-form", OneCallToListReaders),
    ("httpx-json", OneCall),
    ("httpx-query", OneCallToListReaders),
    ("java-expect", OneCall),
    ("java-form", OneCall),
    ("java-json", OneCall),
    ("n8n", OneCall),
    ("php-curl-expect", OneCall),
    ("php-curl-form", OneCall),
    ("php-curl-json", OneCall),
    ("php-curl-multipart", OneCall),
    ("php-curl-query", OneCall),
    ("php-stream-form", OneCall),
    ("requests-form", OneCallToListReaders),
    ("requests-form-single", Unmerged("list_form")),
    ("requests-json", OneCall),
    ("requests-multipart", OneCall),
    ("requests-query", OneCallToListReaders),
    ("undici-json", OneCall),
];

/// The request of a client, as recorded.
fn recorded(client: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients");
    std::fs::read_to_string(directory.join(format!("{client}.http"))).unwrap()
}

/// The request with the ids of the caller with this number.
fn numbered(recorded: &str, number: usize) -> String {
    recorded
        .replace("c.us_1000", &format!("c.us_{}", 1000 + number))
        .replace("c.us_0000", &format!("c.us_{number:04}"))
}

/// The texts in a value, in their order.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => match serde_json::from_str::<Vec<String>>(text) {
            Ok(list) => list,
            Err(_) => text.split(',').map(str::to_owned).collect(),
        },
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        Value::Object(list) => {
            let mut list: Vec<_> = list.iter().collect();
            list.sort_by_key(|(index, _)| index.parse::<usize>().unwrap());
            list.into_iter()
                .flat_map(|(_, value)| texts(value))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The responses to 50 receipts of a client that are sent at the same time.
async fn fifty(world: &World, client: &str) -> Vec<Message> {
    let recorded = recorded(client);
    let mut clients: Vec<_> = (0..CALLERS).map(|_| world.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.says(numbered(&recorded, number)).await;
    }
    let mut responses = Vec::new();
    for client in &mut clients {
        let mut response = client.response().await;
        if response.status() == 100 {
            response = client.response().await;
        }
        responses.push(response);
    }
    responses
}

/// The request that reached the upstream, without what the gateway may change in its head.
fn without_list(text: &str) -> String {
    let is_list = |piece: &&str| piece.contains("c.us_") || piece.contains("c.us\\u005f");
    let pieces = text.split(['&', '?', '\n']).filter(|piece| !is_list(piece));
    pieces.collect::<Vec<_>>().join("\n")
}

#[tokio::test(start_paused = true)]
async fn fifty_receipts_of_each_real_client_become_one_call() {
    for (client, becomes) in CLIENTS {
        let world = World::new("limit.rate = 0\nlimit.burst = 0");
        let began = Instant::now();
        let responses = fifty(&world, client).await;
        let calls = world.sandbox.calls();
        assert!(began.elapsed().as_millis() < 100, "{client}");
        let has_two = recorded(client).contains("c.us_1000");
        let of_caller = |number: usize| {
            let second = has_two.then(|| format!("false_1@c.us_{}", 1000 + number));
            std::iter::once(format!("false_1@c.us_{number:04}")).chain(second)
        };
        let timing = responses[7].field("server-timing").unwrap();
        match becomes {
            Unmerged(reason) => {
                assert_eq!(calls.len(), CALLERS, "{client}");
                assert!(
                    timing.contains(&format!("not merged: {reason}")),
                    "{client}: {timing}"
                );
                assert_unchanged(client, &calls);
            }
            OneCall | OneCallToListReaders => {
                for response in &responses {
                    assert_eq!(response.status(), 201, "{client}: {response:?}");
                }
                let all: Vec<_> = (0..CALLERS).flat_map(of_caller).collect();
                let shown: Vec<_> = calls
                    .iter()
                    .map(|call| (&call.target, &call.body))
                    .collect();
                assert_eq!(calls.len(), 1, "{client}: {timing} {shown:?}");
                assert_eq!(calls[0].ids, all, "{client}");
                assert_eq!(texts(&calls[0].as_node()["messageIds"]), all, "{client}");
                let php = texts(&calls[0].as_php()["messageIds"]);
                match becomes {
                    OneCall => assert_eq!(php, all, "{client}"),
                    _ => assert_eq!(php, all[all.len() - 1..], "{client}"),
                }
                let expected = format!("50 callers, {} ids", all.len());
                assert!(timing.contains(&expected), "{client}: {timing}");
                // In the first caller's form: what is no list of ids is as it sent it.
                let recorded = recorded(client);
                let (head, body) = recorded.split_once("\r\n\r\n").unwrap();
                let target = head.split(' ').nth(1).unwrap();
                assert_eq!(
                    without_list(&calls[0].target),
                    without_list(target),
                    "{client}"
                );
                let sent = String::from_utf8(calls[0].body.to_vec()).unwrap();
                if !body.starts_with("--") {
                    assert_eq!(without_list(&sent), without_list(body), "{client}");
                }
            }
        }
    }
}

/// Each call is the request of one client, byte for byte.
fn assert_unchanged(client: &str, calls: &[Call]) {
    let recorded = recorded(client);
    let (_, body) = recorded.split_once("\r\n\r\n").unwrap();
    for (number, call) in calls.iter().enumerate() {
        assert_eq!(call.body, numbered(body, number), "{client}");
    }
}

#[test]
fn every_recorded_client_is_in_the_table() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients");
    for file in directory.read_dir().unwrap() {
        let name = file
            .unwrap()
            .path()
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        assert!(CLIENTS.iter().any(|(client, _)| *client == name), "{name}");
    }
}
