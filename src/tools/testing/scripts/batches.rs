//! The scripts on batches in Rust.

use std::collections::HashMap;

use super::Outcome;
use crate::cluster::{Call, Script};

/// The open batches and the verdicts of a server, by their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Batches {
    open: HashMap<Vec<u8>, OpenBatch>,
    verdicts: HashMap<Vec<u8>, Verdict>,
}

#[derive(Clone, Debug)]
struct OpenBatch {
    leader: Vec<u8>,
    due: i64,
    followers: Vec<Vec<u8>>,
    expires: i64,
}

#[derive(Clone, Debug)]
struct Verdict {
    text: Vec<u8>,
    expires: i64,
}

impl Batches {
    /// When a key expires.
    pub(super) fn expires(&self, key: &[u8]) -> Option<i64> {
        let open = self.open.get(key).map(|batch| batch.expires);
        open.or_else(|| Some(self.verdicts.get(key)?.expires))
    }

    /// Runs a script at this time, in microseconds; `None` if it is none on batches.
    pub(super) fn run(&mut self, call: &Call, now: i64) -> Option<Outcome> {
        self.open.retain(|_, batch| batch.expires > now);
        self.verdicts.retain(|_, verdict| verdict.expires > now);
        let (keys, arguments, texts) = (&*call.keys, &*call.arguments, &*call.texts);
        let outcome = match call.script {
            Script::Join => self.join(&keys[0], arguments, &texts[0], now),
            Script::Follow => self.follow(&keys[0], arguments[0], texts),
            Script::Close => self.close((&keys[0], &keys[1]), arguments, &texts[0], now),
            Script::Conclude => self.conclude(&keys[0], arguments[0], &texts[0], now),
            Script::Verdict => self.verdict((&keys[0], &keys[1]), &texts[0]),
            _ => return None,
        };
        Some(outcome)
    }

    fn join(&mut self, key: &[u8], arguments: &[i64], own: &[u8], now: i64) -> Outcome {
        let batch = self.open.entry(key.to_vec());
        let batch = batch.or_insert_with(|| OpenBatch {
            leader: own.to_vec(),
            due: now + arguments[0],
            followers: Vec::new(),
            expires: 0,
        });
        if batch.leader == own {
            batch.expires = now + arguments[1] * 1000;
        }
        Outcome::of(vec![batch.due - now], vec![batch.leader.clone()])
    }

    fn follow(&mut self, key: &[u8], most: i64, texts: &[Vec<u8>]) -> Outcome {
        let open = self.open.get_mut(key);
        let open = open.filter(|batch| batch.leader == texts[0]);
        let open = open.filter(|batch| (batch.followers.len() as i64) < most);
        let is_added = open.map(|batch| batch.followers.push(texts[1].clone()));
        Outcome::of(vec![is_added.map_or(0, |()| 1)], Vec::new())
    }

    fn close(
        &mut self,
        (key, verdict): (&[u8], &[u8]),
        arguments: &[i64],
        leader: &[u8],
        now: i64,
    ) -> Outcome {
        if self
            .open
            .get(key)
            .is_none_or(|batch| batch.leader != leader)
        {
            return Outcome::of(vec![0], Vec::new());
        }
        let followers = self.open.remove(key).map_or(Vec::new(), |it| it.followers);
        if !followers.is_empty() {
            self.set_verdict(verdict, b"", arguments[0], now);
        }
        Outcome::of(vec![1], followers)
    }

    fn conclude(&mut self, key: &[u8], kept: i64, text: &[u8], now: i64) -> Outcome {
        self.set_verdict(key, text, kept, now);
        let is_announced = !text.is_empty();
        Outcome {
            announced: is_announced.then(|| String::from_utf8_lossy(key).into_owned()),
            ..Outcome::of(Vec::new(), Vec::new())
        }
    }

    fn set_verdict(&mut self, key: &[u8], text: &[u8], kept: i64, now: i64) {
        let verdict = Verdict {
            text: text.to_vec(),
            expires: now + kept * 1000,
        };
        self.verdicts.insert(key.to_vec(), verdict);
    }

    fn verdict(&self, (key, verdict): (&[u8], &[u8]), leader: &[u8]) -> Outcome {
        match self.verdicts.get(verdict) {
            Some(verdict) if !verdict.text.is_empty() => {
                Outcome::of(vec![2], vec![verdict.text.clone()])
            }
            Some(_) => Outcome::of(vec![1], Vec::new()),
            None => {
                let open = self.open.get(key);
                let is_led = open.is_some_and(|batch| batch.leader == leader);
                Outcome::of(vec![i64::from(is_led)], Vec::new())
            }
        }
    }
}
