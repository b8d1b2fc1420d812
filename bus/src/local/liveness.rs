//! Whether the process behind an owner is still there.
//!
//! Every handle of the log holds a lock on a file of its own. The system frees the lock when the process ends, however
//! it ends, so that its partitions can be taken over at once. A process that was only stopped keeps its lock, and its
//! leases must run out.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::BusError;

/// Parts the handle's identity from the number of the step run in it.
const SEPARATOR: char = '.';

/// This handle's lock, and a look at those of others.
pub(super) struct Liveness {
    folder: PathBuf,
    identity: String,
    runs: std::sync::atomic::AtomicU64,
    _lock: File,
}

impl Liveness {
    /// Takes a fresh identity and locks its file.
    pub(super) fn start(folder: &Path) -> Result<Self, BusError> {
        let failed = |error: std::io::Error| BusError::Storage(format!("owner file: {error}"));
        fs::create_dir_all(folder).map_err(failed)?;
        let identity = hex::encode(rand::random::<[u8; 16]>());
        let lock = File::create_new(folder.join(&identity)).map_err(failed)?;
        lock.try_lock().map_err(|error| failed(error.into()))?;
        Ok(Self { folder: folder.to_owned(), identity, runs: Default::default(), _lock: lock })
    }

    /// The owner that the next run of a step writes into the rows of its partitions.
    pub(super) fn next_owner(&self) -> String {
        let run = self.runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{}{SEPARATOR}{run}", self.identity)
    }

    /// Whether the process behind an owner has ended. When in doubt it has not.
    pub(super) fn has_ended(folder: &Path, owner: &str) -> bool {
        let identity = owner.split(SEPARATOR).next().unwrap_or(owner);
        let path = folder.join(identity);
        match File::open(&path) {
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            Ok(file) => match file.try_lock() {
                Ok(()) => {
                    // Identities are never used twice, so the file has no further use.
                    let _ = fs::remove_file(path);
                    true
                }
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
            },
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.folder.join(&self.identity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_ends_with_its_handle() {
        let folder = tempfile::tempdir().unwrap();
        let first = Liveness::start(folder.path()).unwrap();
        let second = Liveness::start(folder.path()).unwrap();
        let owner = first.next_owner();
        assert_ne!(owner, first.next_owner());
        assert!(!Liveness::has_ended(second.folder(), &owner));
        drop(first);
        assert!(Liveness::has_ended(second.folder(), &owner));
        assert!(!Liveness::has_ended(second.folder(), &second.next_owner()));
    }
}
