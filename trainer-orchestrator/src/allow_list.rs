//! Which repositories may be trained on, asked once more when a data set is made: a rule may have been taken back, or
//! have moved to another audience, since the pair was labeled.
//!
//! Pairs know repositories as models see them, rules as people write them: rules are rendered by the anonymizer's
//! shape, which replaces word by word. As for the labeler, a rule names one repository, or with a `*` at its end all
//! whose names begin so; the exact name goes before the longest prefix, and not even `*` covers a repository without a
//! name.

use std::collections::HashMap;

use anonymizer::shape::Shape;
use events::Audience;
use service::repositories::RepositoryRule;

/// The rules of a tenant. Empty: nothing may be trained on.
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    /// By rendered name; none: the rule forbids it.
    names: HashMap<String, Option<Audience>>,
    /// By rendered prefix, longest first.
    prefixes: Vec<(String, Option<Audience>)>,
}

impl AllowList {
    /// The rules, rendered.
    #[must_use]
    pub fn new(rules: &[RepositoryRule], shape: &Shape) -> Self {
        let mut list = Self::default();
        for rule in rules {
            let audience = rule.trainable.then(|| rule.audience.clone());
            let rendered = shape.repository(&rule.repository);
            match rendered.strip_suffix('*') {
                Some(prefix) => list.prefixes.push((prefix.to_owned(), audience)),
                None => {
                    list.names.insert(rendered, audience);
                }
            }
        }
        list.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        list
    }

    /// One rule for everything, for tests.
    #[cfg(test)]
    pub(crate) fn everything_for(audience: Audience) -> Self {
        Self { names: HashMap::new(), prefixes: vec![(String::new(), Some(audience))] }
    }

    /// Who may be served what is learned from `repository`; none: nothing may be learned from it.
    #[must_use]
    pub fn audience_of(&self, repository: &str) -> Option<&Audience> {
        if repository.is_empty() {
            return None;
        }
        let prefixed = || self.prefixes.iter().find(|(prefix, _)| repository.starts_with(prefix)).map(|(_, rule)| rule);
        self.names.get(repository).or_else(prefixed)?.as_ref()
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

        let rules = [rule("shop", "everyone", true), rule("vault", "everyone", false)];
        let list = AllowList::new(&rules, &shape);
        assert_eq!(named(&list, "shop").as_deref(), Some("everyone"));
        assert_eq!((named(&list, "vault"), named(&list, "other")), (None, None));
        // The name as people write it is not what pairs carry.
        assert_eq!(list.audience_of("shop"), None);

        let rules = [
            rule("*", "company", true),
            rule("vault", "company", false),
            rule("acme/*", "acme", true),
            rule("acme/secret/*", "acme", false),
            rule("acme/secret/known", "acme", true),
        ];
        let open = AllowList::new(&rules, &shape);
        assert_eq!(named(&open, "anything").as_deref(), Some("company"));
        assert_eq!((named(&open, "vault"), named(&open, "acme/secret/plans")), (None, None));
        assert_eq!(named(&open, "acme/site").as_deref(), Some("acme"));
        assert_eq!(named(&open, "acme/secret/known").as_deref(), Some("acme"));
        assert_eq!(open.audience_of(""), None);
    }
}
