//! The upstream of several gateways: it writes down what arrives.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// How long a call takes.
pub(super) const CALL: Duration = Duration::from_millis(30);

/// A request, as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) instance: String,
    pub(super) id: String,
    /// The message ids of a receipt.
    pub(super) ids: Vec<String>,
    /// The status of the response.
    pub(super) status: u16,
}

/// An upstream on a port of its own. Threads, so that nothing else in the test delays it.
#[derive(Clone)]
pub(super) struct Recorder {
    pub(super) port: u16,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    /// Seconds of the `Retry-After` of the next response; 0: it is a 200.
    refuse_next: Arc<AtomicU64>,
}

impl Recorder {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Self {
            port: listener.local_addr().unwrap().port(),
            arrivals: Arc::default(),
            refuse_next: Arc::default(),
        };
        let accepting = recorder.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = accepting.clone();
                thread::spawn(move || serving.serve(stream));
            }
        });
        recorder
    }

    /// The next request gets 429 with this `Retry-After`.
    pub(super) fn refuse_next(&self, retry_after_s: u64) {
        self.refuse_next.store(retry_after_s, Ordering::SeqCst);
    }

    /// What has arrived, in its order.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut received = Vec::new();
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut part) {
            received.extend_from_slice(&part[..length]);
            let request = String::from_utf8(received.clone()).unwrap();
            let Some((head, body)) = request.split_once("\r\n\r\n") else {
                continue;
            };
            if body.len() < content_length(head) {
                continue;
            }
            received.clear();
            let retry_after = self.refuse_next.swap(0, Ordering::SeqCst);
            let status = if retry_after == 0 { 200 } else { 429 };
            self.arrivals.lock().unwrap().push(Arrival {
                at: Instant::now(),
                instance: parameter(head, "instance_id"),
                id: parameter(head, "id"),
                ids: message_ids(body),
                status,
            });
            thread::sleep(CALL);
            let response = match retry_after {
                0 => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
                _ => format!(
                    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: {retry_after}\r\n\
                     Content-Length: 0\r\n\r\n"
                ),
            };
            if stream.write_all(response.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn content_length(head: &str) -> usize {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.map_or(0, |(_, length)| length.parse().unwrap())
}

/// The ids in a body as the gateway writes them.
fn message_ids(body: &str) -> Vec<String> {
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let ids = body["messageIds"].as_array().into_iter().flatten();
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// A parameter of the query.
fn parameter(head: &str, name: &str) -> String {
    let query = head.split_once('?').map_or("", |(_, rest)| rest);
    let query = query.split(' ').next().unwrap_or_default();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| *key == name).map(|(_, value)| value);
    value.unwrap_or_default().to_owned()
}
