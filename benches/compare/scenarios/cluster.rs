//! Cluster: what a shared bucket adds to a request that finds a token, and what it costs the server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::time::Instant;
use wawp_gateway::testing::scripts::texts;

use super::{CONNECTIONS, INSTANCES, microseconds};
use crate::Result;
use crate::load::{Connections, Requests, percentile};
use crate::peers::{Peer, TestBed, Tuning, program};
use crate::process::{Process, free_address};
use crate::settings::Settings;
use crate::table::Table;

const COLUMNS: [&str; 2] = ["own bucket", "shared bucket"];
/// Requests per second, and by how many instances they are sent.
const LOADS: [(usize, usize); 2] = [(2_000, INSTANCES), (1_000, 1)];
/// Callers per second and chat of the batches.
const RECEIPTS: (usize, usize) = (2_000, 8);
const WARM_UP: Duration = Duration::from_millis(200);
/// Reservations whose processor time is measured, in groups as a busy gateway sends them.
const RESERVATIONS: usize = 100_000;
const GROUP: usize = 50;
/// How many gateways ask for leases, and for how many tenants each: the most that a gateway asks for
/// at once, but the first.
const LEASES: [(usize, usize); 4] = [(3, 50), (3, 256), (5, 120), (20, 8)];
/// Questions for leases whose processor time is measured.
const QUESTIONS: usize = 200;
/// A gateway asks so often in a second while the egress is scarce.
const QUESTIONS_PER_SECOND: f64 = 20.0;
/// Two heartbeats, and a second more: the gateway uses the server.
const JOINED: Duration = Duration::from_secs(5);

pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title =
        format!("cluster: {CONNECTIONS} connections, one gateway, server on the core of the load");
    let mut table = Table::new(title, COLUMNS.to_vec());
    let server = Server::start(bed).await?;
    let shared = Tuning {
        gateway: vec![("CLUSTER__URL", format!("redis://{}", server.0.address))],
        ..Tuning::default()
    };
    let own = Peer::Gateway.start(bed, &Tuning::default()).await?;
    let shared = Peer::Gateway.start(bed, &shared).await?;
    tokio::time::sleep(JOINED).await;
    for round in 0..settings.rounds {
        let trips = server.round_trips(1_000)?;
        for percent in [50, 99] {
            let name = format!("round trip to the server, p{percent}, µs");
            table.add(&name, COLUMNS[1], percentile(&trips, percent));
        }
        let mut processes = [(COLUMNS[0], &own), (COLUMNS[1], &shared)];
        processes.rotate_left(round % 2);
        for (column, process) in processes {
            for (rate, instances) in LOADS {
                let requests = Requests::messages(instances);
                let load = format!("{rate}/s, {instances} instance(s)");
                let mut connections = Connections::open(process.address, CONNECTIONS).await?;
                connections.open_loop(&requests, rate, 1, WARM_UP).await?;
                let before = server.operations()?;
                let latencies = connections
                    .open_loop(&requests, rate, 1, settings.turn)
                    .await?;
                let operations = (server.operations()? - before) / latencies.len() as f64;
                for percent in [50, 99] {
                    let name = format!("p{percent} at {load}, µs");
                    table.add(&name, column, percentile(&latencies, percent));
                }
                table.add(
                    &format!("operations per request at {load}"),
                    column,
                    operations,
                );
            }
            let (rate, callers) = RECEIPTS;
            let turn = settings.turn.as_secs_f64();
            let batches = turn * rate as f64 / callers as f64;
            let receipts = Requests::receipts(batches as usize, callers, INSTANCES);
            let mut connections = Connections::open(process.address, 4 * CONNECTIONS).await?;
            let before = server.operations()?;
            connections
                .open_loop(&receipts, rate, callers, settings.turn)
                .await?;
            let operations = (server.operations()? - before) / batches;
            table.add("operations per batch of receipts", column, operations);
        }
        table.add(
            "reservations/s of the server's core",
            COLUMNS[1],
            server.capacity()?,
        );
        for (gateways, tenants) in LEASES {
            let name = format!("{gateways} gateways lease for {tenants} tenants, % of a core");
            table.add(&name, COLUMNS[1], server.leases(gateways, tenants)?);
        }
    }
    Ok(table)
}

/// A Redis server of its own.
struct Server(Process);

impl Server {
    async fn start(bed: &TestBed) -> Result<Self> {
        let address = free_address()?;
        let port = address.port().to_string();
        let program = program("redis-server")?;
        let words = ["--port", &port, "--save", "", "--appendonly", "no"];
        let words = words.iter().map(AsRef::as_ref);
        let command: Vec<_> = [program.as_os_str()].into_iter().chain(words).collect();
        let log = bed.directory.path().join("redis.log");
        let core = bed.load_core.to_string();
        Ok(Self(
            Process::start(&command, &[], &core, address, &log).await?,
        ))
    }

    /// The times of so many exchanges one after the other, sorted.
    fn round_trips(&self, count: usize) -> Result<Vec<Duration>> {
        let mut client = Client::open(self.0.address)?;
        let mut trips = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            client.command(&[b"PING"])?;
            trips.push(began.elapsed());
        }
        trips.sort_unstable();
        Ok(trips)
    }

    /// Scripts that were run so far.
    fn operations(&self) -> Result<f64> {
        let info = Client::open(self.0.address)?.command(&[b"INFO", b"commandstats"])?;
        let info = String::from_utf8_lossy(&info);
        let calls = info.split("cmdstat_evalsha:calls=").nth(1);
        let calls = calls.and_then(|rest| rest.split(',').next());
        Ok(calls.map_or(Ok(0.0), str::parse)?)
    }

    /// Reservations per second of processor time.
    fn capacity(&self) -> Result<f64> {
        let mut client = Client::open(self.0.address)?;
        let hash = client.load("reserve")?;
        let before = self.0.processor_time()?;
        for group in 0..RESERVATIONS / GROUP {
            let mut request = Vec::new();
            for number in 0..GROUP {
                let bucket = format!("{{bench}}:bucket:{}", (group * GROUP + number) % 10_000);
                let mut words: Vec<&[u8]> = vec![b"EVALSHA", &hash, b"3", bucket.as_bytes()];
                words.extend([&b"{bench}:birth"[..], b"{bench}:announced"]);
                // One slot of a bucket of 10 per second.
                words
                    .extend(b"100000 1900000 0 0 0 0 0 0 1000 4000000".split(|byte| *byte == b' '));
                write(&mut request, &words);
            }
            client.send(&request, GROUP)?;
        }
        Ok(RESERVATIONS as f64 / (microseconds(self.0.processor_time()? - before) / 1e6))
    }

    /// The percentage of a core that the questions of so many gateways take, each for so many tenants.
    fn leases(&self, gateways: usize, tenants: usize) -> Result<f64> {
        let mut client = Client::open(self.0.address)?;
        let hash = client.load("lease")?;
        client.command(&[b"DEL", b"{bench}:egress"])?;
        let before = self.0.processor_time()?;
        for question in 0..QUESTIONS {
            let gateway = question % gateways;
            let mut keys = vec!["{bench}:egress".to_owned(), "{bench}:birth".to_owned()];
            // An egress of 200 per second.
            let mut arguments = format!("{} 0 1000 0 5000 0", 1_000_000 + gateway);
            for tenant in 0..tenants {
                // Half of them are on all gateways.
                let own = if tenant % 2 == 0 { gateway } else { 0 };
                keys.push(format!("{{bench}}:tenant:{own:016x}{tenant:016x}"));
                let (weight, waited) = (1 + tenant % 5, 1000 * tenant);
                arguments += &format!(" {weight} 3 {waited} 0 0 0");
            }
            let count = keys.len().to_string();
            let mut words: Vec<&[u8]> = vec![b"EVALSHA", &hash, count.as_bytes()];
            words.extend(keys.iter().map(|key| key.as_bytes()));
            words.extend(arguments.as_bytes().split(|byte| *byte == b' '));
            client.command(&words)?;
        }
        let each = microseconds(self.0.processor_time()? - before) / QUESTIONS as f64;
        Ok(each * QUESTIONS_PER_SECOND * gateways as f64 / 1e4)
    }
}

/// A connection to the server.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let read = Vec::new();
        Ok(Self { stream, read })
    }

    /// Loads a script of this name, and returns its hash.
    fn load(&mut self, name: &str) -> Result<Vec<u8>> {
        let script = texts().into_iter().find(|(it, _)| *it == name);
        let (_, text) = script.ok_or_else(|| format!("there is no script `{name}`"))?;
        let reply = self.command(&[b"SCRIPT", b"LOAD", text.as_bytes()])?;
        let hash = reply.split(|byte| *byte == b'\n').nth(1).ok_or("no hash")?;
        Ok(hash.trim_ascii().to_vec())
    }

    /// Runs one command and returns its reply as it was sent.
    fn command(&mut self, words: &[&[u8]]) -> Result<Vec<u8>> {
        let mut request = Vec::new();
        write(&mut request, words);
        self.send(&request, 1)
    }

    /// Sends commands, and reads so many replies.
    fn send(&mut self, request: &[u8], replies: usize) -> Result<Vec<u8>> {
        self.stream.write_all(request)?;
        self.read.clear();
        let (mut end, mut count) = (0, 0);
        while count < replies {
            match reply_end(&self.read[end..])? {
                Some(length) => (end, count) = (end + length, count + 1),
                None => {
                    let mut buffer = [0; 16 * 1024];
                    let length = self.stream.read(&mut buffer)?;
                    if length == 0 {
                        return Err("the server closed its connection".into());
                    }
                    self.read.extend_from_slice(&buffer[..length]);
                }
            }
        }
        Ok(self.read.clone())
    }
}

/// Writes a command in RESP.
fn write(request: &mut Vec<u8>, words: &[&[u8]]) {
    request.extend(format!("*{}\r\n", words.len()).into_bytes());
    for word in words {
        request.extend(format!("${}\r\n", word.len()).into_bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
}

/// The length of the first reply; `None` while it is incomplete.
fn reply_end(read: &[u8]) -> Result<Option<usize>> {
    let Some(line) = read.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let (head, number) = (read[0], std::str::from_utf8(&read[1..line])?);
    let mut end = line + 2;
    match head {
        b'-' => return Err(format!("the server reports: {number}").into()),
        b'$' => end += number.parse::<usize>()? + 2,
        b'*' => {
            for _ in 0..number.parse::<usize>()? {
                match reply_end(read.get(end..).unwrap_or_default())? {
                    Some(length) => end += length,
                    None => return Ok(None),
                }
            }
        }
        _ => {}
    }
    Ok((end <= read.len()).then_some(end))
}
