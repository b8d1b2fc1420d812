//! The file with the wrapping key.

use std::io::Write;
use std::path::{Path, PathBuf};

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use rand::RngExt;
use zeroize::{Zeroize, Zeroizing};

/// First byte of everything wrapped, so that another algorithm can follow.
const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the key file {}: {source}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be made.
    #[error("cannot create the key file {}: {source}", path.display())]
    Create {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("the key file {} has {found} bytes; expected 32: restore it from its backup", path.display())]
    Length {
        /// Its path.
        path: PathBuf,
        /// Its length.
        found: usize,
    },
}

/// Wrapped bytes that the key file does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a wrapped key does not open: another key file, another row, or changed bytes")]
pub struct WrapError;

/// The wrapping key: opened with the key store, or on its own where there is no database.
pub struct KeyFile(Zeroizing<[u8; KEY_BYTES]>);

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("KeyFile")
    }
}

impl KeyFile {
    /// Reads the file, or makes it when there is none. For a key store use [`super::KeyStore::open`], which never
    /// makes a file when a database holds what another one wrapped.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds something else.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        match Self::read(path) {
            Err(KeyFileError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Self::create(path)
            }
            other => other,
        }
    }

    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = Zeroizing::new(
            std::fs::read(path).map_err(|source| KeyFileError::Read { path: path.to_path_buf(), source })?,
        );
        let key: [u8; KEY_BYTES] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyFileError::Length { path: path.to_path_buf(), found: bytes.len() })?;
        warn_if_readable_by_others(path);
        Ok(Self(Zeroizing::new(key)))
    }

    /// Makes the file unless somebody else just did, and reads it.
    pub(super) fn create(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::Create { path: path.to_path_buf(), source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(failed)?;
        let mut key: [u8; KEY_BYTES] = rand::rng().random();
        let temporary = directory.join(format!(".{}.new", hex::encode(rand::rng().random::<[u8; 8]>())));
        let written = write_durably(&temporary, &key);
        key.zeroize();
        // A link appears whole or not at all, and never replaces a file: of several processes one wins.
        let linked = written.and_then(|()| std::fs::hard_link(&temporary, path));
        let _ = std::fs::remove_file(&temporary);
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Self::read(path)
    }

    /// Seals `plaintext`; `bound_to` (a purpose, and whose it is) must be said again to open it.
    ///
    /// # Errors
    /// More than the 64 GiB that the cipher takes.
    pub fn wrap(&self, bound_to: &[&str], plaintext: &[u8]) -> Result<Vec<u8>, WrapError> {
        let nonce: [u8; NONCE_BYTES] = rand::rng().random();
        let sealed = self
            .cipher()
            .encrypt(&Nonce::from(nonce), Payload { msg: plaintext, aad: &associated(bound_to) })
            .map_err(|_| WrapError)?;
        Ok([&[VERSION], &nonce[..], &sealed].concat())
    }

    /// Opens what [`KeyFile::wrap`] made.
    ///
    /// # Errors
    /// Another key file, another `bound_to`, or changed bytes.
    pub fn unwrap_bytes(&self, bound_to: &[&str], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError> {
        let (&[VERSION], rest) = wrapped.split_first_chunk::<1>().ok_or(WrapError)? else { return Err(WrapError) };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(WrapError)?;
        self.cipher()
            .decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: &associated(bound_to) })
            .map(Zeroizing::new)
            .map_err(|_| WrapError)
    }

    /// [`KeyFile::unwrap_bytes`] for a key.
    pub(super) fn unwrap_key(&self, bound_to: &[&str], wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, WrapError> {
        let opened = self.unwrap_bytes(bound_to, wrapped)?;
        Ok(Zeroizing::new(opened.as_slice().try_into().map_err(|_| WrapError)?))
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&(*self.0).into())
    }
}

fn associated(parts: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    for part in parts {
        data.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        data.extend_from_slice(part.as_bytes());
    }
    data
}

#[cfg(unix)]
fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(not(unix))]
fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A group may read a file that another user has put there for us: so Kubernetes mounts a secret.
#[cfg(unix)]
fn warn_if_readable_by_others(path: &Path) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let is_open = |metadata: std::fs::Metadata| {
        let mode = metadata.permissions().mode();
        let is_lent = metadata.uid() != own_user();
        mode & 0o007 != 0 || mode & 0o020 != 0 || (mode & 0o050 != 0 && !is_lent)
    };
    if std::fs::metadata(path).is_ok_and(is_open) {
        tracing::warn!(path = %path.display(), "the key file is readable by other users of this machine: chmod 600");
    }
}

/// Who runs this process; root where the system does not say.
#[cfg(unix)]
fn own_user() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid())
}

#[cfg(not(unix))]
fn warn_if_readable_by_others(_: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_that_create_at_once_agree_on_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys").join("master.key");
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| *KeyFile::create(&path).unwrap().0)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_is_wrapped_opens_only_with_the_same_key_and_row() {
        let key = KeyFile(Zeroizing::new([1; 32]));
        let wrapped = key.wrap(&["person", "a"], &[7; 32]).unwrap();
        assert_eq!(*key.unwrap_key(&["person", "a"], &wrapped).unwrap(), [7; 32]);
        assert!(key.unwrap_key(&["person", "b"], &wrapped).is_err());
        assert!(key.unwrap_key(&["persona"], &wrapped).is_err());
        assert!(KeyFile(Zeroizing::new([2; 32])).unwrap_key(&["person", "a"], &wrapped).is_err());
        for index in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[index] ^= 1;
            assert!(key.unwrap_key(&["person", "a"], &changed).is_err());
        }
        assert_eq!(format!("{key:?}"), "KeyFile");
    }
}
