//! The data directory of the embedded parts, and who may use it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A directory with everything that the embedded parts keep.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// Held as long as one `up` or `demo` uses a directory; the system frees it when the process dies.
#[derive(Debug)]
pub(crate) struct Claim {
    _file: File,
}

impl DataDir {
    /// Makes the directory if it is absent.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        let make = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|error| {
                Failure::refused(format!("data directory {} can not be made: {error}", path.display()))
            })
        };
        make(root)?;
        for inside in ["artifacts", "keys", "serving", "runs"] {
            make(&root.join(inside))?;
        }
        let root = root.canonicalize().map_err(Failure::refuse)?;
        Ok(Self { root })
    }

    /// Claims the directory for one platform.
    pub(crate) fn claim(&self) -> Result<Claim, Failure> {
        let path = self.root.join("lock");
        let file = File::create(&path)
            .map_err(|error| Failure::refused(format!("{} can not be written: {error}", path.display())))?;
        match file.try_lock() {
            Ok(()) => Ok(Claim { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Failure::refused(format!(
                "data directory {} is in use by another flywheel; stop that one or choose another with --data-dir",
                self.root.display()
            ))),
            Err(TryLockError::Error(error)) => {
                Err(Failure::refused(format!("data directory {} can not be locked: {error}", self.root.display())))
            }
        }
    }

    /// Shares the directory with other services that run alone; refused while a whole platform has it.
    pub(crate) fn share(&self) -> Result<Claim, Failure> {
        let path = self.root.join("lock");
        let file = File::create(&path)
            .map_err(|error| Failure::refused(format!("{} can not be written: {error}", path.display())))?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Claim { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Failure::refused(format!(
                "data directory {} is in use by `flywheel up` or a demo, which run every service themselves",
                self.root.display()
            ))),
            Err(TryLockError::Error(error)) => {
                Err(Failure::refused(format!("data directory {} can not be locked: {error}", self.root.display())))
            }
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn bus(&self) -> PathBuf {
        self.root.join("bus.sqlite")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("flywheel.sqlite")
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.root.join("keys").join("master.key")
    }

    /// The key with which the platform's own services call each other.
    pub(crate) fn internal_key(&self) -> PathBuf {
        self.root.join("keys").join("internal.key")
    }

    /// The key that `up` made on its first start, for editors.
    pub(crate) fn client_key(&self) -> PathBuf {
        self.root.join("keys").join("client.key")
    }

    pub(crate) fn serving(&self) -> PathBuf {
        self.root.join("serving")
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Where `up` writes the addresses of its doors, for `status` and the operations commands.
    pub(crate) fn doors(&self) -> PathBuf {
        self.root.join("doors.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let claim = data.claim().unwrap();
        let Err(Failure::Refused(sentence)) = data.claim() else { panic!("expected a refusal") };
        assert!(sentence.contains("in use by another flywheel") && sentence.contains("--data-dir"), "{sentence}");
        drop(claim);
        assert!(data.claim().is_ok());
    }
}
