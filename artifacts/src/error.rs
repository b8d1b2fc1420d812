//! What can go wrong with an object.

use std::path::PathBuf;

use events::Sha256Digest;

/// An object that cannot be stored or delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Nobody put it, or it was removed.
    #[error("artifact {digest} does not exist")]
    NotFound {
        /// Its name.
        digest: Sha256Digest,
    },
    /// Its bytes are not those that its name promises: truncated, flipped or exchanged.
    #[error("artifact {digest} is corrupt: its {bytes} bytes have the digest {found}")]
    Corrupt {
        /// Its name.
        digest: Sha256Digest,
        /// What its bytes say.
        found: Sha256Digest,
        /// How many bytes there are.
        bytes: u64,
    },
    /// A file of a materialised directory is not what the manifest says.
    #[error("file {path} of artifact {digest} is corrupt or missing")]
    CorruptFile {
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// Relative path.
        path: String,
    },
    /// An object was taken for a manifest and is none.
    #[error("artifact {digest} is no directory manifest: {reason}")]
    BadManifest {
        /// Its name.
        digest: Sha256Digest,
        /// What is wrong.
        reason: String,
    },
    /// A directory holds something that cannot be stored.
    #[error("{} cannot be stored: {reason}", path.display())]
    Unsupported {
        /// Which entry.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The disk is full. Nothing of the object is visible.
    #[error("no space left to write {} ({source}); make room and try again", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file system or the network failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file did not stay what it was while it was read twice. Nothing of it is visible.
    #[error("{} changed while it was being stored; store it when nobody writes to it", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// The object store has no such bucket.
    #[error("bucket {bucket} does not exist at {endpoint}; create it, or name the right one")]
    BucketMissing {
        /// Its name.
        bucket: String,
        /// Where it was looked for.
        endpoint: String,
    },
    /// The object store does not know who is asking.
    #[error("{endpoint} does not accept the credentials for bucket {bucket} ({reason}); correct or renew them")]
    BadCredentials {
        /// For what.
        bucket: String,
        /// Whose door it is.
        endpoint: String,
        /// What the store says.
        reason: String,
    },
    /// There is nothing to show to the object store.
    #[error(
        "there are no credentials for bucket {bucket} at {endpoint} ({reason}); set an access key, or give this \
         process a role"
    )]
    NoCredentials {
        /// For what.
        bucket: String,
        /// Whose door it is.
        endpoint: String,
        /// Where they were looked for in vain.
        reason: String,
    },
    /// The object store knows who is asking, and does not allow it.
    #[error("these credentials may not {action} in bucket {bucket} at {endpoint}; allow it, or use others")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// Where.
        bucket: String,
        /// At whose door.
        endpoint: String,
    },
    /// The bucket is there and takes nothing.
    #[error(
        "bucket {bucket} at {endpoint} can be read and not written with these credentials; allow them to put and \
         remove objects, or use others"
    )]
    ReadOnly {
        /// Its name.
        bucket: String,
        /// Where it is.
        endpoint: String,
    },
    /// Nobody answers at the object store's address.
    #[error("{endpoint} can not be reached for bucket {bucket} ({reason}); check the address and the network")]
    Unreachable {
        /// For what.
        bucket: String,
        /// The address.
        endpoint: String,
        /// What the network says.
        reason: String,
    },
    /// The object store answered something else.
    #[error("cannot {action} in bucket {bucket} at {endpoint}: {reason}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// Where.
        bucket: String,
        /// At whose door.
        endpoint: String,
        /// What the store says.
        reason: String,
    },
    /// The settings of the object store make none.
    #[error("the object store can not be used: {reason}")]
    Setting {
        /// What is wrong.
        reason: String,
    },
    /// The process is shutting down.
    #[error("the artifact store is shutting down")]
    Stopped,
}

impl ArtifactError {
    /// A disk without room, a quota and a limit of the file size are one to whoever writes: there is no more room.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
                Self::NoSpace { path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }
}
