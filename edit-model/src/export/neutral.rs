//! Breaking up what reads like a control token in text that developers wrote.
//!
//! Tokenizers take control tokens out of a text by their names, and some also those that are not flagged as special, so
//! no way of tokenizing makes them harmless for whoever tokenizes later: the text itself must not hold them. A character
//! is put behind the first character of each. It is chosen so that no name begins with it or holds it behind the first
//! character of a name: then nothing that is put in can complete another name, each round breaks up at least one that
//! was there, and after the last round there is none.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::ModelError;

/// What is put in, the plainest first.
const BREAKERS: [char; 3] = [' ', '\u{200b}', '\u{2060}'];

/// Knows every name that a text of a developer must not hold.
#[derive(Debug)]
pub(super) struct Neutralizer {
    automaton: AhoCorasick,
    names: Vec<String>,
    breaker: char,
}

impl Neutralizer {
    /// For these names.
    pub(super) fn new(names: Vec<String>) -> Result<Self, ModelError> {
        let firsts: BTreeSet<char> = names.iter().filter_map(|name| name.chars().next()).collect();
        if let Some(short) = names.iter().find(|name| name.chars().nth(1).is_none()) {
            return Err(ModelError::Tokenizer(format!(
                "the added token {short:?} has one character, so text that holds it can not be told from it"
            )));
        }
        let completes_nothing = |breaker: &char| {
            names.iter().all(|name| {
                !name.starts_with(*breaker)
                    && firsts.iter().all(|first| !name.contains(&String::from_iter([*first, *breaker])))
            })
        };
        let breaker = BREAKERS.into_iter().find(completes_nothing).ok_or_else(|| {
            ModelError::Tokenizer("no character can be put into text without making one of the added tokens".to_owned())
        })?;
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&names)
            .map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        Ok(Self { automaton, names, breaker })
    }

    /// `text` with every name in it broken up.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        loop {
            let mut broken = String::with_capacity(text.len() + 8);
            let mut position = 0;
            for found in self.automaton.find_iter(&text) {
                let first = text[found.start()..].chars().next().map_or(1, char::len_utf8);
                let cut = found.start() + first;
                broken.push_str(&text[position..cut]);
                broken.push(self.breaker);
                position = cut;
            }
            if position == 0 {
                return text;
            }
            broken.push_str(&text[position..]);
            text = broken;
        }
    }

    /// Where the first name in `text` begins.
    pub(super) fn first(&self, text: &str) -> Option<usize> {
        self.automaton.find(text).map(|found| found.start())
    }

    /// The names that stand in `text`, from left to right.
    pub(super) fn found<'a>(&'a self, text: &str) -> Vec<&'a str> {
        let name = |pattern: usize| self.names.get(pattern).map(String::as_str);
        self.automaton.find_iter(text).filter_map(|found| name(found.pattern().as_usize())).collect()
    }
}

/// A text with marks in it, as it is put together.
pub(super) struct Draft<'a> {
    neutral: &'a Neutralizer,
    text: String,
    run: String,
    marks: Vec<String>,
}

impl<'a> Draft<'a> {
    /// An empty one.
    pub(super) fn new(neutral: &'a Neutralizer) -> Self {
        Self { neutral, text: String::new(), run: String::new(), marks: Vec::new() }
    }

    /// Text in which no mark may stand. Pieces that follow each other are one: nothing can be completed across them.
    pub(super) fn push(&mut self, text: &str) {
        self.run.push_str(text);
    }

    /// One of the dialect's own marks.
    pub(super) fn mark(&mut self, name: &str) {
        self.flush();
        self.text.push_str(name);
        self.marks.push(name.to_owned());
    }

    fn flush(&mut self) {
        if !self.run.is_empty() {
            let run = self.neutral.apply(&std::mem::take(&mut self.run));
            self.text.push_str(&run);
        }
    }

    /// The whole.
    pub(super) fn finish(mut self) -> Marked {
        self.flush();
        Marked { text: self.text, marks: self.marks }
    }
}

/// A text with the marks that were put into it, in order.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) text: String,
    pub(super) marks: Vec<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECES: [&str; 12] = ["<|a|>", "<|", "a", "|>", "<|b|>", "<", ">", " ", "line 0", "é", "\n", "/"];

    fn names() -> Vec<String> {
        // One is the beginning of another, one ends as another begins, and one holds a space.
        ["<|a|>", "<|a|><|b|>", "<|b|>", "a<|", "<line 0>", "</a>"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_name_is_broken_up_and_other_text_is_left_alone() {
        let neutral = Neutralizer::new(names()).unwrap();
        assert_eq!(neutral.apply("x <|a|> y"), "x < |a|> y");
        assert_eq!(neutral.apply("x < |a|> y <|c|>"), "x < |a|> y <|c|>");
        assert_eq!(neutral.apply("<line 0>"), "< line 0>");
        assert!(neutral.found("< line 0>< |a|>").is_empty());
        assert_eq!(neutral.found("<|a|><|b|><|b|>"), ["<|a|><|b|>", "<|b|>"]);
    }

    #[test]
    fn a_space_is_not_put_in_where_it_would_make_a_name() {
        let neutral = Neutralizer::new(vec!["<a>".to_owned(), "< a>".to_owned()]).unwrap();
        assert_eq!(neutral.apply("<a>"), "<\u{200b}a>");
        assert!(Neutralizer::new(vec!["<".to_owned()]).is_err());
    }

    proptest! {
        #[test]
        fn no_name_is_left_and_nothing_is_lost(
            pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..40),
        ) {
            let neutral = Neutralizer::new(names()).unwrap();
            let text = pieces.concat();
            let applied = neutral.apply(&text);
            prop_assert!(neutral.found(&applied).is_empty(), "{applied:?}");
            prop_assert_eq!(neutral.apply(&applied), applied.clone());
            prop_assert_eq!(applied.replace(' ', ""), text.replace(' ', ""));
        }
    }
}
