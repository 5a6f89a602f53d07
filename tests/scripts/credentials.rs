//! The script on verified credentials.

use std::cell::Cell;

use super::*;

/// More credentials than a key has room for.
const CREDENTIALS: usize = 20;

/// One call.
#[derive(Clone, Debug)]
struct Step {
    /// Microseconds since the step before.
    after: i64,
    /// 1 or 0; `None`: only asks.
    change: Option<i64>,
    credential: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let after = prop_oneof![10 => 0..60_000_000_i64, 1 => 0..4_000_000_000_i64];
    let change = prop_oneof![8 => Just(Some(1)), 1 => Just(Some(0)), 1 => Just(None)];
    let step = (after, change, 0..CREDENTIALS);
    let step = step.prop_map(|(after, change, credential)| Step {
        after,
        change,
        credential,
    });
    prop::collection::vec(step, 1..60)
}

#[test]
fn the_script_on_credentials_does_what_its_model_does() {
    let server = Server::start();
    let connection = RefCell::new(server.connect());
    let scripts = in_test(&["credentials"]);
    let fullest = Cell::new(0);
    runner()
        .run(&steps(), |steps| {
            let connection = &mut *connection.borrow_mut();
            let _: () = redis::cmd("FLUSHALL").query(connection).unwrap();
            let (mut model, mut now) = (DataSet::default(), BEGINNING);
            for step in steps {
                now += step.after;
                if model.kept("set", now).is_none() {
                    let _: () = redis::cmd("DEL").arg("set").query(connection).unwrap();
                }
                let arguments: Vec<i64> = step.change.into_iter().collect();
                let credential = format!("credential {}", step.credential).into_bytes();
                let texts: Vec<_> = step.change.map(|_| credential).into_iter().collect();
                let keys = ["set", "announced"];
                let expected = model.run_named("credentials", &keys, (&arguments, &texts), now);
                let mut call = scripts[0].1.prepare_invoke();
                call.key("set").key("announced").key(now);
                let reply: Vec<Vec<u8>> =
                    call.arg(&arguments).arg(&texts).invoke(connection).unwrap();
                fullest.set(reply.len().max(fullest.get()));
                let is_kept = texts.iter().all(|it| reply.contains(it));
                prop_assert_eq!(reply, expected.texts, "{:?}", step);
                let announced: Option<String> = redis::cmd("GETDEL")
                    .arg("announced")
                    .query(connection)
                    .unwrap();
                prop_assert_eq!(announced, expected.announced);
                let left: i64 = redis::cmd("PTTL").arg("set").query(connection).unwrap();
                // Other calls do not set it, and the time of the test has passed for the server.
                if step.change == Some(1) && is_kept {
                    let kept = model.kept("set", now).map_or(-2, |kept| kept / 1000);
                    prop_assert!((kept - 5_000..=kept).contains(&left));
                }
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(fullest.get(), 16);
}
