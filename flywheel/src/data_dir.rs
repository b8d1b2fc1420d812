//! The data directory of the embedded parts, and who may use it.

use std::collections::BTreeMap;
use std::fs::{File, Permissions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// How long a claim waits for another process that only looked (`flywheel status` holds the lock for an instant).
const CLAIM_PATIENCE: Duration = Duration::from_millis(500);

/// A directory with everything that the embedded parts keep.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// Held as long as a platform, or one of its services, uses a directory; the system frees it when the process dies.
#[derive(Debug)]
pub(crate) struct Claim {
    _file: File,
}

/// Doors that are announced. Whoever asks for them once this is dropped finds none.
#[derive(Debug)]
#[must_use]
pub(crate) struct Announced {
    files: Vec<PathBuf>,
}

impl Drop for Announced {
    fn drop(&mut self) {
        for file in &self.files {
            let _absent = std::fs::remove_file(file);
        }
    }
}

/// How a claim may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// One platform, alone.
    Alone,
    /// Services that each run in their own process.
    Services,
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
        let root = root.canonicalize().map_err(Failure::refuse)?;
        for inside in ["artifacts", "keys", "serving", "runs", "doors", "scratch"] {
            make(&root.join(inside))?;
        }
        Ok(Self { root })
    }

    /// The directory, if it is there. Makes nothing.
    pub(crate) fn existing(root: &Path) -> Option<Self> {
        root.canonicalize().ok().filter(|root| root.is_dir()).map(|root| Self { root })
    }

    /// From now on temporary files of this process lie in the directory: models pass through them, and a container may
    /// have no other place to write to.
    pub(crate) fn take_temporary_files(&self) {
        // Fails when it was called before: then they are here, or where the first caller wants them.
        let _as_before = tempfile::env::override_temp_dir(&self.scratch());
    }

    /// For a command that is long at work beside whoever has the directory: until the answer is dropped, who starts takes
    /// no temporary files for left behind. None: this file system knows no locks.
    pub(crate) fn keep_temporary_files(&self) -> Option<File> {
        let kept = File::open(self.scratch()).ok()?;
        kept.lock_shared().ok()?;
        Some(kept)
    }

    fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// Removes temporary files that processes left behind when they were killed, unless a command is at work there.
    /// Whoever calls it is alone here but for commands.
    fn clear_scratch(&self) {
        let scratch = File::open(self.scratch());
        if scratch.as_ref().is_ok_and(|scratch| matches!(scratch.try_lock(), Err(TryLockError::WouldBlock))) {
            return;
        }
        for left in std::fs::read_dir(self.scratch()).into_iter().flatten().flatten() {
            let _other_kind = std::fs::remove_dir_all(left.path()).or_else(|_| std::fs::remove_file(left.path()));
        }
    }

    /// Claims the directory for one platform.
    pub(crate) fn claim(&self) -> Result<Claim, Failure> {
        let claim = self.lock(Sharing::Alone)?.ok_or_else(|| {
            Failure::refused(format!(
                "data directory {} is in use by another flywheel; stop that one or choose another with --data-dir",
                self.root.display()
            ))
        })?;
        self.clear_scratch();
        Ok(claim)
    }

    /// Shares the directory with other services that run alone; refused while a whole platform has it.
    pub(crate) fn share(&self) -> Result<Claim, Failure> {
        // The first of them cleans up.
        if let Some(_alone) = self.try_lock(Sharing::Alone)? {
            self.clear_scratch();
        }
        self.lock(Sharing::Services)?.ok_or_else(|| {
            Failure::refused(format!(
                "data directory {} is in use by `flywheel up` or a demo, which run every service themselves",
                self.root.display()
            ))
        })
    }

    /// Whether a platform or one of its services runs on this directory now.
    pub(crate) fn is_in_use(&self) -> Result<bool, Failure> {
        Ok(self.try_lock(Sharing::Alone)?.is_none())
    }

    fn lock(&self, sharing: Sharing) -> Result<Option<Claim>, Failure> {
        let begun = Instant::now();
        loop {
            let claim = self.try_lock(sharing)?;
            if claim.is_some() || begun.elapsed() > CLAIM_PATIENCE {
                return Ok(claim);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn try_lock(&self, sharing: Sharing) -> Result<Option<Claim>, Failure> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Failure::refused(format!("{} can not be written: {error}", path.display())))?;
        let locked = match sharing {
            Sharing::Alone => file.try_lock(),
            Sharing::Services => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => Ok(Some(Claim { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
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

    /// Copies of the state of steps whose log is elsewhere.
    #[cfg(feature = "production")]
    pub(crate) fn steps(&self) -> PathBuf {
        self.root().join("steps")
    }

    pub(crate) fn serving(&self) -> PathBuf {
        self.root.join("serving")
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    fn door(&self, name: &str) -> PathBuf {
        self.root.join("doors").join(name)
    }

    /// Says where doors are, for `status` and services that run alone, until the answer is dropped.
    pub(crate) fn announce(&self, doors: &[(String, SocketAddr)]) -> Result<Announced, Failure> {
        let mut announced = Announced { files: Vec::new() };
        for (name, address) in doors {
            announced.files.push(self.door(name));
            write_whole(&self.door(name), address.to_string().as_bytes(), 0o644)?;
        }
        Ok(announced)
    }

    /// Where a door was announced last.
    pub(crate) fn announced(&self, name: &str) -> Option<SocketAddr> {
        std::fs::read_to_string(self.door(name)).ok()?.parse().ok()
    }

    /// Every announced door; a process that was killed leaves its own behind.
    pub(crate) fn doors(&self) -> BTreeMap<String, SocketAddr> {
        let entries = std::fs::read_dir(self.root.join("doors")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| Some((name.clone(), self.announced(&name)?))).collect()
    }
}

/// Begins a file beside `place`, to be put there when it is whole; dropped before, it is removed. Its name is one that
/// nothing had: what somebody else put into a shared directory, a link perhaps, is not written into.
pub(crate) fn beside(place: &Path, mode: u32) -> std::io::Result<NamedTempFile> {
    let (Some(folder), Some(name)) = (place.parent(), place.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let mut beginning = name.to_os_string();
    beginning.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&beginning).suffix(".tmp").permissions(Permissions::from_mode(mode)).tempfile_in(folder)
}

/// Writes a file so that a reader, and the next start after a crash at any moment, finds the old content or the whole
/// new one.
pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        let mut file = beside(path, mode)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Failure::refused(format!("{} can not be written: {error}", path.display())))
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

    #[test]
    fn services_share_what_a_platform_has_alone() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        assert!(!data.is_in_use().unwrap());
        let (one, other) = (data.share().unwrap(), data.share().unwrap());
        assert!(data.is_in_use().unwrap());
        assert!(matches!(data.claim(), Err(Failure::Refused(_))));
        drop((one, other));
        let claim = data.claim().unwrap();
        let Err(Failure::Refused(sentence)) = data.share() else { panic!("expected a refusal") };
        assert!(sentence.contains("flywheel up"), "{sentence}");
        drop(claim);
        assert!(!data.is_in_use().unwrap());
    }

    #[test]
    fn what_killed_processes_left_is_cleared_by_the_first_and_by_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let leave = || {
            std::fs::create_dir_all(data.scratch().join("left/behind")).unwrap();
            std::fs::write(data.scratch().join("file"), "x").unwrap();
        };
        let count = || std::fs::read_dir(data.scratch()).unwrap().count();
        leave();
        let first = data.share().unwrap();
        assert_eq!(count(), 0);
        leave();
        let second = data.share().unwrap();
        assert_eq!(count(), 2, "the first may be using them");
        drop((first, second));
        let kept = data.keep_temporary_files();
        drop(data.claim().unwrap());
        assert_eq!(count(), 2, "a command is using them");
        drop(kept);
        let _claim = data.claim().unwrap();
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_claim_outwaits_whoever_only_looks() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let look = data.try_lock(Sharing::Alone).unwrap().unwrap();
        let claiming = std::thread::spawn({
            let data = data.clone();
            move || data.claim().is_ok()
        });
        drop(look);
        assert!(claiming.join().unwrap());
    }

    #[test]
    fn doors_are_announced_and_withdrawn_and_files_are_written_whole() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let address: SocketAddr = "127.0.0.1:7801".parse().unwrap();
        let ingest = data.announce(&[("ingest".to_owned(), address)]).unwrap();
        let serving = data.announce(&[("serving".to_owned(), address), ("admin".to_owned(), address)]).unwrap();
        assert_eq!((data.announced("ingest"), data.doors().len()), (Some(address), 3));
        drop(serving);
        assert_eq!(data.doors().into_iter().collect::<Vec<_>>(), [("ingest".to_owned(), address)]);
        drop(ingest);
        let key = data.client_key();
        write_whole(&key, b"a long first content", 0o600).unwrap();
        write_whole(&key, b"short", 0o600).unwrap();
        assert_eq!(std::fs::read(&key).unwrap(), b"short");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(key.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
    }
    #[test]
    fn files_on_their_way_to_one_place_do_not_meet_and_touch_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("file");
        let theirs = directory.path().join(format!("file.{}.tmp", std::process::id()));
        std::fs::write(&theirs, "theirs").unwrap();
        let (mut one, mut other) = (beside(&place, 0o600).unwrap(), beside(&place, 0o600).unwrap());
        one.write_all(b"one").unwrap();
        other.write_all(b"other").unwrap();
        write_whole(&place, b"whole", 0o600).unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), b"whole");
        one.persist(&place).unwrap();
        drop(other);
        assert_eq!(std::fs::read(&place).unwrap(), b"one");
        assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(beside(Path::new(".."), 0o600).is_err());
    }
}
