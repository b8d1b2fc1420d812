//! The log in a file of the data directory.

use std::sync::Arc;

use bus::BusError;
use bus::local::LocalLogConfig;
use service::finding::Finding;

use super::Patient;
use crate::foundation::topics_of;

const CHECK: &str = "log.file";

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let looked = tokio::task::spawn_blocking(move || file(&patient)).await;
    vec![looked.unwrap_or_else(|error| Finding::told(CHECK, &error.to_string(), "try again"))]
}

fn file(patient: &Patient) -> Finding {
    let path = patient.data.as_ref().map(crate::data_dir::DataDir::bus).filter(|path| path.exists());
    let Some(path) = path else {
        return Finding::ok(CHECK, "there is no log yet; the first start makes it");
    };
    let bus = &patient.settings.bus;
    let config = LocalLogConfig { prefix: bus.prefix.clone(), ..bus.local.clone() };
    let shown = path.display();
    let facts = match bus::local::look(&path, &config) {
        Ok(facts) => facts,
        Err(error) => {
            let advice = match error {
                BusError::FormatDiffers { .. } => "use the release that made it, or name another `data_dir`",
                _ => "give the file to the user of the services; if it is damaged, restore it from a backup",
            };
            return Finding::told(CHECK, &format!("the log {shown} can not be read: {error}"), advice);
        }
    };
    for topic in topics_of(&patient.settings) {
        if let Some(actual) = facts.topics.get(&topic.name).filter(|actual| **actual != topic.partitions) {
            let says = format!(
                "topic {} of the log has {actual} partitions, and `bus.partitions` = {}",
                topic.name, topic.partitions
            );
            return Finding::failed(CHECK, says, format!("set `bus.partitions` = {actual}: it is fixed with the log"));
        }
    }
    Finding::ok(CHECK, format!("the log {shown} can be read: format {}, {} topics", facts.format, facts.topics.len()))
}
