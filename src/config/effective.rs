//! The settings as they are shown: as TOML, each value with the place where it was written.
//!
//! Invariant: every value here is safe to print, because a secret arrives as a mask. Settings are
//! compared by what is shown, so no secret may be among those that need a restart: a change of it
//! would not be noticed.

use std::fmt;

use super::mistakes::Mistakes;
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
    pub(super) origin: Origin,
}

/// The settings after all layers; displays as TOML, with the origin of each value that is not a
/// default.
#[derive(Clone, Debug)]
pub struct Effective {
    /// What the rest of the gateway reads.
    pub config: Config,
    pub(super) shown: Vec<Setting>,
}

/// The settings that a running gateway uses; displays as [`Effective`] does, and beneath a value
/// the one that will replace it after a restart.
#[derive(Clone, Debug)]
pub struct InForce(Vec<Line>);

#[derive(Clone, Debug)]
struct Line {
    setting: Setting,
    is: State,
}

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
        .any(|(known, row)| row.at_start && known == path)
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

fn line(setting: &Setting, is: State) -> Line {
    Line {
        setting: setting.clone(),
        is,
    }
}

impl InForce {
    /// Returns the settings in force after a reload. `changes_now` is true for a path whose setting
    /// changes on this reload although it is normally read at the start.
    pub(crate) fn reloaded(&self, read: &Effective, changes_now: impl Fn(&str) -> bool) -> Self {
        let waits =
            |setting: &Setting| is_read_at_start(&setting.path()) && !changes_now(&setting.path());
        let mut lines: Vec<Line> = Vec::new();
        let mut add = |setting, is| lines.push(line(setting, is));
        for new in &read.shown {
            match self.current(new) {
                // The old value stays in force, whatever a former reload announced.
                Some(old) if waits(new) && old.toml != new.toml => {
                    add(old, State::InForce);
                    add(new, State::AfterRestart);
                }
                None if waits(new) => add(new, State::AfterRestart),
                _ => add(new, State::InForce),
            }
        }
        // A setting without a default, such as `server.tls.cert`, may be gone from the file.
        let is_gone =
            |old: &&Setting| waits(old) && !read.shown.iter().any(|new| new.is_same_key(old));
        for old in self.in_force().filter(is_gone) {
            // At the end of its section.
            let last = lines
                .iter()
                .rposition(|line| line.setting.section == old.section);
            let end = last.map_or(lines.len(), |last| last + 1);
            let states = [State::InForce, State::GoneAfterRestart];
            lines.splice(end..end, states.map(|is| line(old, is)));
        }
        Self(lines)
    }

    /// Returns the paths of the settings that need a restart.
    pub(crate) fn waiting(&self) -> Vec<String> {
        let waiting = self.0.iter().filter(|line| line.is != State::InForce);
        waiting.map(|line| line.setting.path()).collect()
    }

    fn in_force(&self) -> impl Iterator<Item = &Setting> {
        let lines = self.0.iter().filter(|line| line.is == State::InForce);
        lines.map(|line| &line.setting)
    }

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
        for Line { setting, is } in &self.0 {
            if setting.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                match setting.section.split_once('[') {
                    Some((list, _)) => writeln!(f, "{gap}[[{list}]]")?,
                    None => writeln!(f, "{gap}[{}]", setting.section)?,
                }
                section = &setting.section;
            }
            match is {
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
