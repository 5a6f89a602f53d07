//! Every way in which a credential is written into a request.

use std::fmt::Write as _;

use wawp_gateway::sandbox::Call;

/// Percent-encodes all but letters, digits and what no server needs encoded.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").unwrap();
        }
    }
    encoded
}

pub(super) fn all_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

pub(super) fn all_escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("\\u{byte:04X}")).collect()
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(super) fn plain(text: &str) -> String {
    text.to_owned()
}

/// A request in which `{}` stands for a credential and `$` for an instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling {
    pub(super) target: &'static str,
    pub(super) fields: &'static [(&'static str, &'static str)],
    pub(super) body: &'static str,
    /// How a client writes its credential there.
    pub(super) written: fn(&str) -> String,
    /// How the gateway does.
    pub(super) put: fn(&str) -> String,
}

#[derive(Debug)]
pub(super) struct Written {
    pub(super) target: String,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) body: String,
}

impl Spelling {
    pub(super) fn write(&self, credential: &str, instance: &str) -> Written {
        let fill = |text: &str| text.replace('$', instance).replace("{}", credential);
        Written {
            target: fill(self.target),
            fields: self
                .fields
                .iter()
                .map(|(name, value)| (*name, fill(value)))
                .collect(),
            body: fill(self.body),
        }
    }
}

impl Written {
    pub(super) fn request(&self) -> String {
        let length = ("Content-Length", self.body.len().to_string());
        self.framed(length.0, &length.1, &self.body)
    }

    /// In chunks of this many bytes.
    pub(super) fn chunked(&self, size: usize) -> String {
        let mut body = String::new();
        for chunk in self.body.as_bytes().chunks(size) {
            let text = std::str::from_utf8(chunk).unwrap();
            write!(body, "{:x}\r\n{text}\r\n", chunk.len()).unwrap();
        }
        body.push_str("0\r\n\r\n");
        self.framed("Transfer-Encoding", "chunked", &body)
    }

    fn framed(&self, framing: &str, value: &str, body: &str) -> String {
        let mut request = format!("POST {} HTTP/1.1\r\nHost: h\r\n", self.target);
        for (name, value) in &self.fields {
            write!(request, "{name}: {value}\r\n").unwrap();
        }
        write!(request, "{framing}: {value}\r\n\r\n{body}").unwrap();
        request
    }

    /// Finds this very request at the upstream, to the byte.
    #[track_caller]
    pub(super) fn is(&self, call: &Call, length: Option<usize>) {
        assert_eq!(call.target, self.target);
        assert_eq!(String::from_utf8_lossy(&call.body), self.body);
        for (name, value) in &self.fields {
            let values: Vec<_> = call.headers.get_all(*name).iter().collect();
            assert_eq!(values, [value.as_str()], "{name}");
        }
        let length_field = call.headers.get("content-length");
        let length_field = length_field.map(|length| length.to_str().unwrap().parse().unwrap());
        assert_eq!(length_field, length);
        let framing =
            usize::from(length.is_some() || call.headers.contains_key("transfer-encoding"));
        assert_eq!(call.headers.len(), self.fields.len() + framing + 1);
    }
}

pub(super) const JSON: (&str, &str) = ("Content-Type", "application/json");
pub(super) const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
pub(super) const MULTIPART: (&str, &str) =
    ("Content-Type", "multipart/form-data; boundary=\"b-1\"");
pub(super) const TEXT: &str = "/v2/send/text";
pub(super) const SEEN: &str = "/v2/send/seen";
pub(super) const MESSAGE: &str = r#"{"chatId":"1@c.us","message":"m"}"#;
pub(super) const RECEIPT: &str = r#"{"chatId":"1@c.us","messageIds":["false_1@c.us_A"]}"#;

/// Every place where a credential may stand, in every way it may be written there.
pub(super) fn spellings() -> Vec<Spelling> {
    let one = |target, fields, body, written, put| Spelling {
        target,
        fields,
        body,
        written,
        put,
    };
    let mut all = Vec::new();
    for written in [encoded, all_encoded] {
        all.extend([
            one("/v2/send/text?instance_id=$&access_token={}&x=%41", &[JSON], MESSAGE, written, encoded),
            one("/v2/send/text?x=[1]&access%5Ftoken={}&instance_id=$", &[JSON], MESSAGE, written, encoded),
            one("/v2/send/seen?instance_id=$&access_token={}", &[JSON], RECEIPT, written, encoded),
            one(
                "/v2/send/seen?access_token={}&instance_id=$&chatId=1%40c.us&messageIds=%5B%22false_1%40c.us_A%22%5D",
                &[],
                "",
                written,
                encoded,
            ),
            one(TEXT, &[FORM], "instance_id=$&access_token={}&chatId=1%40c.us&message=m+m", written, encoded),
            one(TEXT, &[FORM], "chatId=1@c.us&message=m&instance_id=$&access%5ftoken={}", written, encoded),
        ]);
    }
    let headers: [&'static [(&str, &str)]; 5] = [
        &[JSON, ("Authorization", "Bearer {}"), ("X-Instance-ID", "$")],
        &[
            ("X-Instance-ID", "$"),
            JSON,
            ("authorization", "bEARER   {}"),
        ],
        &[JSON, ("access-token", "{}"), ("X-Instance-ID", "$")],
        &[
            JSON,
            ("Access-Token", "{}"),
            ("X-Instance-ID", "$"),
            ("X-Wawp-Y", "y"),
        ],
        &[
            ("X-Instance-ID", "$"),
            JSON,
            ("access-token", "{}"),
            ("Cookie", "a=b"),
        ],
    ];
    for fields in headers {
        all.push(one(TEXT, fields, MESSAGE, plain, plain));
        all.push(one(SEEN, fields, RECEIPT, plain, plain));
    }
    for written in [quoted as fn(&str) -> String, |text| {
        format!("\"{}\"", all_escaped(text))
    }] {
        for (target, body) in [
            (
                TEXT,
                r#"{"instance_id":"$","access_token":{},"chatId":"1@c.us","message":"m"}"#,
            ),
            (
                TEXT,
                r#" { "message" : "\"access_token\":1", "chatId":"1@c.us","access\u005ftoken" : {} , "instance_id":$}"#,
            ),
            (
                SEEN,
                r#"{"chatId":"1@c.us","messageIds":["false_1@c.us_A"],"instance_id":"$", "access_token": {}}"#,
            ),
            (
                SEEN,
                r#"{"\u0061ccess_token":{},"instance_id":"$","chatId":"1@c.us"}"#,
            ),
        ] {
            all.push(one(target, &[JSON], body, written, quoted));
        }
        all.push(one(
            TEXT,
            &[],
            r#"{"instance_id":"$","access_token":{},"chatId":"1@c.us","message":"m"}"#,
            written,
            quoted,
        ));
        all.push(one(
            TEXT,
            &[JSON, ("X-Instance-ID", "$")],
            r#"{"a":{"access_token":"x"},"access_token":{},"chatId":"1@c.us","message":"m"}"#,
            written,
            quoted,
        ));
    }
    all.push(one(
        TEXT,
        &[MULTIPART],
        "--b-1\r\nContent-Disposition: form-data; name=\"instance_id\"\r\n\r\n$\r\n\
         --b-1\r\nContent-Disposition: form-data; name=\"access_token\"\r\n\r\n{}\r\n\
         --b-1\r\nContent-Disposition: form-data; name=\"chatId\"\r\n\r\n1@c.us\r\n\
         --b-1\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\nm\r\n--b-1--\r\n",
        plain,
        plain,
    ));
    all
}
