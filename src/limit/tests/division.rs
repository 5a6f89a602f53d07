//! The part of one of several gateways in the budgets.

use super::*;
use crate::config::Class;
use crate::limit::division::{divided, of_unnamed};

#[test]
fn a_part_of_a_budget_is_at_least_a_burst_of_one_and_a_call_in_flight() {
    let mut config = settings(quota(9.0, 20));
    config.egress.quota = quota(30.0, 7);
    config.tenants = vec![
        shares::tenant("bound", 2, quota(6.0, 2), &["b"]),
        shares::tenant("free", 2, None, &["f"]),
    ];
    let class = |quota, cap| Class {
        max_in_flight: NonZeroU32::new(cap),
        ..classes::class("c", "*", quota)
    };
    config.limit.classes = vec![class(quota(3.0, 4), 7), class(None, 2), class(None, 0)];
    let three = NonZeroU32::new(3).unwrap();
    let seen = |config: &Config| {
        let tenants = config.tenants.iter().map(|it| it.quota);
        let classes = config.limit.classes.iter();
        let caps = classes
            .clone()
            .map(|it| it.max_in_flight.map(NonZeroU32::get));
        (
            [config.egress.quota, config.limit.quota],
            tenants.collect::<Vec<_>>(),
            classes.map(|it| it.quota).collect::<Vec<_>>(),
            caps.collect::<Vec<_>>(),
        )
    };
    let tenants = vec![quota(6.0, 2), None];
    let caps = vec![Some(3), Some(1), None];
    // Buckets of instances, the egress and the rates of tenants are shared exactly, so they are
    // not divided.
    assert_eq!(
        seen(&divided(&config, three)),
        (
            [quota(30.0, 7), quota(9.0, 20)],
            tenants.clone(),
            vec![quota(3.0, 4), None, None],
            caps.clone()
        )
    );
    assert_eq!(
        seen(&of_unnamed(&config, three)),
        (
            [quota(30.0, 7), quota(3.0, 6)],
            tenants,
            vec![quota(1.0, 1), None, None],
            caps
        )
    );
    assert_eq!(seen(&of_unnamed(&config, NonZeroU32::MIN)), seen(&config));
}
