//! The interface that a local directory and an object store share.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use events::Sha256Digest;

use crate::ArtifactError;

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its name from now on.
    pub digest: Sha256Digest,
    /// Its length.
    pub bytes: u64,
}

/// A store of objects that are named by their content.
#[async_trait]
pub trait ArtifactStore: Send + Sync + std::fmt::Debug {
    /// Stores bytes. Durable and visible as a whole when `Ok`, invisible otherwise. Storing what is there already is no
    /// error, and heals it where the store can tell that it was damaged (what rots below an object store's own checksums
    /// is healed once it was removed).
    ///
    /// # Errors
    /// No space, or the store failed.
    async fn put(&self, bytes: Bytes) -> Result<Stored, ArtifactError>;

    /// Stores the content of a file without holding it in memory.
    ///
    /// # Errors
    /// The file cannot be read, no space, or the store failed.
    async fn put_file(&self, path: &Path) -> Result<Stored, ArtifactError>;

    /// The verified bytes of an object.
    ///
    /// # Errors
    /// It does not exist, its bytes are not what its name promises, or the store failed.
    async fn get(&self, digest: &Sha256Digest) -> Result<Bytes, ArtifactError>;

    /// Writes an object to a file, which appears (or is replaced) as a whole and only when verified. Returns its
    /// length.
    ///
    /// # Errors
    /// As [`ArtifactStore::get`], or the file cannot be written.
    async fn get_to_file(&self, digest: &Sha256Digest, path: &Path) -> Result<u64, ArtifactError>;

    /// Whether the store can be used now: one cheap question, for whoever asks again and again. A directory of this
    /// machine is always there.
    ///
    /// # Errors
    /// It can not: the sentence says what to do.
    async fn answers(&self) -> Result<(), ArtifactError> {
        Ok(())
    }

    /// Whether there is an object of this name. Says nothing about its bytes.
    ///
    /// # Errors
    /// The store failed.
    async fn exists(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError>;

    /// Removes an object that no row names any more. Returns whether there was one.
    ///
    /// # Errors
    /// The store failed.
    async fn remove(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError>;
}
