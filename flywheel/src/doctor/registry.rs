//! The registry of models where the configuration says that it is: serving and the orchestrator ask it there.

use std::sync::Arc;

use model_registry::client::ClientError;
use service::config::Secret;
use service::finding::Finding;

use super::Patient;
use crate::services::configured_registry;

const CHECK: &str = "registry.address";

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    // Where it listens on this machine is told with the doors.
    let Some(address) = &patient.settings.registry.address else { return Vec::new() };
    let key_file = patient.data.as_ref().map(crate::data_dir::DataDir::internal_key);
    let key = key_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let shown = Secret::new(key.as_deref().unwrap_or_default().trim());
    let client = match configured_registry(&patient.settings, &shown) {
        Ok(client) => client,
        Err(failure) => {
            let advice = "correct `registry.address` and `registry.ca_file`";
            return vec![Finding::told(CHECK, &failure.into_error().to_string(), advice)];
        }
    };
    let start = "start `flywheel registry`, or correct `registry.address` and `registry.ca_file`";
    vec![match tokio::time::timeout(patient.patience, client.list_models()).await {
        Ok(Ok(_)) => Finding::ok(CHECK, format!("the registry at {address} lets this platform in")),
        Ok(Err(ClientError::Refused { .. })) if key.is_none() => {
            Finding::ok(CHECK, format!("a registry answers at {address}; there is no key here yet to be let in with"))
        }
        Ok(Err(ClientError::Refused { message, .. })) => {
            let says = format!("the registry at {address} does not let this platform in: {message}");
            let advice = "name the registry of the same database, or start a service here, which makes the key anew";
            Finding::failed(CHECK, says, advice)
        }
        // Services wait for it, and serving answers without it.
        Ok(Err(error)) => Finding::warning(CHECK, format!("{address}: {error}"), start),
        Err(_) => {
            let seconds = patient.patience.as_secs();
            Finding::warning(CHECK, format!("no registry answers at {address} within {seconds} s"), start)
        }
    }]
}
