//! The gateways of the cluster, and whether its server is used.

use maud::{Markup, html};

use super::super::state::{ClusterStatus, Member, Status};
use super::tables::{cell, table};
use super::visible;

/// Seconds after which a gateway is no longer counted (rule: cluster).
const LIVE_SECONDS: f64 = 8.0;

/// Empty without `[cluster]`.
pub(super) fn cluster(status: &Status) -> Markup {
    html! {
        section #cluster data-live {
            @if let Some(cluster) = &status.cluster { (shown(cluster)) }
        }
    }
}

fn shown(cluster: &ClusterStatus) -> Markup {
    let is_shared = cluster.fallback.is_none();
    html! {
        h2 { "Cluster" }
        p {
            strong class=(if is_shared { "good" } else { "warning" }) { (cluster.state) }
            @match cluster.fallback {
                None => {
                    ", round trip to the server " (format!("{:.1}", cluster.round_trip * 1e3)) " ms"
                }
                Some(seconds) => {
                    " for " (format!("{seconds:.0}")) " s: this gateway takes 1/" (cluster.share) " of every rate"
                    @if let Some(reason) = cluster.reason { " (" (reason) ")" }
                }
            }
        }
        @if !cluster.gateways.is_empty() {
            (table("Gateways", &["Gateway", "Version", "Last seen", "Settings"], &html! {
                @for gateway in &cluster.gateways {
                    (row(gateway))
                }
            }))
        }
    }
}

fn row(gateway: &Member) -> Markup {
    let name = match gateway.is_this {
        true => format!("{} (this one)", visible(&gateway.id)),
        false => visible(&gateway.id),
    };
    let seen = match gateway.seen > LIVE_SECONDS {
        true => format!("{:.0} s ago, gone", gateway.seen),
        false => format!("{:.0} s ago", gateway.seen),
    };
    html! {
        tr {
            (cell("Gateway", name))
            (cell("Version", visible(&gateway.version)))
            (cell("Last seen", seen))
            (cell("Settings", if gateway.differs { "different" } else { "the same" }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_each_gateway_are_shown() {
        let member = |id: &str, seen, differs| Member {
            id: id.to_owned(),
            version: "0.1.0".to_owned(),
            is_this: id == "a",
            seen,
            differs,
        };
        let mut cluster = ClusterStatus {
            state: "shared",
            fallback: None,
            reason: None,
            share: 3,
            round_trip: 0.00042,
            gateways: vec![member("a", 1.0, false), member("<b>", 9.0, true)],
        };
        let text = shown(&cluster).into_string();
        for part in [
            "shared",
            "0.4 ms",
            "a (this one)",
            "&lt;b&gt;",
            "9 s ago, gone",
            "different",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        cluster.fallback = Some(61.0);
        cluster.state = "fallback";
        cluster.reason = Some("refused");
        let text = shown(&cluster).into_string();
        let expected = "for 61 s: this gateway takes 1/3 of every rate (refused)";
        assert!(
            text.contains(expected) && !text.contains("round trip"),
            "{text}"
        );
    }
}
