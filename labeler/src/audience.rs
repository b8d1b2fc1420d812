//! Who may be served what was learned from a repository. Rules enter the log as control records in every partition, so
//! that the same log gives the same pairs; a repository without a rule is never trained on.
//!
//! Kind [`CONTROL_KIND`]; subject `TENANT/REPOSITORY`, where the repository is written as the model sees it (rendered
//! by the anonymizer's shape), or `TENANT/PREFIX*` for every repository whose name begins so; value = the audience. An
//! empty value takes the rule back, a value that is no audience denies. The exact name goes before the longest prefix.

use bus::{Bus, PublishError, StepContext};
use bytes::Bytes;
use events::topics::TELEMETRY_CLEAN;
use events::{Audience, TenantId};

/// Kind of the control records.
pub const CONTROL_KIND: &str = "audience";

/// The subject of the rule for a repository; `acme/*` for all whose names begin with `acme/`, `*` for all of the
/// tenant's.
#[must_use]
pub fn subject(tenant: &TenantId, repository: &str) -> String {
    format!("{tenant}/{repository}")
}

/// Publishes a rule into every partition of `telemetry.clean.v1`; none takes it back.
///
/// # Errors
/// When the bus does not take it.
pub async fn publish_rule(
    bus: &dyn Bus,
    tenant: &TenantId,
    repository: &str,
    audience: Option<&Audience>,
) -> Result<(), PublishError> {
    let value = audience.map_or_else(Bytes::new, |audience| Bytes::copy_from_slice(audience.as_str().as_bytes()));
    bus.publish_control(TELEMETRY_CLEAN, CONTROL_KIND, &subject(tenant, repository), value).await
}

/// The audience of a repository; none: never trained on. Not even `*` covers a repository without a name.
pub(crate) fn of_repository(context: &dyn StepContext, tenant: &TenantId, repository: &str) -> Option<Audience> {
    if repository.is_empty() {
        return None;
    }
    let rule = |repository: &str| context.control(CONTROL_KIND, &subject(tenant, repository));
    let shorter = repository.char_indices().map(|(end, _)| end).rev();
    let ends = std::iter::once(repository.len()).chain(shorter);
    let prefixed = || ends.map(|end| format!("{}*", &repository[..end])).find_map(|prefix| rule(&prefix));
    let value = rule(repository).or_else(prefixed)?;
    std::str::from_utf8(&value).ok()?.parse().ok()
}
