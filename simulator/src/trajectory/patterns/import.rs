//! A name that is used before it is imported.
//!
//! Where a name can be written in full (Rust, Python, Java), it was, and is shortened; elsewhere the statement that uses
//! it is written first, and the import after it.

use super::Search;
use super::places::{members, statement_of, whole_lines};
use super::signature::with_comma;
use crate::trajectory::Pattern;
use crate::trajectory::draft::{Change, Draft, join_lines};
use crate::trajectory::language::{CodeLanguage, elements};
use crate::trajectory::outline::{Occurrence, Role};
use crate::trajectory::repository::ParsedFile;
use std::ops::Range;
use tree_sitter::Node;

/// Most places of a name that are shortened.
const MOST_PLACES: usize = 8;
/// Most statements that come before an import.
const MOST_STATEMENTS: usize = 2;

/// The places in a file that mean what `import` brings in; `None` when that can not be told.
fn uses(file: &ParsedFile, import: Occurrence) -> Option<Vec<Occurrence>> {
    let name = file.slice(import.range());
    let mut found = Vec::new();
    for one in file.outline.names.iter().filter(|one| one.start != import.start) {
        if file.slice(one.range()) != name {
            continue;
        }
        let before = file.slice(0..one.range().start);
        match one.role {
            // A part of another name.
            Role::Member | Role::CalledOn | Role::Keyword => {}
            Role::Used | Role::Called if before.ends_with(['.', ':', '\'']) => return None,
            Role::Used | Role::Called => found.push(*one),
            Role::Defined(_) | Role::Imported | Role::Shorthand => return None,
        }
    }
    (!found.is_empty() && found.len() <= MOST_PLACES).then_some(found)
}

/// An import of one name by its full path, as a statement of its own at the top of the file.
struct Full<'a> {
    statement: Node<'a>,
    /// The name with its path.
    path: String,
    /// What makes the path known before the import.
    before: String,
}

fn full<'a>(file: &'a ParsedFile, name: Node<'a>) -> Option<Full<'a>> {
    let path = name.parent()?;
    let statement = path.parent()?;
    let text = file.slice(statement.byte_range());
    let is_top = matches!(statement.parent()?.kind(), "source_file" | "program" | "module");
    let is_last = path.child_by_field_name("name").is_some_and(|last| last.id() == name.id());
    let written = file.slice(path.byte_range());
    match (file.language(), statement.kind()) {
        (CodeLanguage::Rust, "use_declaration") => {
            let is_absolute = !["self", "super", "Self"].iter().any(|word| written.starts_with(word));
            let fits = is_top && is_last && is_absolute && text.starts_with("use ");
            fits.then(|| Full { statement, path: written.to_owned(), before: String::new() })
        }
        (CodeLanguage::Java, "import_declaration") => {
            let fits = is_top && is_last && !crate::text::contains_word(text, "static") && !text.contains('*');
            fits.then(|| Full { statement, path: written.to_owned(), before: String::new() })
        }
        (CodeLanguage::Python, "import_from_statement") => {
            let module = statement.child_by_field_name("module_name")?;
            let is_one =
                statement.named_child_count() == 2 && path.named_child_count() == 1 && module.id() != path.id();
            let module = file.slice(module.byte_range());
            let fits = is_top && is_one && !module.starts_with('.') && module != "__future__";
            fits.then(|| Full { statement, path: format!("{module}.{written}"), before: format!("import {module}\n") })
        }
        _ => None,
    }
}

/// The part of a file that imports a name, without which the other imports are whole.
fn import_of(file: &ParsedFile, name: Occurrence) -> Option<Range<usize>> {
    let mut node = file.tree.root_node().descendant_for_byte_range(name.range().start, name.range().end)?;
    // At most string content, string, specifier, list, clause, statement.
    for _ in 0..6 {
        match node.kind() {
            "import_specifier" => {
                let list = node.parent()?;
                let ranges: Vec<Range<usize>> = elements(list)?.iter().map(|node| node.byte_range()).collect();
                if node.child_by_field_name("alias").is_some() {
                    return None;
                }
                let number = ranges.iter().position(|range| *range == node.byte_range())?;
                if ranges.len() > 1 {
                    return with_comma(&ranges, number);
                }
            }
            "import_spec" if members(node.parent()?) > 1 => return whole_lines(file, node.byte_range()),
            "import_statement" | "import_declaration" => return whole_lines(file, node.byte_range()),
            _ => {}
        }
        node = node.parent()?;
    }
    None
}

/// The body of the function around a node.
fn body_around(node: Node<'_>) -> Option<Range<usize>> {
    let mut above = node.parent()?;
    loop {
        let is_function = matches!(
            above.kind(),
            "function_declaration" | "method_definition" | "method_declaration" | "generator_function_declaration"
        );
        if is_function {
            return Some(above.child_by_field_name("body")?.byte_range());
        }
        above = above.parent()?;
    }
}

pub(super) fn draft(search: &Search<'_>, name: Occurrence) -> Option<Draft> {
    let file = search.repository.files.get(search.file)?;
    let text = file.slice(name.range());
    let uses = uses(file, name)?;
    let change = |range: Range<usize>, before: String, cause| Change { file: search.file, range, before, cause };
    let mut changes = Vec::new();
    let full = file.node(name).and_then(|node| full(file, node));
    if let Some(Full { statement, path, before }) = full {
        let import = whole_lines(file, statement.byte_range())?;
        let mut uses = uses.into_iter().map(|one| one.range());
        let shortened = |range: Range<usize>, cause| change(range, path.clone(), cause);
        if before.is_empty() {
            changes.push(shortened(uses.next()?, None));
        }
        let rest = changes.len();
        changes.push(change(import, before, rest.checked_sub(1)));
        changes.extend(uses.map(|range| shortened(range, Some(rest))));
    } else if file.language().is_script() || file.language() == CodeLanguage::Go {
        let mut statements: Vec<Node<'_>> = Vec::new();
        for one in uses {
            let node = file.node(one)?;
            let statement = statement_of(node, &body_around(node)?)?;
            if !statements.iter().any(|known| known.id() == statement.id()) {
                statements.push(statement);
            }
        }
        let is_kept = statements.iter().all(|one| one.parent().is_some_and(|block| members(block) > statements.len()));
        if statements.len() > MOST_STATEMENTS || !is_kept {
            return None;
        }
        for (number, statement) in statements.iter().enumerate() {
            let cause = number.checked_sub(1).map(|_| 1);
            changes.push(change(whole_lines(file, statement.byte_range())?, String::new(), cause));
        }
        changes.insert(1, change(import_of(file, name)?, String::new(), Some(0)));
    } else {
        return None;
    }
    let detail = format!("{text} is imported");
    let changes = join_lines(search.repository, changes);
    Some(Draft { pattern: Pattern::AutoImport, detail, changes })
}
