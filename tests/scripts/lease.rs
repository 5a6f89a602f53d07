//! The script that lends tokens.

use super::*;

const EGRESS: &[u8] = b"egress";

/// One call.
#[derive(Clone, Debug)]
struct Step {
    /// Microseconds since the step before.
    after: i64,
    gateway: i64,
    knows_birth: bool,
    share: i64,
    known_tat: i64,
    egress: (i64, i64),
    tenants: Vec<Tenant>,
}

#[derive(Clone, Debug)]
struct Tenant {
    name: u8,
    weight: i64,
    waiting: i64,
    waited: Waited,
    known_tat: i64,
    rate: (i64, i64),
}

/// For how long the first request has waited.
#[derive(Clone, Copy, Debug)]
enum Waited {
    For(i64),
    /// Since one of few times, so that several gateways have the same.
    SinceLong(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let known_tat = || prop_oneof![5 => Just(0), 1 => 1..30_000_000_i64];
    let limit = |interval: i64| {
        prop_oneof![
            2 => Just((0, 0)),
            6 => Just((interval, 0)),
            2 => Just((interval, 5 * interval)),
            1 => Just((3 * interval, interval)),
        ]
    };
    let tenant = (
        0..5_u8,
        prop_oneof![Just(1), 1..8_i64, 1..1001_i64],
        prop_oneof![Just(0), 0..4_i64, 0..40_i64],
        prop_oneof![2 => (0..2_i64).prop_map(Waited::SinceLong), 1 => (0..3_000_000_i64).prop_map(Waited::For)],
        known_tat(),
        prop_oneof![2 => Just((0, 0)), 1 => limit(90_000)],
    );
    let tenant = tenant.prop_map(|(name, weight, waiting, waited, known_tat, rate)| Tenant {
        name,
        weight,
        waiting,
        waited,
        known_tat,
        rate,
    });
    let tenants = prop::collection::vec(tenant, 0..5).prop_map(|mut tenants| {
        // Each tenant once.
        tenants.sort_by_key(|it| it.name);
        tenants.dedup_by_key(|it| it.name);
        tenants
    });
    let after = prop_oneof![
        6 => 0..60_000_i64,
        2 => 0..400_000_i64,
        1 => 0..30_000_000_i64
    ];
    let share = prop_oneof![4 => Just(1000), 1 => 1000..3001_i64];
    let knows_birth = prop::bool::weighted(0.9);
    let egress = prop_oneof![3 => limit(20_000), 1 => limit(1_000_000)];
    let step = (
        after,
        1..4_i64,
        knows_birth,
        share,
        known_tat(),
        egress,
        tenants,
    );
    let step = step.prop_map(
        |(after, gateway, knows_birth, share, known_tat, egress, tenants)| Step {
            after,
            gateway,
            knows_birth,
            share,
            known_tat,
            egress,
            tenants,
        },
    );
    prop::collection::vec(step, 1..60)
}

impl Step {
    fn arguments(&self, birth: i64, now: i64) -> Vec<i64> {
        let birth = if self.knows_birth { birth } else { 0 };
        let mut arguments = vec![self.gateway, birth, self.share];
        arguments.extend([self.known_tat, self.egress.0, self.egress.1]);
        for tenant in &self.tenants {
            let waited = match tenant.waited {
                Waited::For(waited) => waited,
                Waited::SinceLong(seconds) => now - BEGINNING + 1_000_000 * seconds,
            };
            arguments.extend([tenant.weight, tenant.waiting, waited]);
            arguments.extend([tenant.known_tat, tenant.rate.0, tenant.rate.1]);
        }
        arguments
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        let names = self.tenants.iter().map(|tenant| tenant.name);
        names
            .map(|name| format!("tenant{name}").into_bytes())
            .collect()
    }
}

#[test]
fn the_script_that_lends_does_what_its_model_does() {
    let server = Server::start();
    let connection = RefCell::new(server.connect());
    let (_, script) = in_test(&["lease"]).remove(0);
    runner()
        .run(&steps(), |steps| {
            let connection = &mut *connection.borrow_mut();
            let _: () = redis::cmd("FLUSHALL").query(connection).unwrap();
            let mut model = DataSet::default();
            let (mut now, mut birth) = (BEGINNING, 0);
            for step in steps {
                now += step.after;
                for key in model.expired(EGRESS, now) {
                    let _: () = redis::cmd("DEL").arg(key).query(connection).unwrap();
                }
                let (keys, arguments) = (step.keys(), step.arguments(birth, now));
                let expected = model.lend(EGRESS, &keys, &arguments, now);
                let mut call = script.prepare_invoke();
                call.key(EGRESS).key("born").key(&keys).key(now);
                call.arg(&arguments);
                let reply: Vec<i64> = call.invoke(connection).unwrap();
                prop_assert_eq!(&reply, &expected, "{:?} {:?}", keys, arguments);
                // Those that were written.
                let rates = keys.iter().zip(&step.tenants);
                let rates = rates
                    .filter(|(_, tenant)| tenant.rate.0 != 0)
                    .map(|it| it.0);
                for key in rates.chain([&EGRESS.to_vec()]) {
                    let left: i64 = redis::cmd("PTTL").arg(key).query(connection).unwrap();
                    let kept = model
                        .lease_kept(EGRESS, key, now)
                        .map_or(-2, |kept| kept / 1000);
                    prop_assert!(
                        (kept - 5_000..=kept).contains(&left),
                        "kept for {left} ms instead of {kept}"
                    );
                }
                birth = reply[0];
            }
            Ok(())
        })
        .unwrap();
}
