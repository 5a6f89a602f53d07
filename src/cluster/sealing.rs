//! What gateways write for each other on the server, encrypted and authenticated (AES-256-GCM).
//!
//! Invariant: without the key a text can be neither read nor changed, and not be used in another
//! place than the one it was written for.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};

pub(crate) use ring::aead::NONCE_LEN;

/// A key for what gateways write for each other.
pub(crate) struct SealingKey(LessSafeKey);

impl SealingKey {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("a key of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts a text for this place.
    pub(crate) fn seal(&self, place: &[u8], text: Vec<u8>) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .expect("the operating system has random bytes");
        self.seal_with(nonce, place, text)
    }

    /// The same with a nonce that belongs to no other text.
    pub(crate) fn seal_with(
        &self,
        nonce: [u8; NONCE_LEN],
        place: &[u8],
        mut text: Vec<u8>,
    ) -> Vec<u8> {
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place),
                &mut text,
            )
            .expect("a text far below the limit of the cipher");
        [&nonce[..], &text].concat()
    }

    /// The text that was written for this place; `None` if this is none.
    pub(crate) fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), text.to_vec());
        let length = self
            .0
            .open_in_place(nonce, Aad::from(place), &mut text)
            .ok()?
            .len();
        text.truncate(length);
        Some(text)
    }
}
