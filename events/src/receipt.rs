//! Receipts: signed tokens that serving hands out with every decision and that every later event returns.
//!
//! Format: `base64url(JSON) . base64url(HMAC-SHA-256)`, no padding. Only ids, numbers and digests are inside.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::ids::{
    ModelName, ModelVersion, OpportunityId, PersonPseudonym, RolloutId, SessionId, Sha256Digest, SuggestionId, TenantId,
};
use crate::sealing::TenantSecret;
use crate::time::Timestamp;
use crate::vocabulary::{Arm, Decision};

/// The probabilities behind a decision. Never one field.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Probabilities {
    /// Of being in this arm of the rollout.
    pub arm_probability: f64,
    /// Of being shown, after threshold and exploration.
    pub p_show: f64,
    /// Natural logarithm of the text's probability under what was really decoded.
    pub log_p_text: f64,
    /// The model's own estimate that an edit is wanted here.
    pub gate_score: f64,
    /// The score from which on a suggestion is shown.
    pub threshold: f64,
    /// Whether exploration turned the decision round.
    pub explored: bool,
}

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Owner of the data.
    pub tenant: TenantId,
    /// The developer who asked.
    pub person: PersonPseudonym,
    /// The session that asked.
    pub session_id: SessionId,
    /// The decision.
    pub opportunity_id: OpportunityId,
    /// The suggestion; none when there was nothing to say.
    pub suggestion_id: Option<SuggestionId>,
    /// The model that was asked.
    pub model: ModelName,
    /// Its version.
    pub model_version: ModelVersion,
    /// The rollout that chose the version, if one ran.
    pub rollout_id: Option<RolloutId>,
    /// The side of the rollout.
    pub arm: Arm,
    /// The block within which the arm is fixed.
    pub block: Option<i64>,
    /// What was decided.
    pub decision: Decision,
    /// How likely all of it was.
    pub probabilities: Probabilities,
    /// Digest of the context as the model saw it.
    pub context_digest: Sha256Digest,
    /// Digest of the actions proposed.
    pub actions_digest: Sha256Digest,
    /// When it was signed.
    pub issued_at: Timestamp,
}

/// A receipt that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not two base64url parts of a sensible length.
    #[error("receipt is not of the form PAYLOAD.SIGNATURE in base64url, at most {MAX_RECEIPT_BYTES} bytes")]
    Malformed,
    /// Another key signed it, or its payload was changed.
    #[error("receipt signature does not hold")]
    Forged,
    /// Signed by us, but with fields this release can not read.
    #[error("receipt payload is not readable by this release")]
    Unreadable,
}

/// Longest token that is looked at.
pub const MAX_RECEIPT_BYTES: usize = 4096;

fn mac(secret: &TenantSecret, payload: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&secret.derive("receipt")).ok()?;
    mac.update(payload);
    Some(mac)
}

impl Receipt {
    /// The token for the client.
    #[must_use]
    pub fn sign(&self, secret: &TenantSecret) -> String {
        // A receipt holds finite numbers and plain strings only; both steps succeed on it.
        let payload = serde_json::to_vec(self).unwrap_or_default();
        let signature = mac(secret, &payload).map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(signature))
    }

    /// Reads a token back. The comparison of signatures takes constant time.
    ///
    /// # Errors
    /// When the token is malformed, forged or of an unknown form.
    pub fn verify(token: &str, secret: &TenantSecret) -> Result<Self, ReceiptError> {
        if token.len() > MAX_RECEIPT_BYTES {
            return Err(ReceiptError::Malformed);
        }
        let (payload, signature) = token.split_once('.').ok_or(ReceiptError::Malformed)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| ReceiptError::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| ReceiptError::Malformed)?;
        mac(secret, &payload)
            .ok_or(ReceiptError::Forged)?
            .verify_slice(&signature)
            .map_err(|_| ReceiptError::Forged)?;
        serde_json::from_slice(&payload).map_err(|_| ReceiptError::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn receipt() -> Receipt {
        Receipt {
            tenant: TenantId::default(),
            person: "00112233445566778899aabbccddeeff".parse().unwrap(),
            session_id: SessionId::from_uuid(uuid::Uuid::from_bytes([4; 16])),
            opportunity_id: OpportunityId::from_uuid(uuid::Uuid::from_bytes([1; 16])),
            suggestion_id: Some(SuggestionId::from_uuid(uuid::Uuid::from_bytes([2; 16]))),
            model: "edit".parse().unwrap(),
            model_version: ModelVersion(3),
            rollout_id: None,
            arm: Arm::Current,
            block: None,
            decision: Decision::Shown,
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: 0.98,
                log_p_text: -0.25,
                gate_score: 0.75,
                threshold: 0.5,
                explored: false,
            },
            context_digest: Sha256Digest::of(b"context"),
            actions_digest: Sha256Digest::of(b"actions"),
            issued_at: Timestamp::from_seconds(1_800_000_000),
        }
    }

    #[test]
    fn reads_back_what_was_signed_and_nothing_else() {
        let secret = TenantSecret::new([1; 32]);
        let token = receipt().sign(&secret);
        assert_eq!(Receipt::verify(&token, &secret), Ok(receipt()));
        assert_eq!(Receipt::verify(&token, &TenantSecret::new([2; 32])), Err(ReceiptError::Forged));
        assert_eq!(Receipt::verify("no dot", &secret), Err(ReceiptError::Malformed));
        assert_eq!(Receipt::verify(&"a".repeat(5000), &secret), Err(ReceiptError::Malformed));
    }

    proptest! {
        #[test]
        fn no_changed_character_is_accepted(index in any::<prop::sample::Index>(), byte in prop::sample::select(b"ABCxyz019-_.".to_vec())) {
            let secret = TenantSecret::new([1; 32]);
            let mut token = receipt().sign(&secret).into_bytes();
            let index = index.index(token.len());
            prop_assume!(token[index] != byte);
            token[index] = byte;
            let token = String::from_utf8(token).unwrap();
            prop_assert!(Receipt::verify(&token, &secret).is_err());
        }
    }
}
