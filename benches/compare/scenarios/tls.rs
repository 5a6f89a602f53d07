//! TLS to the upstream, over HTTP/1.1 and over HTTP/2: processor time per call.
//!
//! Connections are kept, so what is measured is records and frames, not handshakes.

use super::{CONNECTIONS, Field, INSTANCES, names, pass};
use crate::Result;
use crate::load::Requests;
use crate::peers::{Peer, Protocol, TestBed, Tuning};
use crate::settings::Settings;
use crate::table::Table;

/// The plain hyper proxy knows cleartext only.
const PEERS: [Peer; 3] = [Peer::Nginx, Peer::Haproxy, Peer::Gateway];

pub(super) async fn measure(bed: &TestBed, settings: &Settings) -> Result<Table> {
    let title = format!("TLS 1.3 to the upstream, 200 B each way, {CONNECTIONS} connections");
    let mut table = Table::new(title, names(bed, &PEERS));
    let requests = Requests::messages(INSTANCES);
    let versions = [
        (Protocol::Tls, "HTTP/1.1: "),
        (Protocol::TlsHttp2, "HTTP/2 (nginx: 1.1): "),
    ];
    for (protocol, prefix) in versions {
        let tuning = Tuning {
            protocol,
            ..Tuning::default()
        };
        let field = Field::start(bed, &PEERS, &tuning).await?;
        pass::fill(&mut table, prefix, &field, settings, &requests).await?;
    }
    Ok(table)
}
