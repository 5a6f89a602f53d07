//! Several gateways, each a process of this program, with a `redis-server` of their own.
//!
//! Invariant: a gateway that crashes is killed by the system, so it can neither respond nor deregister.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr as SocketPath, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::Value;

use super::audit::replicas::{Killed, Replicas};
use super::audit::{Check, check};
use super::figures::{Figures, sum};
use super::gateways::{Counted, DRAIN, Gateways, settled};
use super::plan::Plan;
use super::process::{Group, Process, named};
use super::screen::wrapped;
use super::{Error, FREE_PORT};
use crate::config::Config;
use crate::tools::health;

const SERVER: &str = "redis-server";
/// Its socket, in the directory of the demo.
const SOCKET: &str = "redis.sock";
/// More than an exposition has.
const MAX_EXPOSITION: u64 = 8 << 20;
/// A process that has drained needs a moment to end.
const END: Duration = Duration::from_secs(2);
/// What a path may contain in a URL and in a text of TOML.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_');

/// Gateways that serve. Fields end in their order.
pub(super) struct Several {
    gateways: Vec<Replica>,
    _server: Process,
    _group: Group,
    killed: Cell<Option<Killed>>,
}

struct Replica {
    process: RefCell<Process>,
    address: SocketAddr,
    admin: SocketAddr,
    /// Where the stand-in serves this gateway.
    upstream: SocketAddr,
    /// What it has last reported.
    figures: Cell<Figures>,
}

impl Several {
    /// Starts a gateway for each address of the stand-in, and waits until they share their limits.
    pub(super) async fn start(
        upstreams: &[SocketAddr],
        access_log: Option<&File>,
    ) -> Result<Self, Error> {
        let group = Group::start()?;
        let server = start_server(&group).await?;
        let mut processes = Vec::new();
        for (index, upstream) in upstreams.iter().enumerate() {
            let name = format!("gateway-{}", index + 1);
            let settings = group.directory().join(format!("{name}.toml"));
            let text = settings_of(*upstream, &group, upstreams.len(), access_log.is_some());
            std::fs::write(&settings, text)?;
            let mut command = Command::new(std::env::current_exe()?);
            // Without the settings of the caller, and without its proxy.
            command
                .env_clear()
                .args(["serve", "--config"])
                .arg(settings);
            let stdout = access_log.map(File::try_clone).transpose()?;
            processes.push(group.spawn(&name, &mut command, stdout.map(Stdio::from))?);
        }
        let mut gateways = Vec::new();
        for (mut process, &upstream) in processes.into_iter().zip(upstreams) {
            let log = process.log().to_owned();
            let (address, admin) = process.until(async || addresses(&log)).await?;
            gateways.push(Replica {
                process: RefCell::new(process),
                address,
                admin,
                upstream,
                figures: Cell::default(),
            });
        }
        for gateway in &mut gateways {
            let (admin, count) = (gateway.admin, upstreams.len() as u64);
            let process = gateway.process.get_mut();
            let is_shared = async || shares_with(admin, count).await.then_some(());
            process.until(is_shared).await?;
        }
        Ok(Self {
            gateways,
            _server: server,
            _group: group,
            killed: Cell::default(),
        })
    }

    /// Those that were not killed.
    fn lasting(&self) -> impl Iterator<Item = &Replica> {
        let killed = self.killed.get().map(|killed| killed.gateway);
        let all = self.gateways.iter().enumerate();
        all.filter(move |(index, _)| Some(*index) != killed)
            .map(|(_, gateway)| gateway)
    }

    /// The figures of those that were not killed.
    async fn lasting_figures(&self) -> Figures {
        self.figures().await;
        self.lasting().map(|gateway| gateway.figures.get()).sum()
    }

    fn counted(&self, figures: Figures, ended: Check) -> Counted {
        Counted {
            figures,
            ended,
            replicas: Some(Replicas {
                upstreams: self.gateways.iter().map(|it| it.upstream).collect(),
                quota: Config::default().limit.quota,
                killed: self.killed.get(),
            }),
        }
    }
}

impl Gateways for Several {
    fn introduction(&self, plan: &Plan) -> String {
        let text = format!(
            "A stand-in for api.wawp.net, {count} gateways that share their limits through a redis-server, and \
             apps that use them in turn for {:.0} s: agents open chats, a bot replies, a campaign sends, a \
             dashboard polls. After {:.1} s gateway {count} is killed.\n",
            plan.length.as_secs_f64(),
            (plan.length / 2).as_secs_f64(),
            count = self.gateways.len(),
        );
        wrapped(&text, 0)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|it| it.address).collect()
    }

    /// Of one that is not killed.
    fn admin(&self) -> SocketAddr {
        self.gateways[0].admin
    }

    /// With what a gateway that was killed had reported.
    async fn figures(&self) -> Figures {
        for gateway in self.lasting() {
            if let Some(exposition) = exposition(gateway.admin).await {
                gateway.figures.set(Figures::read(&exposition));
            }
        }
        self.gateways.iter().map(|it| it.figures.get()).sum()
    }

    fn crash_one(&self, after: Duration) {
        let gateway = self.gateways.len() - 1;
        self.gateways[gateway].process.borrow_mut().kill();
        self.killed.set(Some(Killed { gateway, after }));
    }

    async fn settle(&self) -> Counted {
        let figures = settled(async || self.lasting_figures().await).await;
        let open = figures.in_flight;
        let text = format!("requests that the gateways still hold: {open}");
        self.counted(figures, check(open == 0, text))
    }

    async fn end(mut self) -> Result<Counted, Error> {
        // Before their end, which takes them along.
        let figures = settled(async || self.lasting_figures().await).await;
        for gateway in self.lasting() {
            gateway.process.borrow().terminate()?;
        }
        let killed = self.killed.get().map(|killed| killed.gateway);
        let (mut all, mut drained) = (0, 0);
        for (index, gateway) in self.gateways.iter_mut().enumerate() {
            if Some(index) != killed {
                let ended = gateway.process.get_mut().ended(DRAIN + END).await;
                all += 1;
                drained += u32::from(ended.is_ok_and(|status| status.success()));
            }
        }
        let text =
            format!("gateways that ended after all responses were complete: {drained} of {all}");
        Ok(self.counted(figures, check(drained == all, text)))
    }
}

async fn start_server(group: &Group) -> Result<Process, Error> {
    let socket = group.directory().join(SOCKET);
    // The path of a socket is bounded, and that of the temporary directory may be long.
    let path = SocketPath::from_pathname(&socket);
    path.map_err(|error| named(socket.display(), &error))?;
    let mut command = Command::new(SERVER);
    // Reachable only through the socket; nothing is kept on disk.
    command.args(["--port", "0", "--unixsocket", SOCKET]);
    command.args(["--save", "", "--appendonly", "no"]);
    let spawned = group.spawn(SERVER, &mut command, None);
    let mut server = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoServer,
        _ => error.into(),
    })?;
    server
        .until(async || UnixStream::connect(&socket).ok())
        .await?;
    Ok(server)
}

/// The default settings, except for the addresses, the cluster and the log.
fn settings_of(upstream: SocketAddr, group: &Group, replicas: usize, logs: bool) -> String {
    let socket = group.directory().join(SOCKET);
    let socket = percent_encode(socket.as_os_str().as_bytes(), IN_PATH);
    let access = if logs { "on" } else { "off" };
    format!(
        "[server]\nlisten = \"{FREE_PORT}\"\nadmin = \"{FREE_PORT}\"\ndrain_timeout = \"{}s\"\n\
         [upstream]\nurl = \"http://{upstream}\"\n\
         [cluster]\nurl = \"unix://{socket}\"\nreplicas = {replicas}\n\
         [log]\nformat = \"json\"\naccess = \"{access}\"\n",
        DRAIN.as_secs()
    )
}

/// The addresses that a gateway has logged at its start: for requests, and of its admin page.
fn addresses(log: &Path) -> Option<(SocketAddr, SocketAddr)> {
    let log = std::fs::read_to_string(log).ok()?;
    log.lines().find_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        let address = |field: &str| event[field].as_str()?.parse().ok();
        (event["message"] == "serving").then_some((address("address")?, address("admin")?))
    })
}

/// Whether a gateway uses the server, and knows of so many gateways that do.
async fn shares_with(admin: SocketAddr, count: u64) -> bool {
    let Some(exposition) = exposition(admin).await else {
        return false;
    };
    let state = sum(&exposition, "wawp_gateway_cluster_state", "\"shared\"");
    let replicas = sum(&exposition, "wawp_gateway_cluster_replicas", "");
    (state, replicas) == (1, count)
}

/// The metrics of a gateway.
async fn exposition(admin: SocketAddr) -> Option<String> {
    let response = health::ask(admin, "/metrics", MAX_EXPOSITION).await.ok()?;
    let response = String::from_utf8(response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_those_that_a_gateway_logs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let early = "{\"level\":\"INFO\",\"message\":\"reading\"}\n";
        std::fs::write(file.path(), early).unwrap();
        assert_eq!(addresses(file.path()), None);
        let serving = format!(
            "{early}{{\"message\":\"serving\",\"address\":\"127.0.0.1:1\",\"admin\":\"127.0.0.1:2\"}}\n"
        );
        // Half of the line may be there.
        std::fs::write(file.path(), &serving[..serving.len() - 9]).unwrap();
        assert_eq!(addresses(file.path()), None);
        std::fs::write(file.path(), serving).unwrap();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(addresses(file.path()), Some((address(1), address(2))));
    }
}
