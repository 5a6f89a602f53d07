//! The metrics add up: what clients received, what the upstream saw and what was counted.

use std::collections::{BTreeMap, BTreeSet};

use super::Case;
use crate::client::Ending;
use crate::plan::Manner;
use crate::upstream::Arrival;

impl Case {
    pub(super) fn counters(&mut self) {
        self.client_requests_are_counted();
        self.upstream_calls_are_counted();
        self.broken_bodies_are_counted();
    }

    fn client_requests_are_counted(&mut self) {
        const LAW: &str = "each response to a client is counted once";
        let mut received: BTreeMap<String, usize> = BTreeMap::new();
        for response in self.seen.outcomes.iter().filter_map(|it| it.response()) {
            *received.entry(response.status.to_string()).or_default() += 1;
        }
        let outcomes = self.seen.outcomes.iter();
        let sent = outcomes.filter(|it| !matches!(it.ending, Ending::Unsent));
        let sent = sent.count();
        let all = self.count("requests_total", "");
        if all > sent {
            self.breaks(LAW, format!("{all} of {sent} requests"));
        }
        for (status, received) in received {
            let counted = self.count("requests_total", &format!("code=\"{status}\""));
            if counted < received {
                self.breaks(LAW, format!("{counted} of {received} with {status}"));
            }
        }
        let receipts = self.count("requests_total", "route=\"seen\"");
        let merged = self.count("receipts_merged_total", "");
        let unmerged = self.count("receipts_unmerged_total", "");
        if merged + unmerged != receipts {
            let what = format!("{merged} merged and {unmerged} unmerged of {receipts}");
            self.breaks("each receipt is merged, or not for one reason", what);
        }
    }

    fn upstream_calls_are_counted(&mut self) {
        const LAW: &str = "each upstream call is counted once";
        let name = "upstream_requests_total";
        let arrivals = self.seen.upstream.arrivals.clone();
        let status = |arrival: &Arrival| Some(arrival.response.as_ref()?.status);
        let statuses: BTreeSet<u16> = arrivals.iter().filter_map(status).collect();
        for code in statuses {
            let with_status = || arrivals.iter().filter(|it| status(it) == Some(code));
            // A cut response may not even begin.
            let is_heard = |it: &&Arrival| self.is_heard(it) && !self.is_cut(it);
            let (least, most) = (
                with_status().filter(is_heard).count(),
                with_status().count(),
            );
            let counted = self.count(name, &format!("code=\"{code}\""));
            if !(least..=most).contains(&counted) {
                self.breaks(LAW, format!("{counted} with {code}, not {least} to {most}"));
            }
        }
        let (all, tokens) = (
            self.count(name, ""),
            self.count("limit_wait_seconds_count", ""),
        );
        if all < arrivals.len() || all != tokens {
            let what = format!("{all} with {tokens} tokens, {} arrivals", arrivals.len());
            self.breaks(LAW, what);
        }
    }

    fn broken_bodies_are_counted(&mut self) {
        let outcomes = self.seen.outcomes.iter();
        let broken: Vec<_> = outcomes
            .filter(|it| it.step.manner == Manner::Waits)
            .filter_map(|it| it.response().filter(|response| !response.whole))
            .filter_map(|response| response.call)
            .collect();
        let arrivals = &self.seen.upstream.arrivals;
        let may_break = |arrival: &&Arrival| {
            let response = arrival.response.as_ref();
            let mut kills = self.seen.upstream.kills.iter();
            response.is_some_and(|it| it.cut || kills.any(|kill| *kill >= it.at))
        };
        let (least, most) = (broken.len(), arrivals.iter().filter(may_break).count());
        let counted = self.count("upstream_broken_off_total", "");
        if !(least..=most).contains(&counted) {
            let what = format!("{counted}, not {least} to {most}");
            self.breaks("each body that broke off is counted once", what);
        }
    }

    fn is_cut(&self, arrival: &Arrival) -> bool {
        arrival
            .response
            .as_ref()
            .is_some_and(|response| response.cut)
    }

    /// The sum of the series of a metric that have this label.
    fn count(&self, metric: &str, label: &str) -> usize {
        let lines = self.seen.metrics.lines();
        let series = lines.filter_map(|line| {
            let rest = line.strip_prefix("wawp_gateway_")?.strip_prefix(metric)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_metric = labels.is_empty() || labels.starts_with('{');
            (is_metric && labels.contains(label)).then(|| value.parse::<usize>().unwrap())
        });
        series.sum()
    }
}
