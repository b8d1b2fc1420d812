//! Artifacts in a bucket.

use std::sync::Arc;

use artifacts::{ArtifactError, S3Artifacts, S3Config};
use service::finding::Finding;

use super::Patient;
use crate::artifact_store::bucket;
use crate::parts::ArtifactsKind;

const CHECK: &str = "bucket.objects";

/// The store, ready to be asked; none: artifacts are elsewhere.
pub(super) async fn store(patient: &Patient) -> Option<Result<S3Artifacts, ArtifactError>> {
    let settings = &patient.settings.artifacts;
    if settings.kind != ArtifactsKind::S3 {
        return None;
    }
    // Asked once: what fails is told, and not tried again until the time is over.
    let config = S3Config { attempts: 1, connect_timeout: patient.patience, ..bucket(&settings.s3) };
    Some(S3Artifacts::connect(config).await)
}

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let s3 = bucket(&patient.settings.artifacts.s3);
    let finding = match store(&patient).await {
        None => return Vec::new(),
        Some(Err(error)) => Finding::told(CHECK, &error.to_string(), "correct `[artifacts.s3]`"),
        Some(Ok(store)) => match tokio::time::timeout(patient.patience, store.check()).await {
            Ok(Ok(())) => Finding::ok(CHECK, format!("objects can be put into bucket {}, read and removed", s3.bucket)),
            Ok(Err(error)) => Finding::told(CHECK, &error.to_string(), "look whether the object store is well"),
            Err(_) => {
                let says = format!("bucket {} does not answer within {} s", s3.bucket, patient.patience.as_secs());
                Finding::failed(CHECK, says, "check `artifacts.s3.endpoint` and the network")
            }
        },
    };
    let mut findings = vec![finding];
    let in_clear = s3.endpoint.as_deref().filter(|endpoint| endpoint.starts_with("http://"));
    let is_here = |endpoint: &&str| ["http://127.", "http://localhost"].iter().any(|here| endpoint.starts_with(here));
    if let Some(endpoint) = in_clear.filter(|endpoint| !is_here(endpoint)) {
        let says = format!("{endpoint} is spoken to in clear, and models and pairs go there");
        let advice = "use an address with https, unless nobody else is in that network";
        findings.push(Finding::warning("bucket.tls", says, advice));
    }
    findings
}
