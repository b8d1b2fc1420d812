//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::error::ModelError;

/// Writes a file so that a reader sees the old or the new content, never a part: beside its place, with `.part` behind its
/// name, and when it is on the disk into its place.
///
/// # Errors
/// [`ModelError::NoSpace`] or [`ModelError::File`]; the old content stands then, and nothing else.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let Err(source) = write_durably(&part, bytes).and_then(|()| std::fs::rename(&part, path)) else { return Ok(()) };
    // A part of a file is of no use, and takes the space that is wanting.
    std::fs::remove_file(&part).ok();
    Err(match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            ModelError::NoSpace { path: path.to_owned(), bytes: bytes.len(), source }
        }
        _ => ModelError::File { path: path.to_owned(), source },
    })
}

fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), ModelError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(ModelError::File { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}
