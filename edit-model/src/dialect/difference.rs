//! Differences in words: identifiers, numbers, runs of space and single marks.

use std::ops::Range;

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

/// Splits `text` into words, line breaks, runs of other space and single marks.
pub(crate) fn lexemes(text: &str) -> Vec<Range<usize>> {
    let mut result: Vec<Range<usize>> = Vec::new();
    let mut previous = None;
    for (start, character) in text.char_indices() {
        let class = if is_word(character) {
            Some(0)
        } else if character == '\n' || character == '\r' {
            None
        } else if character.is_whitespace() {
            Some(1)
        } else {
            None
        };
        let end = start + character.len_utf8();
        match result.last_mut() {
            Some(last) if class.is_some() && previous == class => last.end = end,
            _ => result.push(start..end),
        }
        previous = class;
    }
    result
}

/// Whether a word would be cut at byte `place` of `text`.
pub(crate) fn cuts_word(text: &str, place: usize) -> bool {
    let before = text[..place].chars().next_back();
    let after = text[place..].chars().next();
    before.is_some_and(is_word) && after.is_some_and(is_word)
}

/// Whether the last character of `text` belongs to a word.
pub(crate) fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

/// Whether the first character of `text` belongs to a word.
pub(crate) fn starts_with_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word)
}

/// A maximal stretch of an inline difference: `old` was replaced by `new`, after `same` stayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) same: String,
    pub(crate) old: String,
    pub(crate) new: String,
}

/// Most words on each side for which the longest common subsequence is computed.
const MAX_LEXEMES: usize = 240;

/// The inline difference of two texts; the last change may be empty but for `same`.
pub(crate) fn inline_changes(old: &str, new: &str) -> Vec<Change> {
    let (old_words, new_words) = (lexemes(old), lexemes(new));
    let left: Vec<&str> = old_words.iter().map(|range| &old[range.clone()]).collect();
    let right: Vec<&str> = new_words.iter().map(|range| &new[range.clone()]).collect();
    let prefix = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
    let suffix = left[prefix..].iter().rev().zip(right[prefix..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (left_middle, right_middle) = (&left[prefix..left.len() - suffix], &right[prefix..right.len() - suffix]);
    let mut changes = vec![Change { same: left[..prefix].concat(), old: String::new(), new: String::new() }];
    if left_middle.len() > MAX_LEXEMES || right_middle.len() > MAX_LEXEMES {
        if let Some(change) = changes.last_mut() {
            change.old = left_middle.concat();
            change.new = right_middle.concat();
        }
    } else {
        for (same, removed, inserted) in edit_script(left_middle, right_middle) {
            push_change(&mut changes, &same, &removed, &inserted);
        }
    }
    changes.push(Change { same: left[left.len() - suffix..].concat(), old: String::new(), new: String::new() });
    changes
}

/// Appends a change; one that is separated from the last only by space is merged with it.
fn push_change(changes: &mut Vec<Change>, same: &str, removed: &str, inserted: &str) {
    if let Some(last) = changes.last_mut() {
        let last_is_open = last.old.is_empty() && last.new.is_empty();
        if last_is_open {
            last.same.push_str(same);
            last.old.push_str(removed);
            last.new.push_str(inserted);
            return;
        }
        if same.trim().is_empty() && !(removed.is_empty() && inserted.is_empty()) {
            last.old.push_str(same);
            last.new.push_str(same);
            last.old.push_str(removed);
            last.new.push_str(inserted);
            return;
        }
    }
    changes.push(Change { same: same.to_owned(), old: removed.to_owned(), new: inserted.to_owned() });
}

/// (unchanged, removed, inserted) stretches by longest common subsequence.
fn edit_script(left: &[&str], right: &[&str]) -> Vec<(String, String, String)> {
    let width = right.len() + 1;
    let mut longest = vec![0_u16; (left.len() + 1) * width];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            longest[i * width + j] = if left[i] == right[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let mut script = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        let (mut same, mut removed, mut inserted) = (String::new(), String::new(), String::new());
        while i < left.len() && j < right.len() && left[i] == right[j] {
            same.push_str(left[i]);
            i += 1;
            j += 1;
        }
        while (i < left.len() || j < right.len()) && !(i < left.len() && j < right.len() && left[i] == right[j]) {
            let take_left =
                i < left.len() && (j >= right.len() || longest[(i + 1) * width + j] >= longest[i * width + j + 1]);
            if take_left {
                removed.push_str(left[i]);
                i += 1;
            } else {
                inserted.push_str(right[j]);
                j += 1;
            }
        }
        script.push((same, removed, inserted));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rebuilt(changes: &[Change]) -> (String, String) {
        let mut old = String::new();
        let mut new = String::new();
        for change in changes {
            old.push_str(&change.same);
            old.push_str(&change.old);
            new.push_str(&change.same);
            new.push_str(&change.new);
        }
        (old, new)
    }

    proptest::proptest! {
        #[test]
        fn both_sides_can_be_rebuilt(old in "[ab_ (),\n]{0,30}", new in "[ab_ (),\n]{0,30}") {
            proptest::prop_assert_eq!(rebuilt(&inline_changes(&old, &new)), (old, new));
        }
    }

    #[test]
    fn a_rename_is_one_change() {
        let changes = inline_changes("let x = get_name(user);", "let x = get_display_name(user);");
        assert_eq!(
            changes[0],
            Change { same: "let x = ".into(), old: "get_name".into(), new: "get_display_name".into() }
        );
        assert_eq!(changes[1].same, "(user);");
    }
}
