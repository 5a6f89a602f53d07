//! A demonstration: sandbox, gateway and apps in one process, or several gateways as processes.
//!
//! Owns the order of start and end, over real sockets on free ports of the
//! loopback interface. It counts nothing itself: figures of one gateway come from its
//! metrics, those of several from the records of apps and sandbox. Invariant: a report is good
//! only if the sandbox's record confirms it.
//!
//! | Part | Owns |
//! | --- | --- |
//! | `plan` | the traffic: which requests, and when |
//! | `apps`, `pool` | the clients that send it, and their connections |
//! | `gateways` | what is needed of the gateways: `one` in this process, or `several` |
//! | `process` | child processes |
//! | `figures` | the gateways' metrics, read as numbers |
//! | `audit` | the checks that compare apps, gateways and sandbox |
//! | `screen`, `report` | the live display and the tables |

mod apps;
mod audit;
mod figures;
mod gateways;
mod one;
mod plan;
mod pool;
mod process;
mod report;
mod screen;
mod several;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::app::StartError;
use crate::config::{Config, Log, LogAccess, LogFormat, LogLevel};
use crate::tools::sandbox::{Sandbox, Settings};
use apps::Apps;
use audit::Accounts;
use gateways::{Counted, Gateways};
use one::One;
use report::Coloured;
use screen::{Colours, Frame};
use several::Several;

pub use plan::Plan;
pub use report::Report;
pub use screen::Screen;

/// Any free port of the loopback interface.
const FREE_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Why a demo failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A socket failed, or the output cannot be written.
    #[error("the demo failed: {0}")]
    Io(#[from] io::Error),
    /// Several gateways share their limits through it.
    #[error(
        "demo --replicas needs redis-server, which is not in PATH \
         (Debian, Ubuntu: apt-get install redis-server)"
    )]
    NoServer,
    /// A process did not start, or not in time.
    #[error("{name} did not start: {last_line}")]
    Child {
        /// Which one.
        name: String,
        /// The last that it wrote.
        last_line: String,
    },
    /// It was stopped while the processes were starting.
    #[error("the demo was stopped before it began")]
    Stopped,
}

/// The log settings of a demo: more than warnings would break up the live display.
#[must_use]
pub fn log() -> Log {
    Log {
        format: LogFormat::Text,
        level: LogLevel::Warn,
        access: LogAccess::Off,
        access_sample: NonZeroU32::MIN,
    }
}

/// Plays a plan with one gateway, shows live figures while it runs and the table at its end.
///
/// The gateway's access log goes to `access_log`, as JSON. `stop` ends the demo
/// early: no request starts after it, requests in flight get their responses, and
/// the table covers what was sent. With `keep`, gateway and sandbox serve until then.
///
/// # Errors
/// [`Error`] says why.
pub async fn run<W: Write>(
    plan: &Plan,
    screen: Screen<W>,
    access_log: Option<Box<dyn Write + Send>>,
    keep: bool,
    stop: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let upstream = Upstream::start(plan, 1).await?;
    let gateway = One::start(upstream.addresses[0], access_log)?;
    play(plan, screen, keep, upstream, gateway, stop).await
}

/// Does the same with several gateways, of which the last is killed in the middle of the traffic.
/// They run as processes of this program, and share their limits through a `redis-server`.
///
/// # Errors
/// [`Error`] says why.
pub async fn run_replicas<W: Write>(
    plan: &Plan,
    replicas: u8,
    screen: Screen<W>,
    access_log: Option<&File>,
    keep: bool,
    stop: impl Future<Output = ()>,
) -> Result<Report, Error> {
    // One has to be left.
    let upstream = Upstream::start(plan, replicas.max(2)).await?;
    let mut stop = pin!(stop);
    let gateways = tokio::select! {
        started = Several::start(&upstream.addresses, access_log) => started?,
        () = &mut stop => return Err(Error::Stopped),
    };
    play(plan, screen, keep, upstream, gateways, stop).await
}

/// Plays a plan.
async fn play<W: Write>(
    plan: &Plan,
    mut screen: Screen<W>,
    keep: bool,
    upstream: Upstream,
    gateways: impl Gateways,
    stop: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let preface = preface(plan, &gateways, &upstream, screen.colours());
    screen.write(&preface)?;
    let apps = Apps::new(gateways.addresses());
    let began = Instant::now();
    let watch = async {
        let shown = perform(plan, &mut screen, &gateways, (&apps, began)).await;
        // If the output fails, the rest need not be sent.
        apps.stop.cancel();
        shown
    };
    let mut stop = pin!(stop);
    let was_stopped = {
        let mut watch = pin!(watch);
        tokio::select! {
            shown = &mut watch => { shown?; false }
            () = &mut stop => {
                apps.stop.cancel();
                // It waits for the requests in flight.
                watch.await?;
                true
            }
        }
    };
    let record = Record {
        apps: &apps,
        began,
        latency: plan.latency,
    };
    let report = if keep && !was_stopped {
        let counted = gateways.settle().await;
        // Now, because the reader may send requests of their own from here on.
        let report = record.report(&counted, &upstream.sandbox);
        let text = Coloured(&report, screen.colours()).to_string();
        let admin = gateways.admin();
        screen.write(&format!(
            "{text}\nStill serving; Ctrl-C ends it. http://{admin}/\n"
        ))?;
        stop.await;
        Some(report)
    } else {
        None
    };

    // The gateways drain first, and the sandbox stops after them, so that no response is lost.
    let counted = gateways.end().await?;
    let sandbox = upstream.end().await?;
    if let Some(report) = report {
        return Ok(report);
    }
    let report = record.report(&counted, &sandbox);
    let text = Coloured(&report, screen.colours()).to_string();
    screen.write(&text)?;
    Ok(report)
}

/// Plays all scenes, with figures on the screen, and lets a gateway crash in the middle.
async fn perform<W: Write>(
    plan: &Plan,
    screen: &mut Screen<W>,
    gateways: &impl Gateways,
    (apps, began): (&Arc<Apps>, Instant),
) -> io::Result<()> {
    let played = tokio::spawn(Arc::clone(apps).play(plan.scenes()));
    // A panic of the apps becomes an error of the demo.
    let played = async { played.await.map_err(io::Error::other) };
    let crash = async {
        let after = plan.length / 2;
        if !apps.stopped_until(began + after).await {
            gateways.crash_one(after);
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        shown = show(screen, gateways, (began, plan.length), played) => shown,
        never = crash => match never {},
    }
}

/// What the apps of a demo did.
struct Record<'a> {
    apps: &'a Apps,
    began: Instant,
    latency: Duration,
}

impl Record<'_> {
    /// Compares it with the figures of the gateways and the record of the sandbox.
    fn report(&self, counted: &Counted, sandbox: &Sandbox) -> Report {
        let calls = sandbox.calls();
        let accounts = Accounts {
            apps: &self.apps.observed(),
            gateway: &counted.figures,
            sandbox: &calls,
            received: sandbox.received(),
            ended: &counted.ended,
            replicas: counted.replicas.as_ref(),
        };
        Report::new(&accounts, self.began, self.latency)
    }
}

/// The stand-in for api.wawp.net, serving.
struct Upstream {
    sandbox: Sandbox,
    /// One for each gateway, so that its record shows which one made a call.
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
    served: JoinSet<()>,
}

impl Upstream {
    /// Starts the sandbox on free ports.
    async fn start(plan: &Plan, ports: u8) -> io::Result<Self> {
        let sandbox = Sandbox::new(Settings {
            latency: plan.latency,
            ..Settings::default()
        });
        let stop = CancellationToken::new();
        let (mut addresses, mut served) = (Vec::new(), JoinSet::new());
        for _ in 0..ports {
            let listener = TcpListener::bind(FREE_PORT).await?;
            addresses.push(listener.local_addr()?);
            let stop = stop.clone().cancelled_owned();
            served.spawn(sandbox.clone().serve(listener, stop));
        }
        Ok(Self {
            sandbox,
            addresses,
            stop,
            served,
        })
    }

    /// Stops the sandbox; returns it with its record of requests.
    async fn end(mut self) -> io::Result<Sandbox> {
        self.stop.cancel();
        while let Some(ended) = self.served.join_next().await {
            ended.map_err(io::Error::other)?;
        }
        Ok(self.sandbox)
    }
}

/// The text above the live display.
fn preface(
    plan: &Plan,
    gateways: &impl Gateways,
    upstream: &Upstream,
    colours: &Colours,
) -> String {
    let config = Config::default();
    let limit = config.limit.quota.map_or_else(
        || "no limit".to_owned(),
        |quota| format!("{}/s a number", quota.rate),
    );
    let page = format!("http://{}/", gateways.admin());
    let mut text = format!(
        "{}\n admin page  {}\n",
        gateways.introduction(plan),
        colours.title.apply_to(page)
    );
    let addresses = gateways.addresses();
    for (index, address) in addresses.iter().enumerate() {
        let name = match addresses.len() {
            1 => "gateway".to_owned(),
            _ => format!("gateway {}", index + 1),
        };
        let window = config.batch.window.as_millis();
        // Writing into a `String` cannot fail.
        writeln!(text, " {name:<12}http://{address}  {window} ms, {limit}").ok();
    }
    writeln!(
        text,
        " stand-in    http://{}  responds after {} ms\n",
        upstream.addresses[0],
        plan.latency.as_millis()
    )
    .ok();
    text
}

/// Shows figures until all scenes are played.
async fn show<W: Write>(
    screen: &mut Screen<W>,
    gateways: &impl Gateways,
    (began, length): (Instant, Duration),
    played: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let mut played = pin!(played);
    let interval = screen.interval(length);
    let mut ticks = tokio::time::interval_at(began + interval, interval);
    // On a slow terminal, late frames are left out instead of written in a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            // The end of the traffic counts more than one more frame.
            biased;
            ended = &mut played => return ended,
            _ = ticks.tick() => {
                let figures = gateways.figures().await;
                screen.show(Frame {
                    elapsed: began.elapsed(),
                    length,
                    admin: gateways.admin(),
                    figures: &figures,
                })?;
            }
        }
    }
}
