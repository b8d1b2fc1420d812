//! What a replay has done, so that one that was killed goes on: versions, and what each said of each window. It holds
//! code of the history, so only its owner may look.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data_dir::write_whole;
use crate::failure::Failure;

/// The folder of one replay: of one history under one set of settings.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    _lock: File,
}

impl State {
    /// Opens the folder for this process alone, and makes it if it is absent.
    pub(super) fn open(folder: &Path) -> Result<Self, Failure> {
        let unwritable =
            |error: std::io::Error| Failure::refused(format!("{} can not be written: {error}", folder.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unwritable)?;
        let lock = File::create(folder.join("lock")).map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::refused(format!("another replay is at work in {}", folder.display())));
            }
            Err(TryLockError::Error(error)) => return Err(unwritable(error)),
        }
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What was kept; none when it was not, or can not be read: that costs the time to do it again.
    pub(super) fn kept<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&std::fs::read(self.path(name)).ok()?).ok()
    }

    pub(super) fn keep(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        write_whole(&self.path(name), &serde_json::to_vec(value)?, 0o600)
    }

    /// The folder of a version, made if it is absent.
    pub(super) fn version(&self, number: usize) -> Result<PathBuf, Failure> {
        let folder = self.path(&format!("version-{number}"));
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::refused(format!("{} can not be made: {error}", folder.display())))?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again_and_damage_is_absence() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(state.kept::<Vec<u32>>("x.json"), None);
        state.keep("x.json", &[1, 2]).unwrap();
        assert_eq!(state.kept::<Vec<u32>>("x.json"), Some(vec![1, 2]));
        std::fs::write(state.path("x.json"), "[1, ").unwrap();
        assert_eq!(state.kept::<Vec<u32>>("x.json"), None);
        let Err(Failure::Refused(sentence)) = State::open(&folder.path().join("a/b")) else { panic!("two at once") };
        assert!(sentence.contains("another replay"), "{sentence}");
    }
}
