//! A settings file to begin with: limits for messages, group calls and number checks.
//!
//! Owns the text around the classes. `policy` reads a policy of the API, `classes` writes
//! classes. Invariants: what is printed is a settings file without mistakes; what a comment says
//! about a class is computed from its settings; no text of a response becomes a setting.

use std::fmt;
use std::io;
use std::path::Path;

use self::classes::Class;
use self::policy::Policy;
use crate::config::Config;
use crate::tools::input;

mod classes;
mod pace;
mod policy;

/// Far above any response with policies (about 300 bytes each).
const MAX_INPUT: u64 = 64 << 10;

/// A settings file, and what the reader of it must know.
#[derive(Debug)]
pub struct Starter {
    about: Vec<String>,
    classes: Vec<Class>,
    warnings: Vec<String>,
}

/// Why a policy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input cannot be read.
    #[error("{name}: {error}")]
    Io {
        /// The file, or the standard input.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The input is longer than any response of this kind.
    #[error("{0}: too long: a policy has at most {kib} KiB", kib = MAX_INPUT >> 10)]
    TooLong(String),
    /// It is no response of `GET /v2/session/rate-limit`; every mistake has a line.
    #[error("{}", lines(.0))]
    Policy(Vec<String>),
}

fn lines(mistakes: &[String]) -> String {
    mistakes.join("\n")
}

/// Returns a settings file with careful limits.
pub fn recommended() -> Starter {
    let (base, wait) = base();
    let about = format!(
        "Settings of wawp-gateway: limits for messages, group calls and number checks.\n\n\
         The API publishes the rate of number checks only. The other values are careful ones for a \
         number that has been in use for weeks and that answers people. What is known, with \
         sources, is in src/config/README.md, \"Which rate?\". If the API shows a policy for your \
         number, take its values:\n\n\
         \x20   curl -s 'http://127.0.0.1:8080/v2/session/rate-limit?instance_id=ID&access_token=TOKEN' |\n\
         \x20     wawp-gateway init --from-policy - > gateway.toml\n\n\
         {}\n\n\
         To see first what these limits would do, set limit.mode = \"observe\". All other settings \
         have their defaults: wawp-gateway check --defaults prints each with a comment.",
        rules(&base, &wait)
    );
    Starter {
        about: wrap(&about),
        classes: classes::recommended(),
        warnings: Vec::new(),
    }
}

/// Returns a settings file with the limits of a policy of the API.
///
/// `source` is the body of a response of `GET /v2/session/rate-limit`; `-` is the standard
/// input. `chosen` names one of its `policies` in place of the policy in force.
///
/// # Errors
/// The input cannot be read, is too long, or is no such response. Every mistake is named.
pub fn from_policy(source: &Path, chosen: Option<&str>) -> Result<Starter, Error> {
    let name = input::name(source);
    // One byte more shows that the input is too long.
    let text = match input::read(source, MAX_INPUT + 1) {
        Ok(text) if text.len() as u64 > MAX_INPUT => return Err(Error::TooLong(name)),
        Ok(text) => text,
        Err(error) => return Err(Error::Io { name, error }),
    };
    from_text(&name, &text, chosen)
}

fn from_text(name: &str, text: &[u8], chosen: Option<&str>) -> Result<Starter, Error> {
    let named = |lines: Vec<String>| -> Vec<String> {
        lines.iter().map(|line| format!("{name}: {line}")).collect()
    };
    let policy = policy::read(text, chosen).map_err(|mistakes| Error::Policy(named(mistakes)))?;
    let (classes, unused) = classes::of_policy(&policy);
    let mut notes = policy.notes.clone();
    notes.extend(unused);
    Ok(Starter {
        about: about_policy(&policy, &notes),
        classes,
        warnings: named(notes),
    })
}

/// The lines above the classes of a policy.
fn about_policy(policy: &Policy, notes: &[String]) -> Vec<String> {
    let (base, wait) = base();
    let slug = &policy.slug;
    let whose = match &policy.instance {
        Some(instance) => format!(
            "the policy {slug} of number {instance}, as the API returned it. The classes hold for \
             this number; without their lines `instances` they hold for all numbers."
        ),
        None => format!(
            "the policy {slug}, as the API returned it. The response names no instance, so the \
             classes hold for all numbers; `instances = [\"ID\"]` restricts one to a number."
        ),
    };
    let mut text = format!(
        "Settings of wawp-gateway from {whose}\n\n\
         When the policy changes at the API, make this file again. Not documented is which paths \
         count as messages, group calls and number checks; below are those that are known.\n\n{}",
        rules(&base, &wait)
    );
    if !notes.is_empty() {
        text.push_str("\n\nNot used:");
    }
    let mut about = wrap(&text);
    for note in notes {
        about.extend(wrap(&format!("- {note}")));
    }
    about
}

/// How classes act, whatever their values are.
fn rules(base: &str, wait: &str) -> String {
    format!(
        "Each number has a budget of its own in each class, and the first class that matches a \
         request counts. A request without a bucket token waits at most limit.max_wait ({wait}); \
         one that would wait longer gets 429 with Retry-After at once. Requests whose token the API has \
         not accepted yet share a second budget of the same size. Read receipts and all other requests \
         are in none of the classes: they have rate and burst of [limit] ({base})."
    )
}

/// The limit outside the classes, and how long a request may wait.
fn base() -> (String, String) {
    let limit = Config::default().limit;
    let base = pace::base();
    let wait = humantime::format_duration(limit.max_wait).to_string();
    (
        format!("{} a second, {} at once", base.rate(), base.burst),
        wait,
    )
}

/// Breaks a text into lines of at most 98 characters. An indented line stays as it is.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        if paragraph.starts_with(' ') {
            lines.push(paragraph.to_owned());
            continue;
        }
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > 98 {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

impl Starter {
    /// Returns what was not used of a policy, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl fmt::Display for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_comments(f, &self.about)?;
        for class in &self.classes {
            writeln!(f)?;
            write_comments(f, &class.about())?;
            let mark = if class.is_example { "#" } else { "" };
            for line in class.settings() {
                writeln!(f, "{mark}{line}")?;
            }
        }
        Ok(())
    }
}

fn write_comments(f: &mut fmt::Formatter<'_>, lines: &[String]) -> fmt::Result {
    for line in lines {
        writeln!(f, "{}", format!("# {line}").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
