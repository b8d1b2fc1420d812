//! The learning-free baselines: repeat the last substitution, and a cache of n-grams.

mod ngram;

pub use ngram::NgramCache;

use crate::text::{pieces, word_positions};
use events::{ActionList, ByteRange, EditAction, EditContext};

/// Replaces in the window what the last recent edit replaced: the words in which its two lines differ. Proposes nothing
/// when they differ in more than one run of words, or when nothing of it stands in the window.
#[must_use]
pub fn repeat_last_substitution(context: &EditContext) -> ActionList {
    let Some(edit) = context.recent_edits.last() else { return ActionList::no_edit() };
    let Some((old, new)) = substitution(&edit.old_text, &edit.new_text) else { return ActionList::no_edit() };
    let start = context.window.start_byte;
    let actions = word_positions(&context.window.text, &old)
        .map(|position| EditAction {
            path: context.path.clone(),
            range: ByteRange::new(start + position as u64, start + (position + old.len()) as u64),
            old_text: old.clone(),
            new_text: new.clone(),
        })
        .collect();
    ActionList { actions, closed: true }
}

fn substitution(old: &str, new: &str) -> Option<(String, String)> {
    let (left, right): (Vec<&str>, Vec<&str>) = (pieces(old).collect(), pieces(new).collect());
    let head = left.iter().zip(&right).take_while(|(one, other)| one == other).count();
    let limit = left.len().min(right.len()) - head;
    let tail = left.iter().rev().zip(right.iter().rev()).take(limit).take_while(|(one, other)| one == other).count();
    match (left.get(head..left.len() - tail)?, right.get(head..right.len() - tail)?) {
        ([one], [other]) => Some(((*one).to_owned(), (*other).to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_substitution() {
        assert_eq!(substitution("fn name(x: u8) {", "fn title(x: u8) {"), Some(("name".into(), "title".into())));
        assert_eq!(substitution("fn name(x: u8) {", "fn name(x: u8, y: u8) {"), None);
        assert_eq!(substitution("same", "same"), None);
    }
}
