//! Secrets in the settings: the text itself, or the variable or file that contains it.
//!
//! Owns the syntax of keys and tokens, and the reading of `env:NAME` and `file:PATH`.
//! Invariants: a [`Secret`] turns into text only by [`Secret::expose`]; a message names the
//! variable or the file, never its content.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::files;
use super::value::{Value, printable};

/// Too long to be guessed, short enough for any request head.
const KEY_LENGTH: RangeInclusive<usize> = 16..=256;
/// A token must fit into a request head, together with all other fields.
const MAX_TOKEN_LENGTH: usize = 4096;
/// No secret is longer. A wrong file must not fill the memory.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Clients escape these characters in different ways, or in ways that end a value early. A key that
/// contains one could not be recognised reliably.
const NOT_IN_A_KEY: &[u8] = b"\"'`\\&%#";

/// A text that must not be seen: prints as `Secret(…)`.
///
/// Equality is for comparing settings. It is not constant-time, so it must not compare a secret
/// with what a client sent.
///
/// ```
/// use wawp_gateway::config::Secret;
///
/// let secret = Secret::new("0123456789abcdef");
/// assert_eq!(format!("{secret:?}"), "Secret(…)");
/// assert_eq!(secret.expose(), "0123456789abcdef");
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Arc<str>);

/// The sources of secrets that are not in the settings themselves.
#[derive(Default)]
pub(super) struct Sources<'v> {
    variables: &'v [(OsString, OsString)],
    /// The variables that `env:NAME` named: they are no unknown settings, whatever their names.
    named: RefCell<HashSet<String>>,
}

impl Secret {
    /// Makes a secret of any text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the text. It must not reach a log, a label, a page or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'v> Sources<'v> {
    /// Takes the variables that `env:NAME` may name.
    pub(super) fn new(variables: &'v [(OsString, OsString)]) -> Self {
        Self {
            variables,
            named: RefCell::default(),
        }
    }

    /// Says whether a secret was looked up in this variable.
    pub(super) fn is_named(&self, variable: &str) -> bool {
        self.named.borrow().contains(variable)
    }

    /// Reads a tenant's key, or returns what is allowed.
    pub(super) fn key(&self, value: &Value) -> Result<String, String> {
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !NOT_IN_A_KEY.contains(&byte);
        let fits = |text: &str| KEY_LENGTH.contains(&text.len()) && text.bytes().all(is_allowed);
        let (min, max) = (KEY_LENGTH.start(), KEY_LENGTH.end());
        let allowed = format!(
            "a key of {min} to {max} visible ASCII characters without quotes, \\, &, % and #; \
             `openssl rand -base64 32` prints one"
        );
        self.read(value, fits, &allowed)
    }

    /// Reads an instance's access token, or returns what is allowed.
    pub(super) fn token(&self, value: &Value) -> Result<String, String> {
        let fits = |text: &str| {
            (1..=MAX_TOKEN_LENGTH).contains(&text.len())
                // HTTP removes the spaces at both ends of a field value (RFC 9110 §5.5).
                && text.trim() == text
                && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        };
        let allowed =
            format!("an access token of 1 to {MAX_TOKEN_LENGTH} visible ASCII characters");
        self.read(value, fits, &allowed)
    }

    /// Reads a secret from its source and checks it. `allowed` describes the syntax for messages.
    pub(super) fn read(
        &self,
        value: &Value,
        fits: impl Fn(&str) -> bool,
        allowed: &str,
    ) -> Result<String, String> {
        let Some(written) = value.text() else {
            return Err(format!(
                "{allowed}, as a text in quotes, or env:NAME or file:PATH"
            ));
        };
        // A secret that begins with `env:` or `file:` itself cannot be written as text.
        let kept = match written.split_once(':') {
            Some(("env", name)) => Some(self.variable(name)?),
            Some(("file", path)) => Some(file(path)?),
            _ => None,
        };
        match kept {
            Some(kept) if fits(&kept) => Ok(kept),
            // The message names the source, never its content.
            Some(_) => Err(format!(
                "{}: what is kept there is not {allowed}",
                printable(written)
            )),
            None if fits(written) => Ok(written.to_owned()),
            None => Err(format!("{allowed}; or env:NAME or file:PATH")),
        }
    }

    /// Reads the first line of a variable.
    fn variable(&self, name: &str) -> Result<String, String> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_allowed) {
            // This may be the secret itself, so it is not repeated.
            return Err("env: and the name of a variable, as in \"env:ACME_KEY\"".to_owned());
        }
        // Also if it does not exist or is wrong: one mistake must not cause a second one.
        self.named.borrow_mut().insert(name.to_owned());
        let mut variables = self.variables.iter();
        let found = variables.find(|(variable, _)| variable.as_os_str() == OsStr::new(name));
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

/// Reads the first line of a file. Blocks.
fn file(path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("file: and the name of a file, as in \"file:/run/secrets/acme\"".to_owned());
    }
    let wrong = |problem: &str| format!("file:{}: {problem}", printable(path));
    // A pipe would be empty at the next reload, and reading it may block.
    let bytes = files::regular(Path::new(path))
        .and_then(|()| {
            files::read(
                Path::new(path),
                MAX_FILE_BYTES,
                "a secret's file has at most 64 KiB",
            )
        })
        .map_err(|problem| wrong(&problem))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("the file is not UTF-8"))?;
    match first_line(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        "" => Err(wrong("the file, or its first line, is empty")),
        line => Ok(line.to_owned()),
    }
}

/// Editors and `echo` put a newline after a secret.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
