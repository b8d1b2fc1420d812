//! The data directory: whether it is there, ours to write in, and in use.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, access};
use service::finding::Finding;

use super::Patient;

const CHECK: &str = "data.directory";

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    vec![directory(&patient)]
}

fn directory(patient: &Patient) -> Finding {
    let path = &patient.settings.data_dir;
    let shown = path.display();
    let Some(data) = &patient.data else {
        if path.exists() {
            let advice = "name a directory with `data_dir`, or move what is in its place";
            return Finding::failed(CHECK, format!("{shown} is no directory"), advice);
        }
        let parent = nearest(path);
        return match writable(parent) {
            Ok(()) => Finding::ok(CHECK, format!("{shown} is not there yet; the first start makes it")),
            Err(why) => {
                let says = format!("{shown} is not there and can not be made in {}: {why}", parent.display());
                Finding::failed(CHECK, says, "make it and give it to the user of the services, or set `data_dir`")
            }
        };
    };
    let root = data.root().display();
    if let Err(why) = writable(data.root()) {
        let advice = "give it to the user of the services, or mount it so that it can be written";
        return Finding::failed(CHECK, format!("{root} can not be written: {why}"), advice);
    }
    // Asking makes the file of the lock, where there is none.
    let in_use = data.root().join("lock").exists().then(|| data.is_in_use());
    match in_use {
        Some(Ok(true)) => Finding::ok(CHECK, format!("{root} can be written, and a platform runs on it")),
        Some(Err(failure)) => {
            Finding::told(CHECK, &failure.into_error().to_string(), "give it to the user of the services")
        }
        _ => Finding::ok(CHECK, format!("{root} can be written, and nothing runs on it")),
    }
}

/// Whether files can be made in a directory.
pub(super) fn writable(directory: &Path) -> Result<(), std::io::Error> {
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// The nearest directory above a path that is there.
pub(super) fn nearest(path: &Path) -> &Path {
    let above = path.ancestors().skip(1).find(|above| above.is_dir());
    // Above a relative path is where we are.
    above.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
