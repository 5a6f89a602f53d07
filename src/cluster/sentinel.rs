//! Which server is the primary, as the sentinels say.
//!
//! Invariant: of different statements the one of the newest epoch counts. A sentinel that was cut off
//! names the old primary for some time.

use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value, cmd};
use tokio::time::timeout;

use super::dial::tcp;
use super::failure::Failure;
use super::resp::{bytes, failure, login};
use crate::config::ClusterCredentials;

/// How long a sentinel may take. All are asked at the same time, and all are waited for.
const TIMEOUT: Duration = Duration::from_millis(300);

/// What a sentinel says.
#[derive(Debug, PartialEq, Eq)]
struct Statement {
    epoch: u64,
    address: (String, u16),
}

/// Asks all sentinels for the address of the primary.
pub(super) async fn primary(
    sentinels: &[(String, u16)],
    name: &str,
    credentials: Option<&ClusterCredentials>,
) -> Result<(String, u16), Failure> {
    let statements = sentinels.iter().map(|(host, port)| async move {
        timeout(TIMEOUT, ask((host, *port), name, credentials))
            .await
            .unwrap_or(Err(Failure::Timeout))
    });
    // Not the first one: it may come from a sentinel that was cut off.
    newest(join_all(statements).await)
}

fn newest(statements: Vec<Result<Statement, Failure>>) -> Result<(String, u16), Failure> {
    let statements = statements.into_iter().filter_map(Result::ok);
    let newest = statements.max_by_key(|statement| statement.epoch);
    newest
        .map(|statement| statement.address)
        .ok_or(Failure::NoPrimary)
}

async fn ask(
    (host, port): (&str, u16),
    name: &str,
    credentials: Option<&ClusterCredentials>,
) -> Result<Statement, Failure> {
    // Sentinels often have no password although their server has one, and refuse a login then.
    match ask_as((host, port), name, None).await {
        Err(Failure::Auth) => ask_as((host, port), name, credentials).await,
        statement => statement,
    }
}

async fn ask_as(
    (host, port): (&str, u16),
    name: &str,
    credentials: Option<&ClusterCredentials>,
) -> Result<Statement, Failure> {
    let stream = tcp(host, port).await?;
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let made = MultiplexedConnection::new_with_config(&login(credentials), stream, config).await;
    let (mut connection, driver) = made.map_err(|error| failure(&error))?;
    let mut command = cmd("SENTINEL");
    command.arg("MASTER").arg(name);
    // The driver moves the bytes of the connection, so it runs beside the question.
    let reply = tokio::select! {
        reply = command.query_async(&mut connection) => reply,
        () = driver => return Err(Failure::Reset),
    };
    let reply: Value = reply.map_err(|error| failure(&error))?;
    read(&reply).ok_or(Failure::WrongReply)
}

/// Reads names and values that follow each other.
fn read(reply: &Value) -> Option<Statement> {
    let Value::Array(fields) = reply else {
        return None;
    };
    let field = |wanted: &str| {
        let mut pairs = fields.chunks_exact(2);
        let pair = pairs.find(|pair| bytes(&pair[0]) == Some(wanted.as_bytes()))?;
        std::str::from_utf8(bytes(&pair[1])?).ok()
    };
    Some(Statement {
        epoch: field("config-epoch")?.parse().ok()?,
        address: (field("ip")?.to_owned(), field("port")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(epoch: u64, port: u16) -> Result<Statement, Failure> {
        let address = ("10.0.0.1".to_owned(), port);
        Ok(Statement { epoch, address })
    }

    #[test]
    fn of_different_statements_that_of_the_newest_epoch_counts() {
        let statements = vec![
            statement(1, 1),
            Err(Failure::Timeout),
            statement(3, 3),
            statement(2, 2),
        ];
        assert_eq!(newest(statements).unwrap().1, 3);
        assert_eq!(newest(vec![Err(Failure::Refused)]), Err(Failure::NoPrimary));
    }

    #[test]
    fn a_statement_is_read_from_names_and_values() {
        let text = |text: &str| Value::BulkString(text.into());
        let reply = ["ip", "10.0.0.1", "x", "y", "port", "7", "config-epoch", "4"].map(text);
        let read_one = |count| read(&Value::Array(reply[..count].to_vec()));
        assert_eq!(read_one(8), statement(4, 7).ok());
        assert_eq!(read_one(6), None);
        assert_eq!(read(&Value::Nil), None);
    }
}
