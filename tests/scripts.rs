//! The scripts do what their model in Rust does (`cargo test --test scripts`).
//!
//! Needs `redis-server`. Random histories run through both, at times that the test chooses: in the
//! text of each script the clock of the server is replaced by a key.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not seen as tests

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
    Probe,
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
        2 => Just(What::Probe),
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
            What::Probe => ("probe", vec![2_000_000]),
            What::Settled {
                is_stale,
                is_accepted,
            } => ("settled", vec![of(*is_stale), i64::from(*is_accepted)]),
        };
        arguments.extend(own);
        (name, arguments)
    }
}

/// The text of a script, with the clock and the channel of the test.
fn in_test(text: &str) -> String {
    let channel = "redis.call('PUBLISH', KEYS[3], ";
    assert!(text.contains(CLOCK) && text.contains(channel));
    let text = text.replace(CLOCK, "local now = tonumber(KEYS[4])\n");
    text.replace(channel, "redis.call('SET', KEYS[3], ")
}

#[test]
fn the_scripts_of_a_bucket_do_what_their_model_does() {
    let server = Server::start();
    let connection = RefCell::new(server.connect());
    let scripts: Vec<_> = texts()
        .into_iter()
        .filter(|(name, _)| *name != "lease")
        .map(|(name, text)| (name, redis::Script::new(&in_test(text))))
        .collect();
    let config = Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            let connection = &mut *connection.borrow_mut();
            let _: () = redis::cmd("FLUSHALL").query(connection).unwrap();
            let mut model = DataSet::default();
            let (mut now, mut last, mut epoch) = (BEGINNING, (0, 0), 0);
            for step in steps {
                now += step.after;
                if model.kept(now).is_none() {
                    let _: () = redis::cmd("DEL").arg("bucket").query(connection).unwrap();
                }
                let (name, arguments) = step.call(last, epoch);
                let expected = model.run_named(name, &arguments, now);
                let script = &scripts.iter().find(|(it, _)| *it == name).unwrap().1;
                let mut call = script.prepare_invoke();
                call.key("bucket").key("born").key("announced").key(now);
                call.arg(&arguments);
                let reply: Vec<i64> = call.invoke(connection).unwrap();
                let announced: Option<String> = redis::cmd("GETDEL")
                    .arg("announced")
                    .query(connection)
                    .unwrap();
                prop_assert_eq!(&reply, &expected.reply, "{} {:?}", name, arguments);
                prop_assert_eq!(announced, expected.announced);
                if matches!(name, "reserve" | "throttled") {
                    let left: i64 = redis::cmd("PTTL").arg("bucket").query(connection).unwrap();
                    let kept = model.kept(now).map_or(-2, |kept| kept / 1000);
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
