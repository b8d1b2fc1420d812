//! Files of the data directory that survive a crash: whole or not at all, readable by their owner alone.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ServingError;

/// Writes `value` as JSON and replaces the file in one step.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ServingError> {
    let failed = |source| ServingError::File { path: path.to_owned(), source };
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
    write(path, &bytes).map_err(failed)
}

/// Makes renames in a directory survive a power cut.
pub(crate) async fn sync_directory(directory: PathBuf) -> std::io::Result<()> {
    let synced = tokio::task::spawn_blocking(move || std::fs::File::open(directory)?.sync_all()).await;
    synced.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// Writes a file and replaces the old one in one step.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let temporary = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(directory)?.sync_all()
}

/// Reads what [`write_json`] wrote; none when the file is absent or damaged (which is logged: its content can be had
/// again from its source).
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a file of the last run cannot be read");
            return None;
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            let (path, line) = (path.display(), error.line());
            tracing::warn!(%path, line, "a file of the last run is damaged and ignored");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_comes_back_and_damage_is_absence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep").join("file.json");
        assert_eq!(read_json::<Vec<u8>>(&path), None);
        write_json(&path, &vec![1, 2]).unwrap();
        write_json(&path, &vec![3]).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path), Some(vec![3]));
        std::fs::write(&path, b"[3").unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path), None);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
