//! The allow-list of repositories: which ones may be trained on, and who may be served what was learned from them.
//!
//! A repository without a rule is never trained on. A rule names one repository, or with a `*` at its end all whose
//! names begin so; the exact name goes before the longest beginning, and not even `*` covers a repository without a
//! name.
//!
//! Pairs know repositories as models see them: every word replaced by a keyed pseudonym. A beginning can be found again
//! there only where it ends between two words, so every other pattern is refused when it is set; serving, labeler and
//! orchestrator then read every rule alike.

use std::collections::HashMap;
use std::sync::Arc;

use events::{Audience, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::{AnyConnection, AnyPool, Row};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRule {
    /// Name or pattern.
    pub repository: String,
    /// Who may be served what was learned from it.
    pub audience: Audience,
    /// Whether it may be trained on.
    pub trainable: bool,
    /// When it was last set.
    pub updated_at: Timestamp,
}

/// A rule that cannot be stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryRuleError {
    /// The name or pattern does not fit.
    #[error("a repository has 1 to 512 characters and no control characters")]
    BadRepository,
    /// Training could not honour the pattern.
    #[error(
        "\"{pattern}\" is no rule that training can honour, because names are replaced word by word before anybody \
         learns from them; possible are a full name, `*` for every repository, and a beginning that ends after `/`, \
         `-` or another sign that is no letter or digit, followed by one `*`, such as `acme/*`"
    )]
    BadPattern {
        /// What was to be set.
        pattern: String,
    },
    /// A stored audience is none.
    #[error("repository rules: {0}")]
    BadAudience(#[from] events::InvalidId),
    /// The database failed.
    #[error("repository rules: {0}")]
    Database(#[from] sqlx::Error),
}

/// The rules of one tenant as of one moment. Cheap to clone and to ask.
#[derive(Debug, Clone, Default)]
pub struct RepositoryRules {
    exact: Arc<HashMap<String, RepositoryRule>>,
    /// By beginning.
    beginnings: Arc<HashMap<String, RepositoryRule>>,
}

impl RepositoryRules {
    /// Rules from anywhere.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = RepositoryRule>) -> Self {
        let (mut exact, mut beginnings) = (HashMap::new(), HashMap::new());
        for rule in rules {
            match rule.repository.strip_suffix('*').map(str::to_owned) {
                Some(beginning) => beginnings.insert(beginning, rule),
                None => exact.insert(rule.repository.clone(), rule),
            };
        }
        Self { exact: Arc::new(exact), beginnings: Arc::new(beginnings) }
    }

    /// The rule that decides about `repository`.
    #[must_use]
    pub fn rule(&self, repository: &str) -> Option<&RepositoryRule> {
        if repository.is_empty() {
            return None;
        }
        let ends = repository.char_indices().map(|(end, _)| end).rev();
        let mut longest_first = std::iter::once(repository.len()).chain(ends);
        self.exact.get(repository).or_else(|| longest_first.find_map(|end| self.beginnings.get(&repository[..end])))
    }

    /// Who may be served what is learned from `repository`; `None` when nothing may be learned from it.
    #[must_use]
    pub fn trainable_audience(&self, repository: &str) -> Option<&Audience> {
        self.rule(repository).filter(|rule| rule.trainable).map(|rule| &rule.audience)
    }
}

/// Whether a rule may be set for `repository`: a name, `*`, or a beginning that ends between two words and a `*`.
fn is_honoured(repository: &str) -> bool {
    match repository.split_once('*') {
        None => true,
        Some((beginning, rest)) => rest.is_empty() && !beginning.ends_with(char::is_alphanumeric),
    }
}

/// The rules of a database.
#[derive(Debug, Clone)]
pub struct RepositoryStore {
    pool: AnyPool,
}

impl RepositoryStore {
    /// Rules in `pool`'s database.
    #[must_use]
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// All rules of a tenant, sorted by repository.
    ///
    /// # Errors
    /// A database that fails or holds a bad audience.
    pub async fn list(&self, tenant: &TenantId) -> Result<Vec<RepositoryRule>, RepositoryRuleError> {
        let rows =
            sqlx::query("SELECT repository, audience, trainable, updated_at FROM audience_rules WHERE tenant = $1")
                .bind(tenant.as_str())
                .fetch_all(&self.pool)
                .await?;
        let rules: Result<Vec<RepositoryRule>, RepositoryRuleError> = rows
            .iter()
            .map(|row| {
                Ok(RepositoryRule {
                    repository: row.try_get(0)?,
                    audience: row.try_get::<String, _>(1)?.parse()?,
                    // SMALLINT arrives as a wider integer from SQLite.
                    trainable: row.try_get::<i64, _>(2).or_else(|_| row.try_get::<i16, _>(2).map(i64::from))? == 1,
                    updated_at: Timestamp::from_micros(row.try_get(3)?),
                })
            })
            .collect();
        let mut rules = rules?;
        // Here and not by the server, whose collation may be anything: two lists of the same rules are equal.
        rules.sort_unstable_by(|one, other| one.repository.cmp(&other.repository));
        Ok(rules)
    }

    /// The rules of a tenant, to be asked many times.
    ///
    /// # Errors
    /// A database that fails or holds a bad audience.
    pub async fn rules(&self, tenant: &TenantId) -> Result<RepositoryRules, RepositoryRuleError> {
        Ok(RepositoryRules::new(self.list(tenant).await?))
    }

    /// Sets a rule in the caller's transaction.
    ///
    /// # Errors
    /// A bad name or pattern, or a database that fails: roll back.
    pub async fn set(
        transaction: &mut AnyConnection,
        tenant: &TenantId,
        repository: &str,
        audience: &Audience,
        trainable: bool,
        now: Timestamp,
    ) -> Result<(), RepositoryRuleError> {
        let length = repository.chars().count();
        if !(1..=512).contains(&length) || repository.chars().any(char::is_control) {
            return Err(RepositoryRuleError::BadRepository);
        }
        if !is_honoured(repository) {
            return Err(RepositoryRuleError::BadPattern { pattern: repository.to_owned() });
        }
        sqlx::query(
            "INSERT INTO audience_rules (tenant, repository, audience, trainable, updated_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, repository) DO UPDATE SET \
             audience = excluded.audience, trainable = excluded.trainable, updated_at = excluded.updated_at",
        )
        .bind(tenant.as_str())
        .bind(repository)
        .bind(audience.as_str())
        .bind(i16::from(trainable))
        .bind(now.as_micros())
        .execute(transaction)
        .await?;
        Ok(())
    }

    /// Allows training on `repository` for `audience`. The log does not hear of it.
    ///
    /// # Errors
    /// A bad name or pattern, or a database that fails.
    pub async fn allow(
        &self,
        tenant: &TenantId,
        repository: &str,
        audience: &Audience,
        now: Timestamp,
    ) -> Result<(), RepositoryRuleError> {
        let mut connection = self.pool.acquire().await?;
        Self::set(&mut connection, tenant, repository, audience, true, now).await
    }

    /// Removes a rule: the repository is denied from then on, unless another rule covers it. Returns whether there was
    /// one. The log does not hear of it.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn remove(&self, tenant: &TenantId, repository: &str) -> Result<bool, RepositoryRuleError> {
        let changed = sqlx::query("DELETE FROM audience_rules WHERE tenant = $1 AND repository = $2")
            .bind(tenant.as_str())
            .bind(repository)
            .execute(&self.pool)
            .await?
            .rows_affected();
        Ok(changed == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(repository: &str, audience: &str, trainable: bool) -> RepositoryRule {
        RepositoryRule {
            repository: repository.to_owned(),
            audience: audience.parse().unwrap(),
            trainable,
            updated_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn without_a_rule_nothing_is_trained_on() {
        let rules = RepositoryRules::new([rule("acme/open", "everyone", true), rule("acme/closed", "board", false)]);
        assert_eq!(rules.trainable_audience("acme/open").unwrap().as_str(), "everyone");
        assert_eq!(rules.trainable_audience("acme/closed"), None);
        assert_eq!(rules.trainable_audience("acme/other"), None);
        assert_eq!(RepositoryRules::default().trainable_audience("acme/open"), None);
    }

    #[test]
    fn the_name_goes_before_the_longest_beginning() {
        let rules = RepositoryRules::new([
            rule("*", "everyone", true),
            rule("acme/*", "acme", true),
            rule("acme/secret-*", "board", false),
            rule("acme/secret-but-open", "acme", true),
        ]);
        assert_eq!(rules.trainable_audience("else/x").unwrap().as_str(), "everyone");
        assert_eq!(rules.trainable_audience("acme/x").unwrap().as_str(), "acme");
        assert_eq!(rules.trainable_audience("acme/").unwrap().as_str(), "acme");
        assert_eq!(rules.trainable_audience("acme/secret-plans"), None);
        assert_eq!(rules.trainable_audience("acme/secret-but-open").unwrap().as_str(), "acme");
        assert_eq!(rules.trainable_audience("acme").unwrap().as_str(), "everyone");
        assert_eq!(rules.trainable_audience("é/x").unwrap().as_str(), "everyone");
        assert_eq!(rules.trainable_audience(""), None);
    }

    #[test]
    fn only_what_training_finds_again_can_be_set() {
        for possible in ["acme", "acme/site", "*", "acme/*", "acme-*", "acme/a.b_*"] {
            assert!(is_honoured(possible), "{possible}");
        }
        for impossible in ["acme*", "*/site", "acme/*/site", "**", "acme/**", "acme/v2*", "é*"] {
            assert!(!is_honoured(impossible), "{impossible}");
        }
    }

    proptest! {
        #[test]
        fn the_rule_is_the_longest_that_covers(
            rules in prop::collection::vec("[ab/]{0,3}[*]?", 0..8),
            name in "[ab/]{1,5}",
        ) {
            let chosen = RepositoryRules::new(rules.iter().map(|repository| rule(repository, "a", true)));
            let covers = |repository: &&String| match repository.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => **repository == name,
            };
            let expected = rules.iter().filter(covers).max_by_key(|repository| {
                (!repository.ends_with('*'), repository.len())
            });
            prop_assert_eq!(chosen.rule(&name).map(|rule| &rule.repository), expected);
        }
    }
}
