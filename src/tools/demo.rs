//! A demonstration: sandbox, gateway and apps in one process.
//!
//! Owns the order of start and end, over real sockets on free ports of the
//! loopback interface. It counts nothing itself: figures come from the gateway's
//! metrics. Invariant: a report is good only if the sandbox's record confirms it.
//!
//! | Part | Owns |
//! | --- | --- |
//! | `plan` | the traffic: which requests, and when |
//! | `apps` | the clients that send it |
//! | `figures` | the gateway's metrics, read as numbers |
//! | `audit` | the checks that compare apps, gateway and sandbox |
//! | `screen`, `report` | the live display and the tables |

mod apps;
mod audit;
mod figures;
mod plan;
mod report;
mod screen;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::app::{App, Ended, StartError};
use crate::config::{Config, Log, LogAccess, LogFormat, LogLevel};
use crate::gateway::Gateway;
use crate::tools::sandbox::{Sandbox, Settings};
use crate::upstream::Dial;
use apps::Apps;
use audit::Accounts;
use figures::Figures;
use report::Coloured;
use screen::{Colours, Frame};

pub use plan::Plan;
pub use report::Report;
pub use screen::Screen;

/// Any free port of the loopback interface.
const FREE_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The time limit of the drain. No request of a demo takes longer than
/// `limit.max_wait` (4 s).
const DRAIN: Duration = Duration::from_secs(10);

/// Batches whose callers have disconnected may still be open when the apps have ended; their
/// window and wait end within `limit.max_wait` (4 s).
const SETTLE_PAUSE: Duration = Duration::from_millis(250);
const SETTLE_ROUNDS: u32 = 40;

/// Why a demo failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A socket failed, or the output cannot be written.
    #[error("the demo failed: {0}")]
    Io(#[from] io::Error),
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

/// Plays a plan, shows live figures while it runs and the table at its end.
///
/// The gateway's access log goes to `access_log`, as JSON. `stop` ends the demo
/// early: no request starts after it, requests in flight get their responses, and
/// the table covers what was sent. With `keep`, gateway and sandbox serve until then.
///
/// # Errors
/// [`Error`] says why.
pub async fn run<W: Write>(
    plan: &Plan,
    mut screen: Screen<W>,
    access_log: Option<Box<dyn Write + Send>>,
    keep: bool,
    stop: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let upstream = Upstream::start(plan).await?;
    let config = config(upstream.address, access_log.is_some());
    let app = App::bind(config.clone(), Dial::Tcp)?;
    if let Some(sink) = access_log {
        app.gateway().log_access_to(sink)?;
    }
    let (address, admin) = (app.address()?, app.admin_address()?);
    let addresses = [upstream.address, address, admin];
    let preface = preface(plan, &config, addresses, screen.colours());
    screen.write(&preface)?;

    // `run_until` consumes the app; the metrics are read after it has ended.
    let gateway = app.gateway().clone();
    let end = CancellationToken::new();
    let served = tokio::spawn(app.run_until(end.clone().cancelled_owned()));
    let apps = Apps::new(address);
    let began = Instant::now();
    let played = tokio::spawn(apps.clone().play(plan.scenes()));
    // A panic of the apps becomes an error of the demo.
    let played = async { played.await.map_err(io::Error::other) };
    let watch = async {
        let shown = show(&mut screen, &gateway, (began, plan.length, admin), played).await;
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
        let figures = settled(&gateway).await;
        // Now, because the reader may send requests of their own from here on.
        let report = record.report(&figures, &upstream.sandbox, Ended::Drained);
        let text = Coloured(&report, screen.colours()).to_string();
        screen.write(&format!(
            "{text}\nStill serving; Ctrl-C ends it. http://{admin}/\n"
        ))?;
        stop.await;
        Some(report)
    } else {
        None
    };

    // The gateway drains first, and the sandbox stops after it, so that no response is lost.
    end.cancel();
    let ended: Ended = served.await.map_err(io::Error::other)??;
    let sandbox = upstream.end().await?;
    if let Some(report) = report {
        return Ok(report);
    }
    // After the drain: only now are all counters final.
    let figures = Figures::read(&gateway.metrics().exposition());
    let report = record.report(&figures, &sandbox, ended);
    let text = Coloured(&report, screen.colours()).to_string();
    screen.write(&text)?;
    Ok(report)
}

/// What the apps of a demo did.
struct Record<'a> {
    apps: &'a Apps,
    began: Instant,
    latency: Duration,
}

impl Record<'_> {
    /// Compares it with the figures of the gateway and the record of the sandbox.
    fn report(&self, figures: &Figures, sandbox: &Sandbox, ended: Ended) -> Report {
        let calls = sandbox.calls();
        let accounts = Accounts {
            apps: &self.apps.observed(),
            gateway: figures,
            sandbox: &calls,
            received: sandbox.received(),
            ended,
        };
        Report::new(&accounts, accounts.growth(self.began), self.latency)
    }
}

/// The figures once no request is in flight and no batch is open, or after some seconds.
async fn settled(gateway: &Gateway) -> Figures {
    let mut last = Figures::read(&gateway.metrics().exposition());
    for _ in 0..SETTLE_ROUNDS {
        tokio::time::sleep(SETTLE_PAUSE).await;
        let figures = Figures::read(&gateway.metrics().exposition());
        if figures == last && figures.in_flight == 0 {
            break;
        }
        last = figures;
    }
    last
}

/// The stand-in for api.wawp.net, serving.
struct Upstream {
    sandbox: Sandbox,
    address: SocketAddr,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Upstream {
    /// Starts the sandbox on a free port.
    async fn start(plan: &Plan) -> io::Result<Self> {
        let listener = TcpListener::bind(FREE_PORT).await?;
        let address = listener.local_addr()?;
        let sandbox = Sandbox::new(Settings {
            latency: plan.latency,
            ..Settings::default()
        });
        let stop = CancellationToken::new();
        let serve = sandbox
            .clone()
            .serve(listener, stop.clone().cancelled_owned());
        Ok(Self {
            sandbox,
            address,
            stop,
            served: tokio::spawn(serve),
        })
    }

    /// Stops the sandbox; returns it with its record of requests.
    async fn end(self) -> io::Result<Sandbox> {
        self.stop.cancel();
        self.served.await.map_err(io::Error::other)?;
        Ok(self.sandbox)
    }
}

/// The default settings, except for the addresses and the access log.
fn config(upstream: SocketAddr, logs: bool) -> Config {
    let mut config = Config::default();
    config.log.access = if logs { LogAccess::On } else { LogAccess::Off };
    config.log.format = LogFormat::Json;
    config.server.listen = FREE_PORT;
    config.server.admin = FREE_PORT;
    config.server.drain_timeout = DRAIN;
    config.upstream.url = format!("http://{upstream}")
        .parse()
        .expect("an address makes a base URL");
    config
}

/// The text above the live display.
fn preface(plan: &Plan, config: &Config, addresses: [SocketAddr; 3], colours: &Colours) -> String {
    let [upstream, gateway, admin] = addresses;
    let limit = config.limit.quota.map_or_else(
        || "no limit".to_owned(),
        |quota| format!("{}/s a number", quota.rate),
    );
    let page = format!("http://{admin}/");
    format!(
        "A stand-in for api.wawp.net, the gateway, and apps that use\n\
         it for {:.0} s: agents open chats, a bot replies, a campaign\n\
         sends, a dashboard polls.\n\n \
         admin page  {}\n \
         gateway     http://{gateway}  {} ms, {limit}\n \
         stand-in    http://{upstream}  responds after {} ms\n\n",
        plan.length.as_secs_f64(),
        colours.title.apply_to(page),
        config.batch.window.as_millis(),
        plan.latency.as_millis(),
    )
}

/// Shows figures until all scenes are played.
async fn show<W: Write>(
    screen: &mut Screen<W>,
    gateway: &Gateway,
    (began, length, admin): (Instant, Duration, SocketAddr),
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
                let figures = Figures::read(&gateway.metrics().exposition());
                screen.show(Frame {
                    elapsed: began.elapsed(),
                    length,
                    admin,
                    figures: &figures,
                })?;
            }
        }
    }
}
