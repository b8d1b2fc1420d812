//! Who may be given text of pairs, and of which pairs.

use std::collections::HashMap;
use std::path::Path;

use anonymizer::shape::Shape;
use events::{Audience, ConsentTier, PersonPseudonym, PreferencePair, TenantId};
use model_registry::Registry;
use serde_json::Value;
use service::api_keys::{ApiKey, Scope};
use service::consent::ConsentStore;
use service::repositories::RepositoryStore;
use trainer_orchestrator::allow_list::AllowList;

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

/// Why a pair may not be learned from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forbidden {
    RepositoryWithoutRule,
    AnotherAudience,
    ConsentWithdrawn,
}

impl Forbidden {
    /// What pairs are counted as that are left out for it.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::RepositoryWithoutRule => "repository_without_rule",
            Self::AnotherAudience => "another_audience",
            Self::ConsentWithdrawn => "consent_withdrawn",
        }
    }

    /// What is said of a single pair.
    pub(super) fn about(self, id: &str) -> String {
        match self {
            Self::RepositoryWithoutRule => format!("no rule allows the repository of pair {id} any more"),
            Self::AnotherAudience => format!("the repository of pair {id} is for another audience now"),
            Self::ConsentWithdrawn => format!("the person of pair {id} does not agree to whole events any more"),
        }
    }
}

/// What people and rules allow now.
pub(super) struct Rights {
    tenant: TenantId,
    allowed: AllowList,
    consents: ConsentStore,
    agreed: HashMap<PersonPseudonym, bool>,
}

impl Rights {
    pub(super) async fn now(foundation: &Foundation) -> Result<Self, Failure> {
        let tenant = foundation.settings.tenant.clone();
        let rules = RepositoryStore::new(foundation.pool.clone()).list(&tenant).await?;
        Ok(Self {
            allowed: AllowList::new(&rules, &Shape::new(&foundation.secret)),
            consents: ConsentStore::new(foundation.pool.clone()),
            agreed: HashMap::new(),
            tenant,
        })
    }

    /// Whether its person agrees to whole events.
    async fn agrees(&mut self, pair: &PreferencePair) -> Result<bool, Failure> {
        if let Some(agrees) = self.agreed.get(&pair.person) {
            return Ok(*agrees);
        }
        let agrees = self.consents.effective(&self.tenant, &pair.person).await? == ConsentTier::Code;
        self.agreed.insert(pair.person.clone(), agrees);
        Ok(agrees)
    }

    /// Why a pair may not be learned from by whoever is served as this audience; none: it may.
    pub(super) async fn forbid(
        &mut self,
        pair: &PreferencePair,
        audience: &Audience,
    ) -> Result<Option<Forbidden>, Failure> {
        let now = self.allowed.audience_of(&pair.repository);
        Ok(if now.is_none() {
            Some(Forbidden::RepositoryWithoutRule)
        } else if now != Some(audience) || pair.audience != *audience {
            Some(Forbidden::AnotherAudience)
        } else if !self.agrees(pair).await? {
            Some(Forbidden::ConsentWithdrawn)
        } else {
            None
        })
    }
}
