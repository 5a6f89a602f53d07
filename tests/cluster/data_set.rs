//! What gateways keep on the server: no credential, nothing that stays, and not much.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use futures_util::{StreamExt as _, stream};
use redis::{Value, from_redis_value};

use super::connection::join;
use super::gateways::Gateways;
use super::load;
use super::servers::Server;

/// The keys, and whether they expire.
const KEYS: [(&str, bool); 9] = [
    ("{wawp}:birth", false),
    ("{wawp}:hash_key", false),
    ("{wawp}:gateways", true),
    ("{wawp}:bucket:", true),
    ("{wawp}:batch:", true),
    ("{wawp}:verdict:", true),
    ("{wawp}:verified:", true),
    ("{wawp}:egress", true),
    ("{wawp}:tenant:", true),
];

/// What clients and settings contain, and the server must not.
const SECRETS: [&str; 8] = [
    "s3cret-token-of-instance-one",
    "s3cret-token-of-instance-two",
    "s3cret?token/of+instance&three",
    "tenant-key-of-acme-0123456789",
    "token~behind~the~key",
    "instance-one",
    "instance-three",
    "4915112345678@c.us",
];

/// A key, and everything in it.
struct Entry {
    key: String,
    bytes: Vec<u8>,
    expires: bool,
}

/// All keys of the data set with their values, whatever their types are.
fn read(server: &Server) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let page = server.ask(&["SCAN", &cursor, "COUNT", "1000"]).unwrap();
        let (next, keys): (String, Vec<String>) = from_redis_value(page).unwrap();
        entries.extend(keys.into_iter().filter_map(|key| entry(server, key)));
        cursor = next;
        if cursor == "0" {
            return entries;
        }
    }
}

/// `None` for a key that has expired meanwhile.
fn entry(server: &Server, key: String) -> Option<Entry> {
    let kind: String = from_redis_value(server.ask(&["TYPE", &key]).unwrap()).unwrap();
    let question: &[&str] = match &*kind {
        "string" => &["GET", &key],
        "hash" => &["HGETALL", &key],
        "list" => &["LRANGE", &key, "0", "-1"],
        "set" => &["SMEMBERS", &key],
        "zset" => &["ZRANGE", &key, "0", "-1", "WITHSCORES"],
        "stream" => &["XRANGE", &key, "-", "+"],
        "none" => return None,
        kind => panic!("a key of type {kind}"),
    };
    let mut bytes = key.clone().into_bytes();
    collect(&server.ask(question).unwrap(), &mut bytes);
    let expires = server.ask(&["PTTL", &key]) != Ok(Value::Int(-1));
    Some(Entry {
        key,
        bytes,
        expires,
    })
}

fn collect(value: &Value, bytes: &mut Vec<u8>) {
    bytes.push(b' ');
    match value {
        Value::BulkString(text) => bytes.extend(text),
        Value::Array(values) => values.iter().for_each(|value| collect(value, bytes)),
        Value::Nil => {}
        value => bytes.extend(format!("{value:?}").bytes()),
    }
}

/// A text in all forms in which it could be used, or tried out offline.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
    let percent = |keep: fn(&u8) -> bool| -> String {
        let encoded = secret.bytes().map(|byte| match byte {
            byte if keep(&byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02x}"),
        });
        encoded.collect()
    };
    let mut forms = vec![
        secret.as_bytes().to_vec(),
        percent(|_| false).into_bytes(),
        percent(u8::is_ascii_alphanumeric).into_bytes(),
        percent(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte)).into_bytes(),
        hex(secret.as_bytes()).into_bytes(),
    ];
    // As part of something longer: the first and last characters depend on what surrounds it.
    for before in 0..3 {
        let padded = format!("{}{secret}", "x".repeat(before));
        for encoded in [
            STANDARD_NO_PAD.encode(&padded),
            URL_SAFE_NO_PAD.encode(&padded),
        ] {
            forms.push(encoded[before * 2..encoded.len() - 2].into());
        }
    }
    for program in ["md5sum", "sha1sum", "sha256sum", "sha512sum"] {
        let digest = digest(program, secret);
        forms.push(STANDARD_NO_PAD.encode(&digest).into());
        forms.push(URL_SAFE_NO_PAD.encode(&digest).into());
        forms.push(hex(&digest).into());
        forms.push(digest);
    }
    forms
}

fn digest(program: &str, text: &str) -> Vec<u8> {
    let mut command = Command::new(program);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("a program of coreutils");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let hex = output.split(|byte| *byte == b' ').next().unwrap();
    let pairs = std::str::from_utf8(hex).unwrap().as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

/// The first secret in the data set, and where it is.
fn found(entries: &[Entry]) -> Option<(&'static str, String)> {
    SECRETS.into_iter().find_map(|secret| {
        let forms = forms(secret)
            .into_iter()
            .map(|form| form.to_ascii_lowercase());
        let forms: Vec<_> = forms.collect();
        let contains = |entry: &Entry| {
            let bytes = entry.bytes.to_ascii_lowercase();
            let mut forms = forms.iter();
            forms.any(|form| bytes.windows(form.len()).any(|part| part == form))
        };
        let entry = entries.iter().find(|entry| contains(entry))?;
        Some((secret, entry.key.clone()))
    })
}

#[tokio::test]
async fn the_data_set_has_no_credential_and_only_two_keys_that_do_not_expire() {
    let further = "[[tenant]]\nname = \"acme\"\ninstances = [\"instance-four\"]\n\
        key = \"tenant-key-of-acme-0123456789\"\ntokens = { \"instance-four\" = \"token~behind~the~key\" }\n\
        rate = 50\nburst = 50\n\
        [[limit.class]]\nname = \"status\"\npaths = [\"/v2/session/*\"]\nrate = 50\nmax_in_flight = 5\n";
    let server = Server::start(&[]).await;
    let urls = [(); 3].map(|()| server.url());
    let all = Gateways::start_with([1; 3], server, urls, further).await;
    let busy = load::send(all.port, "instance-one", 40, Duration::from_secs(4));
    let also = load::send(all.port, "instance-two", 20, Duration::from_secs(4));
    let body = "instance_id=instance-three&access_token=s3cret%3Ftoken%2Fof%2Binstance%26three\
        &chatId=4915112345678%40c.us&messageId=true_4915112345678@c.us_3EB0";
    let receipt = format!(
        "POST /v2/send/seen HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
        body.len()
    );
    let keyed = "GET /v2/session/info?instance_id=instance-four HTTP/1.1\r\nHost: a\r\n\
        Connection: close\r\nAuthorization: Bearer tenant-key-of-acme-0123456789\r\n\r\n";
    let mut entries = Vec::new();
    for round in 0..12 {
        if round == 6 {
            all.upstream.refuse_next(1);
        }
        // At all gateways, so that one batch follows another.
        let receipts = (0..3).map(|_| load::send_raw(all.port, &receipt));
        let during = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            read(&all.server)
        };
        let (responses, found) = tokio::join!(futures_util::future::join_all(receipts), during);
        entries.extend(found);
        let keyed = load::send_raw(all.port, keyed).await;
        for response in responses.into_iter().chain([keyed]) {
            let response = response.unwrap();
            assert!(response.starts_with("HTTP/1.1 "), "{response}");
        }
        // Also what exists only during the run.
        entries.extend(read(&all.server));
    }
    busy.await.unwrap();
    also.await.unwrap();
    entries.extend(read(&all.server));
    assert_eq!(found(&entries), None);
    for entry in &entries {
        let is_known =
            |(key, expires): &(&str, bool)| entry.key.starts_with(key) && entry.expires == *expires;
        assert!(KEYS.iter().any(is_known), "{}", entry.key);
    }
    let mut names: Vec<_> = entries.iter().map(|entry| &entry.key).collect();
    names.sort();
    names.dedup();
    println!("{} keys", names.len());
    // A bucket for each of the four instances, and all others at least once.
    assert!(names.len() >= KEYS.len() - 1 + 4, "{names:?}");
    for (key, _) in KEYS {
        assert!(names.iter().any(|name| name.starts_with(key)), "{key}");
    }
    // All gateways write a credential alike: there is one for each of the four instances.
    let verified = names.iter().filter(|it| it.starts_with("{wawp}:verified:"));
    let counts = verified.map(|key| all.server.ask(&["ZCARD", key]).unwrap());
    assert_eq!(counts.collect::<Vec<_>>(), [(); 4].map(|()| Value::Int(1)));
    // The search finds what there is.
    let planted = URL_SAFE_NO_PAD.encode(format!("a:{}:b", SECRETS[2]));
    for planted in [planted, SECRETS[0].replace('-', "%2D")] {
        all.server.ask(&["HSET", "planted", "a", &planted]).unwrap();
        assert!(found(&read(&all.server)).is_some(), "{planted}");
    }
}

#[tokio::test]
async fn the_memory_of_100_000_instances_is_bounded() {
    const INSTANCES: u32 = 100_000;
    let server = Server::start(&["--enable-debug-command", "yes"]).await;
    // A bucket that is full again expires. Here all are kept until they have been counted.
    server.ask(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).unwrap();
    let peer = join(&server.url()).await;
    let memory = || -> u64 {
        let info = server.ask(&["INFO", "memory"]).unwrap();
        let info: String = from_redis_value(info).unwrap();
        let used = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        used.unwrap().trim().parse().unwrap()
    };
    let keys = || -> u64 { from_redis_value(server.ask(&["DBSIZE"]).unwrap()).unwrap() };
    for what in ["a bucket", "a verified credential"] {
        let before = (memory(), keys());
        let hashes = (0..INSTANCES).filter_map(|index| peer.digest(&index.to_string()));
        stream::iter(hashes)
            .map(|hash| {
                let peer = &peer;
                async move {
                    match what {
                        "a bucket" => peer.reserve(&hash).await,
                        _ => peer.verify(&hash).await,
                    }
                }
            })
            .buffer_unordered(64)
            .count()
            .await;
        let (used, keys) = (memory() - before.0, keys() - before.1);
        let each = used / keys;
        println!("{keys} keys: {used} bytes, {each} bytes for {what}");
        // An operation that takes too long is abandoned, and its key may be missing.
        assert!(keys > u64::from(INSTANCES) / 2, "{keys} keys");
        assert!(each < 400, "{each} bytes for {what}");
    }
}
