//! Who may be given text of pairs, and of which pairs.

use std::collections::BTreeSet;
use std::path::Path;

use anonymizer::shape::Shape;
use events::{Audience, PersonPseudonym, PreferencePair};
use model_registry::Registry;
use serde_json::Value;
use service::api_keys::{ApiKey, Scope};
use service::consent::ConsentStore;
use service::repositories::RepositoryStore;
use trainer_orchestrator::allow_list::AllowList;
use trainer_orchestrator::data_set::candidates::forbidden;
use trainer_orchestrator::data_set::composition::Reason;

use crate::cli::ReadingKeyArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::operations::registry;

/// Somebody who may be given text.
pub(super) struct Reader {
    key: ApiKey,
    registry: Registry,
}

impl Reader {
    /// The holder of the key in the file.
    pub(super) async fn of(foundation: &Foundation, arguments: &ReadingKeyArgs) -> Result<Self, Failure> {
        let Some(path) = &arguments.key_file else {
            return Err(Failure::refused(format!(
                "text of pairs is given to the holder of a key with the scope `{scope}` alone; make one with `flywheel \
                 keys create --name YOU --scope {scope} > FILE` and name the file with --key-file",
                scope = Scope::PairsRead
            )));
        };
        let key = foundation.api_keys.verify(&secret(path)?, Scope::PairsRead).await;
        let key = key.map_err(|error| Failure::refused(format!("--key-file {}: {error}", path.display())))?;
        if key.tenant != foundation.settings.tenant {
            return Err(Failure::refused(format!(
                "--key-file {}: the key is of another tenant than {}",
                path.display(),
                foundation.settings.tenant
            )));
        }
        Ok(Self { key, registry: registry(foundation)? })
    }

    /// Writes down that text is given, before it is. What can not be written down is not given.
    pub(super) async fn is_given(
        &self,
        foundation: &Foundation,
        action: &'static str,
        subject: &str,
        detail: &Value,
    ) -> Result<(), Failure> {
        let model = &foundation.settings.model;
        let written = self.registry.record_reading(&self.key, model, action, subject, detail).await;
        written.map(|_revision| ()).map_err(|error| {
            Failure::refused(format!("nothing is given, because it could not be written into the audit log: {error}"))
        })
    }
}

fn secret(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::refused(format!("--key-file {} can not be read: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

/// What is said of a pair that may not be learned from now.
pub(super) fn said_of(id: &str, reason: Reason) -> String {
    match reason {
        Reason::RepositoryWithoutRule => format!("no rule allows the repository of pair {id} any more"),
        Reason::AnotherAudience => format!("the repository of pair {id} is for another audience now"),
        Reason::WithoutConsent => format!("the person of pair {id} does not agree to whole events any more"),
        other => format!("pair {id} may not be learned from: {}", other.as_str()),
    }
}

/// What people and rules allow now.
pub(super) struct Rights {
    allowed: AllowList,
    sharing: BTreeSet<PersonPseudonym>,
}

impl Rights {
    pub(super) async fn now(foundation: &Foundation) -> Result<Self, Failure> {
        let tenant = &foundation.settings.tenant;
        let rules = RepositoryStore::new(foundation.pool.clone()).list(tenant).await?;
        Ok(Self {
            allowed: AllowList::new(&rules, &Shape::new(&foundation.secret)),
            sharing: ConsentStore::new(foundation.pool.clone()).sharing_code(tenant).await?,
        })
    }

    /// Why a pair may not be learned from by whoever is served as this audience, as data sets say it; none: it may.
    pub(super) fn forbid(&self, pair: &PreferencePair, audience: &Audience) -> Option<Reason> {
        forbidden(pair, audience, &self.allowed, &self.sharing)
    }
}
