//! The value of `Content-Length`.

/// Reads a length: only digits (RFC 9110 §8.6), without sign or white space.
pub(crate) fn parse(value: &[u8]) -> Option<u64> {
    // Not `str::parse`, which accepts a leading `+`: an upstream may refuse it or
    // read another length.
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let append = |number: u64, byte| number.checked_mul(10)?.checked_add(digit(byte)?);
    let number = value.iter().try_fold(0, append);
    number.filter(|_| !value.is_empty())
}

/// Writes the header line.
pub(super) fn write(text: &mut Vec<u8>, length: u64) {
    text.extend_from_slice(b"content-length: ");
    text.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    text.extend_from_slice(b"\r\n");
}
