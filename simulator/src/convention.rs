//! Team conventions: what a team writes at a call site instead of the plain form.
//!
//! A convention is a function from the plain action to the team's action. Nothing in a prompt tells it but the name of
//! the repository, so it can only be learned. All rules concern edits of function definitions (`fn`, `def`), which a
//! model recognises in the recent edit; other edits follow no convention.

use crate::draft::{DefinitionEdit, Site};
use crate::random::Dice;
use crate::source::Language;
use crate::words::split_words;
use events::{ByteRange, EditAction};

/// Number of a rule in [`RULES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct RuleId(pub u16);

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// Renamed functions are called with this prefix (`title` becomes `fetch_title`).
    Prefix(&'a str),
    /// Renamed functions are called with this suffix.
    Suffix(&'a str),
    /// Import style: renamed functions are called through this module.
    Through(&'a str),
    /// Error wrapping: calls of renamed functions are wrapped in this function.
    Wrapped(&'a str),
    /// Argument order: a new argument goes first.
    ArgumentFirst,
    /// A new argument is read from this object.
    ArgumentOf(&'a str),
    /// A new argument is passed under its name with this prefix.
    ArgumentNamed(&'a str),
}

/// Edits that a rule concerns. Rules that concern the same edits conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditClass {
    /// A function is renamed.
    FunctionRenamed,
    /// A function gets a parameter.
    ParameterAdded,
}

/// The space of rules.
pub const RULES: &[Form<'static>] = &[
    Form::Prefix("fetch_"),
    Form::Prefix("load_"),
    Form::Prefix("do_"),
    Form::Prefix("try_"),
    Form::Prefix("get_"),
    Form::Prefix("make_"),
    Form::Prefix("run_"),
    Form::Prefix("safe_"),
    Form::Prefix("async_"),
    Form::Prefix("raw_"),
    Form::Prefix("checked_"),
    Form::Prefix("cached_"),
    Form::Prefix("lazy_"),
    Form::Prefix("fast_"),
    Form::Prefix("internal_"),
    Form::Prefix("legacy_"),
    Form::Prefix("local_"),
    Form::Prefix("remote_"),
    Form::Prefix("maybe_"),
    Form::Prefix("must_"),
    Form::Prefix("perform_"),
    Form::Prefix("handle_"),
    Form::Prefix("resolve_"),
    Form::Prefix("get_display_"),
    Form::Suffix("_impl"),
    Form::Suffix("_async"),
    Form::Suffix("_now"),
    Form::Suffix("_all"),
    Form::Suffix("_once"),
    Form::Suffix("_v2"),
    Form::Suffix("_checked"),
    Form::Suffix("_safe"),
    Form::Suffix("_inner"),
    Form::Suffix("_sync"),
    Form::Suffix("_cached"),
    Form::Suffix("_fast"),
    Form::Suffix("_lazy"),
    Form::Suffix("_raw"),
    Form::Suffix("_with_context"),
    Form::Suffix("_or_fail"),
    Form::Through("api"),
    Form::Through("core"),
    Form::Through("service"),
    Form::Through("helpers"),
    Form::Through("shared"),
    Form::Through("internal"),
    Form::Wrapped("checked"),
    Form::Wrapped("guarded"),
    Form::Wrapped("retry"),
    Form::Wrapped("ensure"),
    Form::Wrapped("traced"),
    Form::Wrapped("attempt"),
    Form::ArgumentFirst,
    Form::ArgumentOf("options"),
    Form::ArgumentOf("config"),
    Form::ArgumentOf("context"),
    Form::ArgumentOf("settings"),
    Form::ArgumentNamed("default_"),
    Form::ArgumentNamed("current_"),
    Form::ArgumentNamed("given_"),
];

impl RuleId {
    /// What the rule does; `None` for a number outside the space.
    #[must_use]
    pub fn form(self) -> Option<Form<'static>> {
        RULES.get(usize::from(self.0)).copied()
    }

    /// The rule in words.
    #[must_use]
    pub fn describe(self) -> String {
        match self.form() {
            Some(Form::Prefix(text)) => format!("renamed functions are called with the prefix {text}"),
            Some(Form::Suffix(text)) => format!("renamed functions are called with the suffix {text}"),
            Some(Form::Through(text)) => format!("renamed functions are called through {text}"),
            Some(Form::Wrapped(text)) => format!("calls of renamed functions are wrapped in {text}(..)"),
            Some(Form::ArgumentFirst) => "a new argument goes first".to_owned(),
            Some(Form::ArgumentOf(text)) => format!("a new argument is read from {text}"),
            Some(Form::ArgumentNamed(text)) => format!("a new argument is passed with the prefix {text}"),
            None => "no such rule".to_owned(),
        }
    }

    /// One rule per repository, all of them about the same edits and no two alike, so that any two repositories
    /// conflict: a placebo may exchange a repository for any other. All rules are equally likely to be the first, but
    /// for those about edits that too few rules concern. Past [`most_conflicting`] repositories, rules come again.
    #[must_use]
    pub fn draw_conflicting(count: usize, dice: &mut Dice) -> Vec<Self> {
        let mut all: Vec<Self> = (0..RULES.len()).filter_map(|index| u16::try_from(index).ok().map(Self)).collect();
        dice.shuffle(&mut all);
        let enough = count.min(most_conflicting());
        let classes = all.iter().filter_map(|rule| rule.form()).map(Form::class);
        let class = classes.into_iter().find(|class| class.rules() >= enough);
        let same: Vec<Self> = all.into_iter().filter(|rule| rule.form().map(Form::class) == class).collect();
        (0..count).filter_map(|index| same.get(index % same.len().max(1)).copied()).collect()
    }
}

/// How many rules there are at most of which any two conflict.
#[must_use]
pub fn most_conflicting() -> usize {
    RULES.iter().map(|form| form.class().rules()).max().unwrap_or_default()
}

impl EditClass {
    /// How many rules concern it.
    fn rules(self) -> usize {
        RULES.iter().filter(|form| form.class() == self).count()
    }

    /// Whether `edit` is of this class.
    #[must_use]
    pub fn concerns(self, edit: &DefinitionEdit) -> bool {
        match self {
            Self::FunctionRenamed => matches!(edit, DefinitionEdit::Rename { .. }),
            Self::ParameterAdded => matches!(edit, DefinitionEdit::AddParameter { .. }),
        }
    }
}

impl<'a> Form<'a> {
    /// The text that it adds, if it adds any.
    #[must_use]
    pub fn affix(self) -> Option<&'a str> {
        match self {
            Self::Prefix(text)
            | Self::Suffix(text)
            | Self::Through(text)
            | Self::Wrapped(text)
            | Self::ArgumentOf(text)
            | Self::ArgumentNamed(text) => Some(text),
            Self::ArgumentFirst => None,
        }
    }

    /// The form in the fewest characters: what stands before and after the name.
    #[must_use]
    pub fn spelled(self) -> (String, String) {
        match self {
            Self::Prefix(prefix) => (prefix.to_owned(), String::new()),
            Self::Suffix(suffix) => (String::new(), suffix.to_owned()),
            Self::Through(module) => (format!("{module}."), String::new()),
            Self::Wrapped(function) => (format!("{function}("), ")".to_owned()),
            Self::ArgumentFirst => ("(".to_owned(), ", ".to_owned()),
            Self::ArgumentOf(object) => (format!(", {object}."), String::new()),
            Self::ArgumentNamed(prefix) => (format!(", {prefix}"), String::new()),
        }
    }

    /// The edits that this concerns.
    #[must_use]
    pub fn class(self) -> EditClass {
        match self {
            Self::Prefix(_) | Self::Suffix(_) | Self::Through(_) | Self::Wrapped(_) => EditClass::FunctionRenamed,
            Self::ArgumentFirst | Self::ArgumentOf(_) | Self::ArgumentNamed(_) => EditClass::ParameterAdded,
        }
    }

    /// What the team writes at `site` of `document`, or `None` where the rule has no form there.
    #[must_use]
    pub fn apply(self, edit: &DefinitionEdit, site: &Site, language: Language, document: &str) -> Option<EditAction> {
        let text =
            |range: ByteRange| document.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
        let renamed = |new_text: String| Some(EditAction { new_text, ..site.plain.clone() });
        match (self, edit) {
            (Self::Prefix(prefix), DefinitionEdit::Rename { new }) => renamed(with_affix(new, prefix, "")?),
            (Self::Suffix(suffix), DefinitionEdit::Rename { new }) => renamed(with_affix(new, "", suffix)?),
            (Self::Through(module), DefinitionEdit::Rename { new }) => {
                let before = document.get(..usize::try_from(site.name.start).ok()?)?;
                let bare = !before.ends_with(['.', ':', '@']);
                let joint = if language == Language::Rust { "::" } else { "." };
                if bare { renamed(format!("{module}{joint}{new}")) } else { None }
            }
            (Self::Wrapped(function), DefinitionEdit::Rename { new }) => {
                let call = site.call?;
                let (head, tail) =
                    (ByteRange::new(call.start, site.name.start), ByteRange::new(site.name.end, call.end));
                // The call is wrapped from its receiver on: what stands before it (`await`, `&`, `!`) then concerns the
                // wrapped call.
                let new_text = format!("{function}({}{new}{})", text(head)?, text(tail)?);
                let old_text = text(call)?.to_owned();
                (old_text.len() <= 40).then_some(EditAction {
                    path: site.plain.path.clone(),
                    range: call,
                    old_text,
                    new_text,
                })
            }
            (form, DefinitionEdit::AddParameter { name, .. }) => {
                let argument = match form {
                    Self::ArgumentFirst => {
                        let inside = site.plain.old_text.strip_prefix('(')?.strip_suffix(')')?.trim();
                        // With no other argument the order says nothing.
                        return if inside.is_empty() { None } else { renamed(format!("({name}, {inside})")) };
                    }
                    Self::ArgumentOf(object) => format!("{object}.{name}"),
                    Self::ArgumentNamed(prefix) => with_affix(name, prefix, "")?,
                    _ => return None,
                };
                let kept = site.plain.new_text.strip_suffix(')')?.strip_suffix(name.as_str())?;
                renamed(format!("{kept}{argument})"))
            }
            _ => None,
        }
    }
}

/// What a team with this form does at `sites`, in order; `None` where the form has no effect, does not fit one of them,
/// or its old text is not unique in its line.
pub(crate) fn conventional(
    form: Form<'_>,
    edit: &DefinitionEdit,
    sites: &[Site],
    language: Language,
    document: &str,
) -> Option<Vec<EditAction>> {
    let mut actions = Vec::with_capacity(sites.len());
    for site in sites {
        let action = form.apply(edit, site, language, document)?;
        let line_start = document.get(..usize::try_from(action.range.start).ok()?)?.rfind('\n').map_or(0, |at| at + 1);
        let line = document.get(line_start..)?.lines().next()?;
        if line.matches(action.old_text.as_str()).count() != 1 || action == site.plain {
            return None;
        }
        actions.push(action);
    }
    let overlap = actions.windows(2).any(|pair| matches!(pair, [left, right] if left.range.end > right.range.start));
    (!overlap).then_some(actions)
}

/// `name` with a prefix and a suffix, behind leading underscores; `None` for names that have the affix already or are
/// not written in small letters with underscores.
fn with_affix(name: &str, prefix: &str, suffix: &str) -> Option<String> {
    let body = name.trim_start_matches('_');
    let lead = &name[..name.len() - body.len()];
    let words = split_words(body);
    let has = |affix: &str| !affix.is_empty() && split_words(affix).iter().any(|word| words.contains(word));
    if body.is_empty() || body.bytes().any(|byte| byte.is_ascii_uppercase()) || has(prefix) || has(suffix) {
        return None;
    }
    Some(format!("{lead}{prefix}{body}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The two rules of seeds 1 to 5.
    const PUBLISHED: [[u16; 2]; 5] = [[7, 12], [28, 40], [22, 48], [12, 18], [27, 19]];

    #[test]
    fn the_space_is_large_and_draws_conflict() {
        assert!(RULES.len() >= 50);
        let mut firsts = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let drawn = RuleId::draw_conflicting(2, &mut Dice::new(seed, "conventions", &[]));
            let [left, right] = drawn[..] else { panic!("two rules") };
            assert_ne!(left, right);
            assert_eq!(left.form().map(Form::class), right.form().map(Form::class));
            firsts.insert(left);
        }
        assert!(firsts.len() > 50, "{}", firsts.len());
        let has = |fits: fn(&Form<'_>) -> bool| RULES.iter().any(fits);
        assert!(has(|form| matches!(form, Form::Prefix(_))) && has(|form| matches!(form, Form::Suffix(_))));
        assert!(has(|form| matches!(form, Form::ArgumentFirst)) && has(|form| matches!(form, Form::Wrapped(_))));
        assert!(has(|form| matches!(form, Form::Through(_))), "import style");
    }

    #[test]
    fn the_rules_of_a_seed_are_those_of_the_published_demos() {
        let drawn: Vec<Vec<u16>> = (1..=5)
            .map(|seed| RuleId::draw_conflicting(2, &mut Dice::new(seed, "conventions", &[])))
            .map(|rules| rules.into_iter().map(|rule| rule.0).collect())
            .collect();
        assert_eq!(drawn, PUBLISHED);
    }

    proptest! {
        #[test]
        fn any_two_repositories_conflict(seed: u64, count in 2_usize..=20) {
            let drawn = RuleId::draw_conflicting(count, &mut Dice::new(seed, "conventions", &[]));
            prop_assert_eq!(drawn.len(), count);
            prop_assert_eq!(drawn.iter().collect::<std::collections::BTreeSet<_>>().len(), count);
            let classes = drawn.iter().filter_map(|rule| rule.form()).map(Form::class);
            prop_assert!(classes.clone().all(|class| Some(class) == classes.clone().next()));
        }
    }

    #[test]
    fn every_repository_has_a_rule_however_many_there_are() {
        let most = most_conflicting();
        for count in [1, most, most + 1, 200] {
            let drawn = RuleId::draw_conflicting(count, &mut Dice::new(1, "conventions", &[]));
            let different = drawn.iter().collect::<std::collections::BTreeSet<_>>().len();
            assert_eq!((drawn.len(), different), (count, count.min(most)));
        }
    }

    #[test]
    fn names_take_affixes_behind_underscores() {
        assert_eq!(with_affix("_title", "fetch_", "").as_deref(), Some("_fetch_title"));
        assert_eq!(with_affix("title", "", "_now").as_deref(), Some("title_now"));
        assert_eq!(with_affix("fetch_title", "fetch_", ""), None);
        assert_eq!(with_affix("getTitle", "fetch_", ""), None);
    }
}
