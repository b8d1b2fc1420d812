//! Parts of a file that can be taken out of it, so that what is left is whole.

use crate::trajectory::repository::ParsedFile;
use std::ops::Range;
use tree_sitter::Node;

/// The statement around a name that does something and binds nothing, inside `body`.
pub(super) fn statement_of<'tree>(name: Node<'tree>, body: &Range<usize>) -> Option<Node<'tree>> {
    let mut node = name;
    loop {
        let above = node.parent()?;
        if above.start_byte() < body.start || above.end_byte() > body.end {
            return None;
        }
        match node.kind() {
            // A function in the function may run at any time, with the name bound again.
            "closure_expression"
            | "lambda"
            | "arrow_function"
            | "function_expression"
            | "func_literal"
            | "lambda_expression"
            | "function_definition" => return None,
            "expression_statement" => {
                let inside = node.named_child(0)?;
                let binds = inside.kind() == "assignment"
                    && inside.child_by_field_name("left").is_none_or(|left| left.kind() != "attribute");
                let leaves =
                    matches!(inside.kind(), "return_expression" | "break_expression" | "yield" | "yield_expression");
                return (!binds && !leaves).then_some(node);
            }
            kind if kind.ends_with("_statement") || kind.ends_with("_declaration") => return None,
            _ => node = above,
        }
    }
}

/// A range that begins and ends with its lines, with the line break after it; `None` when other text stands there.
pub(super) fn whole_lines(file: &ParsedFile, range: Range<usize>) -> Option<Range<usize>> {
    let start = file.slice(0..range.start).rfind('\n').map_or(0, |at| at + 1);
    let after = file.slice(range.end..file.text.len());
    let end = range.end + after.find('\n')? + 1;
    // What separates members of a type stands after them, and goes with them.
    let rest = file.slice(range.end..end).trim().trim_start_matches([';', ',']);
    (file.slice(start..range.start).trim().is_empty() && rest.is_empty()).then_some(start..end)
}

/// What begins a line that belongs to the item below it: comments, attributes, decorators, annotations.
const HEADS: &[&str] = &["//", "/*", "*", "#", "@"];

/// The lines of an item with its comments and attributes, and an empty line that stood before it, or else after it.
pub(super) fn whole_item(file: &ParsedFile, item: Range<usize>) -> Option<Range<usize>> {
    let mut range = whole_lines(file, item)?;
    let line_before = |start: usize| {
        let end = start.checked_sub(1)?;
        let first = file.slice(0..end).rfind('\n').map_or(0, |at| at + 1);
        Some((first, file.slice(first..end).trim()))
    };
    while let Some((first, line)) = line_before(range.start)
        && HEADS.iter().any(|head| line.starts_with(head))
    {
        range.start = first;
    }
    match line_before(range.start) {
        Some((first, "")) => range.start = first,
        _ => {
            let after = file.slice(range.end..file.text.len());
            let line = after
                .find('\n')
                .map(|at| at + 1)
                .filter(|end| after.get(..*end).is_some_and(|it| it.trim().is_empty()));
            range.end += line.unwrap_or(0);
        }
    }
    Some(range)
}

/// How many things stand in a block, comments apart.
pub(super) fn members(block: Node<'_>) -> usize {
    block.named_children(&mut block.walk()).filter(|node| !node.kind().ends_with("comment")).count()
}
