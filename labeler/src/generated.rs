//! Whether a pair teaches about the very text that a model generated.
//!
//! A pair holds canonical actions with the boundaries of both sides, and training sees what the dialect writes of them.
//! Where a model wrote the same change otherwise (in other steps, with other old text, or shorter than the other side's
//! change) that is not the text that was sampled, so the probability that the receipt gives is not the one of the text
//! that is trained on. Such a pair is off-policy.

use edit_model::dialect::{written, written_pair};
use events::{ActionList, EditAction, PairText};

/// What of a pair's sides was generated, as it was served: actions in their order, without what nobody could see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generated {
    /// The chosen side, when it was a suggestion.
    pub chosen: Option<Vec<EditAction>>,
    /// The rejected side, when it was a suggestion.
    pub rejected: Option<Vec<EditAction>>,
}

impl Generated {
    /// Whether the dialect writes a side of the pair otherwise than it was generated. A line that is too long for a
    /// prompt counts as shown whole, which can only make more pairs off-policy.
    #[must_use]
    pub fn is_off_policy(&self, text: &PairText) -> bool {
        if self.chosen.is_none() && self.rejected.is_none() {
            return false;
        }
        let alone = |list: &Option<ActionList>| {
            let list = list.as_ref()?;
            let actions: Vec<EditAction> = text.shared.iter().chain(&list.actions).cloned().collect();
            written(&text.context, &actions).ok()
        };
        let both = text.chosen.as_ref().zip(text.rejected.as_ref()).and_then(|(chosen, rejected)| {
            let (chosen, rejected) = written_pair(&text.context, &text.shared, chosen, rejected).ok()?;
            Some((Some(chosen), Some(rejected)))
        });
        // A person's text that the dialect cannot write says nothing about the suggestion's.
        let (chosen, rejected) = both.unwrap_or_else(|| (alone(&text.chosen), alone(&text.rejected)));
        let differs = |generated: &Option<Vec<EditAction>>, written: Option<Vec<EditAction>>| {
            generated.as_ref().is_some_and(|generated| written.as_ref() != Some(generated))
        };
        differs(&self.chosen, chosen) || differs(&self.rejected, rejected)
    }
}

#[cfg(test)]
mod tests {
    use events::{ByteRange, EditContext, Window, apply_actions};
    use proptest::prelude::*;

    use super::*;
    use crate::divergence::divergence;

    const TEXT: &str = "let a = get_name(user);\nlet b = get_name(other, user);\n";

    fn context(text: &str) -> EditContext {
        EditContext {
            repository: "r".to_owned(),
            path: "p".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: Window { start_byte: 7, first_line: 0, text: text.to_owned() },
            cursor_byte: 7,
        }
    }

    fn replace(old: &str, new_text: &str) -> EditAction {
        let start = 7 + u64::try_from(TEXT.find(old).unwrap()).unwrap();
        let range = ByteRange::new(start, start + u64::try_from(old.len()).unwrap());
        EditAction { path: "p".to_owned(), range, old_text: old.to_owned(), new_text: new_text.to_owned() }
    }

    fn open(actions: &[EditAction]) -> ActionList {
        ActionList { actions: actions.to_vec(), closed: false }
    }

    /// Whether the pair of a suggestion and what was wanted instead is off-policy.
    fn is_off_policy(wanted: &[EditAction], served: &[EditAction]) -> bool {
        let parted = divergence(&context(TEXT), &open(wanted), &open(served)).unwrap();
        let text = PairText {
            context: context(TEXT),
            shared: parted.shared,
            chosen: Some(parted.chosen),
            rejected: Some(parted.rejected),
        };
        Generated { chosen: None, rejected: Some(served.to_vec()) }.is_off_policy(&text)
    }

    #[test]
    fn what_the_dialect_writes_as_it_was_generated_is_on_policy() {
        let wanted = [replace("get_name", "load_name")];
        assert!(!is_off_policy(&wanted, &[replace("get_name", "fetch_name")]));
        assert!(!is_off_policy(&wanted, &[replace("get_name", "fetch_name"), replace("other", "owner")]));
        // Shared first, then another one.
        let served = [replace("get_name", "load_name"), replace("other", "owner")];
        assert!(!is_off_policy(&[served[0].clone(), replace("other", "tenant")], &served));
    }

    #[test]
    fn other_words_for_the_same_change_are_off_policy() {
        let wanted = [replace("get_name", "load_name")];
        // More old text than it takes, two changes in one step, one change in the boundaries of a longer one.
        assert!(is_off_policy(&wanted, &[replace("= get_name", "= fetch_name")]));
        assert!(is_off_policy(&wanted, &[replace("get_name(user)", "fetch_name(user, now)")]));
        assert!(is_off_policy(&[replace("get_name(user)", "user.name()")], &[replace("get_name", "fetch_name")]));
    }

    #[test]
    fn only_what_was_generated_is_judged() {
        let text = PairText {
            context: context(TEXT),
            shared: Vec::new(),
            chosen: Some(open(&[replace("= get_name", "= fetch_name")])),
            rejected: None,
        };
        assert!(!Generated::default().is_off_policy(&text));
        let chosen = Some(vec![replace("= get_name", "= fetch_name")]);
        assert!(Generated { chosen, rejected: None }.is_off_policy(&text));
        let chosen = Some(vec![replace("get_name", "fetch_name")]);
        assert!(!Generated { chosen, rejected: None }.is_off_policy(&text));
    }

    proptest! {
        #[test]
        fn whatever_the_dialect_writes_has_the_same_effect(
            text in "([a-c_]{1,3}[ (),.]{1,2}){1,4}\n([a-c_]{1,3}[ (),.]{1,2}){1,4}\n",
            start in 0_usize..20, length in 0_usize..4, new_text in "[a-c, ]{0,4}",
        ) {
            let context = context(&text);
            let (start, end) = (start.min(text.len()), (start + length).min(text.len()));
            let action = EditAction {
                path: "p".to_owned(),
                range: ByteRange::new(7 + start as u64, 7 + end as u64),
                old_text: text[start..end].to_owned(),
                new_text,
            };
            if let Ok(once) = written(&context, std::slice::from_ref(&action)) {
                prop_assert_eq!(apply_actions(7, &text, &once), apply_actions(7, &text, &[action]));
            }
        }
    }
}
