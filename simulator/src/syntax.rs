//! What a file defines and where it uses it, from its syntax tree.
//!
//! There is no name resolution: a definition is kept only when its name is defined once in its reach (the file, or
//! the function for variables and parameters), so that the uses found by name and role are its uses.

use crate::error::{Result, SimulatorError};
use crate::source::{Language, SourceFile};
use std::collections::BTreeMap;
use std::ops::Range;
use tree_sitter::{Node, Parser, TreeCursor};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SymbolKind {
    /// A free function.
    Function,
    /// A function inside a type, trait or implementation.
    Method,
    /// A struct, enum, trait, alias or class.
    Type,
    /// A constant or static.
    Constant,
    /// A field of a struct or an attribute of an object.
    Field,
    /// A local variable.
    Variable,
    /// A parameter of a function.
    Parameter,
}

impl SymbolKind {
    /// Functions and methods: what a definition line shows with `fn` or `def`.
    #[must_use]
    pub fn is_function(self) -> bool {
        matches!(self, Self::Function | Self::Method)
    }

    fn is_local(self) -> bool {
        matches!(self, Self::Variable | Self::Parameter)
    }
}

/// A place inside one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Line, from 0.
    pub line: usize,
    /// Bytes inside the line.
    pub columns: Range<usize>,
}

/// A use of a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The name.
    pub name: Span,
    /// For calls whose argument list ends on the same line: the list with its parentheses.
    pub arguments: Option<Range<usize>>,
    /// The arguments inside the list.
    pub argument_list: Vec<Range<usize>>,
    /// Start of the expression that is called (`self.items.name(..)` starts at `self`), on the same line.
    pub expression_start: usize,
}

/// The parameter list of a function, when it stands on the definition line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The list with its parentheses.
    pub parameters: Range<usize>,
    /// The parameters that callers pass (no `self`).
    pub parameter_list: Vec<Range<usize>>,
    /// Whether the first parameter is the receiver.
    pub has_receiver: bool,
    /// Whether every parameter is an ordinary positional one.
    pub is_plain: bool,
}

/// A definition and its uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The name in the file.
    pub name: String,
    /// What it stands for.
    pub kind: SymbolKind,
    /// The name at the definition.
    pub definition: Span,
    /// Uses in the file outside the definition, in order.
    pub uses: Vec<Use>,
    /// For functions.
    pub signature: Option<Signature>,
    /// Lines of the function that a local symbol lives in.
    pub reach: Option<Range<usize>>,
}

/// A function's extent, for windows and shadowed names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionExtent {
    /// First and one past the last line.
    pub lines: Range<usize>,
    /// Names bound inside (variables and parameters), with the line of the binding.
    pub bindings: Vec<(String, usize)>,
}

/// A parsed file.
#[derive(Debug, Clone)]
pub struct IndexedFile {
    /// The file.
    pub source: SourceFile,
    /// Byte ranges of the lines, without their line feed.
    pub lines: Vec<Range<usize>>,
    /// Its definitions, in order.
    pub symbols: Vec<Symbol>,
    /// Its functions, in order.
    pub functions: Vec<FunctionExtent>,
    /// Lines that are a comment and nothing else.
    pub comment_lines: Vec<usize>,
}

impl IndexedFile {
    /// Text of a line without its line feed; empty past the end.
    #[must_use]
    pub fn line(&self, line: usize) -> &str {
        self.lines.get(line).and_then(|range| self.source.text.get(range.clone())).unwrap_or_default()
    }
}

/// Definitions on longer lines are not used: a line must fit a small prompt twice.
pub const LINE_BYTES: usize = 100;
const DEPTH_LIMIT: usize = 600;
/// Names so common that equal names are rarely the same thing.
const COMMON: &[&str] = &[
    "new", "get", "set", "len", "next", "from", "into", "fmt", "main", "default", "clone", "drop", "push", "pop",
    "iter", "read", "write", "run", "call", "test", "self", "cls", "Self", "Error", "Result", "Item", "Output", "init",
    "map", "take", "args", "kwargs", "insert", "remove", "contains", "clear", "extend", "append", "format", "join",
    "split", "close", "open", "send", "eq", "hash", "index", "deref", "build", "with", "and", "unwrap", "ok", "err",
    "some", "none", "super", "crate", "print",
];

/// Parses files into their symbols. One indexer per thread.
pub struct Indexer {
    rust: Parser,
    python: Parser,
}

impl std::fmt::Debug for Indexer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Indexer").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Definition(SymbolKind),
    Call,
    Field,
    Keyword,
    Type,
    Value,
}

struct Leaf {
    range: Range<usize>,
    row: usize,
    column: usize,
    role: Role,
    scope: usize,
    call: Option<CallShape>,
}

struct CallShape {
    start: usize,
    arguments: Range<usize>,
    list: Vec<Range<usize>>,
}

#[derive(Clone, Copy)]
struct Surroundings {
    scope: usize,
    in_type: bool,
}

#[derive(Default)]
struct Findings {
    leaves: Vec<Leaf>,
    scopes: Vec<Range<usize>>,
    signatures: BTreeMap<usize, Signature>,
    comments: Vec<usize>,
}

impl Indexer {
    /// Loads the grammars.
    ///
    /// # Errors
    /// When a grammar does not fit the parser library.
    pub fn new() -> Result<Self> {
        Ok(Self { rust: parser(Language::Rust)?, python: parser(Language::Python)? })
    }

    /// Parses one file; `None` when it does not parse well enough to be trusted.
    pub fn index(&mut self, source: SourceFile) -> Option<IndexedFile> {
        let parser = match source.language {
            Language::Rust => &mut self.rust,
            Language::Python => &mut self.python,
        };
        let tree = parser.parse(source.text.as_bytes(), None)?;
        if tree.root_node().has_error() {
            return None;
        }
        let text = source.text.clone();
        let mut findings = Findings::default();
        // Scope 0 is the file.
        findings.scopes.push(0..usize::MAX);
        let mut walk = Walk { text: &text, language: source.language, findings: &mut findings };
        walk.visit(&mut tree.walk(), Surroundings { scope: 0, in_type: false }, 0);
        let lines = line_ranges(&text);
        let symbols = symbols(&text, &lines, &findings);
        let functions = functions(&text, &findings);
        Some(IndexedFile { source, lines, symbols, functions, comment_lines: findings.comments })
    }
}

/// A parser for `language`.
pub(crate) fn parser(language: Language) -> Result<Parser> {
    let grammar = match language {
        Language::Rust => tree_sitter_rust::LANGUAGE,
        Language::Python => tree_sitter_python::LANGUAGE,
    };
    let mut parser = Parser::new();
    parser
        .set_language(&grammar.into())
        .map_err(|source| SimulatorError::Grammar { language: language.id(), source })?;
    Ok(parser)
}

fn line_ranges(text: &str) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    for (position, _) in text.match_indices('\n') {
        lines.push(start..position);
        start = position + 1;
    }
    if start < text.len() {
        lines.push(start..text.len());
    }
    lines
}

struct Walk<'a> {
    text: &'a str,
    language: Language,
    findings: &'a mut Findings,
}

impl<'a> Walk<'a> {
    /// Visits the node under the cursor. `field` names of children say what role an identifier plays.
    fn visit(&mut self, cursor: &mut TreeCursor<'a>, around: Surroundings, depth: usize) {
        let node = cursor.node();
        let mut inside = around;
        match node.kind() {
            "line_comment" | "comment" => {
                let row = node.start_position().row;
                let before = self.text.get(..node.start_byte()).and_then(|text| text.rsplit('\n').next());
                if before.is_some_and(|text| text.trim().is_empty()) {
                    self.findings.comments.push(row);
                }
                return;
            }
            "function_item" | "function_definition" => {
                self.findings.scopes.push(node.start_position().row..node.end_position().row + 1);
                inside.scope = self.findings.scopes.len() - 1;
                self.signature(node);
            }
            "impl_item" | "trait_item" | "class_definition" => inside.in_type = true,
            _ => {}
        }
        if depth > DEPTH_LIMIT || !cursor.goto_first_child() {
            return;
        }
        loop {
            let child = cursor.node();
            if is_identifier(child.kind()) {
                let role = match self.language {
                    Language::Rust => rust_role(node, cursor.field_name(), child, around),
                    Language::Python => python_role(node, cursor.field_name(), around),
                };
                self.leaf(child, role, around, inside);
            } else {
                // A nested function is in no type any more, but its own name was decided above.
                let nested = Surroundings { in_type: inside.in_type && !is_function(node.kind()), ..inside };
                self.visit(cursor, nested, depth + 1);
            }
            if !cursor.goto_next_sibling() {
                break;
            }
        }
        cursor.goto_parent();
        // Names that are called are known only from the call around them.
        if matches!(node.kind(), "call_expression" | "call") {
            self.call(node);
        }
    }

    fn leaf(&mut self, node: Node<'a>, role: Role, around: Surroundings, inside: Surroundings) {
        let position = node.start_position();
        // The name of a function belongs to the scope around it, its parameters to its own.
        let scope =
            if matches!(role, Role::Definition(kind) if kind.is_function()) { around.scope } else { inside.scope };
        let (row, column) = (position.row, position.column);
        self.findings.leaves.push(Leaf { range: node.byte_range(), row, column, role, scope, call: None });
    }

    fn call(&mut self, node: Node<'a>) {
        let Some(function) = node.child_by_field_name("function") else { return };
        let Some(arguments) = node.child_by_field_name("arguments") else { return };
        let name = match function.kind() {
            "identifier" => Some(function),
            "scoped_identifier" => function.child_by_field_name("name"),
            "field_expression" => function.child_by_field_name("field"),
            "attribute" => function.child_by_field_name("attribute"),
            _ => None,
        };
        let Some(name) = name else { return };
        let range = name.byte_range();
        // Leaves are found in text order, but children of a call come before the call: search from the end.
        let Some(leaf) = self.findings.leaves.iter_mut().rev().find(|leaf| leaf.range == range) else { return };
        leaf.role = Role::Call;
        let row = name.start_position().row;
        if arguments.end_position().row == row && arguments.kind() != "generator_expression" {
            let mut walker = arguments.walk();
            let list = arguments.named_children(&mut walker).map(|argument| argument.byte_range()).collect();
            let start = if node.start_position().row == row { node.start_byte() } else { range.start };
            leaf.call = Some(CallShape { start, arguments: arguments.byte_range(), list });
        }
    }

    fn signature(&mut self, node: Node<'a>) {
        let (Some(name), Some(parameters)) = (node.child_by_field_name("name"), node.child_by_field_name("parameters"))
        else {
            return;
        };
        let row = name.start_position().row;
        if parameters.start_position().row != row || parameters.end_position().row != row {
            return;
        }
        let start = name.start_byte() - name.start_position().column;
        let mut walker = parameters.walk();
        let (mut list, mut has_receiver, mut is_plain) = (Vec::new(), false, true);
        for (index, parameter) in parameters.named_children(&mut walker).enumerate() {
            let text = self.text.get(parameter.byte_range()).unwrap_or_default();
            let receiver = parameter.kind() == "self_parameter" || (index == 0 && matches!(text, "self" | "cls"));
            is_plain &= receiver || matches!(parameter.kind(), "parameter" | "identifier" | "typed_parameter");
            if receiver {
                has_receiver = true;
            } else {
                list.push(parameter.start_byte() - start..parameter.end_byte() - start);
            }
        }
        let range = parameters.start_byte() - start..parameters.end_byte() - start;
        let signature = Signature { parameters: range, parameter_list: list, has_receiver, is_plain };
        self.findings.signatures.insert(name.start_byte(), signature);
    }
}

fn is_identifier(kind: &str) -> bool {
    matches!(kind, "identifier" | "type_identifier" | "field_identifier" | "shorthand_field_identifier")
}

fn is_function(kind: &str) -> bool {
    matches!(kind, "function_item" | "function_definition")
}

fn rust_role(parent: Node<'_>, field: Option<&str>, node: Node<'_>, around: Surroundings) -> Role {
    let function = if around.in_type { SymbolKind::Method } else { SymbolKind::Function };
    match (parent.kind(), field) {
        ("function_item" | "function_signature_item", Some("name")) => Role::Definition(function),
        ("struct_item" | "enum_item" | "trait_item" | "type_item" | "union_item", Some("name")) => {
            Role::Definition(SymbolKind::Type)
        }
        ("const_item" | "static_item", Some("name")) => Role::Definition(SymbolKind::Constant),
        ("field_declaration", Some("name")) => Role::Definition(SymbolKind::Field),
        ("let_declaration", Some("pattern")) => Role::Definition(SymbolKind::Variable),
        ("parameter", Some("pattern")) => Role::Definition(SymbolKind::Parameter),
        ("mut_pattern", _) => Role::Definition(SymbolKind::Variable),
        ("field_expression", Some("field")) | ("field_initializer", Some("field")) => Role::Field,
        // `Point { x }` and patterns bind or copy under one name: such a use cannot follow a rename by itself.
        _ if node.kind() == "shorthand_field_identifier" => Role::Keyword,
        _ if node.kind() == "type_identifier" => Role::Type,
        _ => Role::Value,
    }
}

fn python_role(parent: Node<'_>, field: Option<&str>, around: Surroundings) -> Role {
    let function = if around.in_type { SymbolKind::Method } else { SymbolKind::Function };
    match (parent.kind(), field) {
        ("function_definition", Some("name")) => Role::Definition(function),
        ("class_definition", Some("name")) => Role::Definition(SymbolKind::Type),
        ("parameters" | "typed_parameter", _) => Role::Definition(SymbolKind::Parameter),
        ("default_parameter" | "typed_default_parameter", Some("name")) => Role::Definition(SymbolKind::Parameter),
        ("assignment", Some("left")) if around.scope != 0 => Role::Definition(SymbolKind::Variable),
        ("assignment", Some("left")) if around.in_type => Role::Definition(SymbolKind::Field),
        ("assignment", Some("left")) => Role::Definition(SymbolKind::Constant),
        ("attribute", Some("attribute")) => {
            // The first `self.name = ...` of a file stands for the attribute's definition.
            let assigned = parent.parent().filter(|above| above.kind() == "assignment");
            let left = assigned.and_then(|above| above.child_by_field_name("left"));
            let on_self = parent.child_by_field_name("object").is_some_and(|object| object.byte_range().len() == 4);
            if left.is_some_and(|left| left.id() == parent.id()) && on_self {
                Role::Definition(SymbolKind::Field)
            } else {
                Role::Field
            }
        }
        ("keyword_argument", Some("name")) => Role::Keyword,
        _ => Role::Value,
    }
}

fn functions(text: &str, findings: &Findings) -> Vec<FunctionExtent> {
    let mut extents: Vec<FunctionExtent> = (findings.scopes.iter().skip(1))
        .map(|lines| FunctionExtent { lines: lines.clone(), bindings: Vec::new() })
        .collect();
    for leaf in &findings.leaves {
        if let (Role::Definition(kind), Some(scope)) = (leaf.role, leaf.scope.checked_sub(1))
            && kind.is_local()
            && let (Some(extent), Some(name)) = (extents.get_mut(scope), text.get(leaf.range.clone()))
        {
            extent.bindings.push((name.to_owned(), leaf.row));
        }
    }
    extents
}

fn symbols(text: &str, lines: &[Range<usize>], findings: &Findings) -> Vec<Symbol> {
    let mut by_name: BTreeMap<&str, Vec<&Leaf>> = BTreeMap::new();
    for leaf in &findings.leaves {
        if let Some(name) = text.get(leaf.range.clone()) {
            by_name.entry(name).or_default().push(leaf);
        }
    }
    let mut symbols = Vec::new();
    for (name, mut leaves) in by_name {
        if name.len() < 3 || name.starts_with("__") || !name.is_ascii() || COMMON.contains(&name) {
            continue;
        }
        leaves.sort_by_key(|leaf| leaf.range.start);
        for (index, leaf) in leaves.iter().enumerate() {
            let Role::Definition(kind) = leaf.role else { continue };
            let same_reach = |other: &Leaf| !kind.is_local() || other.scope == leaf.scope;
            let rivals = leaves.iter().enumerate().filter(|(position, other)| {
                // Attributes are assigned again and again: only the first assignment is the definition.
                let repeated = matches!(other.role, Role::Definition(of) if of == kind) && kind == SymbolKind::Field;
                let defines = matches!(other.role, Role::Definition(_));
                *position != index && same_reach(other) && defines && !(repeated && *position > index)
            });
            if rivals.count() > 0 || lines.get(leaf.row).is_none_or(|line| line.len() > LINE_BYTES) {
                continue;
            }
            let uses: Vec<Use> = (leaves.iter().enumerate())
                .filter(|(position, other)| *position != index && same_reach(other) && fits(kind, other.role))
                .filter(|(_, other)| other.row != leaf.row)
                .filter_map(|(_, other)| use_of(other, lines))
                .collect();
            if uses.is_empty() {
                continue;
            }
            let reach = if kind.is_local() { findings.scopes.get(leaf.scope).cloned() } else { None };
            symbols.push(Symbol {
                name: name.to_owned(),
                kind,
                definition: Span { line: leaf.row, columns: leaf.column..leaf.column + name.len() },
                uses,
                signature: findings.signatures.get(&leaf.range.start).cloned(),
                reach,
            });
        }
    }
    symbols.sort_by_key(|symbol| (symbol.definition.line, symbol.definition.columns.start));
    symbols
}

/// Whether a leaf in this role can be a use of a symbol of this kind.
fn fits(kind: SymbolKind, role: Role) -> bool {
    match kind {
        SymbolKind::Function | SymbolKind::Method => role == Role::Call,
        SymbolKind::Type => matches!(role, Role::Type | Role::Value | Role::Call),
        SymbolKind::Constant | SymbolKind::Variable | SymbolKind::Parameter => role == Role::Value,
        SymbolKind::Field => matches!(role, Role::Field | Role::Definition(SymbolKind::Field)),
    }
}

fn use_of(leaf: &Leaf, lines: &[Range<usize>]) -> Option<Use> {
    let line = lines.get(leaf.row)?;
    let inside = |range: &Range<usize>| Some(range.start.checked_sub(line.start)?..range.end.checked_sub(line.start)?);
    let columns = inside(&leaf.range)?;
    let (mut arguments, mut argument_list, mut expression_start) = (None, Vec::new(), columns.start);
    if let Some(call) = &leaf.call {
        arguments = Some(inside(&call.arguments)?);
        argument_list = call.list.iter().filter_map(inside).collect();
        expression_start = call.start.checked_sub(line.start)?;
    }
    Some(Use { name: Span { line: leaf.row, columns }, arguments, argument_list, expression_start })
}
