//! Artifacts in a folder of the data directory.

use std::sync::Arc;

use service::finding::Finding;

use super::Patient;
use super::data::writable;

const CHECK: &str = "artifacts.folder";

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let folder = patient.data.as_ref().map(crate::data_dir::DataDir::artifacts).filter(|folder| folder.exists());
    let finding = match folder {
        None => Finding::ok(CHECK, "there is no folder of artifacts yet; the first start makes it"),
        Some(folder) => match writable(&folder) {
            Ok(()) => Finding::ok(CHECK, format!("artifacts can be put into {}", folder.display())),
            Err(why) => {
                let says = format!("{} can not be written: {why}", folder.display());
                Finding::failed(CHECK, says, "give it to the user of the services")
            }
        },
    };
    vec![finding]
}
