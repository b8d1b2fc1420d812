//! Text as lexemes (for differences) and as tokens of its language (for "equal after lexing").

use std::ops::Range;

use tree_sitter::{Node, Parser};

use crate::alignment::{common_prefix, common_suffix};

/// Texts longer than this are compared by whitespace rules only: parsing them would cost more than the label is worth.
const LONGEST_PARSED_BYTES: usize = 256 * 1024;

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Class {
    Word,
    Space,
    Single,
}

fn class_of(character: char) -> Class {
    if is_word(character) {
        Class::Word
    } else if character == '\n' || character == '\r' {
        Class::Single
    } else if character.is_whitespace() {
        Class::Space
    } else {
        Class::Single
    }
}

/// The class of each ASCII character, as [`class_of`] tells it.
static ASCII_CLASSES: [Class; 128] = {
    let mut classes = [Class::Single; 128];
    let mut code = 0_u8;
    while code < 128 {
        if code == b'_' || code.is_ascii_alphanumeric() {
            classes[code as usize] = Class::Word;
        } else if matches!(code, b' ' | b'\t' | 0x0B | 0x0C) {
            classes[code as usize] = Class::Space;
        }
        code += 1;
    }
    classes
};

/// Splits `text` without a rest into words, runs of space, line breaks and single marks.
#[must_use]
pub fn lexemes(text: &str) -> Vec<Range<usize>> {
    let mut result = Vec::with_capacity(text.len() / 3);
    each_lexeme(text, |range| result.push(range));
    result
}

/// The texts of the [`lexemes`].
pub(crate) fn push_lexemes<'a>(text: &'a str, into: &mut Vec<&'a str>) {
    into.reserve(text.len() / 2);
    each_lexeme(text, |range| into.push(&text[range]));
}

fn each_lexeme(text: &str, mut tell: impl FnMut(Range<usize>)) {
    let mut start = 0;
    each_start(text, |next| {
        if next > start {
            tell(start..next);
        }
        start = next;
    });
    if start < text.len() {
        tell(start..text.len());
    }
}

fn each_start(text: &str, mut tell: impl FnMut(usize)) {
    let mut previous = Class::Single;
    if !text.is_ascii() {
        for (at, character) in text.char_indices() {
            let class = class_of(character);
            if class != previous || class == Class::Single {
                tell(at);
            }
            previous = class;
        }
        return;
    }
    // Where a lexeme ends cannot be foretold, so no branch depends on it: each place is noted, and the next one takes
    // its slot if it starts nothing.
    let mut offset = 0;
    for piece in text.as_bytes().chunks(64) {
        let mut starts = [0_u8; 64];
        let mut count = 0;
        for (at, byte) in (0_u8..).zip(piece) {
            let class = ASCII_CLASSES[usize::from(byte & 0x7F)];
            starts[count] = at;
            count += usize::from((class != previous) | (class == Class::Single));
            previous = class;
        }
        for at in &starts[..count] {
            tell(offset + usize::from(*at));
        }
        offset += piece.len();
    }
}

/// A token of a text: what a formatter must not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Where it stands; empty where a comment ends with its line, which a formatter must not change either.
    pub range: Range<usize>,
    /// How many blocks it lies in, where blocks are told by indentation (Python); else 0.
    pub depth: u32,
}

/// The tokens of a piece of source: the leaves of its syntax tree for Rust and Python (also when it is a fragment that
/// does not parse whole), words and single marks without space otherwise.
///
/// Every character that is no space lies in a token. A tree alone does not promise that: the text of a comment, of a
/// string around an escape, and what the parser skipped have no leaf.
#[must_use]
pub fn tokens(language: &str, text: &str) -> Vec<Token> {
    let grammar = match language {
        "rust" => Some(tree_sitter_rust::LANGUAGE.into()),
        "python" => Some(tree_sitter_python::LANGUAGE.into()),
        _ => None,
    };
    if let Some(grammar) = grammar
        && text.len() <= LONGEST_PARSED_BYTES
    {
        let mut parser = Parser::new();
        if parser.set_language(&grammar).is_ok()
            && let Some(tree) = parser.parse(text, None)
        {
            let mut leaves = Vec::new();
            collect_leaves(tree.root_node(), text, language == "python", &mut leaves);
            return without_gaps(text, leaves);
        }
    }
    plain_tokens(text)
}

/// Words and marks, as a language that is not parsed has them for tokens.
pub(crate) fn words(text: &str) -> Vec<&str> {
    let mut all = Vec::with_capacity(text.len() / 3);
    each_lexeme(text, |range| {
        let lexeme = &text[range];
        if !lexeme.starts_with(char::is_whitespace) {
            all.push(lexeme);
        }
    });
    all
}

/// The tokens of a language that is not parsed.
fn plain_tokens(text: &str) -> Vec<Token> {
    let mut all = Vec::new();
    push_words(text, 0..text.len(), 0, &mut all);
    all
}

/// Words and marks of a part of the text.
fn push_words(text: &str, part: Range<usize>, depth: u32, into: &mut Vec<Token>) {
    let Some(inner) = text.get(part.clone()) else { return };
    let words = lexemes(inner).into_iter().filter(|range| !inner[range.clone()].trim().is_empty());
    into.extend(words.map(|range| Token { range: part.start + range.start..part.start + range.end, depth }));
}

/// A string literal: its space counts. A line break is the same however it is written, as it is to the languages.
fn push_literal(text: &str, part: Range<usize>, depth: u32, into: &mut Vec<Token>) {
    let Some(inner) = text.get(part.clone()) else { return };
    let begins_break = |range: &Range<usize>| inner[range.start..].starts_with("\r\n");
    let parts = lexemes(inner).into_iter().filter(|range| !begins_break(range));
    into.extend(parts.map(|range| Token { range: part.start + range.start..part.start + range.end, depth }));
}

/// The leaves, and between them what no leaf covers.
fn without_gaps(text: &str, leaves: Vec<Token>) -> Vec<Token> {
    let mut all = Vec::with_capacity(leaves.len());
    let mut position = 0;
    for leaf in leaves {
        push_words(text, position..leaf.range.start.max(position), leaf.depth, &mut all);
        position = position.max(leaf.range.end);
        all.push(leaf);
    }
    push_words(text, position..text.len(), 0, &mut all);
    all
}

/// Leaves in order, without recursion: source of a customer may nest deeper than a stack.
fn collect_leaves(root: Node<'_>, text: &str, by_indentation: bool, leaves: &mut Vec<Token>) {
    let mut cursor = root.walk();
    let mut depth = 0_u32;
    loop {
        let node = cursor.node();
        let is_block = by_indentation && node.kind() == "block";
        let range = node.byte_range();
        match node.kind() {
            "string" | "string_literal" | "raw_string_literal" => push_literal(text, range, depth, leaves),
            "block_comment" => push_words(text, range, depth, leaves),
            "comment" | "line_comment" => {
                let end = range.end;
                push_words(text, range, depth, leaves);
                // What stands on the next line would be part of the comment without this break.
                leaves.push(Token { range: end..end, depth });
            }
            _ if cursor.goto_first_child() => {
                depth += u32::from(is_block);
                continue;
            }
            _ => {
                if text.get(range.clone()).is_some_and(|leaf| !leaf.trim().is_empty()) {
                    leaves.push(Token { range, depth });
                }
            }
        }
        loop {
            if cursor.goto_next_sibling() {
                break;
            }
            if !cursor.goto_parent() {
                return;
            }
            depth -= u32::from(by_indentation && cursor.node().kind() == "block");
        }
    }
}

/// Whether two texts are equal after lexing: a formatter is no correction.
#[must_use]
pub fn equal_after_lexing(language: &str, left: &str, right: &str) -> bool {
    if left == right {
        return true;
    }
    // Tokens hold everything that is no space, so most differences show without a parser.
    if !is_as_solid(left, right) {
        return false;
    }
    let (left_tokens, right_tokens) = (tokens(language, left), tokens(language, right));
    left_tokens.len() == right_tokens.len()
        && left_tokens
            .iter()
            .zip(&right_tokens)
            .all(|(a, b)| a.depth == b.depth && left[a.range.clone()] == right[b.range.clone()])
}

/// How many bytes all texts begin with (`start`) and end with (`end`) alike, both whole characters.
#[must_use]
pub fn shared_ends(texts: &[&str]) -> Range<usize> {
    let Some((first, others)) = texts.split_first() else { return 0..0 };
    let (mut start, mut end) = (first.len(), first.len());
    for other in others {
        start = common_prefix(&first.as_bytes()[..start], other.as_bytes());
    }
    while !first.is_char_boundary(start) {
        start -= 1;
    }
    let behind = &first.as_bytes()[start..];
    end -= start;
    for other in others {
        end = common_suffix(&behind[behind.len() - end..], &other.as_bytes()[start..]);
    }
    while !first.is_char_boundary(first.len() - end) {
        end -= 1;
    }
    start..end
}

/// Whether two texts differ in nothing but space, at most.
pub(crate) fn is_as_solid(left: &str, right: &str) -> bool {
    // What both begin and end with takes no reading of characters.
    let shared = shared_ends(&[left, right]);
    let [left, right] = [left, right].map(|text| &text[shared.start..text.len() - shared.end]);
    solid(left).eq(solid(right))
}

/// The characters of a text that are no space.
pub fn solid(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|character| !character.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts<'a>(language: &str, text: &'a str) -> Vec<&'a str> {
        tokens(language, text).into_iter().map(|token| &text[token.range]).collect()
    }

    #[test]
    fn words_spaces_breaks_and_marks() {
        let text = "let a_b = f(x);\n\n  é1";
        let parts: Vec<&str> = lexemes(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(parts, ["let", " ", "a_b", " ", "=", " ", "f", "(", "x", ")", ";", "\n", "\n", "  ", "é1"]);
    }

    #[test]
    fn every_ascii_character_has_its_class() {
        for code in 0..128_u8 {
            assert!(ASCII_CLASSES[usize::from(code)] == class_of(char::from(code)), "{code}");
        }
    }

    #[test]
    fn a_formatter_changes_no_token_of_rust() {
        assert!(equal_after_lexing("rust", "let x=f( a,b );", "let x = f(\n    a, b\n);"));
        assert!(!equal_after_lexing("rust", "let x = f(a);", "let x = f(b);"));
    }

    #[test]
    fn space_inside_a_string_is_no_format() {
        assert!(!equal_after_lexing("rust", "let x = \"a  b\";", "let x = \"a b\";"));
        assert!(!equal_after_lexing("python", "x = 'a  b'", "x = 'a b'"));
        assert!(!equal_after_lexing("rust", "let x = \" \";", "let x = \"  \";"));
        assert!(!equal_after_lexing("rust", "let x = r#\"a  b\"#;", "let x = r#\"a b\"#;"));
    }

    #[test]
    fn what_has_no_leaf_in_the_tree_is_compared_too() {
        for (language, left, right) in [
            ("python", "x = 'one\\n two'\n", "x = 'six\\n two'\n"),
            ("rust", "// adds the tax\nf();\n", "// takes the tax\nf();\n"),
            ("rust", "/* a */ f();", "/* b */ f();"),
            ("rust", "let x = r\"a\";", "let x = br\"a\";"),
            ("python", "f()  # one\n", "f()  # two\n"),
        ] {
            assert!(!equal_after_lexing(language, left, right), "{left:?} is not {right:?}");
        }
        assert!(equal_after_lexing("rust", "f(); // adds  the\n", "f();  // adds the\n"));
        assert_eq!(texts("rust", "// a b\n"), ["/", "/", "a", "b", ""]);
    }

    #[test]
    fn the_line_break_that_ends_a_comment_is_no_format() {
        for (language, comment) in [("rust", "// one"), ("rust", "/// one"), ("python", "# one")] {
            let (two, one) = (format!("{comment}\nf()\n"), format!("{comment} f()\n"));
            assert!(!equal_after_lexing(language, &two, &one), "{two:?} is not {one:?}");
            assert!(equal_after_lexing(language, &two, &two.replacen('\n', "\n\n", 1)), "{two:?}");
        }
        assert!(equal_after_lexing("rust", "/* one */\nf()", "/* one */ f()"));
    }

    #[test]
    fn line_breaks_and_tabs_are_format_however_they_are_written() {
        let unix = "fn f() {\n    g(\"a\n b\"); // c\n}\n";
        assert!(equal_after_lexing("rust", unix, &unix.replace('\n', "\r\n").replace("    ", "\t")));
        let unix = "if a:\n    b('''c\n d''')\n";
        assert!(equal_after_lexing("python", unix, &unix.replace('\n', "\r\n").replace("    ", "\t")));
        assert!(equal_after_lexing("other", "a\n\tb\n", "a\r\n    b\r\n"));
    }

    #[test]
    fn indentation_of_python_means_something() {
        let inside = "if a:\n    b()\n    c()\n";
        assert!(equal_after_lexing("python", inside, "if a:\n  b()\n  c()\n"));
        assert!(!equal_after_lexing("python", inside, "if a:\n    b()\nc()\n"));
    }

    #[test]
    fn other_languages_follow_whitespace_rules() {
        assert!(equal_after_lexing("cobol", "MOVE  A TO B.", "MOVE A\nTO B ."));
        assert_eq!(texts("", "a+b 12"), ["a", "+", "b", "12"]);
    }

    proptest! {
        #[test]
        fn lexemes_cover_the_text(text in "\\PC{0,60}|[ab_ (),\\n\\t]{0,60}") {
            let parts = lexemes(&text);
            let joined: String = parts.iter().map(|range| &text[range.clone()]).collect();
            prop_assert_eq!(joined, text);
        }

        /// Longer than a piece of what is read at once.
        #[test]
        fn lexemes_are_runs_of_one_class(
            text in "[ab_ (),\\n\\r\\t]{0,200}|\\PC{0,100}|[aé \u{a0}\u{2028}.\\n]{0,90}",
        ) {
            let mut parts: Vec<Range<usize>> = Vec::new();
            for (start, character) in text.char_indices() {
                let end = start + character.len_utf8();
                let before = text[..start].chars().next_back().map(class_of);
                match parts.last_mut() {
                    Some(last) if before == Some(class_of(character)) && class_of(character) != Class::Single => {
                        last.end = end;
                    }
                    _ => parts.push(start..end),
                }
            }
            prop_assert_eq!(lexemes(&text), parts);
        }

        #[test]
        fn as_solid_is_what_is_left_without_space(left in "[aé \n]{0,8}", right in "[aé \n]{0,8}") {
            let without_space = |text: &str| text.replace([' ', '\n'], "");
            prop_assert_eq!(is_as_solid(&left, &right), without_space(&left) == without_space(&right));
        }

        #[test]
        fn shared_ends_are_shared_and_whole(
            texts in proptest::collection::vec("[aé😀\\n]{0,6}", 1..4),
            (start, end) in ("[aé😀]{0,3}", "[aé😀]{0,3}"),
        ) {
            let texts: Vec<String> = texts.iter().map(|text| format!("{start}{text}{end}")).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let shared = shared_ends(&texts);
            let first = texts[0];
            for text in &texts {
                prop_assert_eq!(&text[..shared.start], &first[..shared.start]);
                prop_assert_eq!(&text[text.len() - shared.end..], &first[first.len() - shared.end..]);
                prop_assert!(shared.start + shared.end <= text.len());
            }
            prop_assert!(shared.start >= start.len() && shared.start + shared.end >= start.len() + end.len());
        }

        #[test]
        fn what_is_told_without_a_parser_is_what_a_parser_tells(
            (start, left, right, end) in ("[a \"#/\n]{0,5}", "[ab \"/\n]{0,4}", "[ab \"/\n]{0,4}", "[a \"\n]{0,5}")
        ) {
            let (left, right) = (format!("{start}{left}{end}"), format!("{start}{right}{end}"));
            for language in ["rust", "python", "other"] {
                let told = |text: &str| -> Vec<(u32, String)> {
                    tokens(language, text).into_iter().map(|token| (token.depth, text[token.range].to_owned())).collect()
                };
                prop_assert_eq!(equal_after_lexing(language, &left, &right), told(&left) == told(&right));
            }
        }

        #[test]
        fn tokens_never_panic_and_are_ordered(text in "[a-f(){}\\[\\]<>:;,'\"#\\\\ \\n\\té]{0,60}") {
            prop_assert_eq!(words(&text), texts("", &text));
            for language in ["rust", "python", "other"] {
                let found = tokens(language, &text);
                prop_assert!(found.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
                let told: String = found.iter().map(|token| &text[token.range.clone()]).collect();
                prop_assert!(solid(&told).eq(solid(&text)), "{} lost something", language);
                prop_assert!(equal_after_lexing(language, &text, &text));
            }
        }
    }
}
