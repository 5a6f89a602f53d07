//! How many instructions a call costs: a guard that needs no quiet machine.
//!
//! The gateway runs in this process, between a client and an upstream that are
//! written by hand, over connections in memory and in simulated time. Valgrind
//! counts what `count` calls and twice as many take; the difference is the
//! calls' own, without start and end. Both ends' few hundred instructions and
//! tokio's in-memory pipes are in it; the kernel's work is not. Over TLS both ends'
//! records are in it, too, but no cipher: that is the processor's and ring's.
//!
//! `--check` fails where a figure is more than 3 % above `instructions.txt`,
//! `--renew` writes that file.

#[path = "compare/head.rs"]
mod head;
#[path = "compare/tls.rs"]
mod tls;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::Command;
use std::sync::Arc;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex,
};
use wawp_gateway::config::{self, Overrides};
use wawp_gateway::gateway::Gateway;
use wawp_gateway::{Dial, Io};

use head::Head;
use tls::Tls;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
const RENEW: &str = "cargo bench --bench instructions -- --renew";
/// What hashing's random seeds, another processor or C library may cost.
const SLACK: f64 = 0.03;
/// Callers who mark messages of one chat at one moment.
const CALLERS: usize = 8;
/// As many as a merged request can carry.
const MANY_CALLERS: usize = 64;
/// Bytes of a response's body.
const SMALL: usize = 200;
/// As the samples that the vendor shows.
const SAMPLE: usize = 3050;
/// The ciphers of ring, and all that a handshake computes.
const CIPHERS: &str = "ring_core_*";
/// The chat that they read.
const CHAT: &str = "201000000001@c.us";
/// Bytes on their way in one direction of a connection.
const PIPE: usize = 64 * 1024;

/// What is called, and how often.
const KINDS: [(&str, usize); 7] = [
    ("pass-through", 2000),
    ("response of 3 KB", 2000),
    ("pass-through over TLS without ciphers", 2000),
    ("receipt", 1600),
    ("receipt among 64", 6400),
    ("receipt in a form", 1600),
    ("receipt in the query", 1600),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, kind, count] = &arguments[..]
        && role == "run"
    {
        return run(kind, count.parse()?);
    }
    // `cargo test --benches` only wants to know that it starts.
    let asked = |name: &str| arguments.iter().any(|argument| argument == name);
    if !asked("--bench") {
        return Ok(());
    }
    let known = std::fs::read_to_string(FILE).unwrap_or_default();
    let known: BTreeMap<_, f64> = known
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(kind, figure)| Some((kind, figure.parse().ok()?)))
        .collect();
    let mut file = format!(
        "# Instructions of one call, as valgrind counts them: benches/instructions.rs.\n\
         # Renew: {RENEW}\n"
    );
    let mut dearer = false;
    for (kind, count) in KINDS {
        let figure = (counted(kind, 2 * count)? - counted(kind, count)?) / count as f64;
        writeln!(file, "{kind} {figure:.0}")?;
        let known = known.get(kind).copied().unwrap_or(0.0);
        let change = figure / known - 1.0;
        println!(
            "{kind}: {figure:.0} instructions a call, {:+.1} % of the {known:.0} on file",
            change * 100.0
        );
        dearer |= change > SLACK;
        if change < -SLACK {
            println!("cheaper than on file; to keep it so: {RENEW}");
        }
    }
    if asked("--renew") {
        std::fs::write(FILE, file)?;
    } else if asked("--check") && dearer {
        return Err(format!("calls have become dearer; where that is worth it: {RENEW}").into());
    }
    Ok(())
}

/// Instructions of a whole run of this program with so many calls.
fn counted(kind: &str, count: usize) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // Counting stops where such a function is entered, and goes on where it is left.
        .arg(format!("--toggle-collect={CIPHERS}"))
        .arg("--collect-atstart=yes")
        .arg(std::env::current_exe()?)
        .args(["run", kind, &count.to_string()])
        .output()
        .map_err(|error| format!("valgrind (apt-get install valgrind): {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let figure = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .filter(|_| output.status.success())
        .ok_or_else(|| format!("valgrind did not count: {said}"))?;
    Ok(figure.1.trim().parse()?)
}

/// Makes the calls.
fn run(kind: &str, count: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        // A window passes as soon as nothing else is left to do.
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        match kind {
            "pass-through" => pass_through(&gateway(SMALL)?, count).await,
            "response of 3 KB" => pass_through(&gateway(SAMPLE)?, count).await,
            "pass-through over TLS without ciphers" => {
                pass_through(&gateway_over_tls()?, count).await
            }
            "receipt" => receipts(CALLERS, count, json).await,
            "receipt among 64" => receipts(MANY_CALLERS, count, json).await,
            "receipt in a form" => receipts(CALLERS, count, form).await,
            "receipt in the query" => receipts(CALLERS, count, query).await,
            _ => Err("no such kind of call".into()),
        }
    })
}

/// A gateway whose upstream sends bodies of this length.
fn gateway(length: usize) -> Result<Gateway> {
    let dial = dial(move |far| async move { drop(upstream(far, length).await) });
    gateway_before("http://upstream.test", &[], dial)
}

/// A gateway with TLS to its upstream, over HTTP/1.1.
fn gateway_over_tls() -> Result<Gateway> {
    let tls = Tls::new()?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &tls.pem)?;
    let dial = dial(move |far| {
        let acceptor = tls.acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(far).await {
                drop(upstream(stream, SMALL).await);
            }
        }
    });
    let ca = file.path().to_str().ok_or("a path that is not text")?;
    let settings = [
        ("WAWP_GATEWAY_UPSTREAM__CA", ca),
        ("WAWP_GATEWAY_UPSTREAM__HTTP", "1.1"),
    ];
    gateway_before("https://localhost", &settings, dial)
}

/// Makes connections in memory, whose other end `serve` has.
fn dial<F>(serve: impl Fn(DuplexStream) -> F + Send + Sync + 'static) -> Dial
where
    F: Future<Output = ()> + Send + 'static,
{
    Dial::With(Arc::new(move || {
        let (near, far) = duplex(PIPE);
        tokio::spawn(serve(far));
        Box::pin(async { Ok::<Box<dyn Io>, io::Error>(Box::new(near)) })
    }))
}

fn gateway_before(url: &str, settings: &[(&str, &str)], dial: Dial) -> Result<Gateway> {
    let flags = Overrides {
        upstream: Some(url.to_owned()),
        // Buckets are asked for every call, and never empty.
        rate: Some("1000000".to_owned()),
        burst: Some("100000".to_owned()),
        ..Overrides::default()
    };
    let settings = settings
        .iter()
        .map(|(key, value)| (key.into(), value.into()));
    let config = config::load(None, settings, &flags).map_err(|error| error.to_string())?;
    Ok(Gateway::new(&config.config, dial)?)
}

/// Answers everything at once, until the gateway hangs up.
async fn upstream<S: AsyncRead + AsyncWrite + Unpin>(stream: S, length: usize) -> Result<()> {
    let response = format!(
        "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         date: Sun, 22 Nov 2026 10:00:00 GMT\r\nserver: stand-in\r\n\r\n{}",
        "a".repeat(length)
    );
    let mut end = End::new(stream);
    loop {
        end.message().await?;
        end.stream.write_all(response.as_bytes()).await?;
        end.stream.flush().await?;
    }
}

async fn pass_through(gateway: &Gateway, calls: usize) -> Result<()> {
    let requests: Vec<_> = (0..16)
        .map(|instance| post("/v2/send/text", instance, &"x".repeat(200)))
        .collect();
    let mut client = client(gateway);
    for call in 0..calls {
        let request = &requests[call % requests.len()];
        client.stream.write_all(request.as_bytes()).await?;
        client.message().await?;
    }
    Ok(())
}

/// A receipt of a caller, as most clients write it.
fn json(caller: usize) -> String {
    let body = format!(r#"{{"chatId":"{CHAT}","messageIds":["false_{CHAT}_{caller:020X}"]}}"#);
    post("/v2/send/seen", 0, &body)
}

/// As PHP writes it.
fn form(caller: usize) -> String {
    let chat = CHAT.replace('@', "%40");
    let body = format!("chatId={chat}&messageIds%5B0%5D=false_{chat}_{caller:020X}");
    let request = post("/v2/send/seen", 0, &body);
    request.replace(
        "application/json\r\nContent-L",
        "application/x-www-form-urlencoded\r\nContent-L",
    )
}

/// As axios writes it.
fn query(caller: usize) -> String {
    let request = post("/v2/send/seen", 0, "");
    let list = format!("&chatId={CHAT}&messageIds[]=false_{CHAT}_{caller:020X} HTTP");
    request.replacen(" HTTP", &list, 1)
}

async fn receipts(callers: usize, count: usize, receipt: fn(usize) -> String) -> Result<()> {
    let gateway = gateway(SMALL)?;
    let batches = count / callers;
    let requests: Vec<_> = (0..callers).map(receipt).collect();
    let mut clients: Vec<_> = (0..callers).map(|_| client(&gateway)).collect();
    for _ in 0..batches {
        for (client, request) in clients.iter_mut().zip(&requests) {
            client.stream.write_all(request.as_bytes()).await?;
        }
        for client in &mut clients {
            client.message().await?;
        }
    }
    let seen = gateway.metrics().exposition();
    let merged = format!("batch_callers_count {batches}\n");
    if !seen.contains(&merged) {
        return Err("the receipts were not merged as meant".into());
    }
    Ok(())
}

fn client(gateway: &Gateway) -> End<DuplexStream> {
    let (near, far) = duplex(PIPE);
    let gateway = gateway.clone();
    tokio::spawn(async move { gateway.serve(far).await });
    End::new(near)
}

fn post(path: &str, instance: usize, body: &str) -> String {
    format!(
        "POST {path}?instance_id=bench{instance}&access_token=0123456789ab HTTP/1.1\r\n\
         Host: upstream.test\r\nUser-Agent: GuzzleHttp/7\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One end of a connection, on which one message at a time arrives.
#[derive(Debug)]
struct End<S> {
    stream: S,
    buffer: Box<[u8]>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> End<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: vec![0; 8192].into(),
        }
    }

    /// Reads a message to its end. A response has to be a 2xx.
    async fn message(&mut self) -> Result<()> {
        let mut read = 0;
        loop {
            match self.stream.read(&mut self.buffer[read..]).await? {
                0 => return Err("the other end is gone".into()),
                more => read += more,
            }
            let Some(head) = Head::of(&self.buffer[..read])? else {
                continue;
            };
            if head.start.starts_with(b"HTTP/1.1 ") && !head.start.starts_with(b"HTTP/1.1 2") {
                return Err(String::from_utf8_lossy(&self.buffer[..read]).into());
            }
            if read >= head.length + head.content_length {
                return Ok(());
            }
        }
    }
}
