//! Leases while gateways come and go, and while the server fails.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_gateway_that_joins_has_its_share_and_one_that_is_killed_leaves_it() {
    let tenants = vec![
        tenant("one", 1, None, &["a"]),
        tenant("two", 2, None, &["b"]),
        tenant("new", 2, None, &["c"]),
    ];
    let mut all = Members::start(2, ms(2), sharing(quota(50.0, 5), tenants)).await;
    let one = saturate(&all[0], "a", 20).await;
    let two = saturate(&all[1], "b", 20).await;
    tokio::time::sleep(ms(3_000)).await;
    all.join(ms(2));
    tokio::time::sleep(ms(3_000)).await;
    let new = saturate(&all[2], "c", 20).await;
    tokio::time::sleep(ms(1_000)).await;
    let time = (Instant::now(), ms(5_000));
    tokio::time::sleep(time.1).await;
    for (calls, share) in [(&one, 10.0), (&two, 20.0), (&new, 20.0)] {
        assert_share(&[calls], time, share);
    }
    // It does not deregister, and what it was lent is lost.
    let killed = all.members.pop().unwrap();
    killed.link.set(Path::Lost);
    killed.tasks.iter().for_each(JoinHandle::abort);
    let at = Instant::now();
    tokio::time::sleep(ms(50_000)).await;
    let of_others = |from, to| {
        let (from, to) = (at + ms(from), at + ms(to));
        [&one, &two].map(|calls| calls.between(from, to))
    };
    // Others have its share at once. It may go on alone, so they slow down until that is certain.
    let [first, second] = of_others(1_000, 3_000);
    assert!((90..=101).contains(&(first + second)), "{first} {second}");
    let [first, second] = of_others(12_000, 30_000);
    assert!((580..=620).contains(&(first + second)), "{first} {second}");
    let [first, second] = of_others(46_000, 50_000);
    assert!(
        (63..=70).contains(&first) && (126..=140).contains(&second),
        "{first} {second}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_server_each_gateway_has_its_part_and_the_budget_is_kept() {
    for path in [Path::Lost, Path::Refused, Path::RepliesLost] {
        let tenants = vec![
            tenant("one", 1, None, &["a", "b", "c"]),
            tenant("bound", 1, quota(6.0, 2), &["d", "e", "f"]),
        ];
        let all = Members::start(3, ms(1), sharing(quota(30.0, 5), tenants)).await;
        let (mut free, mut bound) = (Vec::new(), Vec::new());
        for (index, [a, d]) in [["a", "d"], ["b", "e"], ["c", "f"]].into_iter().enumerate() {
            free.push(saturate(&all[index], a, 20).await);
            bound.push(saturate(&all[index], d, 20).await);
        }
        let count =
            |calls: &[Calls], from, to| calls.iter().map(|it| it.between(from, to)).sum::<usize>();
        tokio::time::sleep(ms(3_000)).await;
        let lost = Instant::now();
        all.members.iter().for_each(|it| it.link.set(path));
        tokio::time::sleep(ms(8_000)).await;
        assert!(all.members.iter().all(|it| !it.cluster.is_shared()));
        let found = Instant::now();
        let open = |it: &Member| it.link.set(Path::Open(ms(1)));
        all.members.iter().for_each(open);
        tokio::time::sleep(ms(8_000)).await;
        assert!(all.members.iter().all(|it| it.cluster.is_shared()));
        // Within a second each has its part.
        let first = count(&free, lost + ms(200), lost + ms(1_500));
        assert!(first > 0, "{path:?}");
        for (from, to) in [
            (lost + ms(3_000), found),
            (found + ms(4_000), found + ms(8_000)),
        ] {
            let seconds = (to - from).as_secs_f64();
            let (free, bound) = (count(&free, from, to), count(&bound, from, to));
            let (free, bound) = (free as f64 / seconds, bound as f64 / seconds);
            assert!((21.5..=25.0).contains(&free), "{path:?}: {free} {bound}");
            assert!((5.2..=6.5).contains(&bound), "{path:?}: {free} {bound}");
        }
        let bound: Vec<_> = bound.iter().collect();
        assert_total(&bound, 6.0, 2, 6.0);
        let both: Vec<_> = free.iter().chain(bound).collect();
        // Gateways notice the end of an outage at different times.
        assert_total(&both, 30.0, 5, 15.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_data_set_gives_no_second_burst_of_the_egress() {
    let all = Members::start(3, ms(1), sharing(quota(10.0, 20), Vec::new())).await;
    let calls = [
        saturate(&all[0], "a", 20).await,
        saturate(&all[1], "b", 20).await,
    ];
    tokio::time::sleep(ms(5_000)).await;
    all.server.clear();
    tokio::time::sleep(ms(5_000)).await;
    assert_total(&calls.iter().collect::<Vec<_>>(), 10.0, 20, 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_was_lent_is_asserted_at_a_server_that_has_lost_it() {
    let tenants = vec![
        tenant("free", 1, None, &["a"]),
        tenant("bound", 1, quota(0.5, 8), &["b"]),
    ];
    let all = Members::start(2, ms(1), sharing(quota(1.0, 40), tenants)).await;
    tokio::time::sleep(ms(30_000)).await;
    all.server.save();
    let bound = saturate(&all[1], "b", 20).await;
    let free = saturate(&all[0], "a", 20).await;
    tokio::time::sleep(ms(2_000)).await;
    let counts = [&free, &bound].map(|calls| calls.times().len());
    assert!(counts[0] >= 20 && counts[1] >= 7, "{counts:?}");
    // A failover to a server that has not got the last writes.
    let set = |path| all.members.iter().for_each(|it| it.link.set(path));
    set(Path::Refused);
    tokio::time::sleep(ms(300)).await;
    all.server.restore();
    set(Path::Open(ms(1)));
    tokio::time::sleep(ms(5_000)).await;
    assert!(all.members.iter().all(|it| it.cluster.generation() > 1));
    assert_total(&[&bound], 0.5, 8, 0.1);
    assert_total(&[&free, &bound], 1.0, 40, 0.1);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_no_script_returns_lends_nothing_and_stops_nothing() {
    for wrong in [
        vec![],
        vec![i64::MAX; 10],
        vec![i64::MIN; 10],
        vec![1 << 52; 10],
        vec![-1; 10],
        // No time between slots, a budget that is full for ever, and more than was asked for.
        vec![1, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        vec![1, 1 << 50, 100_000, 0, 0, 1, 0, 0, 0, 0],
        vec![1, 1, 100_000, 0, 0, 1_000_000, 0, 0, 0, 0],
        vec![1, 1, 100_000, 0, 0, 0, -1, 0, 0, 0],
        vec![1, 1, 100_000, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let all = Members::start(1, ms(1), sharing(quota(10.0, 1), Vec::new())).await;
        all.server.replace_replies(&["lease"], &wrong);
        let waiting = all[0].send("123");
        tokio::time::sleep(ms(2_000)).await;
        assert!(!waiting.is_finished(), "{wrong:?}");
        all.server.replace_replies(&[], &[]);
        let waiting = tokio::time::timeout(ms(200), waiting).await;
        assert!(waiting.unwrap().unwrap().0.is_ok(), "{wrong:?}");
    }
}
