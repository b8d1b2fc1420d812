//! Objects in a directory of this machine.
//!
//! `objects/ab/abcd...` holds the object of digest `abcd...`; `incoming/` holds files being written. An object is
//! written there, synchronised, read back and compared with its digest, and then renamed to its place, which is atomic
//! on one file system; the directory is synchronised too, so that an object that was acknowledged survives a power cut.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use events::Sha256Digest;
use tempfile::NamedTempFile;

use crate::digest;
use crate::{ArtifactError, ArtifactStore, Stored};

/// Files that a crash left in `incoming/` go after this time; nobody writes one object for so long.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A directory of objects. Several processes may share it.
#[derive(Debug, Clone)]
pub struct LocalArtifacts {
    root: Arc<PathBuf>,
}

impl LocalArtifacts {
    /// Opens the directory `root`, and makes it when absent.
    ///
    /// # Errors
    /// It cannot be made or written to.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ArtifactError> {
        let store = Self { root: Arc::new(root.into()) };
        for directory in [store.root.join("objects"), store.incoming()] {
            fs::create_dir_all(&directory).map_err(ArtifactError::io("create", directory))?;
        }
        // What is acknowledged later must not hang on a directory that a power cut forgets.
        sync_directory(&store.root)?;
        if let Some(parent) = store.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            // It may be one that this user can pass and not read.
            let _ = sync_directory(parent);
        }
        remove_abandoned(&store.incoming(), "");
        Ok(store)
    }

    /// Opens a directory that is there to read it: nothing is made, and nothing tidied up.
    ///
    /// # Errors
    /// There is none.
    pub fn open_to_read(root: impl Into<PathBuf>) -> Result<Self, ArtifactError> {
        let root = root.into();
        let objects = root.join("objects");
        fs::read_dir(&objects).map_err(ArtifactError::io("read", objects))?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Where the store lives.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Where the object of this name is, or would be.
    #[must_use]
    pub fn path_of(&self, digest: &Sha256Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("objects").join(&name[..2]).join(name)
    }

    fn put_from(&self, from: &mut impl Read, what: &Path) -> Result<Stored, ArtifactError> {
        let incoming = self.incoming();
        let mut file = NamedTempFile::new_in(&incoming).map_err(ArtifactError::io("write", &incoming))?;
        let (digest, bytes) = copy_with_actions(from, what, &mut file, &incoming)?;
        file.as_file().sync_all().map_err(ArtifactError::io("write", &incoming))?;
        let (found, found_bytes) = digest::of_file(file.path())?;
        if found != digest {
            return Err(ArtifactError::Corrupt { digest, found, bytes: found_bytes });
        }
        let path = self.path_of(&digest);
        if digest::of_file(&path).is_ok_and(|(found, _)| found == digest) {
            // Somebody has stored it, but perhaps not synchronised its directory yet.
            sync_parents(&path)?;
            return Ok(Stored { digest, bytes });
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(ArtifactError::io("create", directory))?;
        }
        file.persist(&path).map_err(|error| ArtifactError::io("write", &path)(error.error))?;
        sync_parents(&path)?;
        Ok(Stored { digest, bytes })
    }

    fn open_object(&self, digest: &Sha256Digest) -> Result<File, ArtifactError> {
        let path = self.path_of(digest);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(ArtifactError::NotFound { digest: *digest })
            }
            Err(error) => Err(ArtifactError::io("read", path)(error)),
        }
    }

    fn read(&self, digest: &Sha256Digest) -> Result<Bytes, ArtifactError> {
        let mut bytes = Vec::new();
        let mut file = self.open_object(digest)?;
        file.read_to_end(&mut bytes).map_err(ArtifactError::io("read", self.path_of(digest)))?;
        let found = Sha256Digest::of(&bytes);
        if found == *digest {
            Ok(bytes.into())
        } else {
            Err(ArtifactError::Corrupt { digest: *digest, found, bytes: bytes.len() as u64 })
        }
    }

    fn copy_out(&self, digest: &Sha256Digest, path: &Path) -> Result<u64, ArtifactError> {
        let mut from = self.open_object(digest)?;
        let mut file = neighbour(path)?;
        let (found, bytes) = copy_with_actions(&mut from, &self.path_of(digest), &mut file, path)?;
        if found != *digest {
            return Err(ArtifactError::Corrupt { digest: *digest, found, bytes });
        }
        deliver(file, path)?;
        Ok(bytes)
    }
}

/// The directory that `path` is in.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An empty file beside `path`, which goes away unless it is delivered.
pub(crate) fn neighbour(path: &Path) -> Result<NamedTempFile, ArtifactError> {
    let directory = directory_of(path);
    NamedTempFile::new_in(directory).map_err(ArtifactError::io("write", directory))
}

/// Puts a verified file to its place, as a whole and durably.
pub(crate) fn deliver(file: NamedTempFile, path: &Path) -> Result<(), ArtifactError> {
    file.as_file().sync_all().map_err(ArtifactError::io("write", path))?;
    readable_by_umask(file.as_file(), path)?;
    file.persist(path).map_err(|error| ArtifactError::io("write", path)(error.error))?;
    sync_directory(directory_of(path))
}

/// Removes what a crash left behind in `directory` under names that begin with `prefix`.
pub(crate) fn remove_abandoned(directory: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().map(|modified| modified.elapsed());
        if matches!(age, Ok(Ok(age)) if age > ABANDONED_AFTER) {
            // Whoever else removes it at the same time does the same.
            let _ = if metadata.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        }
    }
}

/// Copies, and says of an error on which side it happened.
fn copy_with_actions(
    from: &mut impl Read,
    from_path: &Path,
    to: &mut impl Write,
    to_path: &Path,
) -> Result<(Sha256Digest, u64), ArtifactError> {
    /// Remembers that it was the reading that failed.
    struct Reader<'a, R>(&'a mut R, Option<std::io::Error>);
    impl<R: Read> Read for Reader<'_, R> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer).map_err(|error| match error.kind() {
                std::io::ErrorKind::Interrupted => error,
                kind => {
                    self.1 = Some(error);
                    kind.into()
                }
            })
        }
    }
    let mut reader = Reader(from, None);
    let result = digest::copy(&mut reader, to);
    match (result, reader.1) {
        (_, Some(error)) => Err(ArtifactError::io("read", from_path)(error)),
        (Err(error), None) => Err(ArtifactError::io("write", to_path)(error)),
        (Ok(copied), None) => Ok(copied),
    }
}

pub(crate) fn sync_directory(directory: &Path) -> Result<(), ArtifactError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(ArtifactError::io("synchronise", directory))
}

/// Synchronises the directory of an object and the one above, which may be new as well.
fn sync_parents(path: &Path) -> Result<(), ArtifactError> {
    for directory in path.ancestors().skip(1).take(2) {
        sync_directory(directory)?;
    }
    Ok(())
}

/// Temporary files are made for their owner alone; what is delivered follows the rules of the place.
#[cfg(unix)]
fn readable_by_umask(file: &File, path: &Path) -> Result<(), ArtifactError> {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory_of(path);
    let mode = fs::metadata(directory).map_err(ArtifactError::io("read", directory))?.permissions().mode();
    // Files under a directory that others may enter are readable by the same others.
    let permissions = fs::Permissions::from_mode(0o600 | (mode & 0o044));
    file.set_permissions(permissions).map_err(ArtifactError::io("write", path))
}

#[cfg(not(unix))]
fn readable_by_umask(_: &File, _: &Path) -> Result<(), ArtifactError> {
    Ok(())
}

/// File systems block: their work leaves the threads that serve requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ArtifactError::Stopped),
    }
}

#[async_trait]
impl ArtifactStore for LocalArtifacts {
    async fn put(&self, bytes: Bytes) -> Result<Stored, ArtifactError> {
        let store = self.clone();
        blocking(move || store.put_from(&mut &bytes[..], Path::new("memory"))).await
    }

    async fn put_file(&self, path: &Path) -> Result<Stored, ArtifactError> {
        let (store, path) = (self.clone(), path.to_path_buf());
        blocking(move || {
            let mut file = File::open(&path).map_err(ArtifactError::io("read", &path))?;
            store.put_from(&mut file, &path)
        })
        .await
    }

    async fn get(&self, digest: &Sha256Digest) -> Result<Bytes, ArtifactError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.read(&digest)).await
    }

    async fn get_to_file(&self, digest: &Sha256Digest, path: &Path) -> Result<u64, ArtifactError> {
        let (store, digest, path) = (self.clone(), *digest, path.to_path_buf());
        blocking(move || store.copy_out(&digest, &path)).await
    }

    async fn exists(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        let path = self.path_of(digest);
        blocking(move || path.try_exists().map_err(ArtifactError::io("read", path))).await
    }

    async fn remove(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        let path = self.path_of(digest);
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ArtifactError::io("remove", path)(error)),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that is always full.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_apart_from_other_failures() {
        let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let copied = copy_with_actions(&mut &b"object"[..], Path::new("memory"), &mut full, Path::new("incoming"));
        let error = copied.unwrap_err();
        assert!(matches!(error, ArtifactError::NoSpace { .. }), "{error}");
        let quota = std::io::Error::from(std::io::ErrorKind::QuotaExceeded);
        assert!(matches!(ArtifactError::io("write", "incoming")(quota), ArtifactError::NoSpace { .. }));
    }

    #[test]
    fn a_failing_source_is_not_blamed_on_the_disk() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::PermissionDenied.into())
            }
        }
        let copied = copy_with_actions(&mut Broken, Path::new("source"), &mut Vec::<u8>::new(), Path::new("incoming"));
        assert!(copied.unwrap_err().to_string().starts_with("cannot read source"));
    }

    #[test]
    fn only_what_is_old_is_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - ABANDONED_AFTER - Duration::from_secs(60);
        for (name, is_old) in [("x-old", true), ("x-young", false), ("y-old", true)] {
            let file = File::create(folder.path().join(name)).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        fs::create_dir(folder.path().join("x-directory")).unwrap();
        File::open(folder.path().join("x-directory")).unwrap().set_modified(old).unwrap();
        remove_abandoned(folder.path(), "x-");
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["x-young", "y-old"]);
    }
}
