//! A parameter of one name and type in several functions, whose type was a more abstract one.

use super::Search;
use crate::random::Dice;
use crate::trajectory::Pattern;
use crate::trajectory::draft::{Change, Draft};
use crate::trajectory::language::{CodeLanguage, elements};
use crate::trajectory::outline::{Defined, Occurrence, Role};
use crate::trajectory::repository::ParsedFile;
use std::ops::Range;
use tree_sitter::Node;

/// A parameter with a type.
pub(super) struct Typed<'a> {
    name: &'a str,
    of: &'a str,
    range: Range<usize>,
}

fn typed<'a>(file: &'a ParsedFile, node: Node<'a>) -> Option<Typed<'a>> {
    let (name, of) = match node.kind() {
        "parameter" | "required_parameter" | "optional_parameter" => ("pattern", "type"),
        "parameter_declaration" | "formal_parameter" | "typed_default_parameter" => ("name", "type"),
        "typed_parameter" => ("", "type"),
        _ => return None,
    };
    let name = if name.is_empty() { node.named_child(0)? } else { node.child_by_field_name(name)? };
    let mut of = node.child_by_field_name(of)?;
    // TypeScript's annotation has the colon inside.
    if of.kind() == "type_annotation" {
        of = of.named_child(0)?;
    }
    let range = of.byte_range();
    (name.kind() == "identifier").then(|| Typed {
        name: file.slice(name.byte_range()),
        of: file.slice(range.clone()),
        range,
    })
}

/// The typed parameters of the function that a name defines.
fn parameters<'a>(file: &'a ParsedFile, name: Occurrence) -> Vec<Typed<'a>> {
    let list = file.node(name).and_then(|node| node.parent()?.child_by_field_name("parameters"));
    let nodes = list.and_then(elements).unwrap_or_default();
    nodes.into_iter().filter_map(|node| typed(file, node)).collect()
}

/// A type that says less than `of`, and which every value of `of` can be given as.
fn abstraction(language: CodeLanguage, of: &str) -> Option<String> {
    let is_name = of.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase())
        && of.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let inside = |start: &str, end: &str| of.strip_prefix(start)?.strip_suffix(end);
    match language {
        CodeLanguage::Rust => Some(match of {
            "String" => "impl Into<String>".to_owned(),
            "PathBuf" => "impl Into<PathBuf>".to_owned(),
            "&str" => "impl AsRef<str>".to_owned(),
            "&Path" => "impl AsRef<Path>".to_owned(),
            _ => format!("impl IntoIterator<Item = {}>", inside("Vec<", ">")?),
        }),
        CodeLanguage::Python => match of.split_once('[') {
            // `list[int]` is a list; `Optional[int]` is not what stands before its bracket.
            Some((
                before @ ("list" | "dict" | "set" | "tuple" | "frozenset" | "List" | "Dict" | "Set" | "Tuple"),
                _,
            )) => of.ends_with(']').then(|| before.to_owned()),
            Some(_) => None,
            None => (is_name && of != "Any").then(|| "object".to_owned()),
        },
        CodeLanguage::TypeScript | CodeLanguage::TypeScriptReact => match of.strip_suffix("[]") {
            Some("unknown" | "any") => None,
            Some(_) => Some("unknown[]".to_owned()),
            None => (is_name || matches!(of, "string" | "number" | "boolean")).then(|| "unknown".to_owned()),
        },
        CodeLanguage::Go => match of.strip_prefix("[]") {
            Some("any" | "interface{}") => None,
            Some(_) => Some("[]any".to_owned()),
            None => (of.starts_with('*') || is_name || matches!(of, "string" | "int")).then(|| "any".to_owned()),
        },
        CodeLanguage::Java => match of.split_once('<') {
            Some((before @ ("List" | "Set" | "Collection" | "Iterable" | "Optional"), inside)) => {
                (inside != "?>").then(|| format!("{before}<?>"))
            }
            Some(_) => None,
            None => (is_name && of != "Object" && of.len() > 1).then(|| "Object".to_owned()),
        },
        CodeLanguage::JavaScript => None,
    }
}

/// The typed parameters of all functions of a file.
pub(super) fn all_parameters(file: &ParsedFile) -> Vec<Typed<'_>> {
    let is_function = |name: &&Occurrence| matches!(name.role, Role::Defined(Defined::Function | Defined::Method));
    file.outline.names.iter().filter(is_function).flat_map(|name| parameters(file, *name)).collect()
}

pub(super) fn draft(search: &Search<'_>, name: Occurrence, dice: &mut Dice) -> Option<Draft> {
    let file = search.repository.files.get(search.file)?;
    let own = parameters(file, name);
    let refined = dice.pick(&own)?;
    let before = abstraction(file.language(), refined.of)?;
    let all = search.parameters.get_or_init(|| all_parameters(file));
    let same = |one: &&Typed<'_>| one.name == refined.name && one.of == refined.of;
    let mut ranges: Vec<Range<usize>> = all.iter().filter(same).map(|one| one.range.clone()).collect();
    ranges.sort_by_key(|range| range.start);
    ranges.dedup();
    // Told of the first function that has it, so that each is found once.
    if ranges.len() < 2 || ranges.first() != Some(&refined.range) {
        return None;
    }
    let change = |(number, range): (usize, Range<usize>)| Change {
        file: search.file,
        range,
        before: before.clone(),
        cause: (number > 0).then_some(0),
    };
    let changes: Vec<Change> = ranges.into_iter().enumerate().map(change).collect();
    let detail = format!("{} becomes {} where {} is passed", before, refined.of, refined.name);
    Some(Draft { pattern: Pattern::TypeRefinement, detail, changes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstraction_says_less_and_never_the_same() {
        use CodeLanguage::{Go, Java, JavaScript, Python, Rust, TypeScript};
        for (language, of, expected) in [
            (Rust, "Vec<u8>", Some("impl IntoIterator<Item = u8>")),
            (Rust, "&str", Some("impl AsRef<str>")),
            (Rust, "u8", None),
            (Python, "list[int]", Some("list")),
            (Python, "Reader", Some("object")),
            (Python, "Optional[int]", None),
            (Python, "int", None),
            (TypeScript, "Row[]", Some("unknown[]")),
            (TypeScript, "unknown", None),
            (Go, "*Store", Some("any")),
            (Go, "[]any", None),
            (Java, "List<Row>", Some("List<?>")),
            (Java, "T", None),
            (JavaScript, "Row", None),
        ] {
            assert_eq!(abstraction(language, of).as_deref(), expected, "{language} {of}");
        }
    }
}
