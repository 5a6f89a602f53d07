//! Connections over TCP, TLS or a socket of this machine.
//!
//! Invariant: a connection that is returned is logged in, and its server was a primary.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, Value, cmd};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::bounded::Bounded;
use super::dial::{Io, tcp, unix};
use super::failure::Failure;
use super::members::{Heartbeat, HeartbeatReply, Seen};
use super::resp::{bytes, failure, login};
use super::script::{Call, Reply, Script};
use super::sentinel;
use super::transport::{Connect, Connection};
use super::{CaError, lock};
use crate::config::{self, ClusterServer, ClusterUrl, pem};

/// Announcements that wait for their reader.
const ANNOUNCED: usize = 1024;
/// The largest announcement. They have some hundred bytes, and many may wait.
const MAX_ANNOUNCEMENT: usize = 16 * 1024;
/// The largest reply. The longest ones hold the receipts that 64 gateways add to a batch.
const MAX_REPLY: usize = 16 * 1024 * 1024;
const HEARTBEAT: &str = include_str!("scripts/heartbeat.lua");

/// The hashes by which a server knows the scripts, in the order of [`Script::ALL`], and that of the
/// heartbeat.
static HASHES: LazyLock<[String; Script::ALL.len() + 1]> = LazyLock::new(|| {
    let mut texts = Script::ALL.iter().map(|script| script.text());
    std::array::from_fn(|_| {
        // The last one, after all scripts.
        let text = texts.next().unwrap_or(HEARTBEAT);
        redis::Script::new(text).get_hash().to_owned()
    })
});

/// The server of `cluster.url`.
pub(super) struct Network {
    url: ClusterUrl,
    tls: Option<TlsConnector>,
    /// The host and the address of the last connection over TCP.
    found: Mutex<Option<(String, SocketAddr)>>,
}

/// One connection, and the task that moves its bytes.
pub(super) struct Multiplexed {
    connection: MultiplexedConnection,
    driver: AbortHandle,
    closed: CancellationToken,
}

impl Network {
    /// # Errors
    /// The file `cluster.ca` cannot be used.
    pub(super) fn new(settings: &config::Cluster) -> Result<Self, CaError> {
        let uses_tls = matches!(settings.url.server, ClusterServer::Tcp { tls: true, .. });
        let tls = match uses_tls {
            true => {
                let client = pem::client(settings.ca.as_deref());
                let client = client.map_err(|reason| CaError {
                    path: settings.ca.clone().unwrap_or_default(),
                    reason,
                })?;
                Some(TlsConnector::from(Arc::new(client)))
            }
            false => None,
        };
        Ok(Self {
            url: settings.url.clone(),
            tls,
            found: Mutex::new(None),
        })
    }

    /// Connects to the server, which the sentinels are asked for each time.
    async fn dial(&self) -> Result<Box<dyn Io>, Failure> {
        let (host, port) = match &self.url.server {
            ClusterServer::Unix(path) => return unix(path).await,
            ClusterServer::Tcp { host, port, .. } => (host.clone(), *port),
            ClusterServer::Sentinel { sentinels, name } => {
                sentinel::primary(sentinels, name, self.url.credentials.as_ref()).await?
            }
        };
        let stream = tcp((&*host, port)).await?;
        let address = stream.peer_addr().map_err(|_| Failure::Reset)?;
        *lock(&self.found) = Some((host.clone(), address));
        self.secure(host, stream).await
    }

    /// Connects to the same server as [`dial`](Self::dial) did. Sentinels that disagree, or a name with
    /// several addresses, could lead to another one.
    async fn dial_again(&self) -> Result<Box<dyn Io>, Failure> {
        let found = lock(&self.found).clone();
        match found {
            Some((host, address)) => self.secure(host, tcp(address).await?).await,
            None => self.dial().await,
        }
    }

    async fn secure(&self, host: String, stream: TcpStream) -> Result<Box<dyn Io>, Failure> {
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(host).map_err(|_| Failure::Tls)?;
        let stream = tls.connect(name, stream).await;
        Ok(Box::new(stream.map_err(|_| Failure::Tls)?))
    }

    /// Makes a connection to a server that is a primary.
    pub(super) async fn open(&self) -> Result<Multiplexed, Failure> {
        let stream = self.dial().await?;
        let connection = Multiplexed::new(&self.login(), stream).await?;
        connection.require_primary().await?;
        Ok(connection)
    }

    fn login(&self) -> RedisConnectionInfo {
        let login = login(self.url.credentials.as_ref());
        login.set_db(self.url.database.into())
    }
}

impl Connect for Network {
    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn Connection>, Failure>> {
        Box::pin(async {
            let connection = self.open().await?;
            Ok(Box::new(connection) as Box<dyn Connection>)
        })
    }

    fn listen<'a>(
        &'a self,
        channel: &'a [u8],
    ) -> BoxFuture<'a, Result<mpsc::Receiver<Vec<u8>>, Failure>> {
        Box::pin(async move {
            let stream = Bounded::new(self.dial_again().await?, MAX_ANNOUNCEMENT);
            let listening = PubSub::new(&self.login(), stream).await;
            let mut listening = listening.map_err(|error| failure(&error))?;
            let subscribed = listening.subscribe(channel).await;
            subscribed.map_err(|error| failure(&error))?;
            let (sender, receiver) = mpsc::channel(ANNOUNCED);
            tokio::spawn(async move {
                let mut lines = listening.into_on_message();
                loop {
                    tokio::select! {
                        line = lines.next() => match line {
                            Some(line) => {
                                // They are hints, but a reader that misses some has to know.
                                if sender.try_send(line.get_payload_bytes().to_vec()).is_err() {
                                    return;
                                }
                            }
                            None => return,
                        },
                        // Otherwise the connection would stay open until the next announcement.
                        () = sender.closed() => return,
                    }
                }
            });
            Ok(receiver)
        })
    }
}

impl Multiplexed {
    async fn new(login: &RedisConnectionInfo, stream: impl Io + 'static) -> Result<Self, Failure> {
        // The caller bounds each operation.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let stream = Bounded::new(stream, MAX_REPLY);
        let made = MultiplexedConnection::new_with_config(login, stream, config).await;
        let (connection, driver) = made.map_err(|error| failure(&error))?;
        let closed = CancellationToken::new();
        // Dropped with the task, however that ends.
        let ended = closed.clone().drop_guard();
        let driver = tokio::spawn(async move {
            let _ended = ended;
            driver.await;
        });
        Ok(Self {
            connection,
            driver: driver.abort_handle(),
            closed,
        })
    }

    pub(super) async fn query(&self, command: &Cmd) -> Result<Value, Failure> {
        // A handle to the same connection, which several operations use at once.
        let mut connection = self.connection.clone();
        let reply = command.query_async(&mut connection).await;
        reply.map_err(|error: RedisError| failure(&error))
    }

    async fn require_primary(&self) -> Result<(), Failure> {
        // What a name or a sentinel says of the server can be out of date.
        match self.query(&cmd("ROLE")).await? {
            Value::Array(role) if role.first().and_then(bytes) == Some(b"master") => Ok(()),
            _ => Err(Failure::Demoted),
        }
    }

    /// Runs a script by its hash, or by its text if the server does not know it yet.
    async fn run(
        &self,
        (hash, text): (&str, &str),
        keys: &[Vec<u8>],
        arguments: impl Fn(&mut Cmd),
    ) -> Result<Vec<Value>, Failure> {
        let command = |name: &str, script: &str| {
            let mut command = cmd(name);
            command.arg(script).arg(keys.len()).arg(keys);
            arguments(&mut command);
            command
        };
        let reply = match self.query(&command("EVALSHA", hash)).await {
            // Nothing was executed, so this repeats no operation.
            // From now on the server knows the hash.
            Err(Failure::NoScript) => self.query(&command("EVAL", text)).await?,
            reply => reply?,
        };
        match reply {
            Value::Array(values) => Ok(values),
            _ => Err(Failure::WrongReply),
        }
    }
}

impl Drop for Multiplexed {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection for Multiplexed {
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(async move {
            let script = (&*HASHES[call.script as usize], call.script.text());
            let arguments = |command: &mut Cmd| {
                command.arg(&call.arguments).arg(&call.texts);
            };
            let mut reply = Reply::default();
            for value in self.run(script, &call.keys, arguments).await? {
                match value {
                    Value::Int(number) => reply.numbers.push(number),
                    Value::BulkString(text) => reply.texts.push(text),
                    _ => return Err(Failure::WrongReply),
                }
            }
            Ok(reply)
        })
    }

    fn heartbeat<'a>(
        &'a self,
        heartbeat: &'a Heartbeat,
    ) -> BoxFuture<'a, Result<HeartbeatReply, Failure>> {
        Box::pin(async move {
            let script = (&*HASHES[Script::ALL.len()], HEARTBEAT);
            let arguments = |command: &mut Cmd| {
                for text in [
                    &heartbeat.id,
                    &heartbeat.version,
                    &heartbeat.settings,
                    &heartbeat.hash_key,
                ] {
                    command.arg(text);
                }
                command.arg(i64::from(heartbeat.leaves));
                command.arg(i64::from(heartbeat.shares));
            };
            let values = self.run(script, &heartbeat.keys, arguments).await?;
            read_heartbeat(&values).ok_or(Failure::WrongReply)
        })
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.closed.clone().cancelled_owned())
    }
}

fn read_heartbeat(values: &[Value]) -> Option<HeartbeatReply> {
    let text = |value| String::from_utf8(bytes(value)?.to_vec()).ok();
    let [hash_key, birth, gateways @ ..] = values else {
        return None;
    };
    let seen = gateways.chunks(5).map(|seen| match seen {
        [id, version, settings, Value::Int(shares), Value::Int(ago)] => Some(Seen {
            id: text(id)?,
            version: text(version)?,
            settings: text(settings)?,
            shares: *shares == 1,
            ago: Duration::from_micros(u64::try_from(*ago).ok()?),
        }),
        _ => None,
    });
    Some(HeartbeatReply {
        hash_key: text(hash_key)?,
        birth: text(birth)?,
        gateways: seen.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests;
