//! The `Server-Timing` header of responses to receipts and to requests that waited
//! (rule: server timing).

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::batch::Timing;
use crate::http::response_head::ResponseHead;
use crate::receipt::NotMerged;

/// Capacity for a usual header, in bytes.
const LENGTH: usize = 128;

/// How a reason begins.
const NOT_MERGED: &str = "not merged: ";

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Adds the times of a receipt.
pub(crate) fn of_receipt(head: &mut ResponseHead, timing: &Timing) {
    // Without `format!`, because this runs for each caller of a batch.
    let mut text = String::with_capacity(LENGTH);
    let plural = |count| if count == 1 { "" } else { "s" };
    text.push_str("batch;dur=");
    millis(&mut text, timing.window);
    text.push_str(";desc=\"");
    if let Some(reason) = timing.not_merged {
        text.push_str(NOT_MERGED);
        text.push_str(reason.as_str());
    } else {
        text.push_str(itoa::Buffer::new().format(timing.callers));
        text.push_str(" caller");
        text.push_str(plural(timing.callers));
        text.push_str(", ");
        match timing.ids {
            0 => text.push_str("whole chat"),
            ids => {
                text.push_str(itoa::Buffer::new().format(ids));
                text.push_str(" id");
                text.push_str(plural(ids));
            }
        }
    }
    text.push_str("\", ");
    append(head, text, timing.queue, timing.upstream);
}

/// Adds the times of a request that was forwarded unchanged, and why it was not
/// merged if it is one that might have been.
pub(crate) fn of_forwarded(
    head: &mut ResponseHead,
    not_merged: Option<NotMerged>,
    queue: Duration,
    upstream: Duration,
) {
    let mut text = String::with_capacity(LENGTH);
    if let Some(reason) = not_merged {
        describe(&mut text, reason);
        text.push_str(", ");
    }
    append(head, text, queue, upstream);
}

/// Adds why a request was not merged to a response of the gateway itself.
pub(crate) fn of_refused(head: &mut ResponseHead, reason: NotMerged) {
    let mut text = String::new();
    describe(&mut text, reason);
    put(head, text);
}

fn describe(text: &mut String, reason: NotMerged) {
    text.push_str("batch;desc=\"");
    text.push_str(NOT_MERGED);
    text.push_str(reason.as_str());
    text.push('"');
}

fn append(head: &mut ResponseHead, mut text: String, queue: Duration, upstream: Duration) {
    text.push_str("queue;dur=");
    millis(&mut text, queue);
    text.push_str(", upstream;dur=");
    millis(&mut text, upstream);
    put(head, text);
}

fn put(head: &mut ResponseHead, text: String) {
    // Appended: the upstream may have sent the header, too.
    head.append(
        SERVER_TIMING,
        HeaderValue::try_from(text).expect("digits and words are a header value"),
    );
}

/// Writes milliseconds with one decimal, the unit of `dur` (W3C Server Timing §3).
fn millis(text: &mut String, duration: Duration) {
    // Rounded to the nearest tenth.
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let tenths = micros.saturating_add(50) / 100;
    text.push_str(itoa::Buffer::new().format(tenths / 10));
    if tenths % 10 != 0 {
        text.push('.');
        text.push(char::from(b'0' + (tenths % 10) as u8));
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn the_field_is_written_as_in_the_rule_server_timing() {
        let mut head = ResponseHead::new(StatusCode::OK);
        let timing = Timing {
            window: Duration::from_micros(50_140),
            queue: Duration::ZERO,
            upstream: Duration::from_millis(112),
            callers: 3,
            ids: 7,
            not_merged: None,
        };
        of_receipt(&mut head, &timing);
        assert_eq!(
            head.headers_mut()["server-timing"],
            r#"batch;dur=50.1;desc="3 callers, 7 ids", queue;dur=0, upstream;dur=112"#
        );
    }

    #[test]
    fn a_receipt_that_was_not_merged_says_why() {
        let mut head = ResponseHead::new(StatusCode::OK);
        of_receipt(
            &mut head,
            &Timing {
                callers: 1,
                not_merged: Some(NotMerged::Alone),
                ..Timing::default()
            },
        );
        let reason = Some(NotMerged::IdsShape);
        let (queue, upstream) = (Duration::from_millis(5), Duration::from_millis(6));
        of_forwarded(&mut head, reason, queue, upstream);
        of_forwarded(&mut head, None, queue, upstream);
        of_refused(&mut head, NotMerged::Refused);
        let values: Vec<_> = head.get_all(&SERVER_TIMING).collect();
        assert_eq!(
            values,
            [
                &br#"batch;dur=0;desc="not merged: alone", queue;dur=0, upstream;dur=0"#[..],
                br#"batch;desc="not merged: ids_shape", queue;dur=5, upstream;dur=6"#,
                b"queue;dur=5, upstream;dur=6",
                br#"batch;desc="not merged: refused""#,
            ]
        );
    }
}
