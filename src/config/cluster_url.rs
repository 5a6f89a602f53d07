//! The server through which gateways form a cluster (`cluster.url`).
//!
//! Invariant: user and password appear in no `Debug` and no `Display`.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::secret::Secret;
use super::upstream_url::host_and_port;
use super::value::MASK;

/// The port of a server, as IANA lists it.
const PORT: u16 = 6379;
/// The port that Sentinel has by default.
const SENTINEL_PORT: u16 = 26379;
/// Longer than any name and password.
const MAX_CREDENTIALS: usize = 1024;
/// The longest path of a socket that Linux allows (`sun_path`).
const MAX_PATH: usize = 107;
/// More than any cluster has.
const MAX_SENTINELS: usize = 16;

/// A Redis or Valkey server; displays as it was written, credentials as a mask.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ClusterUrl {
    /// Where it is.
    pub server: ClusterServer,
    /// With which the connection is authenticated.
    pub credentials: Option<ClusterCredentials>,
    /// The number of the database.
    pub database: u16,
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterServer {
    /// At this host (an IPv6 address without its brackets) and port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Whether connections use TLS.
        tls: bool,
    },
    /// Behind this socket.
    Unix(PathBuf),
    /// At the address that these sentinels (host and port) give for this name.
    Sentinel {
        /// At least one.
        sentinels: Vec<(String, u16)>,
        /// The name that the sentinels know.
        name: String,
    },
}

/// User and password of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterCredentials {
    /// `None` is the default user.
    pub user: Option<Secret>,
    /// The password.
    pub password: Secret,
}

/// A text that is not such a server; displays what is allowed, never the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "redis://USER:PASSWORD@HOST:PORT/DB, rediss:// (TLS), unix:///PATH?db=DB or \
     redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB; USER:PASSWORD@ (or :PASSWORD@), PORT and DB may \
     be left out, signs in user and password are percent-encoded"
)]
pub struct ClusterUrlError;

impl TryFrom<String> for ClusterUrl {
    type Error = ClusterUrlError;

    fn try_from(text: String) -> Result<Self, ClusterUrlError> {
        read(&text).ok_or(ClusterUrlError)
    }
}

fn read(text: &str) -> Option<ClusterUrl> {
    let (scheme, rest) = text.split_once("://")?;
    // The last `@`, because some write that of a password without its escape.
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (Some(read_credentials(credentials)?), rest),
        None => (None, rest),
    };
    let (server, database) = match &*scheme.to_ascii_lowercase() {
        "unix" => read_socket(rest)?,
        "redis+sentinel" => read_sentinels(rest)?,
        "redis" => read_host(rest, false)?,
        "rediss" => read_host(rest, true)?,
        _ => return None,
    };
    Some(ClusterUrl {
        server,
        credentials,
        database,
    })
}

fn read_host(rest: &str, tls: bool) -> Option<(ClusterServer, u16)> {
    let (address, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = read_address(address, PORT)?;
    let server = ClusterServer::Tcp { host, port, tls };
    Some((server, read_database(database)?))
}

fn read_socket(rest: &str) -> Option<(ClusterServer, u16)> {
    let (path, database) = match rest.split_once('?') {
        Some((path, query)) => (path, query.strip_prefix("db=")?),
        None => (rest, ""),
    };
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let is_path = path.len() <= MAX_PATH && path.len() > 1 && path.starts_with('/');
    let is_allowed = is_path && !path.contains(char::is_control);
    let server = is_allowed.then(|| ClusterServer::Unix(PathBuf::from(&*path)))?;
    Some((server, read_database(database)?))
}

fn read_sentinels(rest: &str) -> Option<(ClusterServer, u16)> {
    let (addresses, rest) = rest.split_once('/')?;
    let (name, database) = rest.split_once('/').unwrap_or((rest, ""));
    let sentinels = addresses
        .split(',')
        .map(|address| read_address(address, SENTINEL_PORT));
    let sentinels: Vec<_> = sentinels.collect::<Option<_>>()?;
    // What Sentinel itself allows in a name.
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_name = (1..=64).contains(&name.len()) && name.bytes().all(is_allowed);
    let server =
        (is_name && sentinels.len() <= MAX_SENTINELS).then(|| ClusterServer::Sentinel {
            sentinels,
            name: name.to_owned(),
        })?;
    Some((server, read_database(database)?))
}

/// Host and port of a text; `None` if it is not an address.
fn read_address(text: &str, default: u16) -> Option<(String, u16)> {
    let (authority, port) = host_and_port(text)?;
    let host = authority
        .host()
        // Sockets and TLS names take an IPv6 address without its brackets.
        .trim_start_matches('[')
        .trim_end_matches(']');
    Some((host.to_owned(), port.unwrap_or(default)))
}

fn read_database(text: &str) -> Option<u16> {
    match text {
        "" => Some(0),
        // `parse` also accepts a plus and leading zeros.
        digits => digits
            .parse()
            .ok()
            .filter(|number: &u16| number.to_string() == digits),
    }
}

fn read_credentials(text: &str) -> Option<ClusterCredentials> {
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    let (user, password) = text.split_once(':')?;
    let decoded = |text| percent_decode_str(text).decode_utf8().ok();
    let (user, password) = (decoded(user)?, decoded(password)?);
    let is_allowed = is_visible
        && !password.is_empty()
        && text.len() <= MAX_CREDENTIALS
        && !user.contains(char::is_control)
        && !password.contains(char::is_control);
    is_allowed.then(|| ClusterCredentials {
        user: (!user.is_empty()).then(|| Secret::new(&*user)),
        password: Secret::new(&*password),
    })
}

impl fmt::Display for ClusterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = match self.credentials {
            Some(_) => format!("{MASK}@"),
            None => String::new(),
        };
        let database = self.database;
        match &self.server {
            ClusterServer::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                write!(f, "{scheme}://{mask}{}/{database}", Address(host, *port))
            }
            ClusterServer::Unix(path) => {
                write!(f, "unix://{mask}{}?db={database}", path.display())
            }
            ClusterServer::Sentinel { sentinels, name } => {
                let addresses = sentinels
                    .iter()
                    .map(|(host, port)| Address(host, *port).to_string());
                let addresses = addresses.collect::<Vec<_>>().join(",");
                write!(f, "redis+sentinel://{mask}{addresses}/{name}/{database}")
            }
        }
    }
}

/// A host with its port; an IPv6 address in brackets.
struct Address<'h>(&'h str, u16);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        match host.contains(':') {
            true => write!(f, "[{host}]:{port}"),
            false => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests;
