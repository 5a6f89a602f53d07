//! The laws of splitting, for any batch and any guilty members.

use http::StatusCode;
use proptest::prelude::*;

use super::*;

fn rejection(shape: u64) -> Rejection {
    Rejection::new(StatusCode::UNPROCESSABLE_ENTITY, shape)
}

/// The outcome of a call, by its ids.
type Upstream<'u> = &'u dyn Fn(&IdSet) -> Outcome;

/// The result of a batch.
struct Run {
    calls: Vec<Vec<usize>>,
    /// The verdict of each member.
    verdicts: Vec<Outcome>,
    common: Option<Rejection>,
}

fn run(members: &[IdSet], mut split: Split, upstream: Upstream<'_>) -> Run {
    let (mut calls, mut sizes) = (Vec::new(), 0);
    let mut verdicts = vec![None; members.len()];
    let mut settled = vec![false; members.len()];
    loop {
        let round = split.round();
        if round.is_empty() {
            break;
        }
        let mut outcomes = Vec::new();
        for call in round {
            assert!(!call.is_empty());
            let ids = call.iter().flat_map(|member| &members[*member]);
            let outcome = upstream(&ids.copied().collect());
            for member in &call {
                assert!(!settled[*member], "sent again after its verdict");
                verdicts[*member] = Some(outcome);
                settled[*member] =
                    outcome == Outcome::Settled || split.owner(&call) == Some(*member);
            }
            sizes += 1;
            calls.push(call.clone());
            outcomes.push((call, outcome));
        }
        split.learn(outcomes);
        assert!(sizes <= members.len() + EXTRA_CALLS, "{sizes} calls");
    }
    let last = verdicts.iter().flatten().last().copied();
    let verdicts = verdicts.into_iter().map(|it| it.or(last).unwrap());
    Run {
        calls,
        verdicts: verdicts.collect(),
        common: split.common(),
    }
}

/// Members with one id each.
fn singles(count: usize) -> Vec<IdSet> {
    (0..count as u64).map(|id| IdSet::from([id])).collect()
}

fn settle(members: &[IdSet], upstream: Upstream<'_>) -> Run {
    run(members, Split::new(members.to_vec()), upstream)
}

/// Rejects calls with one of these ids, the first of them first.
fn guilty(bad: &[(u64, u64)]) -> impl Fn(&IdSet) -> Outcome {
    let bad = bad.to_vec();
    move |ids| {
        let found = bad.iter().find(|(id, _)| ids.contains(id));
        found.map_or(Outcome::Settled, |(_, shape)| {
            Outcome::Rejected(rejection(*shape))
        })
    }
}

#[test]
fn a_common_failure_is_found_with_four_calls() {
    for count in 1..200 {
        let found = settle(&singles(count), &|_| Outcome::Rejected(rejection(1)));
        assert!(found.calls.len() <= 4, "{count}: {:?}", found.calls);
        assert_eq!(found.common.is_some(), count > 1, "{count}");
        assert!(
            found
                .verdicts
                .iter()
                .all(|it| *it == Outcome::Rejected(rejection(1)))
        );
    }
}

#[test]
fn a_common_failure_that_lasts_costs_one_call() {
    let members = singles(50);
    let split = Split::recheck(members.clone(), rejection(1), 7);
    let found = run(&members, split, &|_| Outcome::Rejected(rejection(1)));
    assert_eq!(found.calls, [vec![7]]);
    assert_eq!(found.common, Some(rejection(1)));
}

#[test]
fn a_common_failure_that_is_over_costs_one_call_more() {
    let members = singles(50);
    let split = || Split::recheck(members.clone(), rejection(1), 7);
    let found = run(&members, split(), &|_| Outcome::Settled);
    assert_eq!(found.calls.len(), 2);
    assert_eq!((found.calls[0].len(), found.calls[1].len()), (1, 49));
    // Another failure has replaced it.
    let found = run(&members, split(), &|_| Outcome::Rejected(rejection(2)));
    assert_eq!(found.calls.len(), 4);
    assert_eq!(found.common, Some(rejection(2)));
    // One guilty member is left.
    let found = run(&members, split(), &guilty(&[(30, 1)]));
    only_guilty_fail(&found, &[(30, 1)]);
    assert!(found.calls.len() <= 15, "{:?}", found.calls);
}

fn only_guilty_fail(found: &Run, bad: &[(u64, u64)]) {
    for (member, verdict) in found.verdicts.iter().enumerate() {
        let own = bad.iter().find(|(id, _)| *id == member as u64);
        let own = own.map_or(Outcome::Settled, |(_, shape)| {
            Outcome::Rejected(rejection(*shape))
        });
        assert_eq!(*verdict, own, "member {member}");
    }
}

#[test]
fn one_guilty_member_is_found_with_few_calls() {
    for count in (1..40).chain([63, 64, 65, 66, 67, 100, 129, 130, 131]) {
        for bad in 0..count {
            let found = settle(&singles(count), &guilty(&[(bad as u64, 1)]));
            only_guilty_fail(&found, &[(bad as u64, 1)]);
            let bound = 2.0 * (count as f64).log2() + 4.0;
            assert!(
                found.calls.len() as f64 <= bound,
                "{bad} of {count}: {:?}",
                found.calls
            );
            assert_eq!(found.common, None);
        }
    }
}

#[test]
fn two_guilty_members_each_get_their_own_verdict() {
    for count in [2, 3, 4, 5, 7, 8, 12] {
        for one in 0..count {
            for two in (0..count).filter(|two| *two != one) {
                for shape in [1, 2] {
                    let bad = [(one as u64, 1), (two as u64, shape)];
                    let found = settle(&singles(count), &guilty(&bad));
                    only_guilty_fail(&found, &bad);
                }
            }
        }
    }
}

#[test]
fn a_common_failure_is_found_with_four_calls_where_lists_overlap() {
    for count in [2_u64, 4, 5, 9, 30] {
        let members: Vec<IdSet> = (0..count).map(|it| (it..it + 10).collect()).collect();
        let found = settle(&members, &|_| Outcome::Rejected(rejection(1)));
        assert!(found.calls.len() <= 4, "{count}: {:?}", found.calls);
    }
}

/// The members of one conversation: each new message and the nine before it.
#[test]
fn one_bad_id_in_many_lists_never_looks_like_a_common_failure() {
    for count in [2_u64, 4, 5, 9, 30] {
        let members: Vec<IdSet> = (0..count).map(|it| (it..it + 10).collect()).collect();
        for bad in 0..count + 10 {
            let found = settle(&members, &guilty(&[(bad, 1)]));
            for (member, verdict) in found.verdicts.iter().enumerate() {
                let is_guilty = members[member].contains(&bad);
                assert_eq!(
                    *verdict != Outcome::Settled,
                    is_guilty,
                    "{bad} {member} of {count}"
                );
            }
        }
    }
}

/// Three members fail alike, and the one that is left has not the id they share.
#[test]
fn no_fourth_member_is_probed() {
    let (bad, one, two) = (90, 91, 92);
    let members = [
        [bad, one, two, 1],
        [one, two, 4, 5],
        [bad, two, 3, 6],
        [bad, one, 2, 7],
    ];
    let members = members.map(IdSet::from);
    let found = settle(&members, &guilty(&[(bad, 0)]));
    let rejected = Outcome::Rejected(rejection(0));
    assert_eq!(
        found.verdicts,
        [rejected, Outcome::Settled, rejected, rejected]
    );
}

#[test]
fn a_list_that_is_too_long_is_split_until_it_fits() {
    let limit = |ids: &IdSet| match ids.len() {
        0..=10 => Outcome::Settled,
        _ => Outcome::Rejected(rejection(413)),
    };
    let found = settle(&singles(64), &limit);
    assert!(found.verdicts.iter().all(|it| *it == Outcome::Settled));
}

#[test]
fn whole_chat_receipts_are_never_split() {
    let found = settle(&[IdSet::new()], &|_| Outcome::Rejected(rejection(1)));
    assert_eq!(found.calls, [vec![0]]);
    assert_eq!(found.common, None);
}

#[test]
fn members_that_expire_end_the_split() {
    let found = settle(&singles(9), &|ids| match ids.len() {
        9 => Outcome::Rejected(rejection(1)),
        _ => Outcome::Expired,
    });
    assert_eq!(found.calls.len(), 10, "each is tried once");
}

proptest! {
    /// Never more calls than members plus three (checked in `run`); each member
    /// that was sent alone has its own verdict.
    #[test]
    fn any_members_and_any_upstream(
        members in proptest::collection::btree_set(
            proptest::collection::btree_set(0..40_u64, 1..6), 1..40,
        ),
        bad in proptest::collection::vec((0..40_u64, 0..3_u64), 0..6),
        remembered in proptest::option::of(0..3_u64),
    ) {
        let members: Vec<IdSet> = members.into_iter().collect();
        let split = match remembered {
            Some(shape) => Split::recheck(members.clone(), rejection(shape), members.len() / 2),
            None => Split::new(members.clone()),
        };
        let upstream = guilty(&bad);
        let found = run(&members, split, &upstream);
        let bad_ids: IdSet = bad.iter().map(|(id, _)| *id).collect();
        for (member, verdict) in found.verdicts.iter().enumerate() {
            let own = upstream(&members[member]);
            if found.common.is_none() && bad_ids.len() < 2 {
                prop_assert_eq!(*verdict == Outcome::Settled, own == Outcome::Settled);
            }
            // A member never succeeds where its own request would have failed.
            prop_assert!(own == Outcome::Settled || *verdict != Outcome::Settled);
        }
    }
}
