//! Three gateways share an egress by weight, and the rate of a tenant.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::gateways::{Gateways, MAX_WAIT};
use super::laws::{self, Budget};
use super::load;
use super::servers::Server;

const EGRESS: Budget = Budget {
    rate: 16.0,
    burst: 4.0,
};
const BOUND: Budget = Budget {
    rate: 4.0,
    burst: 1.0,
};

#[tokio::test]
async fn tenants_share_the_egress_by_weight_whatever_gateways_their_requests_reach() {
    const LENGTH: Duration = Duration::from_secs(10);
    let further = "[egress]\nrate = 16\nburst = 4\n\
        [[tenant]]\nname = \"one\"\ninstances = [\"1\"]\n\
        [[tenant]]\nname = \"three\"\ninstances = [\"2\"]\nweight = 3\n\
        [[tenant]]\nname = \"bound\"\ninstances = [\"3\"]\nweight = 9\nrate = 4\nburst = 1\n";
    let server = Server::start(&[]).await;
    let urls = [(); 3].map(|()| server.url());
    let all = Gateways::start_with([1; 3], server, urls, further).await;
    let begun = Instant::now();
    let loads = [
        // At one gateway, at the others, and at all.
        load::send(all.gateways[0].port, "1", 12, LENGTH),
        load::send(all.gateways[1].port, "2", 9, LENGTH),
        load::send(all.gateways[2].port, "2", 9, LENGTH),
        load::send(all.port, "3", 12, LENGTH),
    ];
    let mut outcomes = Vec::new();
    for load in loads {
        outcomes.extend(load.await.unwrap());
    }
    sleep(MAX_WAIT).await;
    let arrivals = all.upstream.arrivals();
    laws::each_caller_is_answered(&outcomes, &arrivals, MAX_WAIT, |_| false);
    EGRESS.holds("egress", &arrivals);
    let (from, to) = (begun + Duration::from_secs(2), begun + LENGTH);
    let seconds = (to - from).as_secs_f64();
    // What the bound tenant leaves is shared by the weights of the others.
    for (instance, expected) in [("3", 4.0), ("1", 3.0), ("2", 9.0)] {
        // Until its credential is verified, the bound tenant has a second budget.
        let of_tenant = laws::between(&laws::of(&arrivals, instance), from, to);
        if instance == "3" {
            BOUND.holds("tenant", &of_tenant);
        }
        let rate = of_tenant.len() as f64 / seconds;
        println!("tenant of {instance}: {rate:.1}/s, expected {expected}/s");
        // The machine may be busy with other tests.
        assert!(
            (rate - expected).abs() <= 0.2 * expected,
            "{instance}: {rate}/s"
        );
    }
}
