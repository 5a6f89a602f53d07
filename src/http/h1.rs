//! The HTTP/1.1 codec of the fast path.
//!
//! Most requests arrive complete, with a short body of known length. This codec
//! reads and writes them and their responses. Everything else (streamed bodies,
//! upgrades, expectations, HTTP/1.0, HTTP/2) goes to hyper. So does a request that
//! this codec does not accept: hyper then gets the same bytes.
//! `benches/README.md` has the figures that justify a second codec.
//! Invariants: hyper would read each request accepted here in the same way; of
//! a response, nothing is accepted that RFC 9112 does not allow.

mod decode;
mod encode;
mod framing;
mod request;
mod response;
mod write_buf;

pub(crate) use decode::{BodyDecoder, Decoded};
pub(crate) use encode::BodyEncoder;
pub(crate) use framing::FramingConflict;
pub(crate) use request::{
    FastRequest, RequestFrame, RequestRead, frame_request, read_request, write_request,
    write_request_head,
};
pub(crate) use response::{
    FinalResponse, MAX_RESPONSE_HEAD, MAX_RESPONSE_HEADERS, ResponseRead, read_response,
    write_response,
};
pub(crate) use write_buf::WriteBuf;

/// Bytes that are not HTTP/1.1, or that could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Room for the end of a head: the header that frames the body, and the empty
/// line.
const HEAD_END: usize = 64;

#[cfg(test)]
mod tests;
