//! A gateway in memory: before the sandbox ([`World`]), or before an upstream that the test plays itself ([`Stage`]).

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wawp_gateway::config::{self, Config, Overrides};
use wawp_gateway::gateway::Gateway;
use wawp_gateway::sandbox::{Sandbox, Settings};
use wawp_gateway::{Dial, Io};

use super::client_conn::{BUFFER, ClientConn};
use super::message::Message;
use super::requests::get;

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Reads settings as a file with this text would be read; the upstream is `http://upstream.test`.
fn settings(text: &str) -> Config {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let flags = Overrides {
        upstream: Some("http://upstream.test".to_owned()),
        ..Overrides::default()
    };
    // An empty file is a mistake, no file is not.
    let path = (!text.is_empty()).then(|| file.path());
    match config::load(path, std::iter::empty(), &flags) {
        Ok(effective) => effective.config,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

/// Lets everything happen that can happen without time passing (but a microsecond).
pub(crate) async fn at_rest() {
    tokio::time::sleep(Duration::from_micros(1)).await;
}

fn gateway(text: &str, dial: impl Fn() -> Dialled + Send + Sync + 'static) -> Gateway {
    gateway_with(text, Dial::With(Arc::new(dial)))
}

/// A gateway with these settings that reaches its upstream in this way.
pub(crate) fn gateway_with(text: &str, dial: Dial) -> Gateway {
    Gateway::new(&settings(text), dial).unwrap()
}

/// Our end of a new connection, for a client that is no [`ClientConn`].
pub(crate) fn stream(gateway: &Gateway) -> DuplexStream {
    stream_from(gateway, None)
}

fn stream_from(gateway: &Gateway, peer: Option<SocketAddr>) -> DuplexStream {
    let (near, far) = tokio::io::duplex(BUFFER);
    let gateway = gateway.clone();
    tokio::spawn(async move { gateway.serve_from(far, peer).await });
    near
}

fn connect(gateway: &Gateway, peer: Option<SocketAddr>) -> ClientConn {
    ClientConn::new(stream_from(gateway, peer))
}

/// A gateway before the sandbox.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) sandbox: Sandbox,
    /// Why no connection to the sandbox can be made, if none can.
    failing: Arc<Mutex<Option<io::ErrorKind>>>,
}

impl World {
    /// A gateway with these settings before a sandbox without delays or limits.
    pub(crate) fn new(text: &str) -> Self {
        Self::with_sandbox(text, Settings::default())
    }

    pub(crate) fn with_sandbox(text: &str, settings: Settings) -> Self {
        let sandbox = Sandbox::new(settings);
        let failing = Arc::new(Mutex::new(None::<io::ErrorKind>));
        let (far, fails) = (sandbox.clone(), Arc::clone(&failing));
        let gateway = gateway(text, move || {
            let (sandbox, fails) = (far.clone(), *fails.lock().unwrap());
            Box::pin(async move {
                if let Some(kind) = fails {
                    return Err(kind.into());
                }
                let (near, far) = tokio::io::duplex(BUFFER);
                tokio::spawn(async move { sandbox.serve_io(far).await });
                Ok(Box::new(near) as Box<dyn Io>)
            })
        });
        Self {
            gateway,
            sandbox,
            failing,
        }
    }

    /// From now on connections to the sandbox fail like this, or no more.
    pub(crate) fn fails(&self, how: Option<io::ErrorKind>) {
        *self.failing.lock().unwrap() = how;
    }

    /// A new client.
    pub(crate) fn client(&self) -> ClientConn {
        connect(&self.gateway, None)
    }

    /// A new client at this address.
    pub(crate) fn client_from(&self, address: &str) -> ClientConn {
        let peer = SocketAddr::new(address.parse().unwrap(), 50_000);
        connect(&self.gateway, Some(peer))
    }

    /// Puts these settings in force instead.
    pub(crate) fn reload(&self, text: &str) {
        self.gateway.reload(&settings(text));
    }

    /// A call on a connection of its own.
    pub(crate) async fn call(&self, request: impl AsRef<[u8]>) -> Message {
        self.client().asks(request).await
    }

    /// A call that is made while others are.
    pub(crate) fn calling(
        &self,
        request: impl AsRef<[u8]> + Send + 'static,
    ) -> JoinHandle<Message> {
        let mut client = self.client();
        tokio::spawn(async move { client.asks(request).await })
    }

    /// Calls made at the same time, each on a connection of its own.
    pub(crate) async fn together(
        &self,
        requests: impl IntoIterator<Item = String>,
    ) -> Vec<Message> {
        let calls: Vec<_> = requests
            .into_iter()
            .map(|request| self.calling(request))
            .collect();
        let mut responses = Vec::new();
        for call in calls {
            responses.push(call.await.unwrap());
        }
        responses
    }

    /// The sum of a metric over all series whose labels contain all of these.
    pub(crate) fn counted(&self, name: &str, labels: &[&str]) -> f64 {
        counted(&self.gateway.exposition(), name, labels)
    }
}

/// The sum of a metric in an exposition.
pub(crate) fn counted(exposition: &str, name: &str, labels: &[&str]) -> f64 {
    let series = exposition.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, its) = series.split_once('{').unwrap_or((series, ""));
        let wanted = found == name && labels.iter().all(|label| its.contains(label));
        wanted.then(|| value.parse::<f64>().unwrap())
    });
    series.sum()
}

/// A gateway before an upstream that the test plays.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) upstream: UpstreamEnd,
}

/// Where the gateway's connections arrive.
#[derive(Debug)]
pub(crate) struct UpstreamEnd(mpsc::UnboundedReceiver<DuplexStream>);

impl Stage {
    pub(crate) fn new(text: &str) -> Self {
        let (arrivals, arrived) = mpsc::unbounded_channel();
        let gateway = gateway(text, move || {
            let (near, far) = tokio::io::duplex(BUFFER);
            let sent = arrivals.send(far);
            Box::pin(async move {
                // The test has dropped its end: nothing reads there any more.
                sent.map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(Box::new(near) as Box<dyn Io>)
            })
        });
        Self {
            gateway,
            upstream: UpstreamEnd(arrived),
        }
    }

    /// A new client.
    pub(crate) fn client(&self) -> ClientConn {
        connect(&self.gateway, None)
    }

    /// A client with a response of this body that has ended for the gateway and
    /// is still leaving it: somewhat more than a connection holds.
    pub(crate) async fn answering(&mut self, is_plain: bool) -> (ClientConn, String) {
        let body = "x".repeat(BUFFER + 500);
        let mut client = self.client();
        client.says_as(is_plain, &get("/v2/chats")).await;
        let mut line = self.upstream.accepts().await;
        line.request().await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        line.says(head + &body).await;
        at_rest().await;
        let exposition = self.gateway.exposition();
        let calls = counted(&exposition, "wawp_gateway_in_flight_requests", &[]);
        assert_eq!(calls, 0.0, "the response was read to its end");
        (client, body)
    }
}

impl UpstreamEnd {
    /// Takes the next connection.
    pub(crate) async fn accepts(&mut self) -> ClientConn {
        let arrived = tokio::time::timeout(Duration::from_secs(3600), self.0.recv());
        ClientConn::new(
            arrived
                .await
                .expect("the gateway connects")
                .expect("it lives"),
        )
    }

    /// Finds no further connection, now and in the next hour.
    pub(crate) async fn is_left_alone(&mut self) {
        let arrived = tokio::time::timeout(Duration::from_secs(3600), self.0.recv());
        assert!(arrived.await.is_err(), "an unexpected connection");
    }
}
