//! The credentials that the upstream has accepted for an instance.
//!
//! Invariant: a credential in use is never evicted by newer ones, so that no
//! number of other credentials can replace the owner's (rule:
//! verification).

use std::time::Duration;

use tokio::time::Instant;

use super::Fingerprint;

/// Credentials remembered for one account. An app has one token, and may spell
/// it in a few places.
pub(crate) const MAX_CREDENTIALS: usize = 16;

/// A credential counts as in use for so long after a request.
const IN_USE: Duration = Duration::from_secs(3600);

/// The verified credentials of one account. Most accounts have one, which takes
/// no memory of its own.
#[derive(Clone, Debug, Default)]
pub(crate) enum Verified {
    #[default]
    None,
    One(Fingerprint),
    /// With the time of the last request. Most accounts have one credential, so this variant must not make them larger.
    #[expect(clippy::box_collection)]
    More(Box<Vec<(Fingerprint, Instant)>>),
}

impl Verified {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn contains(&self, credential: Option<Fingerprint>) -> bool {
        match (self, credential) {
            (Self::None, _) | (_, None) => false,
            (Self::One(one), Some(credential)) => *one == credential,
            (Self::More(all), Some(credential)) => all.iter().any(|(it, _)| *it == credential),
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = Fingerprint> {
        let (one, more) = match self {
            Self::None => (None, &[][..]),
            Self::One(one) => (Some(*one), &[][..]),
            Self::More(all) => (None, all.as_slice()),
        };
        one.into_iter().chain(more.iter().map(|(it, _)| *it))
    }

    /// Whether a credential is verified; if so, it is in use.
    pub(crate) fn uses(&mut self, credential: Option<Fingerprint>, now: Instant) -> bool {
        if let (Self::More(all), Some(credential)) = (&mut *self, credential) {
            let known = all.iter_mut().find(|(it, _)| *it == credential);
            return known.map(|(_, used)| *used = now).is_some();
        }
        self.contains(credential)
    }

    /// Adds a credential; false if nothing has changed, because it is known or
    /// because as many others are in use as there is room for.
    pub(crate) fn add(&mut self, credential: Fingerprint, now: Instant) -> bool {
        if self.contains(Some(credential)) {
            return false;
        }
        let mut all = match std::mem::take(self) {
            Self::None => {
                *self = Self::One(credential);
                return true;
            }
            Self::One(one) => vec![(one, now)],
            Self::More(all) => *all,
        };
        let unused = |(_, used): &(_, Instant)| now.saturating_duration_since(*used) >= IN_USE;
        if all.len() >= MAX_CREDENTIALS {
            let longest = all.iter().enumerate().min_by_key(|(_, (_, used))| *used);
            let longest = longest.map(|(index, _)| index);
            let evicted = longest.filter(|index| unused(&all[*index]));
            let Some(evicted) = evicted else {
                *self = Self::More(Box::new(all));
                return false;
            };
            all.swap_remove(evicted);
        }
        all.push((credential, now));
        *self = Self::More(Box::new(all));
        true
    }

    /// Removes a credential; false if it was not there.
    pub(crate) fn remove(&mut self, credential: Fingerprint) -> bool {
        if !self.contains(Some(credential)) {
            return false;
        }
        *self = match std::mem::take(self) {
            Self::None | Self::One(_) => Self::None,
            Self::More(all) => {
                let mut left = *all;
                left.retain(|(it, _)| *it != credential);
                match left[..] {
                    [] => Self::None,
                    [(one, _)] => Self::One(one),
                    _ => Self::More(Box::new(left)),
                }
            }
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Findings;

    fn credential(number: usize) -> Fingerprint {
        let target = format!("/?access_token={number}");
        let (head, ()) = http::Request::get(target).body(()).unwrap().into_parts();
        Findings::of_head(&head).identity().credential.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_in_use_is_never_evicted_by_newer_ones() {
        let mut verified = Verified::default();
        let owner = credential(0);
        assert!(verified.add(owner, Instant::now()));
        for other in 1..62 {
            tokio::time::advance(Duration::from_secs(60)).await;
            verified.add(credential(other), Instant::now());
            assert!(verified.uses(Some(owner), Instant::now()), "{other}");
        }
        assert!(
            verified.contains(Some(credential(61))),
            "the unused make room"
        );
        assert!(!verified.contains(Some(credential(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn while_all_are_in_use_a_newcomer_is_not_remembered() {
        let mut verified = Verified::default();
        let now = Instant::now();
        for other in 0..MAX_CREDENTIALS {
            assert!(verified.add(credential(other), now));
        }
        assert!(!verified.add(credential(MAX_CREDENTIALS), now));
        assert!((0..MAX_CREDENTIALS).all(|other| verified.contains(Some(credential(other)))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_credential_is_gone_and_the_others_stay() {
        let mut verified = Verified::default();
        let now = Instant::now();
        for number in 0..3 {
            verified.add(credential(number), now);
        }
        for gone in [1, 0, 2] {
            assert!(verified.remove(credential(gone)));
            assert!(!verified.remove(credential(gone)));
            assert!(!verified.contains(Some(credential(gone))));
            assert_eq!(verified.contains(Some(credential(2))), gone != 2);
        }
        assert!(verified.is_empty());
        assert!(!verified.contains(None));
    }
}
