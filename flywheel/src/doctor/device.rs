//! What training computes on.

use std::sync::Arc;

use service::finding::Finding;

use super::Patient;

const CHECK: &str = "device.training";

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let orchestrator = &patient.settings.orchestrator;
    let finding = match (orchestrator.check_device(), &orchestrator.program) {
        (Err(error), _) => Finding::told(CHECK, &error.to_string(), "set `orchestrator.device` = \"cpu\""),
        (Ok(()), Some(program)) if !program.is_file() => {
            let says = format!("{}, which is to run training jobs, is no file", program.display());
            Finding::failed(CHECK, says, "name the program in `orchestrator.program`, or leave it to this one")
        }
        (Ok(()), Some(program)) => Finding::ok(CHECK, format!("training jobs are run by {}", program.display())),
        (Ok(()), None) => Finding::ok(CHECK, format!("this machine can train on `{}`", orchestrator.device.name())),
    };
    vec![finding]
}
