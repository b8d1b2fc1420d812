//! Which repositories may be trained on, asked once more when a data set is made: a rule may have been taken back, or have
//! moved to another audience, since the pair was labeled.
//!
//! Pairs know repositories as models see them, rules as people write them: rules are rendered by the anonymizer's shape.
//! As for the labeler, a rule names one repository, or is `*` for all of the tenant's; a rule of its own goes before `*`.

use std::collections::HashMap;

use anonymizer::shape::Shape;
use events::Audience;
use service::repositories::RepositoryRule;

/// The rule that stands for all repositories of the tenant.
const EVERY: &str = "*";

/// The rules of a tenant. Empty: nothing may be trained on.
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    /// By rendered name; none: the rule forbids it.
    rules: HashMap<String, Option<Audience>>,
    every: Option<Audience>,
}

impl AllowList {
    /// The rules, rendered.
    #[must_use]
    pub fn new(rules: &[RepositoryRule], shape: &Shape) -> Self {
        let audience = |rule: &RepositoryRule| rule.trainable.then(|| rule.audience.clone());
        let (every, named): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.repository == EVERY);
        Self {
            rules: named.into_iter().map(|rule| (shape.repository(&rule.repository), audience(rule))).collect(),
            every: every.into_iter().find_map(audience),
        }
    }

    /// One rule for everything, for tests.
    #[cfg(test)]
    pub(crate) fn everything_for(audience: Audience) -> Self {
        Self { rules: HashMap::new(), every: Some(audience) }
    }

    /// Who may be served what is learned from `repository`; none: nothing may be learned from it.
    #[must_use]
    pub fn audience_of(&self, repository: &str) -> Option<&Audience> {
        match self.rules.get(repository).filter(|_| !repository.is_empty()) {
            Some(rule) => rule.as_ref(),
            None => self.every.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use events::{TenantSecret, Timestamp};

    use super::*;

    fn rule(repository: &str, audience: &str, trainable: bool) -> RepositoryRule {
        RepositoryRule {
            repository: repository.to_owned(),
            audience: audience.parse().unwrap(),
            trainable,
            updated_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn what_no_rule_names_is_denied_and_a_rule_of_its_own_goes_first() {
        let shape = Shape::new(&TenantSecret::new([7; 32]));
        let named = |list: &AllowList, name: &str| list.audience_of(&shape.repository(name)).map(ToString::to_string);
        assert_eq!(named(&AllowList::default(), "shop"), None);

        let rules = [rule("shop", "everyone", true), rule("vault", "everyone", false), rule("pay*", "everyone", true)];
        let list = AllowList::new(&rules, &shape);
        assert_eq!(named(&list, "shop").as_deref(), Some("everyone"));
        assert_eq!((named(&list, "vault"), named(&list, "other"), named(&list, "payments")), (None, None, None));
        // The name as people write it is not what pairs carry.
        assert_eq!(list.audience_of("shop"), None);

        let open = AllowList::new(&[rule(EVERY, "company", true), rule("vault", "company", false)], &shape);
        assert_eq!(named(&open, "anything").as_deref(), Some("company"));
        assert_eq!(named(&open, "vault"), None);
    }
}
