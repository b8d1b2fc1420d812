//! A function of one expression, which stood in the place of each of its calls.

use super::Search;
use super::places::{members, whole_item};
use super::signature::{Call, Known, known};
use crate::trajectory::Pattern;
use crate::trajectory::draft::{Change, Draft, join_lines};
use crate::trajectory::language::CodeLanguage;
use crate::trajectory::outline::{Defined, Occurrence, Role};
use crate::trajectory::repository::ParsedFile;
use tree_sitter::Node;

/// An expression of the length of a line at most: longer ones are laid out by their place.
const EXPRESSION_BYTES: usize = 100;

/// The expression that a function is, when it is nothing else.
fn expression(body: Node<'_>) -> Option<Node<'_>> {
    let block = body.named_child(0).filter(|only| only.kind() == "statement_list").unwrap_or(body);
    let only = block.named_child(0)?;
    if members(block) != 1 || block.named_child_count() != 1 {
        return None;
    }
    if only.kind() == "return_statement" {
        let value = only.named_child(0)?;
        let value = if value.kind() == "expression_list" {
            value.named_child(0).filter(|_| value.named_child_count() == 1)?
        } else {
            value
        };
        return (only.named_child_count() == 1).then_some(value);
    }
    // Rust's blocks end with their value.
    let is_value = body.kind() == "block"
        && !only.kind().ends_with("_statement")
        && !only.kind().ends_with("_item")
        && !only.kind().ends_with("_declaration");
    is_value.then_some(only)
}

/// Whether a text stands for itself wherever it is put.
fn is_simple(node: Node<'_>) -> bool {
    let kind = node.kind();
    matches!(
        kind,
        "identifier"
            | "self"
            | "this"
            | "call"
            | "call_expression"
            | "method_invocation"
            | "attribute"
            | "field_expression"
            | "member_expression"
            | "selector_expression"
            | "field_access"
            | "subscript"
            | "index_expression"
            | "parenthesized_expression"
            | "list"
            | "dictionary"
    ) || kind.ends_with("literal")
        || kind.starts_with("string")
        || matches!(kind, "integer" | "float" | "number" | "true" | "false" | "none" | "null" | "nil")
}

/// Around what need not be put in parentheses, whatever it is.
const OPEN: &[&str] = &[
    "arguments",
    "argument_list",
    "let_declaration",
    "variable_declarator",
    "assignment",
    "return_statement",
    "expression_statement",
    "block",
    "parenthesized_expression",
    "keyword_argument",
    "expression_list",
];

struct Inlined<'a> {
    file: &'a ParsedFile,
    known: &'a Known<'a>,
    value: Node<'a>,
    /// For each place of a parameter in the value: the place, and the parameter's number.
    places: Vec<(Occurrence, usize)>,
}

impl Inlined<'_> {
    /// What stands in the place of `call` without the function.
    fn change(&self, search: &Search<'_>, call: &Call) -> Option<Change> {
        let file = search.repository.files.get(call.place.file)?;
        let name = file.node(call.place.name)?;
        let mut whole = name.parent()?;
        if !matches!(whole.kind(), "call" | "call_expression" | "method_invocation") {
            // `self.name(..)`: on the value that the method itself is of.
            let receiver = ["value", "object", "operand"].iter().find_map(|field| whole.child_by_field_name(field))?;
            if !matches!(file.slice(receiver.byte_range()), "self" | "this") {
                return None;
            }
            whole = whole.parent()?;
        } else if let Some(receiver) = whole.child_by_field_name("object")
            && receiver.kind() != "this"
        {
            return None;
        }
        if !matches!(whole.kind(), "call" | "call_expression" | "method_invocation") {
            return None;
        }
        let mut text = String::new();
        let mut done = self.value.start_byte();
        for (place, number) in &self.places {
            let (element, is_named) = (*call.passed.get(*number)?)?;
            let range = call.list.get(element)?.clone();
            let argument = file.tree.root_node().descendant_for_byte_range(range.start, range.end)?;
            // What calls something may not be called as often as the parameter is used.
            let calls = matches!(argument.kind(), "call" | "call_expression" | "method_invocation");
            if is_named || calls || !is_simple(argument) || file.slice(range.clone()).contains('\n') {
                return None;
            }
            text.push_str(self.file.slice(done..place.range().start));
            text.push_str(file.slice(range));
            done = place.range().end;
        }
        text.push_str(self.file.slice(done..self.value.end_byte()));
        if !is_simple(self.value) && !whole.parent().is_some_and(|above| OPEN.contains(&above.kind())) {
            text = format!("({text})");
        }
        Some(Change { file: call.place.file, range: whole.byte_range(), before: text, cause: Some(0) })
    }
}

pub(super) fn draft(search: &Search<'_>, name: Occurrence, defined: Defined) -> Option<Draft> {
    let known = known(search, name, defined)?;
    // What another file imports is more than an expression that was given a name here.
    let is_local = !known.is_imported && known.calls.iter().all(|call| call.place.file == search.file);
    let node = known.function;
    let mut item = node;
    if let Some(above) = node.parent().filter(|above| above.kind() == "export_statement") {
        item = above;
    }
    let is_decorated = node.parent().is_some_and(|above| above.kind() == "decorated_definition");
    if !is_local || is_decorated {
        return None;
    }
    let file = known.file;
    let value = expression(node.child_by_field_name("body")?)?;
    let text = file.slice(value.byte_range());
    // What leaves or suspends the function does so in its place only.
    let leaves = text.contains('?') && file.language() == CodeLanguage::Rust;
    let suspends = ["await", "yield", "return"].iter().any(|word| crate::text::contains_word(text, word));
    let head = file.slice(node.start_byte()..name.range().start);
    let is_async = crate::text::contains_word(head, "async");
    if text.contains('\n') || text.len() > EXPRESSION_BYTES || leaves || suspends || is_async {
        return None;
    }
    let mut places = Vec::new();
    for one in file.names_in(&value.byte_range()) {
        let own =
            |parameter: &super::signature::Parameter| file.slice(parameter.name.clone()) == file.slice(one.range());
        let Some(number) = known.signature.parameters.iter().position(own) else { continue };
        match one.role {
            Role::Used => places.push((*one, number)),
            Role::Member | Role::Keyword | Role::CalledOn => {}
            _ => return None,
        }
    }
    let mut spoken = file.outline.spoken.iter().filter(|range| value.byte_range().contains(&range.start));
    let mentions = |words: &str| {
        known.signature.parameters.iter().any(|one| crate::text::contains_word(words, file.slice(one.name.clone())))
    };
    if spoken.any(|range| mentions(file.slice(range.clone()))) {
        return None;
    }
    let block = item.parent()?;
    if members(block) < 2 {
        return None;
    }
    let range = whole_item(file, item.byte_range())?;
    let mut changes = vec![Change { file: search.file, range, before: String::new(), cause: None }];
    let inlined = Inlined { file, known: &known, value, places };
    for call in &inlined.known.calls {
        changes.push(inlined.change(search, call)?);
    }
    let detail = format!("{} is extracted from {}", file.slice(name.range()), count(changes.len() - 1));
    let changes = join_lines(search.repository, changes);
    Some(Draft { pattern: Pattern::ExtractFunction, detail, changes })
}

fn count(places: usize) -> String {
    if places == 1 { "one place".to_owned() } else { format!("{places} places") }
}
