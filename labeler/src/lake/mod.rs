//! The pair lake: Parquet parts in the artifact store, found by rows.
//!
//! A part holds pairs of one tenant, day, audience and language ([`PartGroup`]); its row says which, its object is named
//! by its content. The object is stored first; the row that names it and the positions that the sink goes on from are
//! written in one transaction ([`LakeWriter`]). A crash in between leaves an object that no row names, and the next
//! attempt stores the same range again.
//!
//! Small parts come often, so that what developers did a moment ago can be trained on; [`compaction`] makes few large
//! ones of them. `docs/lake.md` explains the columns to whoever reads parts with something else.

pub mod compaction;
mod error;
mod group;
mod part;
mod reader;
mod remembered;
mod rows;
mod writer;

use events::topics::PREFERENCE_PAIRS;
use events::{PairText, PreferencePair, Sha256Digest};
use service::keys::{KeyLookup, KeyStore};

pub use error::{BadPart, LakeError, OpenTextError, PartFault};
pub use group::PartGroup;
pub use part::{
    FORMAT, METADATA_KEY, PairPlace, PartError, PartMetadata, PlacedPair, RowGroupLimits, SCHEMA, read_part, write_part,
};
pub use reader::{LakeExtent, LakeRead, LakeReader, PairFilter, SealedTexts};
pub use rows::LakePart;
pub use writer::LakeWriter;

/// Name of the lake's positions.
pub const SINK: &str = "lake";

/// The text of a pair, opened with its person's key and compared with its digest.
///
/// # Errors
/// An erased person (leave the pair out), a damaged text, or a key store that fails.
pub async fn open_text(pair: &PreferencePair, keys: &KeyStore) -> Result<PairText, OpenTextError> {
    let sealed = pair.sealed.as_ref().ok_or(OpenTextError::NoText)?;
    let key = match keys.get(sealed.key_id).await? {
        KeyLookup::Found(key) => key,
        KeyLookup::Erased => return Err(OpenTextError::Erased),
        KeyLookup::Missing => return Err(OpenTextError::NoKey(sealed.key_id.to_string())),
    };
    let plaintext = key.open(pair.event_id, PREFERENCE_PAIRS, sealed).map_err(|_| OpenTextError::Damaged)?;
    let secret = keys.tenant_secret(&pair.tenant).await?;
    if content_digest(&secret, &plaintext) != pair.content_digest {
        return Err(OpenTextError::Damaged);
    }
    serde_json::from_slice(&plaintext).map_err(|_| OpenTextError::Damaged)
}

/// Digest of a pair's text in clear, keyed by the tenant.
#[must_use]
pub fn content_digest(secret: &events::TenantSecret, text: &[u8]) -> Sha256Digest {
    let key = secret.derive("preference pair content");
    Sha256Digest::from_bytes(events::sealing::keyed_digest(&key, &[text]))
}
