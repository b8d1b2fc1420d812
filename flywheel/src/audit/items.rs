//! Records of output topics as they are compared: an id, and a digest of everything that the record says. Sealed text
//! is opened and goes into the digest in clear: two seals of the same text are the same, and one that does not open is
//! found.

use anyhow::bail;
use bus::{HistoryEntry, RecordKey};
use events::avro::{self, AvroError, AvroRecord};
use events::sealing::keyed_digest;
use events::{
    CleanEvent, EventId, OpportunityId, OpportunityOutcome, PreferencePair, QuarantinedEvent, Sealed, TenantSecret,
    topics,
};
use labeler::lake::{OpenTextError, open_text};
use service::keys::{KeyLookup, KeyStore};

use super::stage::Kind;

/// One record.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) digest: [u8; 32],
    /// The key of its session; none for an outcome, whose key is its person's.
    pub(crate) key: Option<RecordKey>,
    /// Its text was sealed under a key that was destroyed: nobody can say what it says.
    pub(crate) is_erased: bool,
}

/// Reads records.
pub(crate) struct Items {
    keys: KeyStore,
    /// Keys the digests, so that they tell nothing to whoever finds the scratch.
    digest_key: [u8; 32],
}

/// What became of a sealed text.
enum Text {
    Absent,
    Clear(Vec<u8>),
    Erased,
    /// It does not open, or there is no such key; it is compared as it lies there.
    Closed,
}

/// Decodes a value. None: nothing of ours. What a newer release wrote ends the audit.
pub(crate) fn decode<T: AvroRecord>(topic: &str, value: &[u8]) -> anyhow::Result<Option<T>> {
    match avro::decode::<T>(value) {
        Ok(value) => Ok(Some(value)),
        Err(AvroError::UnknownFingerprint(_)) => {
            bail!("a record of {topic} was written by a newer release; audit with that one")
        }
        Err(_) => Ok(None),
    }
}

impl Items {
    pub(crate) fn new(keys: KeyStore, secret: &TenantSecret) -> Self {
        Self { keys, digest_key: secret.derive("audit") }
    }

    pub(crate) async fn read(&self, kind: Kind, entry: &HistoryEntry) -> anyhow::Result<Item> {
        let read = match kind {
            Kind::Clean => self.clean(entry).await?,
            Kind::Quarantined => self.quarantined(entry).await?,
            Kind::Pair => self.pair(entry).await?,
            Kind::Outcome => self.outcome(entry)?,
        };
        Ok(read.unwrap_or_else(|| {
            let id = format!("unreadable at {}:{}", entry.partition, entry.position);
            Item { kind, id, digest: [0; 32], key: Some(entry.key), is_erased: false }
        }))
    }

    async fn clean(&self, entry: &HistoryEntry) -> anyhow::Result<Option<Item>> {
        let Some(event) = decode::<CleanEvent>(topics::TELEMETRY_CLEAN, &entry.value)? else { return Ok(None) };
        let id = event.header.event_id;
        let said = serde_json::to_vec(&(&event.header, event.disposition, &event.reason, event.altered))?;
        let text = self.open(id, &[topics::TELEMETRY_CLEAN], event.sealed()).await?;
        Ok(Some(self.item(Kind::Clean, id.to_string(), entry, &said, text, event.sealed())))
    }

    async fn quarantined(&self, entry: &HistoryEntry) -> anyhow::Result<Option<Item>> {
        let topic = topics::TELEMETRY_QUARANTINE;
        let Some(event) = decode::<QuarantinedEvent>(topic, &entry.value)? else { return Ok(None) };
        let (id, sealed) = (event.header.event_id, event.sealed.as_ref());
        let said = serde_json::to_vec(&(&event.header, &event.reason))?;
        // What could not be opened was left as it came.
        let text = self.open(id, &[topic, topics::TELEMETRY_RAW], sealed).await?;
        Ok(Some(self.item(Kind::Quarantined, id.to_string(), entry, &said, text, sealed)))
    }

    async fn pair(&self, entry: &HistoryEntry) -> anyhow::Result<Option<Item>> {
        let Some(pair) = decode::<PreferencePair>(topics::PREFERENCE_PAIRS, &entry.value)? else { return Ok(None) };
        // Its content digest, which is among what it says, is compared with the text here.
        let text = match open_text(&pair, &self.keys).await {
            Ok(_) | Err(OpenTextError::NoText) => Text::Absent,
            Err(OpenTextError::Erased) => Text::Erased,
            Err(OpenTextError::Damaged | OpenTextError::NoKey(_)) => Text::Closed,
            Err(error) => return Err(error.into()),
        };
        let said = serde_json::to_vec(&PreferencePair { sealed: None, ..pair.clone() })?;
        Ok(Some(self.item(Kind::Pair, pair.pair_id.to_string(), entry, &said, text, pair.sealed.as_ref())))
    }

    fn outcome(&self, entry: &HistoryEntry) -> anyhow::Result<Option<Item>> {
        let topic = topics::SERVING_OUTCOMES;
        let Some(outcome) = decode::<OpportunityOutcome>(topic, &entry.value)? else { return Ok(None) };
        let (id, digest) = self.closed(&outcome)?;
        let id = id.to_string();
        Ok(Some(Item { kind: Kind::Outcome, id, digest, key: None, is_erased: false }))
    }

    /// Id and digest of an outcome, of the topic or of the table.
    pub(crate) fn closed(&self, outcome: &OpportunityOutcome) -> anyhow::Result<(OpportunityId, [u8; 32])> {
        // A database may not take every character of a name.
        let mut stored = outcome.clone();
        stored.repository = migrations::storable(&outcome.repository).into_owned();
        if let Some(detail) = &mut stored.detail {
            detail.language = migrations::storable(&detail.language).into_owned();
        }
        let said = serde_json::to_vec(&stored)?;
        Ok((outcome.opportunity_id, keyed_digest(&self.digest_key, &[b"outcome", &said])))
    }

    /// Digest of a pair as it is stored, its seal included.
    pub(crate) fn stored(&self, pair: &PreferencePair) -> anyhow::Result<[u8; 32]> {
        Ok(keyed_digest(&self.digest_key, &[b"pair", &avro::encode(pair)?]))
    }

    fn item(
        &self,
        kind: Kind,
        id: String,
        entry: &HistoryEntry,
        said: &[u8],
        text: Text,
        sealed: Option<&Sealed>,
    ) -> Item {
        let (word, content): (&[u8], &[u8]) = match &text {
            Text::Absent => (b"absent", b""),
            Text::Clear(plaintext) => (b"clear", plaintext),
            Text::Erased => (b"erased", b""),
            Text::Closed => (b"closed", sealed.map_or(b"", |sealed| &sealed.ciphertext)),
        };
        let digest = keyed_digest(&self.digest_key, &[kind.as_str().as_bytes(), said, word, content]);
        Item { kind, id, digest, key: Some(entry.key), is_erased: matches!(text, Text::Erased) }
    }

    /// Opens a text under the first of these topics to which it was bound.
    async fn open(&self, id: EventId, bound_to: &[&str], sealed: Option<&Sealed>) -> anyhow::Result<Text> {
        let Some(sealed) = sealed else { return Ok(Text::Absent) };
        let key = match self.keys.get(sealed.key_id).await? {
            KeyLookup::Found(key) => key,
            KeyLookup::Erased => return Ok(Text::Erased),
            KeyLookup::Missing => return Ok(Text::Closed),
        };
        let opened = bound_to.iter().find_map(|topic| key.open(id, topic, sealed).ok());
        Ok(opened.map_or(Text::Closed, Text::Clear))
    }
}
