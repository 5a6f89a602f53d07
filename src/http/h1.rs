//! HTTP/1.1 in its plain case, which most calls are.
//!
//! Owns what is written and read of a request that lies before us whole, with
//! its length told, and of its answer. Everything else (bodies that stream,
//! upgrades, expectations, HTTP/1.0, HTTP/2) is hyper's, as is every request
//! that is not understood here: it goes there byte for byte. What is gained in
//! time and memory stands in benches/README.md.
//! Invariants: a request read here would have been read the same by hyper; of
//! an answer nothing is believed that RFC 9112 does not allow.

mod decode;
mod encode;
mod header_case;
mod raw_head;
mod request;
mod response;
mod write_buf;

pub(crate) use decode::{Framing, Taken};
pub(crate) use encode::Written;
pub(crate) use header_case::Spelling;
pub(crate) use raw_head::Wording;
pub(crate) use request::{Plain, Read, read_request, write_request};
pub(crate) use response::{
    Answer, MAX_ANSWER_FIELDS, MAX_ANSWER_HEAD, Malformed, Reply, has_no_body, read_reply,
    write_answer,
};
pub(crate) use write_buf::Outbox;

/// Room for what may end a head: how its body is framed, and an empty line.
const LAST_LINES: usize = 64;

#[cfg(test)]
mod tests;
