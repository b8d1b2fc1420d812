//! Whether an edit breaks the syntax of what it is written into.

use tree_sitter::{Language, Node, Parser};

/// Texts longer than this are not parsed.
const LONGEST_PARSED_BYTES: usize = 256 * 1024;

/// Whether `after` holds more syntax errors than `before`, of which both may begin and end anywhere; none of a language
/// that is not parsed (Rust and Python are), or of a text too long.
#[must_use]
pub fn introduces_errors(language: &str, before: &str, after: &str) -> Option<bool> {
    let grammar = grammar(language)?;
    let after = parse_errors(&grammar, after)?;
    // Most texts hold none, and then one parse is enough.
    if after == 0 { Some(false) } else { Some(after > parse_errors(&grammar, before)?) }
}

/// The grammars of the languages that are parsed.
fn grammar(language: &str) -> Option<Language> {
    match language {
        "rust" => Some(tree_sitter_rust::LANGUAGE.into()),
        "python" => Some(tree_sitter_python::LANGUAGE.into()),
        _ => None,
    }
}

/// Errors in the syntax tree of `text`.
fn parse_errors(grammar: &Language, text: &str) -> Option<usize> {
    if text.len() > LONGEST_PARSED_BYTES {
        return None;
    }
    let mut parser = Parser::new();
    parser.set_language(grammar).ok()?;
    Some(errors(parser.parse(text, None)?.root_node()))
}

/// Nodes that are errors or stand for something missing. Without recursion: source may nest deeper than a stack.
fn errors(root: Node<'_>) -> usize {
    let mut cursor = root.walk();
    let mut count = 0;
    loop {
        let node = cursor.node();
        count += usize::from(node.is_error() || node.is_missing());
        if node.has_error() && cursor.goto_first_child() {
            continue;
        }
        loop {
            if cursor.goto_next_sibling() {
                break;
            }
            if !cursor.goto_parent() {
                return count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_were_there_before_are_no_edits_fault() {
        let rust = |text: &str| introduces_errors("rust", "    other)]\n}\n\nfn one() -> u8 {\n    1\n}\n", text);
        assert_eq!(rust("    other)]\n}\n\nfn one() -> u8 {\n    2\n}\n"), Some(false));
        assert_eq!(introduces_errors("rust", "fn one() {}", "fn one( {}"), Some(true));
        assert_eq!(introduces_errors("python", "a = 1", "a = )1"), Some(true));
        assert_eq!(introduces_errors("go", "a", ")"), None);
        let long = " ".repeat(LONGEST_PARSED_BYTES + 1);
        assert_eq!(introduces_errors("rust", "", &long), None);
        assert_eq!(introduces_errors("rust", &long, "fn one( {}"), None);
    }
}
