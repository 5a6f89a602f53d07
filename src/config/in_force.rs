//! The settings that a running gateway goes by, and beside them those that wait for its next start.
//!
//! Compares settings by what is printed of them, which is all but secrets: so no setting that is read at the start
//! alone may be one, or its change would go unnoticed here.

use std::fmt;

use super::{
    Effective,
    show::{Setting, Shown, write_shown},
};

/// The settings in force; displays as [`Effective`] does, and what waits for a restart as comments.
#[derive(Clone, Debug)]
pub struct InForce(Vec<Shown>);

impl From<&Effective> for InForce {
    fn from(started_with: &Effective) -> Self {
        Self(started_with.shown.clone())
    }
}

impl InForce {
    /// Returns what is in force once these settings were read, those apart which wait for a restart.
    pub(crate) fn reloaded(&self, read: &Effective, waits: impl Fn(&str) -> bool) -> Self {
        let mut shown = Vec::new();
        for new in &read.shown {
            let old = match new {
                Shown::Setting(new) if waits(&new.path) => Some((find(&self.0, &new.path), new)),
                _ => None,
            };
            match old {
                Some((Some(old), new)) if old.toml != new.toml => {
                    shown.extend([Shown::Setting(old.clone()), Shown::Waiting(new.clone())]);
                }
                Some((None, new)) => shown.push(Shown::Waiting(new.clone())),
                _ => shown.push(new.clone()),
            }
        }
        for old in self.0.iter().filter_map(Shown::setting) {
            if waits(&old.path) && find(&read.shown, &old.path).is_none() {
                let end = end_of_section(&shown, &old.path);
                shown.splice(
                    end..end,
                    [Shown::Setting(old.clone()), Shown::Gone(old.clone())],
                );
            }
        }
        Self(shown)
    }

    /// Returns the paths of the settings that wait for a restart.
    pub(crate) fn waiting(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter_map(|shown| match shown {
                Shown::Waiting(setting) | Shown::Gone(setting) => Some(&*setting.path),
                Shown::Setting(_) | Shown::Header(_) => None,
            })
            .collect()
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_shown(&self.0, f)
    }
}

/// Finds a setting that has a value.
pub(super) fn find<'s>(shown: &'s [Shown], path: &str) -> Option<&'s Setting> {
    let mut settings = shown.iter().filter_map(Shown::setting);
    settings.find(|setting| setting.path == path)
}

/// Returns where what belongs to a path's section ends.
fn end_of_section(shown: &[Shown], path: &str) -> usize {
    let section = |path: &str| path.split('.').next().map(str::to_owned);
    let is_in_it = |shown: &Shown| match shown {
        Shown::Header(_) => false,
        Shown::Setting(other) | Shown::Waiting(other) | Shown::Gone(other) => {
            section(&other.path) == section(path)
        }
    };
    shown
        .iter()
        .rposition(is_in_it)
        .map_or(shown.len(), |last| last + 1)
}
