use proptest::prelude::*;

use super::*;

/// A header, as it must be read.
fn header(length: usize, source: Option<&str>) -> Result<Begin, Malformed> {
    Ok(Begin::Header {
        length,
        source: source.map(|source| source.parse().unwrap()),
    })
}

/// A header of version 2 with these bytes after the fixed part.
fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = V2.to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// Two addresses and two ports of IPv4: the first is 203.0.113.9.
const IPV4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 1, 0xbb];

/// The same of IPv6: the first is 2001:db8::9.
fn ipv6() -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let mut bytes = address("2001:db8::9").to_vec();
    bytes.extend(address("fd00::1"));
    bytes.extend([0x12, 0x34, 1, 0xbb]);
    bytes
}

/// Every valid form of a header, and the client that it states.
fn valid_headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let unknown = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
    assert_eq!(unknown.len(), V1_MAX, "the longest line there may be");
    let with_tlvs = [&IPV4[..], &[0x04, 0, 2, 0, 0], &[0x20; 900]].concat();
    let longest = [&IPV4[..], &vec![0; V2_MAX - V2_FIXED - IPV4.len()]].concat();
    let mut right: Vec<(Vec<u8>, _)> = [
        (
            "PROXY TCP4 203.0.113.9 10.0.0.1 4660 443\r\n",
            Some("203.0.113.9"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some("255.255.255.255"),
        ),
        (
            "PROXY TCP4 203.0.113.9 10.0.0.1 0 0\r\n",
            Some("203.0.113.9"),
        ),
        (
            "PROXY TCP6 2001:db8::9 fd00::1 4660 443\r\n",
            Some("2001:db8::9"),
        ),
        (
            "PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n",
            Some("::ffff:203.0.113.9"),
        ),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN whatever it says\r\n", None),
        (&unknown, None),
    ]
    .map(|(line, source)| (line.as_bytes().to_vec(), source))
    .into();
    right.extend([
        (version_2(0x21, TCP4, &IPV4), Some("203.0.113.9")),
        (version_2(0x21, UDP4, &IPV4), Some("203.0.113.9")),
        (version_2(0x21, TCP4, &with_tlvs), Some("203.0.113.9")),
        (version_2(0x21, TCP4, &longest), Some("203.0.113.9")),
        (version_2(0x21, TCP6, &ipv6()), Some("2001:db8::9")),
        (version_2(0x21, UDP6, &ipv6()), Some("2001:db8::9")),
        (version_2(0x21, UNIX_STREAM, &[b'/'; 216]), None),
        (version_2(0x21, UNIX_DATAGRAM, &[b'/'; 216]), None),
        (version_2(0x21, UNSPECIFIED, &[]), None),
        (version_2(0x21, UNSPECIFIED, &[7; 30]), None),
        (version_2(0x20, UNSPECIFIED, &[]), None),
        // The rest of a LOCAL header means nothing.
        (version_2(0x20, TCP4, &IPV4), None),
        (version_2(0x20, TCP4, &[]), None),
        (version_2(0x20, 0xff, &[1, 2, 3]), None),
    ]);
    right
}

#[test]
fn every_form_is_read_in_any_pieces() {
    for (bytes, source) in valid_headers() {
        let whole = header(bytes.len(), source);
        for length in 0..bytes.len() {
            assert_eq!(
                read(&bytes[..length]),
                Ok(Begin::Unfinished),
                "{length} bytes of {}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(read(&bytes), whole, "{}", bytes.escape_ascii());
        // What follows belongs to the client.
        for after in [
            "GET / HTTP/1.1\r\n",
            "\x16\x03\x01",
            "PROXY UNKNOWN\r\n",
            "\n",
        ] {
            let both = [&bytes, after.as_bytes()].concat();
            assert_eq!(read(&both), whole, "{}", both.escape_ascii());
        }
    }
}

#[test]
fn anything_else_is_no_header_as_soon_as_that_is_known() {
    for (other, known_after) in [
        ("GET / HTTP/1.1\r\n", 1),
        ("POST / HTTP/1.1\r\n", 2),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 3),
        ("PROPFIND / HTTP/1.1\r\n", 4),
        ("PROXIES / HTTP/1.1\r\n", 5),
        ("\r\nGET / HTTP/1.1\r\n", 3),
        ("\r\n\r\nGET / HTTP/1.1\r\n", 5),
        ("\r\n\r\n\0\r\nQUIT\r", 12),
        ("proxy TCP4 ", 1),
        ("\x16\x03\x01\x02", 1),
        (" PROXY UNKNOWN\r\n", 1),
    ] {
        for length in 0..=other.len() {
            let expected = if length < known_after {
                Begin::Unfinished
            } else {
                Begin::Other
            };
            assert_eq!(read(&other.as_bytes()[..length]), Ok(expected), "{other:?}");
        }
    }
}

#[test]
fn a_line_that_breaks_a_rule_is_malformed() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX - 15));
    assert_eq!(long.len(), V1_MAX + 1);
    let endless = format!("PROXY TCP4 {}", "1".repeat(V1_MAX));
    for line in [
        "PROXY \r\n",
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 1.2.3.4\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \n",
        "PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP4 1.2.3.4 example.com 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP6 ::1%lo ::1 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n",
        "PROXY / HTTP/1.1\r\n",
        &long,
        &endless,
    ] {
        assert!(read(line.as_bytes()).is_err(), "{line:?}");
    }
    assert!(read(b"PROXY TCP4 1.2.3.\xff 1.2.3.4 1 2\r\n").is_err());
}

#[test]
fn a_block_that_breaks_a_rule_is_malformed() {
    for command in (0..=u8::MAX).filter(|command| !matches!(command, 0x20 | 0x21)) {
        let bytes = version_2(command, TCP4, &IPV4);
        assert!(read(&bytes).is_err(), "command {command:#x}");
        assert!(read(&bytes[..13]).is_err(), "refused at once");
    }
    let known = [
        UNSPECIFIED,
        TCP4,
        UDP4,
        TCP6,
        UDP6,
        UNIX_STREAM,
        UNIX_DATAGRAM,
    ];
    for family in (0..=u8::MAX).filter(|family| !known.contains(family)) {
        let bytes = version_2(0x21, family, &[0; 300]);
        assert!(read(&bytes).is_err(), "family {family:#x}");
    }
    for (family, needed) in [
        (TCP4, 12),
        (UDP4, 12),
        (TCP6, 36),
        (UDP6, 36),
        (UNIX_STREAM, 216),
    ] {
        let bytes = version_2(0x21, family, &vec![0; needed - 1]);
        assert!(read(&bytes).is_err(), "family {family:#x}");
        assert!(read(&bytes[..V2_FIXED]).is_err(), "refused at once");
    }
    let long = vec![0; V2_MAX - V2_FIXED + 1];
    for command in [0x20, 0x21] {
        let bytes = version_2(command, TCP4, &long);
        assert!(read(&bytes[..V2_FIXED]).is_err(), "refused at once");
    }
}

/// Bytes that resemble headers.
fn near_headers() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"PROXY ".to_vec()),
        Just(b"TCP4 ".to_vec()),
        Just(b"TCP6 ".to_vec()),
        Just(b"UNKNOWN".to_vec()),
        Just(b"1.2.3.4 ".to_vec()),
        Just(b"::1 ".to_vec()),
        Just(b"443 ".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(V2.to_vec()),
        Just(vec![0x20, UNSPECIFIED, 0, 0]),
        Just(vec![0x21, TCP4, 0, 12]),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// For any input: it never panics, what it takes is there and bounded,
    /// and more bytes change nothing that has been decided.
    #[test]
    fn never_panics_and_never_changes_its_mind(bytes in near_headers()) {
        let mut decided = None;
        for length in 0..=bytes.len() {
            let begin = read(&bytes[..length]);
            if let Ok(Begin::Header { length: taken, .. }) = begin {
                prop_assert!(taken <= length && taken <= V2_MAX);
            }
            match decided {
                Some(decided) => prop_assert_eq!(begin, decided),
                None if begin != Ok(Begin::Unfinished) => decided = Some(begin),
                None => prop_assert!(length < V2_MAX),
            }
        }
    }
}
