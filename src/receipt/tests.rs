//! What is a receipt, which ones share a call, and how that call is written.

mod carriers;
mod forms;
mod keys;
mod laws;
mod merged;
mod refused;

use std::borrow::Cow;
use std::sync::LazyLock;

use http::Request;

use super::*;
use crate::body::SCAN_LIMIT;
use crate::config::Config;

static SETTINGS: LazyLock<config::Batch> = LazyLock::new(|| Config::default().batch);

const PATH: &str = "/v2/send/seen";
const ID: &str = "false_1@c.us_A";

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

impl Receipt {
    /// Reads a request under the default settings.
    pub(crate) fn by_default(head: Parts, body: Bytes) -> Result<Self, NotMerged> {
        match parse::excluded_by_head(&head) {
            Some(reason) => Err(reason),
            None => Self::read(&SETTINGS, &mut head.into(), body).map(|receipt| *receipt),
        }
    }

    /// The merged request, with ids as text.
    fn merged_with<'i>(&self, ids: impl Iterator<Item = &'i str>) -> UpstreamRequest {
        self.merged_request(ids.map(str::as_bytes))
    }
}

fn try_read(target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Receipt, NotMerged> {
    let body = Bytes::copy_from_slice(body);
    Receipt::by_default(head("POST", target, headers), body)
}

fn read(target: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Receipt> {
    try_read(target, headers, body).ok()
}

/// A receipt in an urlencoded form.
fn of_form(body: &str) -> Result<Receipt, NotMerged> {
    let form = ("content-type", "application/x-www-form-urlencoded");
    try_read(PATH, &[form], body.as_bytes())
}

/// A receipt in the body form.
fn of_body(body: &str) -> Option<Receipt> {
    read(PATH, &[], body.as_bytes())
}

/// A receipt in the query form.
fn of_query(query: &str) -> Option<Receipt> {
    read(&format!("{PATH}?{query}"), &[], b"")
}

fn texts(receipt: &Receipt) -> Vec<String> {
    let text = |id: Cow<'_, [u8]>| String::from_utf8(id.into_owned()).unwrap();
    receipt.ids().iter().map(text).collect()
}

/// The bytes of a request that is held whole.
fn bytes(body: RequestBody) -> Bytes {
    match body {
        RequestBody::Whole(bytes) => bytes.unwrap_or_default(),
        RequestBody::Streamed(_) => panic!("streamed"),
    }
}
