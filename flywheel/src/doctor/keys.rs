//! The keys in the data directory: whether only their owner reads them, and whether they open what the database holds.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use service::finding::Finding;
use service::keys::{KeyFileState, KeyStoreError, key_file_state};

use super::{Patient, database};

const MASTER: &str = "keys.master";
const RESTORE: &str = "restore it from its backup: without it nothing that is sealed can be read again";

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let Some(data) = &patient.data else {
        return vec![Finding::ok(MASTER, "there are no keys yet; the first start makes them")];
    };
    let key_file = patient.settings.keys.master_key_file.clone().unwrap_or_else(|| data.key_file());
    let mut findings = vec![master(&patient, &key_file).await];
    for path in [key_file, data.internal_key(), data.client_key()] {
        findings.extend(readable_by_others(&path));
    }
    findings
}

async fn master(patient: &Patient, path: &Path) -> Finding {
    // A database that can not be asked is told with the database.
    let pool = database::connect(patient).await.ok().flatten();
    let state = match &pool {
        Some(pool) => match key_file_state(pool, path).await {
            Err(KeyStoreError::Database(_)) => None,
            state => Some(state),
        },
        None => None,
    };
    let shown = path.display();
    match state {
        Some(Ok(KeyFileState::Opens)) => {
            Finding::ok(MASTER, format!("{shown} opens the keys in the database; keep a copy of it elsewhere"))
        }
        Some(Ok(KeyFileState::Unused)) => Finding::ok(MASTER, format!("{shown} is there, and nothing is sealed yet")),
        Some(Ok(KeyFileState::NoneYet)) => {
            Finding::ok(MASTER, "there is no key yet; the first start makes it, and every machine needs the same one")
        }
        Some(Err(error)) => match error.to_string().rsplit_once(": ") {
            Some((says, advice)) if advice.starts_with("restore") => Finding::failed(MASTER, says, RESTORE),
            _ => Finding::failed(MASTER, error.to_string(), RESTORE),
        },
        None if path.exists() => Finding::ok(MASTER, format!("{shown} is there; what it opens could not be asked")),
        None => Finding::ok(MASTER, format!("{shown} is not there, and whether it should be could not be asked")),
    }
}

/// A key that others may read.
fn readable_by_others(path: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        let says = format!("{} can be read by other users of this machine (mode {mode:o})", path.display());
        Finding::warning("keys.mode", says, format!("chmod 600 {}", path.display()))
    })
}
