//! The languages that trajectories are made of, and what is said of a syntax tree in all of them.

use crate::error::{Result, SimulatorError};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tree_sitter::{Node, Parser, Tree};

/// A language whose grammar is here. More than the tasks of simulated developers are made in ([`crate::Language`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeLanguage {
    /// Rust.
    Rust,
    /// Python.
    Python,
    /// TypeScript.
    TypeScript,
    /// TypeScript with JSX.
    TypeScriptReact,
    /// JavaScript, with or without JSX.
    JavaScript,
    /// Go.
    Go,
    /// Java.
    Java,
}

/// All of them.
pub const LANGUAGES: [CodeLanguage; 7] = [
    CodeLanguage::Rust,
    CodeLanguage::Python,
    CodeLanguage::TypeScript,
    CodeLanguage::TypeScriptReact,
    CodeLanguage::JavaScript,
    CodeLanguage::Go,
    CodeLanguage::Java,
];

impl CodeLanguage {
    /// The language of a file name.
    #[must_use]
    pub fn of_path(path: &Path) -> Option<Self> {
        Some(match path.extension()?.to_str()? {
            "rs" => Self::Rust,
            "py" => Self::Python,
            "ts" | "mts" | "cts" => Self::TypeScript,
            "tsx" => Self::TypeScriptReact,
            "js" | "mjs" | "cjs" | "jsx" => Self::JavaScript,
            "go" => Self::Go,
            "java" => Self::Java,
            _ => return None,
        })
    }

    /// Language id as in LSP.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::TypeScript => "typescript",
            Self::TypeScriptReact => "typescriptreact",
            Self::JavaScript => "javascript",
            Self::Go => "go",
            Self::Java => "java",
        }
    }

    /// TypeScript or JavaScript.
    #[must_use]
    pub fn is_script(self) -> bool {
        matches!(self, Self::TypeScript | Self::TypeScriptReact | Self::JavaScript)
    }

    fn grammar(self) -> tree_sitter::Language {
        match self {
            Self::Rust => tree_sitter_rust::LANGUAGE.into(),
            Self::Python => tree_sitter_python::LANGUAGE.into(),
            Self::TypeScript => tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
            Self::TypeScriptReact => tree_sitter_typescript::LANGUAGE_TSX.into(),
            Self::JavaScript => tree_sitter_javascript::LANGUAGE.into(),
            Self::Go => tree_sitter_go::LANGUAGE.into(),
            Self::Java => tree_sitter_java::LANGUAGE.into(),
        }
    }
}

impl std::fmt::Display for CodeLanguage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.id())
    }
}

/// The parsers of a thread: one a language, made when it is first needed.
#[derive(Default)]
pub struct Parsers([Option<Parser>; LANGUAGES.len()]);

impl std::fmt::Debug for Parsers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parsers").finish_non_exhaustive()
    }
}

impl Parsers {
    /// The tree of `text`. `before` is the tree of the text before an edit, told of that edit: what it shares with the
    /// new text is not parsed again.
    ///
    /// # Errors
    /// When the grammar does not fit the parser library.
    pub fn parse(&mut self, language: CodeLanguage, text: &str, before: Option<&Tree>) -> Result<Tree> {
        let failed = |source| SimulatorError::Grammar { language: language.id(), source };
        let Some(place) = self.0.get_mut(language as usize) else {
            return Err(SimulatorError::Unparsed { language: language.id() });
        };
        let parser = match place {
            Some(parser) => parser,
            None => {
                let mut parser = Parser::new();
                parser.set_language(&language.grammar()).map_err(failed)?;
                place.insert(parser)
            }
        };
        parser.parse(text, before).ok_or(SimulatorError::Unparsed { language: language.id() })
    }
}

/// How much of a text its grammar did not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ParseHealth {
    /// Places that fit no rule.
    pub errors: u32,
    /// Tokens that the grammar had to make up.
    pub missing: u32,
}

impl ParseHealth {
    /// That of one tree, counted over its nodes.
    #[must_use]
    pub fn of(tree: &Tree) -> Self {
        let mut health = Self::default();
        let mut waiting = vec![tree.root_node()];
        while let Some(node) = waiting.pop() {
            if !node.has_error() {
                continue;
            }
            health.errors += u32::from(node.is_error());
            health.missing += u32::from(node.is_missing());
            waiting.extend(node.children(&mut node.walk()));
        }
        health
    }

    /// Whether the grammar understood all of it.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self == Self::default()
    }

    /// Of two texts together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { errors: self.errors + other.errors, missing: self.missing + other.missing }
    }
}

/// A call, seen from the name that is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'tree> {
    /// The argument list with its parentheses.
    pub(crate) arguments: Node<'tree>,
}

/// The part of a longer name that says what is meant: `name` in `self.name`, `module::name`, `name::<T>`.
fn last_part(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "scoped_identifier" => "name",
        "field_expression" | "selector_expression" => "field",
        "attribute" => "attribute",
        "member_expression" => "property",
        "generic_function" => "function",
        _ => return None,
    })
}

/// Which child of a node of this kind is what the node calls, or what the node as a whole stands for when it is called.
pub(crate) fn callee_field(kind: &str, is_callee: bool) -> Option<&'static str> {
    match kind {
        "call_expression" | "call" => Some("function"),
        "method_invocation" => Some("name"),
        _ if is_callee => last_part(kind),
        _ => None,
    }
}

/// The call of `name`, when it is what is called there.
pub(crate) fn call_of(name: Node<'_>) -> Option<Call<'_>> {
    let mut part = name;
    // `a.name::<T>(..)` is the longest chain.
    for _ in 0..4 {
        let above = part.parent()?;
        let field = callee_field(above.kind(), true)?;
        if above.child_by_field_name(field)?.id() != part.id() {
            return None;
        }
        if matches!(above.kind(), "call_expression" | "call" | "method_invocation") {
            return Some(Call { arguments: above.child_by_field_name("arguments")? });
        }
        part = above;
    }
    None
}

/// The named children of a list, `None` when a comment or something not understood stands among them.
pub(crate) fn elements(list: Node<'_>) -> Option<Vec<Node<'_>>> {
    let elements: Vec<Node<'_>> = list.named_children(&mut list.walk()).collect();
    let odd = |node: &Node<'_>| node.is_error() || node.is_missing() || node.kind().ends_with("comment");
    (!elements.iter().any(odd)).then_some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grammar_loads_and_finds_calls() {
        let mut parsers = Parsers::default();
        for (name, code) in [
            ("a.rs", "fn f() { one(1); self.one(1); a::one::<u8>(1); }"),
            ("a.py", "def f():\n    one(1)\n    self.one(1)\n    a.b.one(1)\n"),
            ("a.ts", "function f(): void { one(1); this.one(1); a.b.one<T>(1); }"),
            ("a.tsx", "const f = () => { one(1); this.one(1); a.b.one(1); return <p/>; }"),
            ("a.js", "function f() { one(1); this.one(1); a.b.one(1); }"),
            ("a.go", "package p\nfunc f() { one(1); s.one(1); a.b.one(1) }\n"),
            ("A.java", "class A { void f() { one(1); this.one(1); a.b.one(1); } }"),
        ] {
            let language = CodeLanguage::of_path(Path::new(name)).unwrap();
            let tree = parsers.parse(language, code, None).unwrap();
            assert_eq!(ParseHealth::of(&tree), ParseHealth::default(), "{name}");
            for (start, _) in code.match_indices("one") {
                let node = tree.root_node().descendant_for_byte_range(start, start + 3).unwrap();
                let call = call_of(node).unwrap_or_else(|| panic!("{name}: no call at {start}"));
                assert_eq!(&code[call.arguments.byte_range()], "(1)", "{name}");
            }
        }
    }

    #[test]
    fn what_is_broken_is_counted() {
        let mut parsers = Parsers::default();
        let mut health = |code| ParseHealth::of(&parsers.parse(CodeLanguage::Go, code, None).unwrap());
        assert!(health("package p\nfunc f() {}\n").is_whole());
        assert!(!health("package p\nfunc f( {}\n").is_whole());
    }
}
