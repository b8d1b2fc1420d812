//! Which repositories may be trained on: every change tells the database and the log in one transaction.

use anonymizer::shape::Shape;
use events::{Audience, IdSource, TenantId, TenantSecret, topics};
use labeler::audience;
use service::outbox::{self, OutboxMessage};
use service::repositories::{RepositoryRuleError, RepositoryRules, RepositoryStore};

use crate::failure::Failure;
use crate::foundation::Foundation;

/// What the log says of a repository that may not be trained on. It is no audience, so it also denies where a wider
/// rule allows; an empty value would take the rule back instead.
const DENIED: &str = "not trained on";
/// Whose a denied repository is when no rule said so before. No version is for them.
const NOBODY: &str = "nobody";

/// Allows training on a repository, or on all that a pattern covers.
pub(crate) async fn allow(
    foundation: &Foundation,
    ids: &dyn IdSource,
    repository: &str,
    to: &str,
) -> Result<(), Failure> {
    let audience: Audience = to.parse().map_err(Failure::refuse)?;
    set(foundation, ids, repository, &audience, true).await
}

/// Denies training on a repository, or on all that a pattern covers, whatever wider rules say. Whose it is stays: that
/// decides which versions answer there.
pub(crate) async fn deny(foundation: &Foundation, ids: &dyn IdSource, repository: &str) -> Result<(), Failure> {
    let store = RepositoryStore::new(foundation.pool.clone());
    let rules = store.list(&foundation.settings.tenant).await?;
    let own = rules.iter().find(|rule| rule.repository == repository).map(|rule| rule.audience.clone());
    let rules = RepositoryRules::new(rules);
    let covering = rules.rule(repository.trim_end_matches('*')).map(|rule| rule.audience.clone());
    let audience = match own.or(covering) {
        Some(audience) => audience,
        None => NOBODY.parse::<Audience>().map_err(Failure::refuse)?,
    };
    set(foundation, ids, repository, &audience, false).await
}

/// What the log is told of a rule: its subject, and the value. The log knows repositories as models see them.
pub(crate) fn told(
    secret: &TenantSecret,
    tenant: &TenantId,
    repository: &str,
    to: &Audience,
    trainable: bool,
) -> (String, String) {
    let rendered = Shape::new(secret).repository(repository);
    let value = if trainable { to.as_str() } else { DENIED };
    (audience::subject(tenant, &rendered), value.to_owned())
}

async fn set(
    foundation: &Foundation,
    ids: &dyn IdSource,
    repository: &str,
    to: &Audience,
    trainable: bool,
) -> Result<(), Failure> {
    let tenant = &foundation.settings.tenant;
    let now = foundation.now();
    let (subject, value) = told(&foundation.secret, tenant, repository, to, trainable);
    let message =
        OutboxMessage::control(ids, now, topics::TELEMETRY_CLEAN, audience::CONTROL_KIND, &subject, value.into_bytes());
    let told = || async {
        let mut transaction = migrations::begin_write(&foundation.pool).await?;
        RepositoryStore::set(&mut transaction, tenant, repository, to, trainable, now).await?;
        outbox::append(&mut transaction, &message).await?;
        migrations::commit(transaction).await?;
        Ok::<(), RepositoryRuleError>(())
    };
    migrations::retried(told).await.map_err(|error| match error {
        RepositoryRuleError::Database(_) => Failure::from(error),
        error => Failure::refuse(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_denies_is_no_audience_and_nobody_is_one() {
        assert!(DENIED.parse::<Audience>().is_err());
        assert!(NOBODY.parse::<Audience>().is_ok());
    }
}
