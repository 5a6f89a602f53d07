//! An estimate from the log of a demo agrees with what the demo measured.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::plan::{DemoRequest, Operation};
use super::*;
use crate::gateway::Gateway;
use crate::tools::estimate;
use crate::upstream::{Dial, Io};

/// A request with the fields of the gateway's access log.
struct Logged {
    began: Duration,
    ended: Duration,
    request: DemoRequest,
}

/// The request, as the apps of the demo would make it.
fn http_request(request: &DemoRequest) -> (&'static str, &'static str, String) {
    let (method, path, fields) = match &request.operation {
        Operation::Receipt { chat, id } => (
            "POST",
            "/v2/send/seen",
            format!(r#","chatId":"{chat}","messageIds":["{id}"]"#),
        ),
        Operation::Typing { chat } => (
            "POST",
            "/v2/send/start-typing",
            format!(r#","chatId":"{chat}""#),
        ),
        Operation::Text { chat, text } => (
            "POST",
            "/v2/send/text",
            format!(r#","chatId":"{chat}","message":"{text}""#),
        ),
        Operation::Chats => ("GET", "/v2/chats", String::new()),
    };
    let instance = &request.instance;
    let body = match method {
        "POST" => format!(r#"{{"instance_id":"{instance}","access_token":"t"{fields}}}"#),
        _ => String::new(),
    };
    (method, path, body)
}

/// Sends a request on a separate connection and reads the whole response.
async fn send(gateway: &Gateway, request: &DemoRequest) {
    let (method, path, body) = http_request(request);
    let query = match method {
        "GET" => format!("?instance_id={}&access_token=t", request.instance),
        _ => String::new(),
    };
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let gateway = gateway.clone();
    tokio::spawn(async move { gateway.serve(far).await });
    let text = format!(
        "{method} {path}{query} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    near.write_all(text.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    near.read_to_end(&mut response).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 2"), "{response:?}");
}

fn line(logged: &Logged) -> String {
    let (method, path, _) = http_request(&logged.request);
    let micros = logged.began.as_micros();
    let duration = (logged.ended - logged.began).as_secs_f64();
    let instance = &logged.request.instance;
    let (time, rest) = (micros / 1_000_000, micros % 1_000_000);
    let merging = match &logged.request.operation {
        Operation::Receipt { chat, .. } => {
            let mut key = DefaultHasher::new();
            (instance, chat).hash(&mut key);
            let key = key.finish();
            format!(r#","route":"seen","ids":1,"merge_key":"{key:016x}","batch_wait":0.05"#)
        }
        _ => r#","route":"other""#.to_owned(),
    };
    format!(
        "{{\"time\":\"2026-11-25T06:{:02}:{:02}.{rest:06}Z\",\"duration\":{duration},\"method\":\"{method}\",\
         \"path\":\"{path}\",\"instance\":\"{instance}\",\"tenant\":null,\"status\":201{merging}}}",
        time / 60,
        time % 60
    )
}

/// Runs a plan in paused time; returns the log and the number of calls saved.
async fn play(plan: &Plan) -> (Vec<Logged>, u64) {
    let sandbox = Sandbox::new(Settings {
        latency: plan.latency,
        ..Settings::default()
    });
    let dial = Dial::With(Arc::new(move || {
        let sandbox = sandbox.clone();
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move { sandbox.serve_io(far).await });
            Ok(Box::new(near) as Box<dyn Io>)
        })
    }));
    let mut config = Config::default();
    config.upstream.url = "http://sandbox".parse().unwrap();
    let gateway = Gateway::new(&config, dial).unwrap();
    let began = Instant::now();
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut scenes = tokio::task::JoinSet::new();
    for scene in plan.scenes() {
        let (gateway, log) = (gateway.clone(), Arc::clone(&log));
        scenes.spawn(async move {
            tokio::time::sleep_until(began + scene.at).await;
            let mut requests = tokio::task::JoinSet::new();
            for planned in scene.requests {
                tokio::time::sleep(planned.pause).await;
                let (gateway, log) = (gateway.clone(), Arc::clone(&log));
                requests.spawn(async move {
                    let at = began.elapsed();
                    send(&gateway, &planned.request).await;
                    // A line is written when its request ends.
                    log.lock().unwrap().push(Logged {
                        began: at,
                        ended: began.elapsed(),
                        request: planned.request,
                    });
                });
                if scene.is_sequential {
                    requests.join_next().await;
                }
            }
            requests.join_all().await;
        });
    }
    scenes.join_all().await;
    let saved = gateway.metrics().saved();
    let log = std::mem::take(&mut *log.lock().unwrap());
    (log, saved)
}

fn write(log: &[Logged]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for logged in log {
        writeln!(file, "{}", line(logged)).unwrap();
    }
    file
}

#[test]
fn an_estimate_is_within_five_percent_of_what_was_measured() {
    for seed in [7, 8, 9] {
        let plan = Plan {
            seed,
            ..Plan::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (log, saved) = runtime.block_on(play(&plan));
        assert!(log.len() > 500 && saved > 200, "{} {saved}", log.len());
        let file = write(&log);
        let report = estimate::run(&Config::default(), &[file.path().into()]).unwrap();
        let off = report.saved().abs_diff(saved) as f64 / saved as f64;
        assert!(
            off <= 0.05,
            "seed {seed}: {} estimated, {saved} measured",
            report.saved()
        );
        assert_eq!(report.refused(), 0);
    }
}
