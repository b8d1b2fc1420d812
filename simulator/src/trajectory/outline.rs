//! What a file names, and in which roles, from one walk over its syntax tree.
//!
//! There is no name resolution. What is made of an outline holds only for names that mean one thing wherever they stand
//! in the repository: so all places of a name are kept, and every word of comments and strings, where a name may be
//! spoken of without being used.

use crate::text::is_word_byte;
use crate::trajectory::language::callee_field;
use std::ops::Range;
use tree_sitter::{Node, Tree, TreeCursor};

/// What a name defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Defined {
    /// A function outside of types.
    Function,
    /// A function of a type.
    Method,
    /// A function that something outside of the repository may ask for: of an implemented trait, an override.
    Override,
    /// A type.
    Type,
    /// A constant of a file or type.
    Constant,
    /// Anything else that is defined under this name.
    Other,
}

/// The role of a name at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Defined(Defined),
    /// What is called, by its name alone or by a path of modules and types.
    Called,
    /// What is called on a value.
    CalledOn,
    /// Brought in from another file.
    Imported,
    /// Part of another name, on a value: `value.name`.
    Member,
    /// The name of an argument, or of a field that is given a value or a pattern.
    Keyword,
    /// A field and the variable of the same name at once: `Point { x }`.
    Shorthand,
    /// Everything else.
    Used,
}

/// A name at a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occurrence {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) role: Role,
}

impl Occurrence {
    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What a file names.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    /// In text order.
    pub(crate) names: Vec<Occurrence>,
    /// Where comments and strings stand.
    pub(crate) spoken: Vec<Range<usize>>,
}

/// Trees deeper than this are not walked to their ends.
const DEPTH_LIMIT: usize = 600;

impl Outline {
    pub(crate) fn of(tree: &Tree, text: &str) -> Self {
        let mut walk = Walk { text, outline: Self::default() };
        walk.visit(&mut tree.walk(), Around::default(), 0);
        walk.outline
    }

    /// The words of comments and strings.
    pub(crate) fn spoken_words<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        self.spoken.iter().filter_map(|range| text.get(range.clone())).flat_map(crate::text::words_of)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Around {
    in_type: bool,
    /// In an implementation of a trait or after `@Override`.
    is_override: bool,
    in_import: bool,
    in_function: bool,
    /// What is visited is what a call calls.
    is_callee: bool,
}

struct Walk<'a> {
    text: &'a str,
    outline: Outline,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, cursor: &mut TreeCursor<'a>, around: Around, depth: usize) {
        let node = cursor.node();
        let kind = node.kind();
        if is_spoken(kind) || depth > DEPTH_LIMIT {
            // What is too deep to be looked at is treated as a comment: nothing is concluded from its names.
            self.outline.spoken.push(node.byte_range());
            return;
        }
        if node.child_count() == 0 {
            return;
        }
        if kind == "import_spec" {
            self.import(node);
        }
        let mut inside = Around { is_callee: false, ..around };
        match kind {
            "impl_item" => {
                (inside.in_type, inside.in_function) = (true, false);
                inside.is_override = node.child_by_field_name("trait").is_some();
            }
            "trait_item" | "class_definition" | "class_body" | "interface_body" | "interface_type" | "enum_body" => {
                (inside.in_type, inside.in_function) = (true, false);
                inside.is_override = false;
            }
            "use_declaration"
            | "import_statement"
            | "import_from_statement"
            | "import_declaration"
            | "future_import_statement" => inside.in_import = true,
            "function_item"
            | "function_definition"
            | "function_declaration"
            | "method_definition"
            | "method_declaration"
            | "constructor_declaration"
            | "generator_function_declaration"
            | "arrow_function"
            | "function_expression"
            | "func_literal"
            | "closure_expression" => inside.in_function = true,
            _ => {}
        }
        let callee = callee_field(kind, around.is_callee);
        if !cursor.goto_first_child() {
            return;
        }
        loop {
            let child = cursor.node();
            if child.is_named() {
                let child_kind = child.kind();
                if is_name(child_kind) {
                    let field = cursor.field_name();
                    let is_callee = callee.is_some() && callee == field;
                    let role = self.role(node, kind, field, child_kind, around, is_callee);
                    // Texts over 4 GiB are not read.
                    if let (Ok(start), Ok(end)) = (u32::try_from(child.start_byte()), u32::try_from(child.end_byte())) {
                        self.outline.names.push(Occurrence { start, end, role });
                    }
                } else {
                    let is_callee = callee.is_some() && callee == cursor.field_name();
                    self.visit(cursor, Around { is_callee, ..inside }, depth + 1);
                }
            }
            if !cursor.goto_next_sibling() {
                break;
            }
        }
        cursor.goto_parent();
    }

    /// Go names a package by the last part of its path.
    fn import(&mut self, spec: Node<'a>) {
        let Some(path) = spec.child_by_field_name("path") else { return };
        let text = self.text.get(path.byte_range()).unwrap_or_default();
        let last = text.trim_matches(['"', '`']).rsplit('/').next().unwrap_or_default();
        let end = path.end_byte().saturating_sub(1);
        // `/v2` is a version of what stands before it.
        let is_version = last.strip_prefix('v').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        if spec.child_by_field_name("name").is_none()
            && !is_version
            && let (Ok(start), Ok(end)) = (u32::try_from(end.saturating_sub(last.len())), u32::try_from(end))
        {
            self.outline.names.push(Occurrence { start, end, role: Role::Imported });
        }
    }

    fn role(
        &self,
        parent: Node<'a>,
        kind: &str,
        field: Option<&str>,
        child_kind: &str,
        around: Around,
        is_callee: bool,
    ) -> Role {
        if let Some(defined) = self.defined(parent, kind, field, around) {
            return Role::Defined(defined);
        }
        if around.in_import
            || matches!(
                kind,
                "use_declaration"
                    | "import_statement"
                    | "import_from_statement"
                    | "import_declaration"
                    | "export_specifier"
            )
        {
            return Role::Imported;
        }
        let is_member =
            matches!(
                (kind, field),
                ("field_expression" | "selector_expression", Some("field"))
                    | ("attribute", Some("attribute"))
                    | ("member_expression", Some("property"))
                    | ("field_access", Some("field"))
            ) || (kind == "method_invocation" && parent.child_by_field_name("object").is_some() && is_callee);
        match (is_callee, is_member) {
            (true, true) => Role::CalledOn,
            (true, false) => Role::Called,
            (false, true) => Role::Member,
            (false, false) if child_kind.starts_with("shorthand") || kind == "shorthand_field_initializer" => {
                Role::Shorthand
            }
            (false, false) if is_keyword(parent, kind, field) => Role::Keyword,
            (false, false) => Role::Used,
        }
    }

    fn defined(&self, parent: Node<'a>, kind: &str, field: Option<&str>, around: Around) -> Option<Defined> {
        let function = match (around.is_override, around.in_type && !around.in_function) {
            (true, _) => Defined::Override,
            (false, true) => Defined::Method,
            (false, false) => Defined::Function,
        };
        Some(match (kind, field) {
            (
                "function_item"
                | "function_signature_item"
                | "function_definition"
                | "function_declaration"
                | "generator_function_declaration"
                | "function_signature",
                Some("name"),
            ) => function,
            (
                "method_definition"
                | "method_signature"
                | "abstract_method_signature"
                | "method_declaration"
                | "method_elem",
                Some("name"),
            ) => {
                if self.is_marked_override(parent) {
                    Defined::Override
                } else {
                    Defined::Method
                }
            }
            ("constructor_declaration", Some("name")) => Defined::Other,
            (
                "struct_item"
                | "enum_item"
                | "union_item"
                | "trait_item"
                | "type_item"
                | "class_definition"
                | "class_declaration"
                | "abstract_class_declaration"
                | "interface_declaration"
                | "type_alias_declaration"
                | "enum_declaration"
                | "type_spec"
                | "type_alias"
                | "record_declaration",
                Some("name"),
            ) => Defined::Type,
            ("const_item" | "static_item" | "const_spec" | "var_spec" | "variable_declarator", Some("name"))
            | ("assignment", Some("left"))
                if !around.in_function =>
            {
                Defined::Constant
            }
            (
                "variable_declarator"
                | "let_declaration"
                | "parameter"
                | "field_declaration"
                | "enum_variant"
                | "macro_definition"
                | "mod_item"
                | "const_item"
                | "static_item"
                | "const_spec"
                | "var_spec"
                | "parameter_declaration"
                | "formal_parameter"
                | "public_field_definition"
                | "field_definition"
                | "enum_constant"
                | "associated_type"
                | "required_parameter"
                | "optional_parameter"
                | "default_parameter"
                | "typed_default_parameter"
                | "property_signature"
                | "function_expression",
                Some("name" | "pattern" | "property"),
            )
            | ("assignment", Some("left"))
            | ("parameters" | "typed_parameter" | "formal_parameters" | "type_parameter" | "mut_pattern", _) => {
                Defined::Other
            }
            _ => return None,
        })
    }

    /// Whether a method says that it overrides another one.
    fn is_marked_override(&self, method: Node<'a>) -> bool {
        let Some(name) = method.child_by_field_name("name") else { return true };
        let head = self.text.get(method.start_byte()..name.start_byte()).unwrap_or_default();
        crate::text::words_of(head).any(|word| matches!(word, "Override" | "override"))
    }
}

/// Whether the name before a value or pattern stands here.
fn is_keyword(parent: Node<'_>, kind: &str, field: Option<&str>) -> bool {
    match (kind, field) {
        ("keyword_argument" | "field_pattern", Some("name"))
        | ("field_initializer", Some("field"))
        | ("pair" | "pair_pattern", Some("key")) => true,
        // Go: the key of `Point{x: 1}`.
        ("literal_element", _) => {
            let key = parent.parent().and_then(|element| element.child_by_field_name("key"));
            key.is_some_and(|key| key.id() == parent.id())
        }
        _ => false,
    }
}

fn is_spoken(kind: &str) -> bool {
    matches!(
        kind,
        "comment"
            | "line_comment"
            | "block_comment"
            | "string_content"
            | "string_fragment"
            | "multiline_string_fragment"
            | "interpreted_string_literal"
            | "raw_string_literal"
            | "jsx_text"
            | "ERROR"
    )
}

fn is_name(kind: &str) -> bool {
    kind.ends_with("identifier") && !kind.starts_with("scoped_") && !kind.starts_with("nested_")
}

/// Whether a name can be told from others by its letters alone: ASCII, three at least, no digit first.
pub(crate) fn is_plain_name(name: &str) -> bool {
    name.len() >= 3 && name.bytes().all(is_word_byte) && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory::language::{CodeLanguage, Parsers};
    use std::path::Path;

    fn roles(file: &str, code: &str, name: &str) -> Vec<Role> {
        let language = CodeLanguage::of_path(Path::new(file)).unwrap();
        let tree = Parsers::default().parse(language, code, None).unwrap();
        assert!(!tree.root_node().has_error(), "{file}");
        let outline = Outline::of(&tree, code);
        outline.names.iter().filter(|one| &code[one.range()] == name).map(|one| one.role).collect()
    }

    #[test]
    fn roles_of_a_function_are_the_same_in_every_language() {
        use Role::{Called, CalledOn, Used};
        let function = Role::Defined(Defined::Function);
        for (file, code) in [
            ("a.rs", "fn work() { work(); m::work(); s.work(); g(work) }"),
            ("a.py", "def work():\n    work(); s.work(); g(work)\n"),
            ("a.ts", "function work() { work(); s.work(); g(work) }"),
            ("a.js", "function work() { work(); s.work(); g(work) }"),
            ("a.go", "package p\nfunc work() { work(); s.work(); g(work) }\n"),
        ] {
            let mut expected = vec![function, Called, CalledOn, Used];
            if file == "a.rs" {
                expected.insert(1, Called);
            }
            assert_eq!(roles(file, code, "work"), expected, "{file}");
        }
    }

    #[test]
    fn methods_are_told_from_functions_and_overrides() {
        let method = Role::Defined(Defined::Method);
        for (file, code) in [
            ("a.rs", "impl A { fn work(&self) {} }"),
            ("a.py", "class A:\n    def work(self):\n        pass\n"),
            ("a.ts", "class A { work(): void {} }"),
            ("a.go", "package p\nfunc (a *A) work() {}\n"),
            ("A.java", "class A { void work() {} }"),
        ] {
            assert_eq!(roles(file, code, "work"), [method], "{file}");
        }
        let over = Role::Defined(Defined::Override);
        assert_eq!(roles("a.rs", "impl B for A { fn work(&self) {} }", "work"), [over]);
        assert_eq!(roles("A.java", "class A { @Override public void work() {} }", "work"), [over]);
        let nested = "class A:\n    def outer(self):\n        def work():\n            pass\n        work()\n";
        assert_eq!(roles("a.py", nested, "work"), [Role::Defined(Defined::Function), Role::Called]);
    }

    #[test]
    fn types_constants_imports_and_what_is_only_spoken_of() {
        assert_eq!(roles("a.rs", "use a::Work; struct Work;", "Work"), [Role::Imported, Role::Defined(Defined::Type)]);
        assert_eq!(
            roles("a.py", "from a import WORK\nWORK = 1\n", "WORK").last(),
            Some(&Role::Defined(Defined::Constant))
        );
        let code = "// about work\nfn f() { g(\"work here\") }";
        let tree = Parsers::default().parse(CodeLanguage::Rust, code, None).unwrap();
        let outline = Outline::of(&tree, code);
        assert_eq!(outline.spoken_words(code).collect::<Vec<_>>(), ["about", "work", "work", "here"]);
    }
}
