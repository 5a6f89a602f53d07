//! Secrets in the settings: the text itself, or where it is kept.
//!
//! Owns what a key and a token may look like, and the reading of `env:NAME` and `file:PATH`. Refuses to repeat a
//! secret: every message names the variable or the file, never what was found there. Invariant: a [`Secret`] has no
//! way into text but [`Secret::expose`].

use std::{
    cell::RefCell,
    collections::HashSet,
    ffi::{OsStr, OsString},
    fmt,
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
};

use super::{
    layer::{Value, bytes, regular},
    show::printable,
};

/// Long enough that nobody finds one by trying, short enough for any request head.
const KEY_LENGTH: RangeInclusive<usize> = 16..=256;
/// A token has to fit into a request head, together with all else.
const MAX_TOKEN_LENGTH: usize = 4096;
/// No secret is longer; a file named by mistake does not fill the memory.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// A key has to stand in a URL and in JSON just as it is, without escapes.
const NOT_IN_A_KEY: &[u8] = b"\"'`\\&%+=#";

/// A text that nobody may see: prints as `Secret(…)`.
///
/// Equality is for comparing settings; it takes longer the more is equal, so what a client shows must not be compared
/// with it.
///
/// ```
/// use wawp_gateway::config::Secret;
///
/// let secret = Secret::new("0123456789abcdef");
/// assert_eq!(format!("{secret:?}"), "Secret(…)");
/// assert_eq!(secret.expose(), "0123456789abcdef");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

/// Where secrets come from, beside the settings themselves.
#[derive(Default)]
pub(super) struct Sources<'v> {
    variables: &'v [(OsString, OsString)],
    /// The variables that a secret was looked for in: they are ours, whatever they are called.
    named: RefCell<HashSet<String>>,
}

// === impl Secret ===

impl Secret {
    /// Makes a secret of a text, whatever it is.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the text, which must not reach a log, a label, a page or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

// === impl Sources ===

impl<'v> Sources<'v> {
    /// Takes the variables that `env:NAME` may name.
    pub(super) fn new(variables: &'v [(OsString, OsString)]) -> Self {
        Self {
            variables,
            named: RefCell::default(),
        }
    }

    /// Returns the names of the variables that secrets were looked for in.
    pub(super) fn named(self) -> HashSet<String> {
        self.named.into_inner()
    }

    /// Reads a tenant's key.
    pub(super) fn key(&self, value: &Value) -> Result<Secret, String> {
        let fits = |text: &str| {
            KEY_LENGTH.contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !NOT_IN_A_KEY.contains(&byte))
        };
        let (from, to) = (KEY_LENGTH.start(), KEY_LENGTH.end());
        let allowed = format!(
            "a key of {from} to {to} visible ASCII characters without quotes, \\, &, %, +, = and #"
        );
        self.read(value, fits, &allowed)
    }

    /// Reads an instance's access token.
    pub(super) fn token(&self, value: &Value) -> Result<Secret, String> {
        let fits = |text: &str| {
            // A header's value loses the spaces at its ends.
            (1..=MAX_TOKEN_LENGTH).contains(&text.len())
                && text.trim() == text
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() || byte == b' ')
        };
        let allowed =
            format!("an access token of 1 to {MAX_TOKEN_LENGTH} visible ASCII characters");
        self.read(value, fits, &allowed)
    }

    fn read(
        &self,
        value: &Value,
        fits: impl Fn(&str) -> bool,
        allowed: &str,
    ) -> Result<Secret, String> {
        let (Value::Text(written) | Value::Typed(written)) = value else {
            return Err(format!(
                "{allowed}, as a text in quotes, or env:NAME or file:PATH"
            ));
        };
        let (place, found) = if let Some(name) = written.strip_prefix("env:") {
            (Some("env:"), self.variable(name)?)
        } else if let Some(path) = written.strip_prefix("file:") {
            (Some("file:"), file(path)?)
        } else {
            (None, written.clone())
        };
        match place {
            _ if fits(&found) => Ok(Secret::new(found)),
            Some(_) => Err(format!(
                "{}: what is kept there is not {allowed}",
                printable(written)
            )),
            None => Err(format!("{allowed}; or env:NAME or file:PATH")),
        }
    }

    /// Finds what is kept in a variable.
    fn variable(&self, name: &str) -> Result<String, String> {
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !is_name {
            return Err("env: and the name of a variable, as in \"env:ACME_KEY\"".to_owned());
        }
        self.named.borrow_mut().insert(name.to_owned());
        let found = self
            .variables
            .iter()
            .find(|(variable, _)| variable.as_os_str() == OsStr::new(name));
        match found.map(|(_, value)| value.to_str()) {
            None => Err(format!("env:{name}: there is no such variable")),
            Some(None) => Err(format!("env:{name}: the value is not UTF-8")),
            Some(Some(value)) => match first_line(value) {
                "" => Err(format!("env:{name}: the variable is empty")),
                line => Ok(line.to_owned()),
            },
        }
    }
}

/// Finds what is kept in a file.
fn file(path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("file: and the name of a file, as in \"file:/run/secrets/acme\"".to_owned());
    }
    let said = |problem: &str| format!("file:{}: {problem}", printable(path));
    let place = Path::new(path);
    let bytes = regular(place)
        .and_then(|()| bytes(place, MAX_FILE_BYTES, "a secret's file has at most 64 KiB"))
        .map_err(|problem| said(&problem))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| said("the file is not UTF-8"))?;
    match first_line(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        "" => Err(said("the file, or its first line, is empty")),
        line => Ok(line.to_owned()),
    }
}

/// Returns what stands before the first line's end: whoever writes a secret down leaves a newline behind it.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
