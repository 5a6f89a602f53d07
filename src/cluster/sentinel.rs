//! Which server is the primary, as the sentinels say.
//!
//! Invariant: of different statements the one of the newest epoch counts. A sentinel that was cut off
//! names the old primary for some time.
//!
//! The address is not read from `SENTINEL MASTER`, where the sentinel that carries out a failover shows
//! the new epoch with the old address until all replicas follow the new primary.

use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value, cmd};
use tokio::time::timeout;

use super::bounded::Bounded;
use super::dial::{ATTEMPT_DELAY, tcp};
use super::failure::Failure;
use super::resp::{bytes, failure, login};
use crate::config::ClusterCredentials;

/// How long a sentinel may take. All are asked at the same time, and all are waited for.
const TIMEOUT: Duration = Duration::from_millis(300);
// Two addresses of its name may drop packets, and the third one has as much time as a delay.
const _: () = assert!(TIMEOUT.as_millis() >= 3 * ATTEMPT_DELAY.as_millis());

/// The largest reply of a sentinel. It has about a thousand bytes.
const MAX_REPLY: usize = 64 * 1024;

/// What a sentinel says. Both parts change in the same moment of a failover.
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
    let stream = Bounded::new(tcp((host, port)).await?, MAX_REPLY);
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let made = MultiplexedConnection::new_with_config(&login(credentials), stream, config).await;
    let (mut connection, driver) = made.map_err(|error| failure(&error))?;
    let question = |subcommand| {
        let mut command = cmd("SENTINEL");
        command.arg(subcommand).arg(name);
        command
    };
    let (epoch, address) = (question("MASTER"), question("GET-MASTER-ADDR-BY-NAME"));
    let mut other = connection.clone();
    // The driver moves the bytes of the connection, so it runs beside the questions.
    let replies: Result<(Value, Value), _> = tokio::select! {
        // Sent in this order, so that no address is older than its epoch.
        replies = async {
            tokio::try_join!(
                biased;
                epoch.query_async(&mut connection),
                address.query_async(&mut other),
            )
        } => replies,
        () = driver => return Err(Failure::Reset),
    };
    let (epoch, address) = replies.map_err(|error| failure(&error))?;
    read(&epoch, &address).ok_or(Failure::WrongReply)
}

/// Reads names and values that follow each other, and an address.
fn read(state: &Value, address: &Value) -> Option<Statement> {
    let (Value::Array(fields), Value::Array(address)) = (state, address) else {
        return None;
    };
    let [host, port] = &address[..] else {
        return None;
    };
    let text = |value| std::str::from_utf8(bytes(value)?).ok();
    let mut pairs = fields.chunks_exact(2);
    let epoch = pairs.find(|pair| bytes(&pair[0]) == Some(b"config-epoch"))?;
    Some(Statement {
        epoch: text(&epoch[1])?.parse().ok()?,
        address: (text(host)?.to_owned(), text(port)?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

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
        let state = ["x", "y", "config-epoch", "4"].map(text);
        let address = ["10.0.0.1", "7"].map(text);
        let read_one = |fields, parts| {
            let state = Value::Array(state[..fields].to_vec());
            read(&state, &Value::Array(address[..parts].to_vec()))
        };
        assert_eq!(read_one(4, 2), statement(4, 7).ok());
        assert_eq!(read_one(2, 2), None);
        assert_eq!(read_one(4, 1), None);
        assert_eq!(read(&Value::Nil, &Value::Nil), None);
    }

    /// A sentinel with these replies.
    async fn sentinel(state: &'static str, address: &'static str) -> (String, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            let replies = [("MASTER\r\n", state), ("ADDR-BY-NAME\r\n", address)];
            for (question, reply) in replies {
                while !String::from_utf8_lossy(&read).contains(question) {
                    stream.read_buf(&mut read).await.unwrap();
                }
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
            stream.read_buf(&mut read).await.ok();
        });
        ("127.0.0.1".to_owned(), port)
    }

    #[tokio::test]
    async fn the_sentinel_that_carries_out_a_failover_names_the_new_primary() {
        let leads = sentinel(
            "*8\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n$4\r\nport\r\n$1\r\n7\r\n$5\r\nflags\r\n\
             $27\r\nmaster,failover_in_progress\r\n$12\r\nconfig-epoch\r\n$1\r\n5\r\n",
            "*2\r\n$8\r\n10.0.0.2\r\n$1\r\n7\r\n",
        );
        // It has not heard of the failover.
        let is_late = sentinel(
            "*6\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n$4\r\nport\r\n$1\r\n7\r\n\
             $12\r\nconfig-epoch\r\n$1\r\n4\r\n",
            "*2\r\n$8\r\n10.0.0.1\r\n$1\r\n7\r\n",
        );
        let sentinels = [leads.await, is_late.await];
        let named = primary(&sentinels, "main", None).await;
        assert_eq!(named, Ok(("10.0.0.2".to_owned(), 7)));
    }
}
