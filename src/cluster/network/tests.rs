//! What is sent, and what replies mean, over a stream with a server that the tests make.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;

/// A server that gives these replies, one to each read, and then ends the connection. Also returns what
/// it has read.
fn server(replies: &[&str]) -> (tokio::io::DuplexStream, Arc<Mutex<Vec<String>>>) {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let replies: Vec<String> = replies.iter().map(|reply| format!("{reply}\r\n")).collect();
    let read = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&read);
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        for reply in replies {
            let Ok(length @ 1..) = far.read(&mut buffer).await else {
                return;
            };
            let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
            requests.lock().unwrap().push(request);
            far.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    (near, read)
}

async fn connection(stream: tokio::io::DuplexStream) -> Multiplexed {
    Multiplexed::new(&login(None), stream).await.unwrap()
}

fn call() -> Call {
    Call {
        script: Script::Probe,
        keys: vec![b"{wawp}:k".to_vec(), b"b".to_vec(), b"c".to_vec()],
        arguments: vec![7, -8],
        texts: vec![b"\0\xff".to_vec()],
        generation: None,
    }
}

#[tokio::test]
async fn a_script_is_called_by_its_hash_and_sent_once_where_the_server_does_not_know_it() {
    let (stream, read) = server(&[
        "-NOSCRIPT No matching script. Please use EVAL.",
        "*3\r\n:1\r\n$2\r\nab\r\n:-2",
        "*1\r\n:3",
    ]);
    let connection = connection(stream).await;
    let first = Reply {
        numbers: vec![1, -2],
        texts: vec![b"ab".to_vec()],
    };
    assert_eq!(connection.call(&call()).await, Ok(first));
    assert_eq!(connection.call(&call()).await, Ok(vec![3].into()));
    let read = read.lock().unwrap();
    let names = ["EVALSHA", "EVAL\r\n", "EVALSHA"];
    for (request, name) in read.iter().zip(names) {
        assert!(request.contains(name), "{request}");
        assert!(
            request.contains("$1\r\n3\r\n$8\r\n{wawp}:k\r\n")
                && request.ends_with("$1\r\n7\r\n$2\r\n-8\r\n$2\r\n\0\u{fffd}\r\n")
        );
    }
    assert!(read[1].contains(Script::Probe.text()));
    assert!(read[0].contains(redis::Script::new(Script::Probe.text()).get_hash()));
}

#[tokio::test]
async fn each_error_of_a_server_has_its_meaning() {
    for (reply, expected) in [
        (
            "-READONLY You can't write against a read only replica.",
            Failure::ReadOnly,
        ),
        ("-MASTERDOWN Link with MASTER is down", Failure::Demoted),
        (
            "-LOADING Redis is loading the dataset in memory",
            Failure::Loading,
        ),
        ("-BUSY Redis is busy running a script.", Failure::Busy),
        ("-NOAUTH Authentication required.", Failure::Auth),
        ("-WRONGPASS invalid username-password pair", Failure::Auth),
        ("-NOPERM this user has no permissions", Failure::Permission),
        (
            "-OOM command not allowed when used memory > 'maxmemory'",
            Failure::OutOfMemory,
        ),
        (
            "-MISCONF Redis is configured to save RDB snapshots",
            Failure::NotSaved,
        ),
        (
            "-NOREPLICAS Not enough good replicas to write.",
            Failure::NotSaved,
        ),
        ("-MOVED 1 10.0.0.1:6379", Failure::Sharded),
        (
            "-CROSSSLOT Keys in request don't hash to the same slot",
            Failure::Sharded,
        ),
        ("-CLUSTERDOWN The cluster is down", Failure::Sharded),
        (
            "-ERR unknown command 'EVALSHA', with args beginning with: 'x'",
            Failure::NoScripts,
        ),
        (
            "-ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -READONLY You can't",
            Failure::ReadOnly,
        ),
        ("-ERR something else", Failure::Server),
        ("-ODD something else", Failure::Server),
        ("+OK", Failure::WrongReply),
        ("*1\r\n+OK", Failure::WrongReply),
        ("HTTP/1.1 400 Bad Request", Failure::WrongReply),
    ] {
        let (stream, _) = server(&[reply]);
        let connection = connection(stream).await;
        assert_eq!(connection.call(&call()).await, Err(expected), "{reply}");
    }
    let twice = ["-NOSCRIPT No matching script."; 2];
    let (stream, _) = server(&twice);
    let connection = connection(stream).await;
    assert_eq!(connection.call(&call()).await, Err(Failure::NoScript));
}

#[tokio::test]
async fn a_connection_that_ends_fails_its_calls_and_is_reported() {
    let (stream, _) = server(&[]);
    let connection = connection(stream).await;
    assert_eq!(connection.call(&call()).await, Err(Failure::Reset));
    connection.closed().await;
}

#[tokio::test]
async fn a_reply_that_is_too_large_ends_the_connection() {
    let begins = format!("*2\r\n:1\r\n${MAX_REPLY}");
    let (stream, _) = server(&[&begins, ":1"]);
    let connection = connection(stream).await;
    let reply = timeout(Duration::from_secs(10), connection.call(&call())).await;
    assert_eq!(reply, Ok(Err(Failure::Reset)));
    connection.closed().await;
}

#[tokio::test]
async fn only_a_primary_is_accepted() {
    for (role, expected) in [
        ("*3\r\n$6\r\nmaster\r\n:0\r\n*0", Ok(())),
        ("*2\r\n$5\r\nslave\r\n$1\r\na", Err(Failure::Demoted)),
        ("*1\r\n$8\r\nsentinel", Err(Failure::Demoted)),
        ("+OK", Err(Failure::Demoted)),
        ("-NOAUTH Authentication required.", Err(Failure::Auth)),
    ] {
        let (stream, _) = server(&[role]);
        assert_eq!(connection(stream).await.require_primary().await, expected);
    }
}

#[tokio::test]
async fn a_login_that_is_refused_is_a_failure_of_its_own() {
    let url = ClusterUrl::try_from("redis://u:p@a".to_owned()).unwrap();
    let (stream, read) = server(&["-WRONGPASS invalid username-password pair"]);
    let made = Multiplexed::new(&login(url.credentials.as_ref()), stream).await;
    assert_eq!(made.err(), Some(Failure::Auth));
    assert!(read.lock().unwrap()[0].contains("AUTH\r\n$1\r\nu\r\n$1\r\np\r\n"));
}

#[tokio::test]
async fn the_gateways_are_read_from_the_reply_to_a_beat() {
    let text = |text: &str| Value::BulkString(text.into());
    let reply = [
        text("k"),
        text("7"),
        text("id"),
        text("0.1.0"),
        text("s"),
        Value::Int(1),
        Value::Int(1_500_000),
    ];
    let read = read_heartbeat(&reply).unwrap();
    assert_eq!(read.hash_key, "k");
    assert_eq!(read.gateways[0].ago, Duration::from_millis(1500));
    assert_eq!(read.birth, "7");
    for wrong in [&reply[..5], &reply[..1], &[], &[Value::Nil]] {
        assert_eq!(read_heartbeat(wrong), None);
    }
}
