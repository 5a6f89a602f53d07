//! Which credentials the gateways of a cluster have verified (rules: verification, cluster).
//!
//! The server keeps them for each instance. A gateway asks for them, reports those that it has
//! verified itself, and reads what others announce.
//!
//! Invariants: the server gets instances and hashes of credentials only encrypted, and what it
//! returns counts only if a gateway has encrypted it for that instance. So a server that is broken
//! verifies nothing that no gateway has verified.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::broadcast::error::RecvError;

use crate::cluster::{Call, Cluster, Event, NONCE_LEN, Script, SealingKey, Unavailable};
use crate::identity::{Fingerprint, InstanceId, MAX_CREDENTIALS};

/// In the names of keys, and in what is hashed and encrypted here.
const VERIFIED: &str = "verified";

/// The verified credentials of the cluster.
pub(super) struct SharedCredentials {
    cluster: Arc<Cluster>,
    /// How often announcements came faster than they were read.
    missed: AtomicU64,
}

/// What has changed with a credential of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) credential: Fingerprint,
    /// Whether the upstream accepts it.
    pub(super) is_accepted: bool,
}

impl SharedCredentials {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            missed: AtomicU64::new(0),
        }
    }

    /// Grows whenever something may have been missed, or the server may have lost something; 0
    /// before the first connection.
    pub(super) fn epoch(&self) -> u64 {
        let cluster = &self.cluster;
        // None of them gets smaller, so the sum changes whenever one does.
        cluster.generation() + cluster.subscriptions() + self.missed.load(Ordering::Acquire)
    }

    /// Reports a change, if there is one, and returns what is verified for the instance then.
    ///
    /// # Errors
    /// There is no reply.
    pub(super) async fn exchange(
        &self,
        instance: &InstanceId,
        change: Option<Change>,
    ) -> Result<Vec<Fingerprint>, Unavailable> {
        let call = self.call(instance, change).ok_or(Unavailable::NotSent)?;
        let reply = self.cluster.call(call).await?;
        // A broken server can return any number, and texts from the keys of other instances.
        let sealed = reply.texts.iter().take(MAX_CREDENTIALS);
        let opened = sealed.filter_map(|sealed| self.open(sealed));
        let of_instance = opened.filter(|(of, _)| of == instance);
        Ok(of_instance.map(|(_, credential)| credential).collect())
    }

    /// `None` before the first connection.
    fn call(&self, instance: &InstanceId, change: Option<Change>) -> Option<Call> {
        let cluster = &self.cluster;
        let hash = cluster.digest(&[VERIFIED, instance])?;
        let (mut arguments, mut texts) = (Vec::new(), Vec::new());
        if let Some(change) = change {
            arguments.push(i64::from(change.is_accepted));
            texts.push(self.seal(instance, change.credential)?);
        }
        Some(Call {
            script: Script::Credentials,
            keys: vec![cluster.key(&[VERIFIED, &hash]), cluster.channel()],
            arguments,
            texts,
            generation: None,
        })
    }

    /// Passes on what other gateways announce, until the gateway ends.
    pub(super) async fn follow(&self, apply: impl Fn(&InstanceId, Change)) {
        let mut events = self.cluster.subscribe();
        loop {
            match events.recv().await {
                Ok(Event::Announced(line)) => {
                    if let Some((instance, change)) = self.announced(&line) {
                        apply(&instance, change);
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    // It may have been the end of a verification: the accounts ask again.
                    self.missed.fetch_add(1, Ordering::Release);
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// `<key> <1 or 0> <credential>`, separated by blanks.
    fn announced(&self, line: &[u8]) -> Option<(InstanceId, Change)> {
        let rest = line.strip_prefix(&*self.cluster.key(&[VERIFIED, ""]))?;
        // The hash of the instance is not needed: the encrypted text names the instance.
        let mut words = rest.split(|byte| *byte == b' ').skip(1);
        let is_accepted = match words.next()? {
            b"1" => true,
            b"0" => false,
            _ => return None,
        };
        let (instance, credential) = self.open(words.next()?)?;
        let change = Change {
            credential,
            is_accepted,
        };
        Some((instance, change))
    }

    /// A credential of an instance, encrypted. Always the same text, so that the server keeps one
    /// for all gateways.
    fn seal(&self, instance: &InstanceId, credential: Fingerprint) -> Option<Vec<u8>> {
        let text = [&credential.to_bytes()[..], instance.as_bytes()].concat();
        // From the text itself: AES-GCM is broken where two texts have the same nonce.
        let nonce = self
            .cluster
            .keyed_hash([VERIFIED.as_bytes(), b"nonce", &text])?;
        let nonce = *nonce.first_chunk::<NONCE_LEN>()?;
        let sealed = self.sealing()?.seal_with(nonce, VERIFIED.as_bytes(), text);
        Some(STANDARD_NO_PAD.encode(sealed).into_bytes())
    }

    /// `None` where no gateway has written it.
    fn open(&self, sealed: &[u8]) -> Option<(InstanceId, Fingerprint)> {
        let sealed = STANDARD_NO_PAD.decode(sealed).ok()?;
        let text = self.sealing()?.open(VERIFIED.as_bytes(), &sealed)?;
        let (credential, instance) = text.split_first_chunk()?;
        let instance = InstanceId::new(std::str::from_utf8(instance).ok()?)?;
        Some((instance, Fingerprint::from_bytes(*credential)))
    }

    fn sealing(&self) -> Option<SealingKey> {
        let key = self.cluster.keyed_hash([VERIFIED.as_bytes(), b"key"])?;
        Some(SealingKey::new(key))
    }
}

impl fmt::Debug for SharedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCredentials").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::Fake;
    use crate::config;
    use crate::identity::Findings;
    use crate::observe::metrics::Metrics;

    const INSTANCE: &str = "instance-1";

    fn fingerprint(token: &str) -> Fingerprint {
        let target = format!("/?access_token={token}");
        let (head, ()) = http::Request::get(target).body(()).unwrap().into_parts();
        Findings::of_head(&head).identity().credential.unwrap()
    }

    async fn gateway(server: &Fake) -> SharedCredentials {
        let settings = config::Cluster {
            url: "redis://127.0.0.1:6379/0".to_owned().try_into().unwrap(),
            ca: None,
            name: "wawp".to_owned(),
            replicas: std::num::NonZeroU32::MIN,
            timeout: std::time::Duration::from_millis(100),
            merge: true,
        };
        let cluster = Cluster::over(Box::new(server.clone()), &settings, &Metrics::new(1));
        tokio::spawn(Arc::clone(&cluster).run());
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        SharedCredentials::new(cluster)
    }

    #[tokio::test(start_paused = true)]
    async fn gateways_write_a_credential_alike_and_the_server_cannot_read_it() {
        let server = Fake::default();
        let (one, other) = (gateway(&server).await, gateway(&server).await);
        let instance = InstanceId::new(INSTANCE).unwrap();
        let sealed = one.seal(&instance, fingerprint("t")).unwrap();
        assert_eq!(
            other.seal(&instance, fingerprint("t")),
            Some(sealed.clone())
        );
        assert_ne!(
            other.seal(&instance, fingerprint("u")),
            Some(sealed.clone())
        );
        assert_eq!(other.open(&sealed), Some((instance, fingerprint("t"))));
        let bytes = STANDARD_NO_PAD.decode(&sealed).unwrap();
        let contains = |part: &[u8]| bytes.windows(part.len()).any(|it| it == part);
        assert!(!contains(INSTANCE.as_bytes()) && !contains(&fingerprint("t").to_bytes()));
        // Another cluster has another key.
        let elsewhere = gateway(&Fake::default()).await;
        assert_eq!(elsewhere.open(&sealed), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_broken_server_returns_verifies_nothing() {
        let server = Fake::default();
        let gateway = gateway(&server).await;
        let [instance, another] = [INSTANCE, "instance-2"].map(|it| InstanceId::new(it).unwrap());
        let good = gateway.seal(&instance, fingerprint("t")).unwrap();
        let mut changed = STANDARD_NO_PAD.decode(&good).unwrap();
        changed[13] ^= 1;
        let returned = vec![
            Vec::new(),
            b"junk".to_vec(),
            vec![0xff; 100_000],
            STANDARD_NO_PAD.encode([0; 36]).into_bytes(),
            good[..good.len() - 1].to_vec(),
            STANDARD_NO_PAD.encode(changed).into_bytes(),
            gateway.seal(&another, fingerprint("t")).unwrap(),
            good.clone(),
        ];
        server.state().script = Box::new(move |_| {
            Ok(crate::cluster::Reply {
                numbers: Vec::new(),
                texts: returned.clone(),
            })
        });
        let known = gateway.exchange(&instance, None).await;
        assert_eq!(known, Ok(vec![fingerprint("t")]));
        // Not more than an account remembers.
        let many = vec![good.clone(); 10 * MAX_CREDENTIALS];
        server.state().script = Box::new(move |_| {
            Ok(crate::cluster::Reply {
                numbers: Vec::new(),
                texts: many.clone(),
            })
        });
        let known = gateway.exchange(&instance, None).await.unwrap();
        assert_eq!(known.len(), MAX_CREDENTIALS);
        let key = String::from_utf8(gateway.cluster.key(&[VERIFIED, "hash"])).unwrap();
        let good = String::from_utf8(good).unwrap();
        for line in [
            String::new(),
            key.clone(),
            format!("{key} 1"),
            format!("{key} 1 junk"),
            format!("{key} 2 {good}"),
            format!("{{other}}:verified:hash 1 {good}"),
        ] {
            assert_eq!(gateway.announced(line.as_bytes()), None, "{line}");
        }
        for (text, is_accepted) in [("1", true), ("0", false)] {
            let change = Change {
                credential: fingerprint("t"),
                is_accepted,
            };
            let line = format!("{key} {text} {good}");
            let announced = gateway.announced(line.as_bytes());
            assert_eq!(announced, Some((instance.clone(), change)));
        }
    }
}
