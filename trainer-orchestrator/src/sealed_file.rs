//! The data of a job on disk: sealed under a key that only the job is told, on its standard input.

use std::path::Path;

use events::{DataKey, EventId, KeyId, RunId, Sealed};
use sha2::{Digest as _, Sha256};

use crate::error::OrchestratorError;

/// Binds the seal to this use.
const PURPOSE: &str = "training job data";

/// A fresh key for one attempt, as text for the job's standard input.
pub(crate) fn fresh_key() -> String {
    let bytes: [u8; 32] = rand::random();
    hex::encode(bytes)
}

fn key_of(text: &str, run: RunId) -> Result<(DataKey, EventId), OrchestratorError> {
    let mut secret = [0_u8; 32];
    hex::decode_to_slice(text, &mut secret)
        .map_err(|_| OrchestratorError::Job("no key of 64 hexadecimal digits on standard input".to_owned()))?;
    Ok((DataKey::new(KeyId::from_uuid(run.as_uuid()), secret), EventId::from_uuid(run.as_uuid())))
}

/// Writes `plaintext`, sealed. Returns the digest of what lies on disk.
pub(crate) fn write(path: &Path, key: &str, run: RunId, plaintext: &[u8]) -> Result<String, OrchestratorError> {
    let (key, event) = key_of(key, run)?;
    let sealed = key.seal(event, PURPOSE, plaintext);
    std::fs::write(path, &sealed.ciphertext)?;
    Ok(hex::encode(Sha256::digest(&sealed.ciphertext)))
}

/// Reads what [`write()`] wrote for the same run with the same key.
pub(crate) fn read(path: &Path, key: &str, run: RunId) -> Result<Vec<u8>, OrchestratorError> {
    let (key, event) = key_of(key, run)?;
    let sealed = Sealed { key_id: key.id(), ciphertext: std::fs::read(path)? };
    key.open(event, PURPOSE, &sealed).map_err(|_| {
        OrchestratorError::Job("the data of the job does not open: another key, run, or changed bytes".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_for_its_run_and_key_only_and_is_unreadable_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pairs.sealed");
        let run: RunId = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d".parse().unwrap();
        let other: RunId = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3e".parse().unwrap();
        let key = fresh_key();
        write(&path, &key, run, b"fn total()").unwrap();
        assert_eq!(read(&path, &key, run).unwrap(), b"fn total()");
        assert!(read(&path, &fresh_key(), run).is_err());
        assert!(read(&path, &key, other).is_err());
        assert!(read(&path, "short", run).is_err());
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(5).any(|window| window == b"total"));
    }
}
