//! Typed identifiers. None of them can hold a bad value; all of them read the same in JSON, Avro, SQL and logs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::time::Timestamp;

/// Why a text is no valid identifier. Carries the kind and the rule, never the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: expected {expected}")]
pub struct InvalidId {
    /// Which identifier was being read.
    pub kind: &'static str,
    /// What a valid one looks like.
    pub expected: &'static str,
}

/// Where new identifiers come from. Injected, so that a seeded run makes the same ones.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// A fresh UUIDv7 (RFC 9562) with the source's time in its leading bits.
    fn next_uuid(&self) -> Uuid;
}

/// Lays out a UUIDv7 from a time and 10 bytes of randomness.
#[must_use]
pub fn uuid_v7(time: Timestamp, random: [u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(time.as_millis()).unwrap_or(0), &random).into_uuid()
}

/// A UUID of version 8 from a SHA-256 over length-prefixed parts: the same parts always give the same id.
fn derived_uuid(domain: &str, parts: &[&[u8]]) -> Uuid {
    let digest = Sha256Digest::of_parts(domain, parts);
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest.0[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id from `source`.
            #[must_use]
            pub fn new(source: &dyn IdSource) -> Self {
                Self(source.next_uuid())
            }

            /// Wraps a UUID.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// The 16 bytes, big-endian.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| InvalidId { kind: $kind, expected: "a UUID like 0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d" })
            }
        }

        text_id!($name);
    };
}

macro_rules! text_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str(stringify!($name))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(InvalidId { kind: $kind, expected: $expected }) }
            }
        }

        text_id!($name);
    };
}

uuid_id!(
    /// One event. Client events derive it from (session, sequence number), exposures from the suggestion.
    EventId, "event id"
);
uuid_id!(
    /// One decision to show a suggestion or to stay silent. Made by the client, or by serving for a client that sends none.
    OpportunityId, "opportunity id"
);
uuid_id!(
    /// One served suggestion.
    SuggestionId, "suggestion id"
);
uuid_id!(
    /// One run of an editor, at most 24 h.
    SessionId, "session id"
);
uuid_id!(
    /// One rollout of a model version.
    RolloutId, "rollout id"
);
uuid_id!(
    /// One data key of one person.
    KeyId, "key id"
);
uuid_id!(
    /// One training run.
    RunId, "run id"
);

impl EventId {
    /// The id of the `sequence`-th event of a session; unchanged by retries.
    #[must_use]
    pub fn of_client_event(session: SessionId, sequence: u64) -> Self {
        Self(derived_uuid("flywheel client event", &[session.as_bytes(), &sequence.to_be_bytes()]))
    }

    /// The id of the exposure of a suggestion or, when serving stayed silent, of the opportunity.
    #[must_use]
    pub fn of_exposure(opportunity: OpportunityId, suggestion: Option<SuggestionId>) -> Self {
        match suggestion {
            Some(suggestion) => Self(derived_uuid("flywheel exposure", &[suggestion.as_bytes()])),
            None => Self(derived_uuid("flywheel silent exposure", &[opportunity.as_bytes()])),
        }
    }
}

name_id!(
    /// The customer or division whose data trains only its own models. `default` when alone.
    TenantId, "tenant", "1 to 64 characters of a-z, 0-9, '-' and '_'",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
);
name_id!(
    /// A model's name within a tenant.
    ModelName, "model name", "1 to 128 characters of a-z, A-Z, 0-9, '-', '_' and '.', not starting with '.'",
    |text| (1..=128).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
);
name_id!(
    /// Who may be served what was learned from a repository.
    Audience, "audience", "1 to 128 printable ASCII characters without spaces",
    |text| (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
);
name_id!(
    /// A person, as a keyed pseudonym: 32 hexadecimal digits. The editor's own name for the person never passes the door.
    PersonPseudonym, "person pseudonym", "32 lower-case hexadecimal digits",
    |text| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
);

impl Default for TenantId {
    fn default() -> Self {
        Self("default".into())
    }
}

/// A version of a model, counted from 1 within (tenant, model name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelVersion(pub i64);

impl fmt::Display for ModelVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A SHA-256 digest; reads as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a domain and length-prefixed parts, so that no two lists of parts collide by concatenation.
    #[must_use]
    pub fn of_parts(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
            hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Wraps 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Sha256Digest({self})")
    }
}

impl FromStr for Sha256Digest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut bytes = [0_u8; 32];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(InvalidId { kind: "SHA-256 digest", expected: "64 hexadecimal digits" }),
        }
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Identifies a preference pair for ever: the same evidence labelled by the same policy is the same pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PairId(Sha256Digest);

impl PairId {
    /// digest(tenant, opportunity, suggestion id or empty, action index or -1, reason, label policy version).
    #[must_use]
    pub fn derive(
        tenant: &TenantId,
        opportunity: OpportunityId,
        suggestion: Option<SuggestionId>,
        action_index: i32,
        reason: &str,
        label_policy_version: i32,
    ) -> Self {
        let suggestion = suggestion.map(|id| *id.as_bytes());
        Self(Sha256Digest::of_parts(
            "flywheel preference pair",
            &[
                tenant.as_str().as_bytes(),
                opportunity.as_bytes(),
                suggestion.as_ref().map_or(&[][..], |bytes| &bytes[..]),
                &action_index.to_be_bytes(),
                reason.as_bytes(),
                &label_policy_version.to_be_bytes(),
            ],
        ))
    }

    /// The digest behind the id.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.0
    }
}

impl fmt::Display for PairId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for PairId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PairId({})", self.0)
    }
}

impl FromStr for PairId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(byte: u8) -> SessionId {
        SessionId::from_uuid(Uuid::from_bytes([byte; 16]))
    }

    #[test]
    fn event_ids_depend_on_session_and_sequence_alone() {
        assert_eq!(EventId::of_client_event(session(1), 7), EventId::of_client_event(session(1), 7));
        assert_ne!(EventId::of_client_event(session(1), 7), EventId::of_client_event(session(1), 8));
        assert_ne!(EventId::of_client_event(session(1), 7), EventId::of_client_event(session(2), 7));
    }

    #[test]
    fn a_silent_exposure_and_a_suggestion_with_the_same_bytes_differ() {
        let uuid = Uuid::from_bytes([9; 16]);
        let opportunity = OpportunityId::from_uuid(uuid);
        assert_ne!(
            EventId::of_exposure(opportunity, None),
            EventId::of_exposure(opportunity, Some(SuggestionId::from_uuid(uuid)))
        );
    }

    #[test]
    fn pair_ids_are_final() {
        // Stored for ever: a change of this value is a change of every data set's identity.
        let id = PairId::derive(
            &TenantId::default(),
            OpportunityId::from_uuid(Uuid::from_bytes([1; 16])),
            Some(SuggestionId::from_uuid(Uuid::from_bytes([2; 16]))),
            0,
            "dismissed_then_typed",
            1,
        );
        insta::assert_snapshot!(id.to_string());
        insta::assert_snapshot!(EventId::of_client_event(session(3), 1).to_string());
    }

    #[test]
    fn names_refuse_what_does_not_fit() {
        assert!("Acme".parse::<TenantId>().is_err());
        assert!("".parse::<TenantId>().is_err());
        assert!("../x".parse::<ModelName>().is_err());
        assert!(".hidden".parse::<ModelName>().is_err());
        assert!("edit-small".parse::<ModelName>().is_ok());
        assert!("not hex".parse::<PersonPseudonym>().is_err());
    }
}
