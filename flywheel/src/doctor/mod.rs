//! `flywheel doctor`: looks at everything that the configured platform depends on, and says what to do.
//!
//! It changes nothing: no topic, no key, no table, no directory is made. The one exception is the probe with which the
//! object store shows what it allows (and, at Kafka, a transactional id that the brokers forget again).
//!
//! All parts are looked at side by side, whatever the others say. Each question has a bound, and each part one of its
//! own, for what answers no question and does not say so either.

#[cfg(feature = "production")]
mod bucket;
mod clock;
mod data;
mod database;
mod device;
mod disk;
mod doors;
#[cfg(feature = "production")]
mod kafka;
mod keys;
mod local_artifacts;
mod local_log;
mod registry;
mod report;
mod rights;
#[cfg(feature = "production")]
mod server_rights;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use service::finding::Finding;

use crate::cli::{Common, DoctorArgs};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::parts::{ArtifactsKind, BusKind};
use crate::settings::Settings;

/// Questions that a part asks one after another, at most.
const QUESTIONS: u32 = 7;

/// What is looked at.
struct Patient {
    settings: Settings,
    /// None: the directory is not there yet.
    data: Option<DataDir>,
    /// How long a question may take.
    patience: Duration,
}

type Looking = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

pub(crate) async fn run(common: &Common, arguments: &DoctorArgs) -> Result<ExitCode, Failure> {
    let settings = Settings::load(common, &[])?;
    if let Some(part) = arguments.print_acls {
        return rights::print(&settings, part, arguments);
    }
    let data = DataDir::existing(&settings.data_dir);
    let patience = Duration::from_secs(arguments.timeout);
    let findings = look(Arc::new(Patient { settings, data, patience })).await;
    report::print(&findings, &arguments.list)
}

/// Looks at all parts, side by side. Findings come in the order of the parts.
async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let parts: Vec<(&str, Looking)> = vec![
        ("data", Box::pin(data::look(Arc::clone(&patient)))),
        ("disk", Box::pin(disk::look(Arc::clone(&patient)))),
        ("keys", Box::pin(keys::look(Arc::clone(&patient)))),
        ("database", Box::pin(database::look(Arc::clone(&patient)))),
        match patient.settings.bus.kind {
            BusKind::Local => ("log", Box::pin(local_log::look(Arc::clone(&patient)))),
            #[cfg(feature = "production")]
            BusKind::Kafka => ("kafka", Box::pin(kafka::look(Arc::clone(&patient)))),
        },
        match patient.settings.artifacts.kind {
            ArtifactsKind::Local => ("artifacts", Box::pin(local_artifacts::look(Arc::clone(&patient)))),
            #[cfg(feature = "production")]
            ArtifactsKind::S3 => ("bucket", Box::pin(bucket::look(Arc::clone(&patient)))),
        },
        ("registry", Box::pin(registry::look(Arc::clone(&patient)))),
        ("clock", Box::pin(clock::look(Arc::clone(&patient)))),
        ("doors", Box::pin(doors::look(Arc::clone(&patient)))),
        ("device", Box::pin(device::look(Arc::clone(&patient)))),
    ];
    let bound = patient.patience * QUESTIONS;
    let running: Vec<_> =
        parts.into_iter().map(|(part, looking)| (part, tokio::spawn(tokio::time::timeout(bound, looking)))).collect();
    let mut findings = Vec::new();
    for (part, looking) in running {
        findings.extend(match looking.await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => vec![unanswered(part, bound)],
            Err(error) => {
                vec![Finding::told(format!("{part}.look"), &error.to_string(), "report this, it is a mistake")]
            }
        });
    }
    findings
}

fn unanswered(part: &str, bound: Duration) -> Finding {
    let says = format!("no answer within {} s", bound.as_secs());
    Finding::failed(format!("{part}.answer"), says, "look whether it is there and well; `--timeout` gives it more time")
}
