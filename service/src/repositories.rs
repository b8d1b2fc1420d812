//! The allow-list of repositories: which ones may be trained on, and who may be served what was learned from them.
//!
//! A repository without a rule is never trained on. A rule names a repository, or a pattern with `*` for any run of
//! characters; the rule with the longest literal text wins, an exact name before any pattern. Two patterns of the same
//! length that disagree deny.

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
    patterns: Arc<Vec<RepositoryRule>>,
}

impl RepositoryRules {
    /// Rules from anywhere.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = RepositoryRule>) -> Self {
        let (patterns, exact): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.repository.contains('*'));
        Self {
            exact: Arc::new(exact.into_iter().map(|rule| (rule.repository.clone(), rule)).collect()),
            patterns: Arc::new(patterns),
        }
    }

    /// The rule that decides about `repository`.
    #[must_use]
    pub fn rule(&self, repository: &str) -> Option<&RepositoryRule> {
        if let Some(rule) = self.exact.get(repository) {
            return Some(rule);
        }
        let matching = || self.patterns.iter().filter(|rule| matches(&rule.repository, repository));
        let longest = matching().map(|rule| literal_length(&rule.repository)).max()?;
        let mut candidates = matching().filter(|rule| literal_length(&rule.repository) == longest);
        let first = candidates.next()?;
        let agree = candidates.all(|rule| rule.audience == first.audience && rule.trainable == first.trainable);
        agree.then_some(first)
    }

    /// Who may be served what is learned from `repository`; `None` when nothing may be learned from it.
    #[must_use]
    pub fn trainable_audience(&self, repository: &str) -> Option<&Audience> {
        self.rule(repository).filter(|rule| rule.trainable).map(|rule| &rule.audience)
    }
}

fn literal_length(pattern: &str) -> usize {
    pattern.chars().filter(|character| *character != '*').count()
}

/// Whether `pattern`, in which `*` stands for any run of characters, covers the whole `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
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
        let rows = sqlx::query(
            "SELECT repository, audience, trainable, updated_at FROM audience_rules WHERE tenant = $1 ORDER BY repository",
        )
        .bind(tenant.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(RepositoryRule {
                    repository: row.try_get(0)?,
                    audience: row.try_get::<String, _>(1)?.parse()?,
                    // SMALLINT arrives as a wider integer from SQLite.
                    trainable: row.try_get::<i64, _>(2).or_else(|_| row.try_get::<i16, _>(2).map(i64::from))? == 1,
                    updated_at: Timestamp::from_micros(row.try_get(3)?),
                })
            })
            .collect()
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
    /// A bad name, or a database that fails: roll back.
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

    /// Allows training on `repository` for `audience`.
    ///
    /// # Errors
    /// A bad name, or a database that fails.
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
    /// one.
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
    fn the_most_specific_rule_wins_and_a_tie_denies() {
        let rules = RepositoryRules::new([
            rule("*", "everyone", true),
            rule("acme/*", "acme", true),
            rule("acme/secret*", "board", false),
            rule("acme/secret-but-open", "acme", true),
            rule("*/tie", "a", true),
            rule("bcme*", "b", true),
        ]);
        assert_eq!(rules.trainable_audience("else/x").unwrap().as_str(), "everyone");
        assert_eq!(rules.trainable_audience("acme/x").unwrap().as_str(), "acme");
        assert_eq!(rules.trainable_audience("acme/secrets"), None);
        assert_eq!(rules.trainable_audience("acme/secret-but-open").unwrap().as_str(), "acme");
        assert_eq!(rules.trainable_audience("bcme/tie"), None);
    }

    /// The plain definition, by recursion.
    fn matches_slowly(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| matches_slowly(rest, &text[skip..])),
            Some((character, rest)) => text.first() == Some(character) && matches_slowly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            let pattern_characters: Vec<char> = pattern.chars().collect();
            let text_characters: Vec<char> = text.chars().collect();
            prop_assert_eq!(matches(&pattern, &text), matches_slowly(&pattern_characters, &text_characters));
        }
    }
}
