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
    pub(crate) fn by_default(head: Parts, body: Bytes) -> Result<Self, NoReceipt> {
        Self::read(&SETTINGS, head, body)
    }
}

fn try_read(target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Receipt, NotMerged> {
    let body = Bytes::copy_from_slice(body);
    let read = Receipt::read(&SETTINGS, head("POST", target, headers), body);
    read.map_err(|none| none.reason)
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
    receipt.ids().iter().map(Cow::into_owned).collect()
}

/// The bytes of a request that is held whole.
fn bytes(body: RequestBody) -> Bytes {
    match body {
        RequestBody::Whole(bytes) => bytes.unwrap_or_default(),
        RequestBody::Streamed(_) => panic!("streamed"),
    }
}
