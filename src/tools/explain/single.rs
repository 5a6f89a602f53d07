//! What is said about each request by itself.

use http::StatusCode;

use super::difference;
use super::mask::printable;
use super::reasons::meaning;
use super::writer::{KEY_COLUMN, Writer, cut, label, not_merged};
use super::{Explained, Outcome, merging};
use crate::config::{LimitMode, Quota};
use crate::identity::{Certainty, CredentialSource, InstanceSource, Places};
use crate::limit::{Lane, SharedBudget};
use crate::observe::access_log::WITHHELD;
use crate::observe::metrics::Unreadable;
use crate::proxy::inspect::{Inspected, Inspection};
use crate::receipt::{NotMerged, Receipt, merge};

impl Writer<'_> {
    pub(super) fn request(&mut self, index: usize, explained: &Explained) {
        let origin = printable(&explained.origin);
        self.page
            .heading(&format!("Request {} ({origin})", index + 1));
        match &explained.outcome {
            Outcome::Inspected(inspected) => self.inspected(inspected),
            Outcome::Refused(error) => {
                let text = refusal(error.status(), &error.to_string());
                self.entry("result", &text);
            }
            Outcome::Unreadable(unreadable) => {
                let text = match unreadable {
                    Unreadable::TooLong => {
                        "refused with 431 or 414: its head is too long, or has too many fields \
                         (server.max_headers, server.max_header_bytes)"
                    }
                    _ => "refused with 400: it is no request of HTTP/1.1",
                };
                self.entry("result", text);
            }
        }
    }

    fn inspected(&mut self, inspected: &Inspected) {
        let result = self.result(inspected);
        self.entry("result", &result);
        self.places(inspected);
        let tenant = inspected.tenant.as_deref().unwrap_or("none");
        self.entry("tenant", tenant);
        if let Ok(Some(lane)) = &inspected.lane {
            self.lane(inspected, lane);
        }
        if inspected.lane.is_err() {
            return;
        }
        match &inspected.request {
            Inspection::Receipt(receipt) => {
                self.key(receipt);
                let (mut request, _) = merge([&**receipt].into_iter(), &[]);
                self.page.heading("  Sent to the API, if it stays alone");
                self.upstream.prepare(&mut request);
                self.sent(&request, true);
            }
            Inspection::Other { request, .. } => {
                self.page.heading("  Sent to the API");
                self.sent(request, false);
            }
        }
    }

    /// What becomes of a request.
    fn result(&self, inspected: &Inspected) -> String {
        if let Err(denied) = &inspected.lane {
            return refusal(StatusCode::FORBIDDEN, &denied.to_string());
        }
        match &inspected.request {
            Inspection::Receipt(receipt) => {
                let what = match receipt.id_count() {
                    0 => "a receipt for the whole chat".to_owned(),
                    1 => "a receipt of 1 id".to_owned(),
                    count => format!("a receipt of {count} ids"),
                };
                match merging::excluded(receipt, &self.config.batch) {
                    Some(reason) => format!("{what}; {}", not_merged(reason)),
                    None => format!("{what}; {}", may_merge(receipt.reason_if_alone())),
                }
            }
            Inspection::Other {
                is_preflight: true, ..
            } => "a preflight: forwarded at once, without a bucket token".to_owned(),
            Inspection::Other {
                not_merged: Some(reason),
                ..
            } => format!("forwarded alone; {}", not_merged(*reason)),
            Inspection::Other { .. } => {
                "no receipt: it is not a path of batch.paths; forwarded".to_owned()
            }
        }
    }

    fn places(&mut self, inspected: &Inspected) {
        let text = self.instances(&inspected.places);
        self.entry("instance", &text);
        let Places {
            credentials,
            has_list,
            ..
        } = &inspected.places;
        let mut sources: Vec<_> = credentials.iter().map(|(source, _)| *source).collect();
        sources.dedup();
        let sources: Vec<_> = sources.into_iter().map(credential_source).collect();
        let mut text = match sources.is_empty() {
            true => "none found".to_owned(),
            false => sources.join(" and "),
        };
        if inspected.key_was_replaced {
            text.push_str("; a tenant key, replaced by the access token");
        }
        self.entry("credential", &text);
        if *has_list {
            let text = "instance_id or access_token is a list or an object, or the body is of \
                        two types: backends read that in different ways";
            self.entry("ambiguous", text);
        }
        match inspected.identity.certainty {
            Certainty::Ambiguous if !has_list => {
                let text = "it names several instances or credentials, and a backend may use any";
                self.entry("ambiguous", text);
            }
            Certainty::Partial => {
                let text = "part of the body cannot be searched, and may name another instance";
                self.entry("uncertain", text);
            }
            _ => {}
        }
    }

    fn instances(&self, places: &Places) -> String {
        let found = &places.instances;
        let Some((_, first)) = found.first() else {
            return "none found".to_owned();
        };
        let shown = |name: &str| match self.mask.shows_instances() {
            true => cut(&printable(name)),
            false => WITHHELD.to_owned(),
        };
        let is_same = found.iter().all(|(_, name)| name == first);
        let sources = found.iter().map(|(source, _)| instance_source(*source));
        match (found.len(), is_same) {
            (1, _) => format!("{}, {}", shown(first), instance_source(found[0].0)),
            (_, true) => {
                let sources: Vec<_> = sources.collect();
                let named = match found.len() {
                    2 => "twice".to_owned(),
                    times => format!("{times} times"),
                };
                format!("{}, named {named}: {}", shown(first), sources.join(" and "))
            }
            (_, false) => {
                let named = found.iter().zip(sources);
                let named: Vec<_> = named
                    .map(|((_, name), source)| format!("{} {source}", shown(name)))
                    .collect();
                named.join(", but ")
            }
        }
    }

    fn lane(&mut self, inspected: &Inspected, lane: &Lane) {
        let limit = lane.limit();
        let class = match &limit.class {
            None => "none: the limit of [limit]".to_owned(),
            Some(class) => format!("{class} ([[limit.class]])"),
        };
        self.entry("class", &class);
        let identity = &inspected.identity;
        let owner = match (&identity.instance, inspected.places.credentials.is_empty()) {
            (Some(_), _) => "of the instance",
            (None, false) => "of the credential, as no instance is named",
            (None, true) if identity.credential.is_some() => {
                "of the client's address, as the body may hide an instance"
            }
            (None, true) => "of all requests that name neither instance nor credential",
        };
        let observed = match self.config.limit.mode {
            LimitMode::Observe => " (only observed: limit.mode)",
            LimitMode::Enforce => "",
        };
        let in_flight = limit.max_in_flight.map(|max| format!(", {max} in flight"));
        let in_flight = in_flight.unwrap_or_default();
        let bucket = format!("{owner}: {}{in_flight}{observed}", quota(limit.quota));
        self.entry("bucket", &bucket);
        let [verified, unverified] = lane.shared_budgets();
        let verified = format!("the main bucket{}", self.shared(verified, ""));
        self.entry("  verified", &verified);
        let second = self.shared(unverified, "a second ");
        let unverified = format!(
            "the main bucket while no credential is verified, then a second one of the same \
             size{second}"
        );
        self.entry("  unverified", &unverified);
        let verifies = match lane.verifies() {
            true => "a 2xx to this request verifies its credential",
            false => "the response to this request verifies nothing",
        };
        self.entry("", verifies);
    }

    /// The budgets that are shared with other buckets.
    fn shared(&self, shared: Option<SharedBudget>, which: &str) -> String {
        let Some(SharedBudget {
            weight,
            quota: of_tenant,
        }) = shared
        else {
            return String::new();
        };
        let mut text = String::new();
        if let Some(of_tenant) = of_tenant {
            text.push_str(&format!(
                "; {which}budget of the tenant: {}",
                quota(Some(of_tenant))
            ));
        }
        if let Some(egress) = self.config.egress.quota {
            text.push_str(&format!(
                "; egress of all: {}, with weight {weight}",
                quota(Some(egress))
            ));
        }
        text
    }

    fn key(&mut self, receipt: &Receipt) {
        self.page
            .heading("  Merge key: receipts merge if all of this is equal");
        for part in difference::parts(receipt, &self.config.batch) {
            let text = self.values(&part);
            self.page.entry(4, KEY_COLUMN, &label(&part), &cut(&text));
        }
    }
}

fn refusal(status: StatusCode, why: &str) -> String {
    format!("refused by the gateway with {}: {why}", status.as_u16())
}

/// What a receipt that was understood merges with.
fn may_merge(if_alone: NotMerged) -> String {
    match if_alone {
        NotMerged::ListForm => format!(
            "{if_alone}: {}. Whether one comes depends on what else arrives",
            meaning(if_alone)
        ),
        _ => "it may merge. Whether it does depends on what else arrives: it is sent alone \
              without another receipt of its key within batch.window, and while one of its ids \
              is in quarantine"
            .to_owned(),
    }
}

fn quota(quota: Option<Quota>) -> String {
    match quota {
        None => "no limit".to_owned(),
        Some(quota) => format!("{} per second, {} at once", quota.rate, quota.burst),
    }
}

fn instance_source(source: InstanceSource) -> &'static str {
    match source {
        InstanceSource::Query => "in the query",
        InstanceSource::Header => "in the header X-Instance-ID",
        InstanceSource::Body => "in the body",
    }
}

fn credential_source(source: CredentialSource) -> &'static str {
    match source {
        CredentialSource::Query => "in the query",
        CredentialSource::Authorization => "in the header Authorization",
        CredentialSource::Header => "in the header access-token",
        CredentialSource::Body => "in the body",
    }
}
