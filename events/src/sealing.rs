//! Sealing of text under a person's data key.
//!
//! AES-256-GCM. The associated data binds a ciphertext to its event id and topic, so that a record copied to another
//! place does not open there. The nonce is the first 96 bits of HMAC-SHA-256(nonce key, associated data || plaintext):
//! sealing is a pure function (a step may seal), and a nonce repeats only for the same text at the same place, where it
//! reveals nothing but that equality.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{EventId, KeyId, PersonPseudonym, SessionId, TenantId};

/// HMAC-SHA-256 over length-prefixed parts.
#[must_use]
pub fn keyed_digest(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // An HMAC takes a key of any length; the fallback can not be reached.
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A text could not be opened: another key, another event, another topic, or changed bytes. Says no more on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed text does not open: wrong key, event, topic, or changed bytes")]
pub struct OpenError;

/// Sealed text as it lies on the bus, in keyed state and in dead letters.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which data key opens it.
    pub key_id: KeyId,
    /// 12 bytes of nonce, then the ciphertext with its 16-byte tag.
    #[serde(with = "serde_bytes")]
    pub ciphertext: Vec<u8>,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Sealed({} bytes under {})", self.ciphertext.len(), self.key_id)
    }
}

/// The data key of one person.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey {
    #[zeroize(skip)]
    id: KeyId,
    secret: [u8; 32],
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "DataKey({})", self.id)
    }
}

impl DataKey {
    /// Wraps 32 secret bytes.
    #[must_use]
    pub fn new(id: KeyId, secret: [u8; 32]) -> Self {
        Self { id, secret }
    }

    /// The id that sealed texts carry.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The secret bytes, for the key store that wraps them.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Seals `plaintext` for this event on this topic.
    #[must_use]
    pub fn seal(&self, event: EventId, topic: &str, plaintext: &[u8]) -> Sealed {
        let associated = associated_data(event, topic);
        let digest = keyed_digest(&self.secret, &[b"flywheel nonce", &associated, plaintext]);
        let mut nonce = [0_u8; 12];
        nonce.copy_from_slice(&digest[..12]);
        let mut ciphertext = nonce.to_vec();
        // Encryption fails only beyond 64 GiB of plaintext; an empty body then never opens.
        if let Ok(body) = self.cipher().encrypt(&Nonce::from(nonce), Payload { msg: plaintext, aad: &associated }) {
            ciphertext.extend_from_slice(&body);
        }
        Sealed { key_id: self.id, ciphertext }
    }

    /// Opens what [`DataKey::seal`] made for this event on this topic.
    ///
    /// # Errors
    /// When key, event, topic or bytes differ.
    pub fn open(&self, event: EventId, topic: &str, sealed: &Sealed) -> Result<Vec<u8>, OpenError> {
        if sealed.key_id != self.id {
            return Err(OpenError);
        }
        let (nonce, body) = sealed.ciphertext.split_first_chunk::<12>().ok_or(OpenError)?;
        self.cipher()
            .decrypt(&Nonce::from(*nonce), Payload { msg: body, aad: &associated_data(event, topic) })
            .map_err(|_| OpenError)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&self.secret.into())
    }
}

fn associated_data(event: EventId, topic: &str) -> Vec<u8> {
    let mut data = event.as_bytes().to_vec();
    data.extend_from_slice(topic.as_bytes());
    data
}

/// The secret of one tenant, from which every keyed pseudonym, record key and signature key derives.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TenantSecret([u8; 32]);

impl std::fmt::Debug for TenantSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TenantSecret")
    }
}

impl TenantSecret {
    /// Wraps 32 secret bytes.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The secret bytes, for the key store that wraps them.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// A sub-key for one purpose.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        keyed_digest(&self.0, &[b"flywheel derive", purpose.as_bytes()])
    }

    /// Key of every record of a session: 16 bytes of HMAC(tenant secret, session id).
    #[must_use]
    pub fn record_key(&self, session: SessionId) -> [u8; 16] {
        truncated(keyed_digest(&self.0, &[b"flywheel record key", session.as_bytes()]))
    }

    /// The pseudonym of a person whom the tenant's editors call `person`.
    #[must_use]
    pub fn person_pseudonym(&self, person: &str) -> PersonPseudonym {
        let digest = truncated(keyed_digest(&self.0, &[b"flywheel person", person.as_bytes()]));
        // 16 bytes always give 32 hexadecimal digits.
        hex::encode(digest).parse().unwrap_or_else(|_| unreachable!("hexadecimal digits form a pseudonym"))
    }

    /// A keyed digest of an event's content: tells a retry from another content under the same id, and nothing else.
    #[must_use]
    pub fn content_digest(&self, tenant: &TenantId, content: &[u8]) -> [u8; 16] {
        truncated(keyed_digest(&self.0, &[b"flywheel content", tenant.as_str().as_bytes(), content]))
    }
}

fn truncated(digest: [u8; 32]) -> [u8; 16] {
    let mut short = [0_u8; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> DataKey {
        DataKey::new(KeyId::from_uuid(uuid::Uuid::from_bytes([byte; 16])), [byte; 32])
    }

    fn event(byte: u8) -> EventId {
        EventId::from_uuid(uuid::Uuid::from_bytes([byte; 16]))
    }

    proptest! {
        #[test]
        fn opens_only_where_it_was_sealed(text in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<prop::sample::Index>()) {
            let sealed = key(1).seal(event(1), "telemetry.raw.v1", &text);
            prop_assert_eq!(key(1).open(event(1), "telemetry.raw.v1", &sealed).unwrap(), text);
            prop_assert!(key(1).open(event(2), "telemetry.raw.v1", &sealed).is_err());
            prop_assert!(key(1).open(event(1), "telemetry.clean.v1", &sealed).is_err());
            prop_assert!(key(2).open(event(1), "telemetry.raw.v1", &sealed).is_err());
            let mut changed = sealed.clone();
            let index = flip.index(changed.ciphertext.len());
            changed.ciphertext[index] ^= 1;
            prop_assert!(key(1).open(event(1), "telemetry.raw.v1", &changed).is_err());
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", TenantSecret::new([7; 32])), "TenantSecret");
        assert!(!format!("{:?}", key(7)).contains("7, 7"));
    }

    #[test]
    fn sealing_is_a_pure_function() {
        assert_eq!(key(1).seal(event(1), "t", b"x"), key(1).seal(event(1), "t", b"x"));
        assert_ne!(key(1).seal(event(1), "t", b"x"), key(1).seal(event(1), "t", b"y"));
    }
}
