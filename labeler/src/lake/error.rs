//! What can go wrong with the lake.

use artifacts::ArtifactError;
use service::keys::KeyStoreError;
use service::lease::LeaseError;

use super::part::PartError;

/// Why a part cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartFault {
    /// Its row names an object that is not there.
    #[error("its object is missing")]
    ObjectMissing,
    /// The object's bytes are not those that its digest promises: truncated, flipped or exchanged.
    #[error("its object is corrupt: {0}")]
    ObjectCorrupt(#[source] ArtifactError),
    /// A release with other columns wrote it.
    #[error("it has format {found}, which this release does not read")]
    OtherFormat {
        /// The format.
        found: u32,
    },
    /// The bytes are those that were stored, and no part.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] PartError),
    /// The object says something else about itself than its row does.
    #[error("it is not what its row says")]
    NotWhatItsRowSays,
}

impl PartFault {
    /// A stable code, for metrics and reports.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ObjectMissing => "object_missing",
            Self::ObjectCorrupt(_) => "object_corrupt",
            Self::OtherFormat { .. } => "other_format",
            Self::Unreadable(_) => "unreadable",
            Self::NotWhatItsRowSays => "not_what_its_row_says",
        }
    }
}

impl From<PartError> for PartFault {
    fn from(error: PartError) -> Self {
        match error {
            PartError::Format { found } => Self::OtherFormat { found },
            error => Self::Unreadable(error),
        }
    }
}

/// A part that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("lake part {part_id}: {fault}")]
pub struct BadPart {
    /// Its id.
    pub part_id: String,
    /// How many pairs its row promises.
    pub pairs: u64,
    /// What is wrong with it.
    #[source]
    pub fault: PartFault,
}

/// The lake cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// A part cannot be written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// A part cannot be used.
    #[error(transparent)]
    BadPart(#[from] BadPart),
    /// Some parts cannot be used, and whoever asked needs all of them.
    #[error("{parts} parts of the lake, with {pairs} pairs, cannot be used; the first: {first}")]
    Incomplete {
        /// How many.
        parts: usize,
        /// How many pairs their rows promise.
        pairs: u64,
        /// One of them.
        #[source]
        first: Box<BadPart>,
    },
    /// Compaction has replaced the part since it was listed: list the parts again.
    #[error("lake part {part_id} has been replaced by others since it was listed")]
    Replaced {
        /// The part.
        part_id: String,
    },
    /// Its object is, or was, removed, because no row had named it for so long: store it again.
    #[error("lake part {part_id}: no row has named its object for so long that it is removed; it is stored again")]
    ObjectGone {
        /// The part.
        part_id: String,
    },
    /// The store of objects failed.
    #[error("lake: {0}")]
    Artifacts(#[from] ArtifactError),
    /// The database failed.
    #[error("lake: {0}")]
    Database(#[from] sqlx::Error),
    /// A row holds something that it may not.
    #[error("lake: {0}")]
    Row(#[from] events::InvalidId),
    /// The key store failed.
    #[error("lake: {0}")]
    Keys(#[from] KeyStoreError),
    /// Another process compacts now.
    #[error("lake: {0}")]
    Lease(#[from] LeaseError),
}

/// The text of a pair cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenTextError {
    /// Its person was erased: leave the pair out.
    #[error("the person's key was erased")]
    Erased,
    /// There is no such key.
    #[error("there is no data key {0}")]
    NoKey(String),
    /// The pair carries no text.
    #[error("the pair carries no text")]
    NoText,
    /// It does not open, or is not what its digest says.
    #[error("the pair's text does not open or is not what its digest says")]
    Damaged,
    /// The key store failed.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
}
