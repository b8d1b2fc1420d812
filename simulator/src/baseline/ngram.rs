//! The learning-free baseline: an n-gram cache of edits.
//!
//! Code is local: what was written a moment ago is written again (Tu, Su and Devanbu, "On the Localness of Software",
//! 2014), so a cache of n-grams that is updated as people go on is a strong baseline of models of code (Hellendoorn and
//! Devanbu, "Are Deep Neural Networks the Best Choice for Modeling Source Code?", 2017). Here the n-grams are of edits: the
//! words that were replaced, behind at most [`CONTEXT`] words of their line. A longer context is asked first.
//!
//! Two caches answer. What the recent edits of a context did is done again wherever its words stand, with any context;
//! what earlier changes did is done again only behind its whole context, once several changes agree, and while more than
//! half of them did the same.

use std::collections::{BTreeMap, BTreeSet};

use events::{ActionList, ByteRange, EditAction, EditContext, RecentEdit};

use crate::text::is_word_byte;

/// Most words of a line before what was replaced.
const CONTEXT: usize = 2;
/// Most words that one edit replaces.
const MOST_WORDS: usize = 8;
/// Fewest changes that stand behind an edit from earlier than the recent ones.
const SUPPORT: usize = 2;

/// What stands before, and what was replaced.
type Gram = (Vec<String>, Vec<String>);

/// Remembers the edits of earlier changes.
#[derive(Debug, Clone, Default)]
pub struct NgramCache {
    /// For each gram the changes that replaced it, by what they wrote.
    earlier: BTreeMap<Gram, BTreeMap<Vec<String>, BTreeSet<u64>>>,
    changes: u64,
}

impl NgramCache {
    /// Remembers the lines that one change replaced, each with what it wrote there.
    pub fn learn<'e>(&mut self, edits: impl IntoIterator<Item = (&'e str, &'e str)>) {
        self.changes += 1;
        for (old, new) in edits {
            for (gram, written) in grams(old, new) {
                // Without its whole context an edit of another day says too little.
                if gram.0.len() == CONTEXT {
                    self.earlier.entry(gram).or_default().entry(written).or_default().insert(self.changes);
                }
            }
        }
    }

    /// Proposes for the place of the window that is nearest to the cursor; nothing where no cache knows any.
    #[must_use]
    pub fn propose(&self, context: &EditContext) -> ActionList {
        let recent = recent(&context.recent_edits);
        let (text, start) = (&context.window.text, context.window.start_byte);
        let mut nearest: Option<(u64, EditAction)> = None;
        let mut offset = 0;
        for line in text.split_inclusive('\n') {
            let words = words(line);
            for first in 0..words.len() {
                let Some((count, new)) = self.replacement(&recent, line, &words, first) else { continue };
                let begin = offset + words[first].0;
                let end = words.get(first + count - 1).map_or(begin, |(place, word)| offset + place + word.len());
                let place = start + begin as u64;
                let distance = place.abs_diff(context.cursor_byte);
                if nearest.as_ref().is_some_and(|(other, _)| *other <= distance) {
                    continue;
                }
                let action = EditAction {
                    path: context.path.clone(),
                    range: ByteRange::new(place, start + end as u64),
                    old_text: text.get(begin..end).unwrap_or_default().to_owned(),
                    new_text: new,
                };
                if action.old_text != action.new_text {
                    nearest = Some((distance, action));
                }
            }
            offset += line.len();
        }
        match nearest {
            Some((_, action)) => ActionList { actions: vec![action], closed: false },
            None => ActionList::no_edit(),
        }
    }

    /// How many words from `first` on are replaced, and by what: the longest context that any cache knows.
    fn replacement(
        &self,
        recent: &BTreeMap<Gram, Vec<String>>,
        line: &str,
        words: &[(usize, &str)],
        first: usize,
    ) -> Option<(usize, String)> {
        for context in (0..=CONTEXT.min(first)).rev() {
            for count in (1..=MOST_WORDS.min(words.len() - first)).rev() {
                let owned =
                    |range: &[(usize, &str)]| range.iter().map(|(_, word)| (*word).to_owned()).collect::<Vec<_>>();
                let gram = (owned(&words[first - context..first]), owned(&words[first..first + count]));
                let written = recent.get(&gram).cloned().or_else(|| self.agreed(&gram));
                if let Some(written) = written {
                    let (from, to) = (words[first].0, words[first + count - 1]);
                    let old = line.get(from..to.0 + to.1.len())?;
                    return Some((count, respelled(old, &gram.1, &written)));
                }
            }
        }
        None
    }

    /// What more than half of the changes wrote that replaced `gram`, at least [`SUPPORT`] of them.
    fn agreed(&self, gram: &Gram) -> Option<Vec<String>> {
        let written = self.earlier.get(gram)?;
        let all: usize = written.values().map(BTreeSet::len).sum();
        let (best, changes) = written.iter().max_by_key(|(_, changes)| changes.len())?;
        (changes.len() >= SUPPORT && 2 * changes.len() > all).then(|| best.clone())
    }
}

/// What the recent edits replaced; the newest wins.
fn recent(edits: &[RecentEdit]) -> BTreeMap<Gram, Vec<String>> {
    edits.iter().flat_map(|edit| grams(&edit.old_text, &edit.new_text)).collect()
}

/// The words in which two lines differ, behind each length of context; none when they differ in nothing that is replaced
/// (an insertion has no words of its own to be found again by), or in too much.
fn grams(old: &str, new: &str) -> Vec<(Gram, Vec<String>)> {
    let only = |text: &str| words(text).into_iter().map(|(_, word)| word.to_owned()).collect::<Vec<_>>();
    let (old, new) = (only(old), only(new));
    let head = old.iter().zip(&new).take_while(|(one, other)| one == other).count();
    let limit = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(limit).take_while(|(one, other)| one == other).count();
    let (replaced, written) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let has_word = replaced.iter().any(|word| word.bytes().all(is_word_byte));
    if replaced.is_empty() || replaced.len() > MOST_WORDS || !has_word {
        return Vec::new();
    }
    (0..=CONTEXT.min(head))
        .map(|context| ((old[head - context..head].to_vec(), replaced.to_vec()), written.to_vec()))
        .collect()
}

/// `old` with its words `replaced` by `written`, with the space of `old` where both have as many words.
fn respelled(old: &str, replaced: &[String], written: &[String]) -> String {
    if replaced.len() != written.len() {
        return joined(written);
    }
    let mut text = String::new();
    let mut done = 0;
    for ((place, word), new) in words(old).into_iter().zip(written) {
        text.push_str(&old[done..place]);
        text.push_str(new);
        done = place + word.len();
    }
    text.push_str(&old[done..]);
    text
}

/// Words beside each other with space only where two would become one, and after a comma.
fn joined(words: &[String]) -> String {
    let mut text = String::new();
    for word in words {
        let ends_in_word = text.bytes().last().is_some_and(is_word_byte);
        if (ends_in_word && word.bytes().next().is_some_and(is_word_byte)) || text.ends_with(',') {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

/// Words and other characters of a text without space, with their places.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut place = 0;
    while let Some(first) = text[place..].chars().next() {
        let rest = &text[place..];
        let length = if first.is_ascii() && is_word_byte(first as u8) {
            rest.bytes().position(|byte| !is_word_byte(byte)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            found.push((place, &rest[..length]));
        }
        place += length;
    }
    found
}

#[cfg(test)]
mod tests {
    use events::{Window, apply_actions};

    use super::*;

    fn context(window: &str, cursor: u64, recent: &[(&str, &str)]) -> EditContext {
        let edit = |(old, new): &(&str, &str)| RecentEdit {
            path: "a.rs".to_owned(),
            old_text: (*old).to_owned(),
            new_text: (*new).to_owned(),
        };
        EditContext {
            repository: "r".to_owned(),
            path: "a.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: recent.iter().map(edit).collect(),
            window: Window { start_byte: 50, first_line: 3, text: window.to_owned() },
            cursor_byte: 50 + cursor,
        }
    }

    fn after(cache: &NgramCache, context: &EditContext) -> String {
        let proposed = cache.propose(context);
        apply_actions(context.window.start_byte, &context.window.text, &proposed.actions).unwrap()
    }

    #[test]
    fn recent_edits_are_made_again_nearest_to_the_cursor() {
        let cache = NgramCache::default();
        let text = "a(load(x));\nlet b = load( y );\n";
        let edits = [("load(1)", "fetch(1)")];
        assert_eq!(after(&cache, &context(text, 20, &edits)), "a(load(x));\nlet b = fetch( y );\n");
        assert_eq!(after(&cache, &context(text, 0, &edits)), "a(fetch(x));\nlet b = load( y );\n");
        assert!(cache.propose(&context("reload(x)\n", 0, &edits)).is_no_edit());
        let newest = [("load(1)", "fetch(1)"), ("load(2)", "read(2)")];
        assert_eq!(after(&cache, &context("load(x)\n", 0, &newest)), "read(x)\n");
    }

    #[test]
    fn several_words_are_replaced_with_the_space_that_was_there() {
        let cache = NgramCache::default();
        let edits = [("f(a.b)", "f(c.d)")];
        assert_eq!(after(&cache, &context("g(a . b)\n", 0, &edits)), "g(c . d)\n");
        let longer = [("f(a)", "f(b, mut c)")];
        assert_eq!(after(&cache, &context("g(a)\n", 0, &longer)), "g(b, mut c)\n");
    }

    #[test]
    fn earlier_changes_count_when_several_agree_behind_the_same_words() {
        let mut cache = NgramCache::default();
        let asked = context("let a = load(x);\n", 0, &[]);
        cache.learn([("let a = load(1);", "let a = fetch(1);")]);
        assert!(cache.propose(&asked).is_no_edit(), "one change is no habit");
        cache.learn([("let b; a = load(2);", "let b; a = fetch(2);")]);
        assert_eq!(after(&cache, &asked), "let a = fetch(x);\n");
        assert!(cache.propose(&context("let b = load(x);\n", 0, &[])).is_no_edit(), "other words stand before it");
        cache.learn([("a = load(3)", "a = read(3)")]);
        cache.learn([("a = load(4)", "a = read(4)")]);
        assert!(cache.propose(&asked).is_no_edit(), "half is not most");
    }

    #[test]
    fn insertions_and_rewritten_lines_are_not_remembered() {
        assert!(grams("f(a)", "f(a, b)").is_empty());
        assert!(grams("", "let a = 1;").is_empty());
        assert!(grams("a b c d e f g h i", "j k l m n o p q r").is_empty());
        assert_eq!(grams("x = a;", "x = b;").len(), 3);
    }
}
