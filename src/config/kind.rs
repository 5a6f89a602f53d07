//! What a single value may be: each kind checks a value, or says what is allowed instead.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use clap::ValueEnum;
use ipnet::{IpNet, Ipv4Net};

use super::cluster_url::{ClusterUrl, ClusterUrlError};
use super::path_pattern::PathPattern;
use super::proxy_url::{ProxyUrl, ProxyUrlError};
use super::quota::{Quota, QuotaError};
use super::secret::{Secret, Sources};
use super::upstream_url::{UpstreamUrl, host_and_port};
use super::value::{MASK, Value, quoted};

/// Longer than any instance id. It bounds the memory of one entry in tables of instances.
const MAX_INSTANCE_BYTES: usize = 128;
/// No wait in a proxy is longer, and sums of such durations cannot overflow.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);
const ADDRESS: &str = "an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080";

/// The kind of value that a setting takes.
pub(super) enum Kind {
    /// A text that the function accepts, in the form in which it is kept.
    Text(fn(&str) -> Result<String>),
    /// An IP address with its port.
    Address,
    /// The base URL of the upstream. A wrong one may contain a password or a token.
    Url,
    /// A proxy. It may contain a password.
    Proxy,
    /// The server of a cluster. It may contain a password.
    ClusterServer,
    /// A whole number within these bounds, both included.
    Count(i64, i64),
    /// A number per second; 0 is unlimited.
    Rate,
    /// A time of zero or more.
    Duration,
    /// A time above zero.
    Timeout,
    /// `true` or `false`.
    Switch,
    /// One word of a closed set.
    Word(fn() -> Vec<String>),
    /// A tenant's key: a secret.
    Key,
    /// An access token: a secret.
    Token,
    /// Access tokens by instance: a table whose values are of kind [`Kind::Token`].
    Tokens,
    /// A list, each item of this kind.
    List(&'static Kind),
}

/// A value that is allowed.
pub(super) struct Checked {
    /// In the form that the types in `settings.rs` are read from.
    pub(super) value: toml::Value,
    /// As TOML that is safe to print: a secret is a mask.
    pub(super) shown: String,
    /// What the mask of a URL hides: two URLs that differ in it are shown equally.
    pub(super) hidden: Option<Secret>,
}

pub(super) type Result<T> = std::result::Result<T, String>;

impl Checked {
    pub(super) fn new(value: impl Into<toml::Value>, shown: String) -> Self {
        let value = value.into();
        let hidden = None;
        Self {
            value,
            shown,
            hidden,
        }
    }

    /// A value whose TOML form is its text.
    fn text(text: &impl ToString) -> Self {
        let text = text.to_string();
        let shown = quoted(&text);
        Self::new(text, shown)
    }

    fn secret(text: String) -> Self {
        Self::new(text, quoted(MASK))
    }
}

impl Kind {
    /// Checks a value, or returns what is allowed instead.
    ///
    /// Not for [`Kind::List`] and [`Kind::Tokens`]: each of their items is checked by itself.
    pub(super) fn check(&self, value: &Value, sources: &Sources<'_>) -> Result<Checked> {
        // A value that is no text becomes an empty text, which every text kind refuses.
        let text = value.text().unwrap_or_default();
        match self {
            Self::Text(read) => read(text).map(|text| Checked::text(&text)),
            Self::Address => match value {
                // A port alone, for which the message has a hint.
                Value::Integer(port) => {
                    Err(read_address(&port.to_string()).err().unwrap_or_default())
                }
                _ => read_address(text).map(|text| Checked::text(&text)),
            },
            Self::Url => parsed::<UpstreamUrl>(text).map(|text| Checked::text(&text)),
            Self::Proxy => secret_url::<ProxyUrl>(value, sources, &ProxyUrlError),
            Self::ClusterServer => secret_url::<ClusterUrl>(value, sources, &ClusterUrlError),
            Self::Count(min, max) => count(value, *min, *max),
            Self::Rate => rate(value),
            Self::Duration => {
                let allowed = "a time with its unit, such as \"50ms\" or \"4s\", at most \"1day\"";
                Ok(time(duration(value).ok_or(allowed)?))
            }
            Self::Timeout => {
                let allowed =
                    "a time above 0 with its unit, such as \"500ms\" or \"5s\", at most \"1day\"";
                let duration = duration(value).filter(|time| !time.is_zero());
                Ok(time(duration.ok_or(allowed)?))
            }
            Self::Switch => switch(value),
            Self::Key => sources.key(value).map(Checked::secret),
            Self::Token => sources.token(value).map(Checked::secret),
            Self::Word(words) => {
                let word = words().into_iter().find(|word| word == text);
                let word = word.ok_or_else(|| format!("one of {}", words().join(", ")))?;
                Ok(Checked::text(&word))
            }
            Self::List(_) | Self::Tokens => Err("a list or a table".to_owned()),
        }
    }

    /// A short part of a refused value, for a message. A mistyped secret is still masked.
    ///
    /// `in_tenant` is true in a section that contains secrets: text that is found there instead of a
    /// number may be the key of the next line.
    pub(super) fn excerpt(&self, value: &Value, in_tenant: bool) -> String {
        let text = value.text();
        let is_masked = match self {
            Self::Key | Self::Token | Self::Tokens | Self::Proxy | Self::ClusterServer => true,
            Self::Url => text.is_some_and(|text| text.contains(['@', '?', '#'])),
            Self::Count(..) | Self::Rate => in_tenant && text.is_some(),
            _ => false,
        };
        if is_masked {
            value.masked()
        } else {
            value.excerpt()
        }
    }
}

/// The words of a closed set, as they are written in the settings.
pub(super) fn words<T: ValueEnum>() -> Vec<String> {
    let words = T::value_variants()
        .iter()
        .filter_map(ValueEnum::to_possible_value);
    words.map(|word| word.get_name().to_owned()).collect()
}

/// Reads an IP address with its port from text.
///
/// # Errors
/// What is allowed, and what is wrong with this text where that is plain.
pub(crate) fn read_address(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        // A text without a colon may be a port alone.
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let hint = match port.parse::<u16>() {
            _ if text.parse::<IpAddr>().is_ok() => "; the port is missing".to_owned(),
            Ok(port) if host.is_empty() || host == "*" => {
                format!("; 0.0.0.0:{port} is every address of this machine")
            }
            Ok(port) if host.eq_ignore_ascii_case("localhost") => {
                format!("; write 127.0.0.1:{port}")
            }
            Ok(_) if host.contains(|letter: char| letter.is_ascii_alphabetic()) => {
                "; host names are not looked up here".to_owned()
            }
            _ => String::new(),
        };
        format!("{ADDRESS}{hint}")
    })
}

/// The text of a value as its type displays it. The error of the type says what is allowed.
pub(super) fn parsed<T: TryFrom<String, Error: ToString> + ToString>(text: &str) -> Result<String> {
    let read = T::try_from(text.to_owned());
    read.map(|value| value.to_string())
        .map_err(|error| error.to_string())
}

/// Checks a URL that may contain a password, which its type displays as a mask.
fn secret_url<T: TryFrom<String, Error: ToString> + ToString>(
    value: &Value,
    sources: &Sources<'_>,
    allowed: &dyn ToString,
) -> Result<Checked> {
    let fits = |text: &str| parsed::<T>(text).is_ok();
    let url = sources.read(value, fits, &allowed.to_string())?;
    let shown = parsed::<T>(&url)?;
    let hidden = Some(Secret::new(&*url));
    Ok(Checked {
        hidden,
        ..Checked::new(url, quoted(&shown))
    })
}

/// The name of a PEM file, which is not opened here.
pub(super) fn file(text: &str) -> Result<String> {
    let is_name = !text.is_empty() && !text.contains('\0');
    let name = is_name.then(|| text.to_owned());
    Ok(name.ok_or("the name of a PEM file")?)
}

/// `host` or `host:port`.
pub(super) fn host(text: &str) -> Result<String> {
    let host = host_and_port(text).map(|(host, _)| host.to_string());
    Ok(host.ok_or("a host or host:port, such as \"wawp.example.com\"")?)
}

/// A path of receipts, without wildcards.
pub(super) fn batch_path(text: &str) -> Result<String> {
    let path = PathPattern::parse(text)
        .ok()
        .filter(|path| path.is_literal());
    let path = path.map(|path| path.to_string());
    Ok(path.ok_or("a path that begins with /, without * and without ? or #")?)
}

/// An HTTP method.
pub(super) fn method(text: &str) -> Result<String> {
    let is_upper = !text.bytes().any(|byte| byte.is_ascii_lowercase());
    let is_method = is_upper && http::Method::from_bytes(text.as_bytes()).is_ok();
    let method = is_method.then(|| text.to_owned());
    Ok(method.ok_or("a method in upper case, such as \"POST\"")?)
}

/// The name of a class.
pub(super) fn name(text: &str) -> Result<String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = (1..=64).contains(&text.len()) && text.bytes().all(is_allowed);
    let name = is_name.then(|| text.to_owned());
    Ok(name.ok_or("a name of 1 to 64 letters, digits, \".\", \"_\" or \"-\"")?)
}

/// The name of a tenant. Metrics use two names themselves.
pub(super) fn tenant_name(text: &str) -> Result<String> {
    match name(text)? {
        name if name != "other" && name != "none" => Ok(name),
        _ => Err(
            "a name other than \"other\" and \"none\", which metrics use for the rest".to_owned(),
        ),
    }
}

/// An instance id.
pub(super) fn instance(text: &str) -> Result<String> {
    let fits = (1..=MAX_INSTANCE_BYTES).contains(&text.len()) && !text.contains(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("an instance's id as a text of 1 to {MAX_INSTANCE_BYTES} bytes, such as \"123\", in quotes")
    })
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<String> {
    const ALLOWED: &str = "an IP address or network, such as 10.0.0.0/8 or 2001:db8::1";
    if let Ok(address) = text.parse::<IpAddr>() {
        // An IPv4 address in IPv6 form is stored as IPv4, as clients are.
        return Ok(IpNet::from(address.to_canonical()).to_string());
    }
    let network: IpNet = text.parse().map_err(|_| ALLOWED)?;
    if network.addr() != network.network() {
        // Address or length may be the mistake: a guess would admit too many or too few clients.
        let (network, address) = (network.trunc(), network.addr());
        return Err(format!(
            "{ALLOWED}; write {network} for this network, or {address} for the one address"
        ));
    }
    // `::ffff:10.0.0.0/104` means IPv4 addresses, and clients are compared as such.
    let length = network.prefix_len().checked_sub(96);
    let mapped = match (network.addr(), network.addr().to_canonical(), length) {
        (IpAddr::V6(_), IpAddr::V4(address), Some(length)) => Ipv4Net::new(address, length).ok(),
        _ => None,
    };
    Ok(mapped.map_or(network, IpNet::from).to_string())
}

fn count(value: &Value, min: i64, max: i64) -> Result<Checked> {
    let number = match value {
        // Text in quotes is refused, so that "10" in a file is not taken for a number by accident.
        Value::Integer(number) => Some(*number),
        Value::Typed(text) => text.parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| (min..=max).contains(number));
    let number = number.ok_or_else(|| format!("a whole number from {min} to {max}"))?;
    Ok(Checked::new(number, number.to_string()))
}

fn rate(value: &Value) -> Result<Checked> {
    let rate = match value {
        // Exact: a rate beyond 2^53 is refused anyway.
        #[allow(clippy::cast_precision_loss)]
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        Value::Typed(text) => text.parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    };
    let rate = match Quota::new(rate, NonZeroU32::MIN) {
        // Also turns -0 into 0.
        _ if rate == 0.0 => 0.0,
        Ok(_) => rate,
        Err(_) => return Err(QuotaError::Rate.to_string()),
    };
    Ok(Checked::new(rate, rate.to_string()))
}

fn switch(value: &Value) -> Result<Checked> {
    let on = match value {
        Value::Bool(on) => Some(*on),
        Value::Typed(text) => text.parse().ok(),
        _ => None,
    };
    let on: bool = on.ok_or("true or false")?;
    Ok(Checked::new(on, on.to_string()))
}

/// Reads a time with its unit, or 0.
fn duration(value: &Value) -> Option<Duration> {
    let time = match value {
        // Zero is the same in every unit.
        Value::Integer(0) => Some(Duration::ZERO),
        other => humantime::parse_duration(other.text()?).ok(),
    };
    time.filter(|time| *time <= MAX_DURATION)
}

/// Shown in one unit, as `default.toml` does: `75s`, not `1m 15s`.
fn time(time: Duration) -> Checked {
    let nanos = time.as_nanos();
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1000, "us")];
    let whole = units
        .into_iter()
        .find(|(unit, _)| nanos.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1, "ns"));
    let value = toml::Value::try_from(time).expect("a day's seconds fit a TOML number");
    Checked::new(value, format!("\"{}{name}\"", nanos / unit))
}
