//! Digests of streams and files.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use events::Sha256Digest;
use sha2::{Digest, Sha256};

use crate::ArtifactError;

const BUFFER_BYTES: usize = 256 * 1024;

/// Copies `from` to `to` and returns the digest and number of the bytes that went through.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<(Sha256Digest, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut total = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok((Sha256Digest::from_bytes(hasher.finalize().into()), total)),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        hasher.update(bytes);
        to.write_all(bytes)?;
        total += count as u64;
    }
}

/// The digest and length of a file.
pub(crate) fn of_file(path: &Path) -> Result<(Sha256Digest, u64), ArtifactError> {
    let mut file = File::open(path).map_err(ArtifactError::io("read", path))?;
    copy(&mut file, &mut std::io::sink()).map_err(ArtifactError::io("read", path))
}
