//! A demonstration: sandbox, gateway and apps in one process.
//!
//! Owns the order of start and end, over real sockets on free ports of the
//! loopback interface. It refuses to count: figures come from the gateway's
//! metrics, and are checked against what the sandbox received. Invariant: a
//! report that is good is one that the sandbox's record confirms.
//!
//! | Part | Owns |
//! | --- | --- |
//! | `plan` | the traffic: who calls what, and when |
//! | `apps` | the clients that play it |
//! | `figures` | the gateway's metrics, read as numbers |
//! | `audit` | the promises, and the three accounts they are checked with |
//! | `screen`, `report` | the live line and the table |

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

pub use plan::Plan;
pub use report::Report;
pub use screen::Screen;

/// Any free port of the loopback interface.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The longest the gateway may take to end; nothing of a demo takes longer
/// than `limit.max_wait` (4 s).
const DRAIN: Duration = Duration::from_secs(10);

/// Why a demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A socket failed, or the output cannot be written.
    #[error("the demo broke off: {0}")]
    Io(#[from] io::Error),
}

/// The log of a demo: what would spoil the live line is left out.
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
/// The gateway's access log goes to `access_log`, as JSON. `stop` ends it early: no call begins after it, those at hand are answered,
/// and the table tells of what was played.
///
/// # Errors
/// [`Error`] says why.
pub async fn run<W: Write>(
    plan: &Plan,
    mut screen: Screen<W>,
    access_log: Option<Box<dyn Write + Send>>,
    stop: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let upstream = Upstream::start(plan).await?;
    let config = config(upstream.address, access_log.is_some());
    let app = App::bind(config.clone(), Dial::Tcp)?;
    if let Some(sink) = access_log {
        app.gateway().log_access_to(sink)?;
    }
    let (address, admin) = (app.address()?, app.admin_address()?);
    screen.say(&introduction(
        plan,
        &config,
        [upstream.address, address, admin],
    ))?;

    let gateway = app.gateway().clone();
    let end = CancellationToken::new();
    let served = tokio::spawn(app.run_until(end.clone().cancelled_owned()));
    let apps = Apps::new(address);
    let began = Instant::now();
    let played = tokio::spawn(apps.clone().play(plan.scenes()));
    let played = async { played.await.map_err(io::Error::other) };
    let watch = async {
        let shown = show(&mut screen, &gateway, began, played).await;
        // Nobody looks any more: the rest need not be played.
        apps.stop.cancel();
        shown
    };
    let stop = async {
        stop.await;
        apps.stop.cancel();
        std::future::pending().await
    };
    tokio::select! {
        shown = watch => shown?,
        () = stop => {}
    }

    end.cancel();
    let ended: Ended = served.await.map_err(io::Error::other)??;
    let figures = Figures::read(&gateway.metrics().exposition());
    screen.show(began.elapsed(), &figures)?;
    screen.end()?;
    let sandbox = upstream.end().await?;
    let calls = sandbox.calls();
    let accounts = Accounts {
        apps: &apps.seen(),
        gateway: &figures,
        sandbox: &calls,
        received: sandbox.received(),
        ended,
    };
    let report = Report::new(&accounts, accounts.growth(began), plan.latency);
    screen.say(&report.to_string())?;
    Ok(report)
}

/// The stand-in for api.wawp.net, serving.
struct Upstream {
    sandbox: Sandbox,
    address: SocketAddr,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Upstream {
    async fn start(plan: &Plan) -> io::Result<Self> {
        let listener = TcpListener::bind(ANYWHERE).await?;
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

    async fn end(self) -> io::Result<Sandbox> {
        self.stop.cancel();
        self.served.await.map_err(io::Error::other)?;
        Ok(self.sandbox)
    }
}

/// The default settings, but for the addresses and the access log.
fn config(upstream: SocketAddr, logs: bool) -> Config {
    let mut config = Config::default();
    config.log.access = if logs { LogAccess::On } else { LogAccess::Off };
    config.log.format = LogFormat::Json;
    config.server.listen = ANYWHERE;
    config.server.admin = ANYWHERE;
    config.server.drain_timeout = DRAIN;
    config.upstream.url = format!("http://{upstream}")
        .parse()
        .expect("an address makes a base URL");
    config
}

fn introduction(plan: &Plan, config: &Config, addresses: [SocketAddr; 3]) -> String {
    let [upstream, gateway, admin] = addresses;
    let limit = config.limit.quota.map_or_else(
        || "no limit".to_owned(),
        |quota| format!("{} calls/s per instance", quota.rate),
    );
    format!(
        "A stand-in for api.wawp.net, the gateway, and apps that call it for {:.0} s.\n\
         Agents open chats, a bot answers, a campaign sends, a dashboard polls.\n\n\
         \x20 sandbox  http://{upstream}   answers after {} ms\n\
         \x20 gateway  http://{gateway}   window {} ms, {limit}\n\
         \x20 metrics  http://{admin}/metrics\n\n",
        plan.length.as_secs_f64(),
        plan.latency.as_millis(),
        config.batch.window.as_millis(),
    )
}

/// Shows figures until everything is played.
async fn show<W: Write>(
    screen: &mut Screen<W>,
    gateway: &Gateway,
    began: Instant,
    played: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let mut played = pin!(played);
    let mut ticks = tokio::time::interval_at(began + screen.pace(), screen.pace());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            ended = &mut played => return ended,
            _ = ticks.tick() => {
                let figures = Figures::read(&gateway.metrics().exposition());
                screen.show(began.elapsed(), &figures)?;
            }
        }
    }
}
