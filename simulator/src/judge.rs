//! Whether a suggestion is right: judged by the file that it makes, blind to who made it.
//!
//! The judge knows a task and edit actions, no model and no version. It applies the suggestion to the whole file as it
//! stands before the edit, applies the task's wanted edits to the same file, and compares the two files that result.
//!
//! **Two files are the same** when their syntax trees are: the same nodes in the same order and nesting, and the same
//! text of every token. Space between tokens is no token, so that a formatter changes nothing, except where a language
//! gives it a meaning: in Python, indentation and line ends that move a statement make another tree. Comments and the
//! text of strings are compared to the letter, but for space at the end of a comment; what a Python string interpolates
//! is code. Text that the grammar hides or can not read is split at space and compared piece by piece, so that no
//! letter is left out.
//!
//! **Actions are right**, from the first on, as long as the file after them is the same as the file after some of the
//! wanted edits, and more of those than before. Wrong is everything else: an action whose old text does not stand where
//! it says, or that overlaps an earlier one; one that changes anything besides what is wanted, wherever in the file;
//! one that is meant for another file; one that changes no token. So where nothing is wanted only silence is right,
//! even though a suggestion that changes no token would leave the same file: it interrupts for nothing.

use crate::source::Language;
use crate::syntax::parser;
use crate::tasks::EditTask;
use events::{ActionList, EditAction, apply_actions};

/// Nodes that are one token, whatever the grammar finds in them: space means something there.
const WHOLE: &[&str] = &[
    "line_comment",
    "block_comment",
    "comment",
    "string_literal",
    "raw_string_literal",
    "char_literal",
    "string_content",
];

/// What the judge says about a suggestion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How many of its actions, from the first on, are right.
    pub right: usize,
    /// For each wanted edit whether these actions make it.
    pub made: Vec<bool>,
}

/// A node of a syntax tree; inner nodes have no text of their own.
#[derive(Debug, PartialEq, Eq)]
struct Token<'t> {
    kind: u16,
    depth: u32,
    text: &'t str,
}

/// The whole of `text` as a syntax tree in reading order; `None` when the grammar does not load.
fn lex(language: Language, text: &str) -> Option<Vec<Token<'_>>> {
    let tree = parser(language).ok()?.parse(text, None)?;
    let mut cursor = tree.walk();
    let mut tokens = Vec::new();
    // Everything before this byte is in `tokens`.
    let mut told = 0;
    loop {
        let (node, depth) = (cursor.node(), cursor.depth());
        let (range, kind) = (node.byte_range(), node.kind_id());
        if node.child_count() == 0 || WHOLE.contains(&node.kind()) {
            tokens.extend(hidden(text, told..range.start, depth));
            let text = text.get(range.clone()).unwrap_or_default();
            tokens.push(Token { kind, depth, text: if node.is_extra() { text.trim_end() } else { text } });
            told = told.max(range.end);
        } else {
            tokens.push(Token { kind, depth, text: "" });
            if cursor.goto_first_child() {
                continue;
            }
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                tokens.extend(hidden(text, told..text.len(), 0));
                return Some(tokens);
            }
        }
    }
}

/// What stands between two tokens besides space.
fn hidden(text: &str, range: std::ops::Range<usize>, depth: u32) -> impl Iterator<Item = Token<'_>> {
    let pieces = text.get(range).unwrap_or_default().split_whitespace();
    pieces.map(move |text| Token { kind: 0, depth, text })
}

/// Whether two files are the same: see the head of this module. Without its grammar a file is only the same as itself.
#[must_use]
pub fn same(language: Language, left: &str, right: &str) -> bool {
    if left == right {
        return true;
    }
    // Nearly always files differ in more than space, and lexing them takes milliseconds. Tokens leave out nothing but
    // space, so that files with the same tokens have the same other letters.
    let letters = |text| str::chars(text).filter(|letter| !letter.is_whitespace());
    letters(left).eq(letters(right))
        && lex(language, left).zip(lex(language, right)).is_some_and(|(left, right)| left == right)
}

/// Judges the actions of a suggestion, in the order in which they are served.
#[must_use]
pub fn judge(task: &EditTask, served: &[EditAction]) -> Verdict {
    let mut verdict = Verdict { right: 0, made: vec![false; task.wanted.actions.len()] };
    let Some(language) = Language::of_id(&task.context.language) else { return verdict };
    let mut before = task.base_document.to_string();
    for count in 1..=served.len() {
        let Some(after) = served.get(..count).and_then(|actions| file_after(task, actions)) else { break };
        if same(language, &before, &after) {
            break;
        }
        let made = with_one_more_run(&verdict.made)
            .find(|made| file_with(task, made).is_some_and(|wanted| same(language, &after, &wanted)));
        if let Some(made) = made {
            verdict = Verdict { right: count, made };
        }
        before = after;
    }
    verdict
}

/// Whether the first action alone is right; for silence, whether silence was wanted.
#[must_use]
pub fn first_is_right(task: &EditTask, answer: &ActionList) -> bool {
    match answer.actions.first() {
        Some(first) => judge(task, std::slice::from_ref(first)).right == 1,
        None => task.wanted.is_no_edit(),
    }
}

/// The task's file after `actions`; `None` when they are for another file or do not fit this one.
fn file_after(task: &EditTask, actions: &[EditAction]) -> Option<String> {
    let is_here = actions.iter().all(|action| action.path == task.context.path);
    if is_here { apply_actions(0, &task.base_document, actions) } else { None }
}

/// The task's file after those of the wanted edits.
fn file_with(task: &EditTask, made: &[bool]) -> Option<String> {
    let chosen = task.wanted.actions.iter().zip(made).filter(|(_, made)| **made);
    apply_actions(0, &task.base_document, &chosen.map(|(action, _)| action.clone()).collect::<Vec<_>>())
}

/// What an action can add to the wanted edits that are made: it changes one place, and the edits are in the order of
/// the document, so it is a run of them. Short runs come first.
fn with_one_more_run(made: &[bool]) -> impl Iterator<Item = Vec<bool>> + '_ {
    let runs = (1..=made.len()).flat_map(|length| (0..=made.len() - length).map(move |start| start..start + length));
    runs.map(|run| made.iter().enumerate().map(|(index, made)| *made || run.contains(&index)).collect::<Vec<_>>())
        .filter(move |grown| grown != made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUST: &str = "/// Says it.\nfn say(name: &str, n: u8) -> u8 {\n    // twice  a day\n    println!(\"a  {}\", \
                        name => n);\n    let x = -1; for _ in 0..n { call( x, name ) }\n    n as u8\n}\n";
    const PYTHON: &str = "def say(name, n):\n    # twice  a day\n    if n:\n        \
                          call(name, f\"a  {n} {n}\", 'b\\n  c')\n\n    go(name)\n    return [n,\n            name]\n";

    fn sources() -> impl Strategy<Value = (Language, &'static str)> {
        prop_oneof![Just((Language::Rust, RUST)), Just((Language::Python, PYTHON))]
    }

    fn alterations(letters: Vec<&'static str>) -> impl Strategy<Value = Vec<(usize, &'static str)>> {
        prop::collection::vec((0_usize..400, prop::sample::select(letters)), 0..3)
    }

    /// `text` with these letters put in or, with none, taken out, at places between letters.
    fn altered(text: &str, changes: &[(usize, &str)]) -> String {
        let mut text = text.to_owned();
        for (place, letters) in changes {
            let place = place % (text.len() + 1);
            let end = if letters.is_empty() { (place + 1).min(text.len()) } else { place };
            text.replace_range(place..end, letters);
        }
        text
    }

    #[test]
    fn space_between_tokens_is_nothing() {
        let spread = RUST.replace("call( x, name )", "call(x,\n        name)").replace(";\n", " ;\n\n");
        assert!(same(Language::Rust, RUST, &spread.replace("name => n", "name=>n").replace("a day", "a day  ")));
        let spread = PYTHON.replace("[n,\n            name]", "[ n, name ]").replace("\n        call", "\n      call");
        assert!(same(Language::Python, PYTHON, &spread.replace("a day", "a day  ").replace("{n}", "{ n }")));
    }

    #[test]
    fn space_that_means_something_is_compared() {
        for (from, to) in [("\"a  {}", "\"a {}"), ("twice  a", "twice a"), ("-> u8", "- > u8"), ("n as", "nas")] {
            assert!(!same(Language::Rust, RUST, &RUST.replace(from, to)), "{from:?}");
        }
        for (from, to) in [
            ("a  {n}", "a {n}"),
            ("{n} ", "{n}"),
            ("{n} ", "{n}  "),
            ("\\n  c", "\\n c"),
            ("twice  a", "twice a"),
            ("    go(", "        go("),
            ("a day\n", "a day "),
            (")\n\n    go(", ") go("),
        ] {
            assert!(PYTHON.contains(from) && !same(Language::Python, PYTHON, &PYTHON.replace(from, to)), "{from:?}");
        }
        // The same tokens, and another meaning: one call of what a call returns, or two statements.
        assert!(!same(Language::Python, "go(a)\n(b)\n", "go(a)(b)\n"));
    }

    #[test]
    fn no_letter_is_left_out_where_a_file_does_not_parse() {
        let broken = "fn say( { name \u{a7} } ) ~ n\n";
        for (place, _) in broken.char_indices().filter(|(_, letter)| !letter.is_whitespace()) {
            let mut other = broken.to_owned();
            let letter = other.remove(place);
            assert!(!same(Language::Rust, broken, &other), "{letter:?}");
            assert_ne!(lex(Language::Rust, broken), lex(Language::Rust, &other), "{letter:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn the_verdict_is_that_of_lexing_both_whole_files(
            (language, text) in sources(),
            changes in alterations(vec![" ", "  ", "\n", "", "x"]),
            more in alterations(vec![" ", "\n", ""]),
        ) {
            let left = altered(text, &changes);
            let right = altered(&left, &more);
            let lexed = lex(language, &left).unwrap() == lex(language, &right).unwrap();
            prop_assert_eq!(same(language, &left, &right), lexed);
            prop_assert_eq!(same(language, &right, &left), lexed);
            prop_assert!(same(language, &left, &left));
        }

        #[test]
        fn tokens_leave_out_nothing_but_space(
            (language, text) in sources(),
            changes in alterations(vec![" ", "\n", "", "x", "\"", "}", "\\", "'"]),
        ) {
            let text = altered(text, &changes);
            let letters = |text: &str| text.chars().filter(|letter| !letter.is_whitespace()).collect::<String>();
            let told: String = lex(language, &text).unwrap().iter().map(|token| letters(token.text)).collect();
            prop_assert_eq!(told, letters(&text));
        }
    }
}
