//! What the gateway adds to a call over loopback: latency and processor time.
//!
//! Two programs of the release build, a sandbox and a gateway, are called over
//! keep-alive connections at a fixed rate, now directly, now through the
//! gateway, in turns, so that whatever else the machine does falls on both.
//!
//! Each call has a moment at which it is due. Its latency runs from that
//! moment, not from when a free connection was found, so a stall is charged to
//! every call it delayed (no coordinated omission).
//!
//! Cannot tell what a network costs, nor the highest rate: client, gateway and
//! sandbox share this machine's cores.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// Rounds of each kind; figures are medians over them.
const ROUNDS: usize = 5;
/// One turn of a round: long enough for a p99 of a few dozen calls.
const TURN: Duration = Duration::from_millis(2_000);
/// Instances that are called, so that no bucket or batch is everybody's.
const INSTANCES: usize = 64;
/// Calls a second: far below what two cores can do, so that queues stay short.
const RATE: usize = 2_000;
/// Callers who mark messages of one chat at one moment.
const CALLERS: usize = 8;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    // `cargo test --benches` only wants to know that it starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let sandbox = Program::sandbox()?;
    let gateway = Program::gateway(sandbox.address)?;
    println!(
        "{RATE} calls/s over keep-alive connections, {ROUNDS} rounds of {:.0} s each way, in turns",
        TURN.as_secs_f64()
    );
    for kind in [Kind::PassThrough, Kind::Receipts] {
        // Connections, allocators and branch predictors warm up.
        turn(kind, gateway.address, 0, TURN / 4)?;
        let mut direct = Vec::new();
        let mut through = Vec::new();
        for round in 1..=ROUNDS {
            direct.push(measure(
                kind,
                sandbox.address,
                2 * round,
                &sandbox,
                &gateway,
            )?);
            through.push(measure(
                kind,
                gateway.address,
                2 * round + 1,
                &sandbox,
                &gateway,
            )?);
        }
        report(kind, &direct, &through);
    }
    Ok(())
}

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// 200 bytes there and the same 200 back, each passed through.
    PassThrough,
    /// Receipts, eight at one moment for one chat.
    Receipts,
}

/// The figures of one turn.
struct Figures {
    p50: Duration,
    p99: Duration,
    /// Processor time for one call of an app.
    gateway: Duration,
    sandbox: Duration,
}

fn measure(
    kind: Kind,
    address: SocketAddr,
    number: usize,
    sandbox: &Program,
    gateway: &Program,
) -> Result<Figures> {
    let before = (sandbox.processor_time()?, gateway.processor_time()?);
    let mut latencies = turn(kind, address, number, TURN)?;
    let after = (sandbox.processor_time()?, gateway.processor_time()?);
    latencies.sort_unstable();
    let calls = u32::try_from(latencies.len())?;
    let rank = |percent: usize| latencies[(latencies.len() * percent).div_ceil(100) - 1];
    Ok(Figures {
        p50: rank(50),
        p99: rank(99),
        sandbox: after.0.saturating_sub(before.0) / calls,
        gateway: after.1.saturating_sub(before.1) / calls,
    })
}

/// Makes calls at the fixed rate for a while; returns their latencies.
fn turn(kind: Kind, address: SocketAddr, number: usize, length: Duration) -> Result<Vec<Duration>> {
    let calls = RATE * usize::try_from(length.as_millis())? / 1_000;
    let count = kind.connections();
    let connections: Vec<_> = (0..count)
        .map(|_| Connection::open(address))
        .collect::<Result<_>>()?;
    // All threads are up and waiting by then.
    let began = Instant::now() + Duration::from_millis(50);
    thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|(first, mut connection)| {
                scope.spawn(move || -> Result<Vec<Duration>> {
                    let own = (first..calls).step_by(count);
                    own.map(|call| {
                        let due = began + kind.due(call);
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        connection.call(&kind.request(number, call))?;
                        Ok(due.elapsed())
                    })
                    .collect()
                })
            })
            .collect();
        let mut latencies = Vec::with_capacity(calls);
        for thread in threads {
            latencies.extend(thread.join().map_err(|_| "a client panicked")??);
        }
        Ok(latencies)
    })
}

impl Kind {
    /// Connections, each with a thread of its own. A receipt's takes the
    /// window of 50 ms: it must be free again when its next call is due.
    fn connections(self) -> usize {
        match self {
            Self::PassThrough => 64,
            Self::Receipts => 128,
        }
    }

    /// When a call is due, counted from the turn's begin.
    fn due(self, call: usize) -> Duration {
        let moment = match self {
            Self::PassThrough => call,
            // All callers of a chat at one moment, at the same mean rate.
            Self::Receipts => call / CALLERS * CALLERS,
        };
        Duration::from_nanos(1_000_000_000 / RATE as u64) * u32::try_from(moment).unwrap_or(0)
    }

    fn request(self, number: usize, call: usize) -> String {
        let (path, instance, body) = match self {
            Self::PassThrough => ("/sandbox/echo", call % INSTANCES, "x".repeat(200)),
            Self::Receipts => {
                let chat = format!("{}@c.us", number * 1_000_000 + call / CALLERS);
                let body =
                    format!(r#"{{"chatId":"{chat}","messageIds":["false_{chat}_{call:020X}"]}}"#);
                ("/v2/send/seen", call / CALLERS % INSTANCES, body)
            }
        };
        format!(
            "POST {path}?instance_id=bench{instance}&access_token=bench HTTP/1.1\r\n\
             host: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// A keep-alive connection that speaks as much HTTP as the bench needs.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            stream,
            buffer: vec![0; 4096],
        })
    }

    fn call(&mut self, request: &str) -> Result<()> {
        self.stream.write_all(request.as_bytes())?;
        let mut read = 0;
        loop {
            match self.stream.read(&mut self.buffer[read..])? {
                0 => return Err("the connection was closed, or the answer is too long".into()),
                more => read += more,
            }
            let answer = &self.buffer[..read];
            if let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
                let text = std::str::from_utf8(&answer[..head])?.to_ascii_lowercase();
                let good = text.starts_with("http/1.1 20");
                let ended = match text.split("content-length: ").nth(1) {
                    Some(length) => {
                        let length: usize = length.lines().next().unwrap_or("").trim().parse()?;
                        read >= head + 4 + length
                    }
                    None => text.contains("chunked") && answer.ends_with(b"0\r\n\r\n"),
                };
                match (good, ended) {
                    (false, _) => return Err(text.into()),
                    (true, true) => return Ok(()),
                    (true, false) => {}
                }
            }
        }
    }
}

/// A program under measurement; killed when dropped.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn sandbox() -> Result<Self> {
        let arguments = ["sandbox", "--listen", "127.0.0.1:0", "--latency", "0ms"];
        let mut child = command(&arguments).stdout(Stdio::piped()).spawn()?;
        let line = first_line(child.stdout.take())?;
        let address = line.trim().rsplit('/').next().unwrap_or("").parse()?;
        Ok(Self { child, address })
    }

    fn gateway(upstream: SocketAddr) -> Result<Self> {
        let upstream = format!("http://{upstream}");
        // Buckets are asked for every call, and never empty.
        let arguments = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--upstream",
            &upstream,
            "--rate",
            "1000000",
            "--burst",
            "100000",
        ];
        let mut child = command(&arguments)
            .env("WAWP_GATEWAY_LOG__FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()?;
        let line = first_line(child.stderr.take())?;
        let event: serde_json::Value = serde_json::from_str(&line)?;
        let address = event["address"].as_str().unwrap_or("").parse()?;
        Ok(Self { child, address })
    }

    /// What all its threads have had of the processors so far, by the
    /// scheduler's own count (proc(5), `schedstat`: nanoseconds).
    fn processor_time(&self) -> Result<Duration> {
        let mut total = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let nanoseconds = stat.split(' ').next().unwrap_or("");
            total += nanoseconds.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wawp-gateway"));
    command.args(arguments);
    command
}

/// The first line a program writes; the rest is read and dropped, so that the
/// program never waits for a reader.
fn first_line(output: Option<impl std::io::Read + Send + 'static>) -> Result<String> {
    let mut lines = BufReader::new(output.ok_or("no output")?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    Ok(line)
}

fn report(kind: Kind, direct: &[Figures], through: &[Figures]) {
    let name = match kind {
        Kind::PassThrough => "pass-through, 200 B there and back, 64 connections",
        Kind::Receipts => "receipts, 8 callers a chat, window 50 ms, 128 connections",
    };
    println!("\n{name}");
    println!(
        "  {:<34}{:>10}{:>10}{:>10}{:>8}",
        "median of the rounds", "direct", "gateway", "added", "ratio"
    );
    let row = |name, of: &dyn Fn(&Figures) -> Duration| {
        let (direct, through) = (median(direct, of), median(through, of));
        println!(
            "  {name:<34}{:>7.0} us{:>7.0} us{:>7.0} us{:>8.2}",
            direct,
            through,
            through - direct,
            through / direct
        );
    };
    row("latency p50", &|figures| figures.p50);
    row("latency p99", &|figures| figures.p99);
    row("processor per call, sandbox", &|figures| figures.sandbox);
    row("processor per call, both", &|figures| {
        figures.sandbox + figures.gateway
    });
    println!(
        "  {:<34}{:>10}{:>7.0} us",
        "processor per call, gateway alone",
        "",
        median(through, &|figures| figures.gateway)
    );
}

/// In microseconds.
fn median(rounds: &[Figures], of: &dyn Fn(&Figures) -> Duration) -> f64 {
    let mut values: Vec<_> = rounds.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2].as_secs_f64() * 1e6
}
