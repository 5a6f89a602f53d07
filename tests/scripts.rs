//! The scripts do what their model in Rust does (`cargo test --test scripts`).
//!
//! Needs `redis-server`. Random histories run through both, at times that the test chooses: in the
//! text of each script the clock of the server is replaced by a key.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not seen as tests

#[path = "scripts/credentials.rs"]
mod credentials;
#[path = "scripts/lease.rs"]
mod lease;

use std::cell::RefCell;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use wawp_gateway::testing::scripts::{DataSet, texts};

/// The first simulated time, in microseconds since 1970.
const BEGINNING: i64 = 1_796_000_000_000_000;

/// How a script reads the clock.
const CLOCK: &str = "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]\n";

/// A server of its own, on a socket in a directory of its own.
struct Server {
    child: Child,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--unixsocket",
        ]);
        command
            .arg(&socket)
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null());
        let child = command.spawn().expect("redis-server is installed");
        for _ in 0..500 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, directory }
    }

    fn connect(&self) -> redis::Connection {
        let socket = self.directory.path().join("redis.sock");
        let url = format!("unix://{}", socket.display());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One call, as far as it does not depend on the replies before it.
#[derive(Clone, Debug)]
struct Step {
    /// Microseconds since the step before.
    after: i64,
    is_strict: bool,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Reserve {
        knows_birth: bool,
        known_tat: i64,
        known_pause: i64,
        back: i64,
        yields: bool,
        share: i64,
        deadlines: Vec<i64>,
    },
    Throttled {
        is_stale: bool,
        named: i64,
    },
    Probe {
        late: i64,
    },
    Settled {
        is_stale: bool,
        is_accepted: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = |most: i64| prop_oneof![3 => Just(0), 1 => 1..most];
    let deadlines = prop::collection::vec(prop_oneof![Just(0), 0..8_000_000_i64], 0..6);
    let reserve = (
        any::<bool>(),
        some(9_000_000),
        some(3_000_000),
        0..1_000_000_i64,
        prop::bool::weighted(0.2),
        1000..3001_i64,
        deadlines,
    );
    let what = prop_oneof![
        5 => reserve.prop_map(|(knows_birth, known_tat, known_pause, back, yields, share, deadlines)| What::Reserve {
            knows_birth, known_tat, known_pause, back, yields, share, deadlines,
        }),
        2 => (any::<bool>(), some(90_000_000)).prop_map(|(is_stale, named)| What::Throttled { is_stale, named }),
        2 => some(9_000_000).prop_map(|late| What::Probe { late }),
        2 => (prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(is_stale, is_accepted)| What::Settled { is_stale, is_accepted }),
    ];
    let after = prop_oneof![Just(0), 0..3_000_000_i64, 0..200_000_000_i64];
    let step = (after, prop::bool::weighted(0.2), what);
    let step = step.prop_map(|(after, is_strict, what)| Step {
        after,
        is_strict,
        what,
    });
    prop::collection::vec(step, 1..40)
}

impl Step {
    /// The script and its arguments, after the last reply of `reserve` and the last epoch.
    fn call(&self, (birth, tat): (i64, i64), epoch: i64) -> (&'static str, Vec<i64>) {
        let mut arguments = match self.is_strict {
            true => vec![1_000_000, 0],
            false => vec![333_334, 3 * 333_334],
        };
        let of = |is_stale| if is_stale { -1 } else { epoch };
        let (name, own) = match &self.what {
            What::Reserve {
                knows_birth,
                known_tat,
                known_pause,
                back,
                yields,
                share,
                deadlines,
            } => {
                let birth = if *knows_birth { birth } else { 0 };
                let mut own = vec![
                    birth,
                    *known_tat,
                    *known_pause,
                    *back,
                    tat,
                    i64::from(*yields),
                    *share,
                ];
                own.extend(deadlines);
                ("reserve", own)
            }
            What::Throttled { is_stale, named } => ("throttled", vec![of(*is_stale), *named]),
            What::Probe { late } => ("probe", vec![2_000_000, *late]),
            What::Settled {
                is_stale,
                is_accepted,
            } => ("settled", vec![of(*is_stale), i64::from(*is_accepted)]),
        };
        arguments.extend(own);
        (name, arguments)
    }
}

/// The scripts of these names as they run in a test: the last key is the clock, and what would be
/// published is stored.
fn in_test(names: &[&str]) -> Vec<(&'static str, redis::Script)> {
    let texts = texts().into_iter().filter(|(name, _)| names.contains(name));
    let scripts = texts.map(|(name, text)| {
        let text = text.replace(CLOCK, "local now = tonumber(KEYS[#KEYS])\n");
        assert!(
            !text.contains("TIME"),
            "{name} reads the clock in another way"
        );
        let text = text.replace("redis.call('PUBLISH', ", "redis.call('SET', ");
        (name, redis::Script::new(&text))
    });
    scripts.collect()
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn the_scripts_on_buckets_do_what_their_model_does() {
    let server = Server::start();
    let connection = RefCell::new(server.connect());
    let scripts = in_test(&["reserve", "throttled", "probe", "settled"]);
    runner()
        .run(&steps(), |steps| {
            let connection = &mut *connection.borrow_mut();
            let _: () = redis::cmd("FLUSHALL").query(connection).unwrap();
            let mut model = DataSet::default();
            let (mut now, mut last, mut epoch) = (BEGINNING, (0, 0), 0);
            for step in steps {
                now += step.after;
                if model.kept("bucket", now).is_none() {
                    let _: () = redis::cmd("DEL").arg("bucket").query(connection).unwrap();
                }
                let (name, arguments) = step.call(last, epoch);
                let expected = model.run_named(name, &["bucket"], (&arguments, &[]), now);
                let script = &scripts.iter().find(|(it, _)| *it == name).unwrap().1;
                let mut call = script.prepare_invoke();
                call.key("bucket").key("born").key("announced").key(now);
                call.arg(&arguments);
                let reply: Vec<i64> = call.invoke(connection).unwrap();
                let announced: Option<String> = redis::cmd("GETDEL")
                    .arg("announced")
                    .query(connection)
                    .unwrap();
                prop_assert_eq!(&reply, &expected.numbers, "{} {:?}", name, arguments);
                prop_assert_eq!(announced, expected.announced);
                if matches!(name, "reserve" | "throttled") {
                    let left: i64 = redis::cmd("PTTL").arg("bucket").query(connection).unwrap();
                    let kept = model.kept("bucket", now).map_or(-2, |kept| kept / 1000);
                    prop_assert!(
                        (kept - 5_000..=kept).contains(&left),
                        "kept for {left} ms instead of {kept}"
                    );
                }
                if name == "reserve" {
                    last = (reply[3], reply[2]);
                }
                epoch = reply[reply.len() - 7];
            }
            Ok(())
        })
        .unwrap();
}

/// A call of a script on batches, by one of a few leaders, followers and keys.
#[derive(Clone, Debug)]
struct OnBatch {
    after: i64,
    name: &'static str,
    leader: usize,
    arguments: Vec<i64>,
    text: Vec<u8>,
}

fn on_batches() -> impl Strategy<Value = Vec<OnBatch>> {
    let what = prop_oneof![
        4 => (0..100_000_i64).prop_map(|window| ("join", vec![window, 1_000])),
        4 => (1..4_i64).prop_map(|most| ("follow", vec![most])),
        2 => Just(("close", vec![1_000])),
        2 => (5_000..10_000_i64).prop_map(|kept| ("conclude", vec![kept])),
        3 => Just(("verdict", Vec::new())),
    ];
    let after = prop_oneof![Just(0), 0..200_000_i64, 0..2_000_000_i64];
    let text = prop::collection::vec(any::<u8>(), 0..100);
    let step = (after, what, 0..2_usize, text);
    let step = step.prop_map(|(after, (name, arguments), leader, text)| OnBatch {
        after,
        name,
        leader,
        arguments,
        text,
    });
    prop::collection::vec(step, 1..40)
}

impl OnBatch {
    fn keys(&self) -> Vec<&'static str> {
        let verdict = ["verdict0", "verdict1"][self.leader];
        match self.name {
            "join" | "follow" => vec!["open"],
            "conclude" => vec![verdict, "announced"],
            _ => vec!["open", verdict],
        }
    }

    fn texts(&self) -> Vec<Vec<u8>> {
        let leader = format!("leader{}", self.leader).into_bytes();
        match self.name {
            "conclude" => vec![self.text.clone()],
            "follow" => vec![leader, self.text.clone()],
            _ => vec![leader],
        }
    }
}

#[test]
fn the_scripts_on_batches_do_what_their_model_does() {
    let server = Server::start();
    let connection = RefCell::new(server.connect());
    let scripts = in_test(&["join", "follow", "close", "conclude", "verdict"]);
    runner()
        .run(&on_batches(), |steps| {
            let connection = &mut *connection.borrow_mut();
            let _: () = redis::cmd("FLUSHALL").query(connection).unwrap();
            let (mut model, mut now) = (DataSet::default(), BEGINNING);
            for step in steps {
                now += step.after;
                for key in ["open", "verdict0", "verdict1"] {
                    if model.kept(key, now).is_none() {
                        let _: () = redis::cmd("DEL").arg(key).query(connection).unwrap();
                    }
                }
                let texts = step.texts();
                let arguments = (&*step.arguments, &*texts);
                let expected = model.run_named(step.name, &step.keys(), arguments, now);
                let script = &scripts.iter().find(|(it, _)| *it == step.name).unwrap().1;
                let mut call = script.prepare_invoke();
                for key in step.keys() {
                    call.key(key);
                }
                call.key(now).arg(&step.arguments).arg(&texts);
                let reply: Vec<redis::Value> = call.invoke(connection).unwrap();
                let numbers = expected.numbers.iter().map(|it| redis::Value::Int(*it));
                let texts = expected.texts.iter().cloned().map(redis::Value::BulkString);
                let expected_reply: Vec<_> = numbers.chain(texts).collect();
                prop_assert_eq!(reply, expected_reply, "{:?}", step);
                let announced: Option<String> = redis::cmd("GETDEL")
                    .arg("announced")
                    .query(connection)
                    .unwrap();
                prop_assert_eq!(announced, expected.announced);
                for key in ["open", "verdict0", "verdict1"] {
                    let left: i64 = redis::cmd("PTTL").arg(key).query(connection).unwrap();
                    let kept = model.kept(key, now).map_or(-2, |kept| kept / 1000);
                    // From then on the model decides when it expires.
                    let was_set: bool = redis::cmd("PERSIST").arg(key).query(connection).unwrap();
                    prop_assert_eq!(left == -2, kept == -2, "{}", key);
                    prop_assert!(
                        !was_set || (kept - 5_000..=kept).contains(&left),
                        "{key}: kept for {left} ms instead of {kept}"
                    );
                }
            }
            Ok(())
        })
        .unwrap();
}
