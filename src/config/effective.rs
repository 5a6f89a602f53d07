//! The settings as they are shown: as TOML, each value with its origin.
//!
//! Invariant: every value here is safe to print, because secrets are already masked. Two values are
//! equal if they are shown equally and what a mask in them hides is equal.

use std::fmt;

use super::mistakes::Mistakes;
use super::secret::Secret;
use super::settings::Config;
use super::table::{self, join};
use super::value::Origin;

/// One setting and its value.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// `limit`, or `limit.class[0]`.
    pub(super) section: String,
    /// The key within the section: `tls.cert`.
    pub(super) key: &'static str,
    /// The value as TOML; a secret is a mask.
    pub(super) toml: String,
    /// What the mask of a URL hides.
    pub(super) hidden: Option<Secret>,
    pub(super) origin: Origin,
    /// It differs from the default.
    pub(super) is_changed: bool,
}

/// The settings after all layers; displays as TOML, with the origin of each value that is not a
/// default.
#[derive(Clone, Debug)]
pub struct Effective {
    /// What the rest of the gateway reads.
    pub config: Config,
    pub(super) shown: Vec<Setting>,
}

/// The settings that a running gateway uses. Displays as [`Effective`] does, and below a value also
/// the one that replaces it after a restart.
#[derive(Clone, Debug)]
pub struct InForce(Vec<Line>);

/// A line of the output.
#[derive(Clone, Debug)]
struct Line {
    setting: Setting,
    state: State,
}

/// When the value of a line is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InForce,
    /// The value after a restart.
    AfterRestart,
    /// After a restart, the setting is not set.
    GoneAfterRestart,
}

impl Setting {
    pub(super) fn path(&self) -> String {
        join(&self.section, self.key)
    }

    fn is_same_key(&self, other: &Self) -> bool {
        self.section == other.section && self.key == other.key
    }

    fn is_same_value(&self, other: &Self) -> bool {
        self.toml == other.toml && self.hidden == other.hidden
    }
}

impl Effective {
    /// Turns problems with what settings name, each with the setting's path, into mistakes.
    pub(crate) fn mistakes(&self, problems: Vec<(&'static str, String)>) -> Mistakes {
        let mut mistakes = Mistakes::default();
        add_problems(&mut mistakes, &self.shown, problems);
        mistakes
    }
}

/// Adds problems with what settings name. A setting that is wrong by itself is left out.
pub(super) fn add_problems(
    mistakes: &mut Mistakes,
    shown: &[Setting],
    problems: Vec<(&'static str, String)>,
) {
    for (path, problem) in problems {
        let setting = shown.iter().find(|setting| setting.path() == path);
        match setting {
            // The check then saw the value of a weaker layer, which is not the one that was meant.
            _ if mistakes.is_wrong(path) => {}
            Some(Setting { origin, toml, .. }) => {
                mistakes.add(origin, path, Some(toml.clone()), problem);
            }
            None => mistakes.add(&Origin::Default, path, None, problem),
        }
    }
    mistakes.sort();
}

/// Says whether a changed value takes effect only at the next start.
fn is_read_at_start(path: &str) -> bool {
    table::SETTINGS
        .iter()
        .any(|(known, row)| row.needs_restart && known == path)
}

impl From<&Effective> for InForce {
    fn from(started_with: &Effective) -> Self {
        let lines = started_with
            .shown
            .iter()
            .map(|setting| line(setting, State::InForce));
        Self(lines.collect())
    }
}

fn line(setting: &Setting, state: State) -> Line {
    Line {
        setting: setting.clone(),
        state,
    }
}

impl InForce {
    /// Returns the settings in force after a reload. `changes_now` is true for a path whose setting
    /// changes on this reload although it is normally read at the start.
    pub(crate) fn reloaded(&self, read: &Effective, changes_now: impl Fn(&str) -> bool) -> Self {
        let needs_restart =
            |setting: &Setting| is_read_at_start(&setting.path()) && !changes_now(&setting.path());
        let mut lines: Vec<Line> = Vec::new();
        let mut add = |setting, state| lines.push(line(setting, state));
        for new in &read.shown {
            match self.current(new) {
                // The old value stays in force. An earlier reload may have announced another one.
                Some(old) if needs_restart(new) && !old.is_same_value(new) => {
                    add(old, State::InForce);
                    add(new, State::AfterRestart);
                }
                None if needs_restart(new) => add(new, State::AfterRestart),
                _ => add(new, State::InForce),
            }
        }
        // A setting without a default, such as `server.tls.cert`, may be gone from the file.
        let is_gone = |old: &&Setting| {
            needs_restart(old) && !read.shown.iter().any(|new| new.is_same_key(old))
        };
        for old in self.in_force().filter(is_gone) {
            // At the end of its section.
            let last = lines
                .iter()
                .rposition(|line| line.setting.section == old.section);
            let end = last.map_or(lines.len(), |last| last + 1);
            let states = [State::InForce, State::GoneAfterRestart];
            lines.splice(end..end, states.map(|state| line(old, state)));
        }
        Self(lines)
    }

    /// Returns the paths of the settings that need a restart.
    pub(crate) fn pending_restart(&self) -> Vec<String> {
        let pending = self.0.iter().filter(|line| line.state != State::InForce);
        pending.map(|line| line.setting.path()).collect()
    }

    /// The settings whose values are in force now.
    fn in_force(&self) -> impl Iterator<Item = &Setting> {
        let lines = self.0.iter().filter(|line| line.state == State::InForce);
        lines.map(|line| &line.setting)
    }

    /// The value in force of the same setting.
    fn current(&self, new: &Setting) -> Option<&Setting> {
        self.in_force().find(|old| old.is_same_key(new))
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        InForce::from(self).fmt(f)
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for Line { setting, state } in &self.0 {
            // The settings are in the order of the table, so each section appears once.
            if setting.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                // `limit.class[0]` is one item of a list: each item begins with `[[limit.class]]`.
                match setting.section.split_once('[') {
                    Some((list, _)) => writeln!(f, "{gap}[[{list}]]")?,
                    None => writeln!(f, "{gap}[{}]", setting.section)?,
                }
                section = &setting.section;
            }
            match state {
                State::InForce => writeln!(f, "{setting}")?,
                State::AfterRestart => writeln!(f, "# after a restart: {setting}")?,
                State::GoneAfterRestart => {
                    writeln!(f, "# after a restart {} is not set", setting.key)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.toml)?;
        match &self.origin {
            Origin::Default => Ok(()),
            origin => write!(f, "  # {origin}"),
        }
    }
}
