//! What a single value may be: each function reads one kind, or says what is allowed instead.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use http::Method;
use ipnet::{IpNet, Ipv4Net};

use super::{
    BatchMode, Instances, LimitMode, LogAccess, LogFormat, LogLevel, PathPattern, Quota,
    QuotaError, UpstreamUrl, UrlError, layer::Value, quota, upstream_url::host_and_port,
};

/// Longer than any instance's id; shorter than what would bloat every table that holds one.
const MAX_INSTANCE_BYTES: usize = 128;
/// Shares a thousand times apart are far enough; the sums of all weights stay small.
const MAX_WEIGHT: u32 = 1000;
/// No wait in a proxy is longer; it also keeps sums of durations far from overflowing.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// What an address may be.
const ADDRESS: &str = "an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080";

type Read<T> = Result<T, String>;

/// Reads an IP address with its port.
pub(super) fn address(value: &Value) -> Read<SocketAddr> {
    match value {
        Value::Integer(number) => read_address(&number.to_string()),
        other => read_address(text(other).ok_or(ADDRESS)?),
    }
}

/// Reads an IP address with its port from text.
pub(crate) fn read_address(text: &str) -> Read<SocketAddr> {
    text.parse()
        .map_err(|_| format!("{ADDRESS}{}", address_hint(text)))
}

/// Says what is amiss with an address, where that is plain.
fn address_hint(text: &str) -> String {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    match port.parse::<u16>() {
        _ if text.parse::<IpAddr>().is_ok() => "; the port is missing".to_owned(),
        Ok(port) if host.is_empty() || host == "*" => {
            format!("; 0.0.0.0:{port} is every address of this machine")
        }
        Ok(port) if host.eq_ignore_ascii_case("localhost") => format!("; write 127.0.0.1:{port}"),
        Ok(_) if host.contains(|letter: char| letter.is_ascii_alphabetic()) => {
            "; host names are not looked up here".to_owned()
        }
        _ => String::new(),
    }
}

/// Reads a whole number within bounds.
pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&Value) -> Read<usize> {
    move |value| {
        let number = match value {
            Value::Integer(number) => usize::try_from(*number).ok(),
            Value::Typed(text) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

/// Reads a bucket's size; whether 0 is allowed depends on the rate.
pub(super) fn burst(value: &Value) -> Read<u32> {
    let number = count(0..=quota::MAX_BURST as usize)(value)?;
    u32::try_from(number).map_err(|error| error.to_string())
}

/// Reads a number of calls per second; 0 is unlimited.
pub(super) fn rate(value: &Value) -> Read<f64> {
    let rate = match value {
        // Exact: a rate beyond 2^53 is refused anyway.
        #[allow(clippy::cast_precision_loss)]
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        Value::Typed(text) => text.parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    };
    match Quota::new(rate, NonZeroU32::MIN) {
        _ if rate == 0.0 => Ok(0.0),
        Ok(_) => Ok(rate),
        Err(_) => Err(QuotaError::Rate.to_string()),
    }
}

/// Reads a time of zero or more.
pub(super) fn duration(value: &Value) -> Read<Duration> {
    let read = match value {
        Value::Integer(0) => Some(Duration::ZERO),
        other => text(other).and_then(|text| humantime::parse_duration(text).ok()),
    };
    read.filter(|time| *time <= MAX_DURATION).ok_or_else(|| {
        "a time with its unit, such as \"50ms\" or \"4s\", at most \"1day\"".to_owned()
    })
}

/// Reads a time above zero.
pub(super) fn timeout(value: &Value) -> Read<Duration> {
    let read = duration(value).ok().filter(|time| !time.is_zero());
    read.ok_or_else(|| {
        "a time above 0 with its unit, such as \"500ms\" or \"5s\", at most \"1day\"".to_owned()
    })
}

/// Reads yes or no.
pub(super) fn switch(value: &Value) -> Read<bool> {
    match value {
        Value::Bool(on) => Ok(*on),
        Value::Typed(text) if text == "true" => Ok(true),
        Value::Typed(text) if text == "false" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// Reads the name of a file, which is not opened.
pub(super) fn file(value: &Value) -> Read<PathBuf> {
    let name = text(value).filter(|text| !text.is_empty() && !text.contains('\0'));
    name.map(PathBuf::from)
        .ok_or_else(|| "the name of a PEM file".to_owned())
}

/// Reads the upstream's base URL.
pub(super) fn url(value: &Value) -> Read<UpstreamUrl> {
    text(value)
        .ok_or(UrlError)
        .and_then(str::parse)
        .map_err(|error| error.to_string())
}

/// Reads `host` or `host:port` and lowers its case.
pub(super) fn host(value: &Value) -> Read<String> {
    let name = text(value)
        .and_then(host_and_port)
        .map(|(name, _)| name.to_string());
    name.ok_or_else(|| "a host or host:port, such as \"wawp.example.com\"".to_owned())
}

/// Reads a path of which receipts are merged.
pub(super) fn batch_path(value: &Value) -> Read<String> {
    let pattern = text(value).and_then(|text| PathPattern::parse(text).ok());
    let path = pattern
        .filter(PathPattern::is_literal)
        .map(|path| path.to_string());
    path.ok_or_else(|| "a path that begins with /, without * and without ? or #".to_owned())
}

/// Reads a path with `*` in it.
pub(super) fn pattern(value: &Value) -> Read<PathPattern> {
    let read = PathPattern::parse(text(value).unwrap_or_default());
    read.map_err(|error| error.to_string())
}

/// Reads a method.
pub(super) fn method(value: &Value) -> Read<Method> {
    let name = text(value).filter(|text| !text.bytes().any(|byte| byte.is_ascii_lowercase()));
    let method = name.and_then(|text| Method::from_bytes(text.as_bytes()).ok());
    method.ok_or_else(|| "a method in upper case, such as \"POST\"".to_owned())
}

/// Reads the name of a class.
pub(super) fn name(value: &Value) -> Read<String> {
    let fits = |text: &&str| {
        (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let name = text(value).filter(fits).map(str::to_owned);
    name.ok_or_else(|| "a name of 1 to 64 letters, digits, \".\", \"_\" or \"-\"".to_owned())
}

/// Reads the name of a tenant; the two that metrics give to everybody else are no names.
pub(super) fn tenant(value: &Value) -> Read<String> {
    match name(value)? {
        taken if taken == "other" || taken == "none" => Err(
            "a name other than \"other\" and \"none\", which metrics use for the rest".to_owned(),
        ),
        name => Ok(name),
    }
}

/// Reads an instance's id.
pub(super) fn instance(value: &Value) -> Read<String> {
    let fits = |text: &&str| {
        (1..=MAX_INSTANCE_BYTES).contains(&text.len()) && !text.contains(char::is_control)
    };
    let id = text(value).filter(fits).map(str::to_owned);
    id.ok_or_else(|| {
        format!(
            "an instance's id as a text of 1 to {MAX_INSTANCE_BYTES} bytes, such as \"123\", in quotes"
        )
    })
}

/// Reads a share among others.
pub(super) fn weight(value: &Value) -> Read<NonZeroU32> {
    let number = count(1..=MAX_WEIGHT as usize)(value)?;
    let weight = u32::try_from(number).ok().and_then(NonZeroU32::new);
    weight.ok_or_else(|| format!("a whole number from 1 to {MAX_WEIGHT}"))
}

/// Reads a network, or an address, which is a network of one.
pub(super) fn network(value: &Value) -> Read<IpNet> {
    const ALLOWED: &str = "an IP address or network, such as 10.0.0.0/8 or 2001:db8::1";
    let text = text(value).ok_or(ALLOWED)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let network: IpNet = text.parse().map_err(|_| ALLOWED)?;
    if network.addr() != network.network() {
        // A slip in either half: guessing which would let in too many or too few.
        return Err(format!(
            "{ALLOWED}; write {} for this network, or {} for the one address",
            network.trunc(),
            network.addr()
        ));
    }
    Ok(canonical(network))
}

/// Turns a network of IPv4 addresses that is written as IPv6 (`::ffff:10.0.0.0/104`) into what it means.
fn canonical(network: IpNet) -> IpNet {
    let short = network.prefix_len().checked_sub(96).and_then(|length| {
        match network.addr().to_canonical() {
            IpAddr::V4(address) => Ipv4Net::new(address, length).ok(),
            IpAddr::V6(_) => None,
        }
    });
    match short {
        Some(short) if network.addr().is_ipv6() => short.into(),
        _ => network,
    }
}

/// Reads which instances may be called.
pub(super) fn instances(value: &Value) -> Read<Instances> {
    word(value, &[Instances::Any, Instances::Listed])
}

/// Reads what is done with receipts that could share a call.
pub(super) fn batch_mode(value: &Value) -> Read<BatchMode> {
    word(value, &[BatchMode::Merge, BatchMode::Observe])
}

/// Reads what is done with calls beyond a budget.
pub(super) fn limit_mode(value: &Value) -> Read<LimitMode> {
    word(value, &[LimitMode::Enforce, LimitMode::Observe])
}

/// Reads how events are written.
pub(super) fn format(value: &Value) -> Read<LogFormat> {
    word(value, &[LogFormat::Text, LogFormat::Json])
}

/// Reads the least severe level.
pub(super) fn level(value: &Value) -> Read<LogLevel> {
    use LogLevel::{Debug, Error, Info, Off, Trace, Warn};
    word(value, &[Off, Error, Warn, Info, Debug, Trace])
}

/// Reads whether calls are logged.
pub(super) fn access_log(value: &Value) -> Read<LogAccess> {
    word(value, &[LogAccess::On, LogAccess::Off])
}

/// Reads one in how many.
pub(super) fn sample(value: &Value) -> Read<NonZeroU32> {
    let number = u32::try_from(count(1..=1_000_000)(value)?);
    let number = number.ok().and_then(NonZeroU32::new);
    Ok(number.unwrap_or(NonZeroU32::MIN))
}

/// Reads one of several words.
fn word<T: Copy + ToString>(value: &Value, choices: &[T]) -> Read<T> {
    let names: Vec<String> = choices.iter().map(ToString::to_string).collect();
    let at = names
        .iter()
        .position(|name| Some(name.as_str()) == text(value));
    at.map(|at| choices[at])
        .ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Typed(text) => Some(text),
        _ => None,
    }
}
