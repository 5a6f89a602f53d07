//! One gateway, in the process of the demo.
//!
//! Invariant: its figures are final after the drain.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::audit::check;
use super::figures::Figures;
use super::gateways::{Counted, DRAIN, Gateways, settled};
use super::plan::Plan;
use super::{Error, FREE_PORT};
use crate::app::{App, Ended, StartError};
use crate::config::{Config, LogAccess, LogFormat};
use crate::gateway::Gateway;
use crate::upstream::Dial;

/// A gateway that serves.
pub(super) struct One {
    gateway: Gateway,
    address: SocketAddr,
    admin: SocketAddr,
    end: CancellationToken,
    served: JoinHandle<Result<Ended, StartError>>,
}

impl One {
    pub(super) fn start(
        upstream: SocketAddr,
        access_log: Option<Box<dyn Write + Send>>,
    ) -> Result<Self, Error> {
        let app = App::bind(config(upstream, access_log.is_some()), Dial::Tcp)?;
        if let Some(sink) = access_log {
            app.gateway().log_access_to(sink)?;
        }
        let (address, admin) = (app.address()?, app.admin_address()?);
        // `run_until` consumes the app; the metrics are read after it has ended.
        let gateway = app.gateway().clone();
        let end = CancellationToken::new();
        let served = tokio::spawn(app.run_until(end.clone().cancelled_owned()));
        Ok(Self {
            gateway,
            address,
            admin,
            end,
            served,
        })
    }

    fn counted(figures: Figures, ended: Ended) -> Counted {
        let text = match ended {
            Ended::Drained => "the gateway ended after all responses were complete".to_owned(),
            Ended::Cut {
                requests,
                connections,
            } => format!("the gateway cut {requests} requests and {connections} connections"),
        };
        Counted {
            figures,
            ended: check(ended == Ended::Drained, text),
            replicas: None,
        }
    }
}

impl Gateways for One {
    fn introduction(&self, plan: &Plan) -> String {
        format!(
            "A stand-in for api.wawp.net, the gateway, and apps that use\n\
             it for {:.0} s: agents open chats, a bot replies, a campaign\n\
             sends, a dashboard polls.\n",
            plan.length.as_secs_f64()
        )
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.address]
    }

    fn admin(&self) -> SocketAddr {
        self.admin
    }

    async fn figures(&self) -> Figures {
        Figures::read(&self.gateway.metrics().exposition())
    }

    fn crash_one(&self, _: Duration) {}

    async fn settle(&self) -> Counted {
        let figures = settled(async || self.figures().await).await;
        Self::counted(figures, Ended::Drained)
    }

    async fn end(mut self) -> Result<Counted, Error> {
        self.end.cancel();
        let ended = (&mut self.served).await.map_err(io::Error::other)??;
        // After the drain: only now are all counters final.
        Ok(Self::counted(self.figures().await, ended))
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
