//! What `check` says of the server.
//!
//! Invariant: nothing is written on the server.

use std::time::Duration;

use redis::{Value, cmd};
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::network::{Multiplexed, Network};
use super::resp::bytes;
use crate::config;

/// Longest time for all of it.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The shortest of so many round trips is reported.
const PINGS: usize = 5;

/// What was found out.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    round_trip: Duration,
    /// `maxmemory-policy`, if the server would remove keys to make room.
    evicts: Option<String>,
}

/// Asks the server, and returns a line for each thing that an operator should know.
pub(crate) async fn check(settings: &config::Cluster) -> Vec<String> {
    // Of a CA that cannot be used, `check` has reported the mistake.
    let Ok(network) = Network::new(settings) else {
        return Vec::new();
    };
    let found = timeout(TIMEOUT, ask(&network)).await;
    lines(settings, found.unwrap_or(Err(Failure::Timeout)))
}

fn lines(settings: &config::Cluster, found: Result<Found, Failure>) -> Vec<String> {
    let url = &settings.url;
    let found = match found {
        Ok(found) => found,
        Err(failure) => {
            return vec![format!(
                "warning: cluster.url: {url}: {failure} ({}); the gateway would serve without it",
                failure.name()
            )];
        }
    };
    let millis = found.round_trip.as_secs_f64() * 1e3;
    let mut lines = vec![format!(
        "cluster: {url} is a primary and permits scripts; round trip {millis:.2} ms"
    )];
    if found.round_trip > settings.timeout / 2 {
        let why = "the round trip is more than half of cluster.timeout, so operations would fail";
        lines.push(format!("warning: cluster.timeout: {why}"));
    }
    if let Some(policy) = found.evicts {
        lines.push(format!(
            "warning: cluster.url: the server removes keys when its memory is full \
             (maxmemory-policy {policy}), and budgets would begin anew; set noeviction"
        ));
    }
    lines
}

async fn ask(network: &Network) -> Result<Found, Failure> {
    let connection = network.open().await?;
    let mut script = cmd("EVAL");
    // Shows that scripts are permitted, and writes nothing.
    script.arg("return redis.call('TIME')").arg(0);
    connection.query(&script).await?;
    let mut round_trip = Duration::MAX;
    for _ in 0..PINGS {
        let begun = Instant::now();
        connection.query(&cmd("PING")).await?;
        round_trip = round_trip.min(begun.elapsed());
    }
    Ok(Found {
        round_trip,
        evicts: evicts(&connection).await,
    })
}

/// `None` also if the user may not ask.
async fn evicts(connection: &Multiplexed) -> Option<String> {
    let mut info = cmd("INFO");
    info.arg("memory");
    let info = connection.query(&info).await.ok()?;
    read_policy(&info)
}

fn read_policy(info: &Value) -> Option<String> {
    let info = std::str::from_utf8(bytes(info)?).ok()?;
    let field = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    // 0 means no bound, and then no key is removed.
    let is_bounded = field("maxmemory").is_some_and(|bytes| bytes != "0");
    let policy = field("maxmemory_policy").filter(|policy| *policy != "noeviction");
    policy.filter(|_| is_bounded).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_one_line_without_a_password() {
        let config = "cluster.url = \"redis://u:s3cret@a\"";
        let config = config::load_text(
            config.as_bytes(),
            std::iter::empty(),
            &config::Overrides::default(),
        );
        let settings = config.unwrap().config.cluster.unwrap();
        let lines = |found| lines(&settings, found);
        let found = |millis, evicts: Option<&str>| Found {
            round_trip: Duration::from_millis(millis),
            evicts: evicts.map(str::to_owned),
        };
        let good = lines(Ok(found(1, None)));
        let expected =
            "cluster: redis://…@a:6379/0 is a primary and permits scripts; round trip 1.00 ms";
        assert_eq!(good, [expected]);
        let doubtful = lines(Ok(found(51, Some("allkeys-lru"))));
        assert_eq!(doubtful.len(), 3);
        assert!(doubtful[1].contains("cluster.timeout") && doubtful[2].contains("allkeys-lru"));
        let bad = lines(Err(Failure::Refused));
        assert!(bad.len() == 1 && bad[0].contains("(refused); the gateway would serve without it"));
        assert!(!format!("{good:?}{doubtful:?}{bad:?}").contains("s3cret"));
    }

    #[test]
    fn a_server_that_removes_keys_is_one_with_a_bound_and_a_policy() {
        let policy = |maxmemory: &str, policy: &str| {
            let info =
                format!("# Memory\r\nmaxmemory:{maxmemory}\r\nmaxmemory_policy:{policy}\r\n");
            read_policy(&Value::BulkString(info.into()))
        };
        assert_eq!(policy("7", "allkeys-lru").as_deref(), Some("allkeys-lru"));
        assert_eq!(policy("0", "allkeys-lru"), None);
        assert_eq!(policy("7", "noeviction"), None);
        assert_eq!(read_policy(&Value::Nil), None);
    }
}
