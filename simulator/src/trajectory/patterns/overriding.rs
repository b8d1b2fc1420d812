//! A method that a type promises, and the types that keep the promise.

use super::Search;
use super::places::{members, whole_item};
use crate::trajectory::Pattern;
use crate::trajectory::draft::{Change, Draft};
use crate::trajectory::outline::Occurrence;
use crate::trajectory::repository::{ParsedFile, Place};
use tree_sitter::Node;

/// A method where it is defined.
struct Method<'a> {
    place: Place,
    file: &'a ParsedFile,
    node: Node<'a>,
    /// What it is a member of: a trait, an interface, a class, an implementation.
    owner: Node<'a>,
    /// The block of the owner.
    block: Node<'a>,
}

fn method<'a>(search: &Search<'a>, place: Place) -> Option<Method<'a>> {
    let file = search.repository.files.get(place.file).filter(|file| file.is_whole)?;
    let mut node = file.node(place.name)?.parent()?;
    if let Some(above) = node.parent().filter(|above| above.kind() == "decorated_definition") {
        node = above;
    }
    let block = node.parent()?;
    let owner = match block.kind() {
        "declaration_list" | "class_body" | "interface_body" | "block" => block.parent()?,
        // Go: methods stand in the interface itself, or in the file.
        "interface_type" | "source_file" => block,
        _ => return None,
    };
    let fits = matches!(
        owner.kind(),
        "trait_item"
            | "impl_item"
            | "class_definition"
            | "class_declaration"
            | "abstract_class_declaration"
            | "interface_declaration"
            | "interface_type"
            | "source_file"
    );
    fits.then_some(Method { place, file, node, owner, block })
}

impl Method<'_> {
    /// What the owner is called, when it can promise methods.
    fn promiser(&self) -> Option<&str> {
        let owner = if self.owner.kind() == "interface_type" { self.owner.parent()? } else { self.owner };
        let fits = !matches!(owner.kind(), "impl_item" | "source_file");
        Some(self.file.slice(owner.child_by_field_name("name").filter(|_| fits)?.byte_range()))
    }

    /// Whether the head of the owner names `promiser`: `impl Promiser for`, `class A(Promiser)`, `implements Promiser`.
    /// Go's types keep promises without saying so.
    fn keeps(&self, promiser: &str) -> bool {
        if self.owner.kind() == "source_file" {
            return self.node.kind() == "method_declaration";
        }
        let head = self.file.slice(self.owner.start_byte()..self.block.start_byte());
        self.promiser() != Some(promiser) && crate::text::contains_word(head, promiser)
    }
}

pub(super) fn draft(search: &Search<'_>, name: Occurrence) -> Option<Draft> {
    let file = search.repository.files.get(search.file)?;
    let text = file.slice(name.range());
    let known = search.repository.known(text).filter(|known| !known.is_unclear)?;
    let methods: Vec<Method<'_>> =
        known.definitions.iter().map(|(place, _)| method(search, *place)).collect::<Option<_>>()?;
    let promise = methods.iter().find(|one| one.place.file == search.file && one.place.name.start == name.start)?;
    let promiser = promise.promiser()?;
    let mut keepers: Vec<&Method<'_>> = methods.iter().filter(|one| one.keeps(promiser)).collect();
    // Every definition is the promise or keeps it: else the name means two things.
    let is_one_language = methods.iter().all(|one| one.file.language() == file.language());
    if keepers.is_empty() || keepers.len() + 1 != methods.len() || !is_one_language {
        return None;
    }
    let change = |one: &Method<'_>, cause| {
        // No type is left empty: what stands for nothing is written differently in every language.
        if one.block.kind() != "source_file" && members(one.block) < 2 {
            return None;
        }
        let range = whole_item(one.file, one.node.byte_range())?;
        Some(Change { file: one.place.file, range, before: String::new(), cause })
    };
    let mut changes = vec![change(promise, None)?];
    keepers.sort_by_key(|one| (one.place.file != search.file, one.place.file, one.place.name.start));
    for keeper in keepers.iter().copied() {
        changes.push(change(keeper, Some(0))?);
    }
    let types = if keepers.len() == 1 { "one type".to_owned() } else { format!("{} types", keepers.len()) };
    let detail = format!("{promiser} gets {text}, and {types} with it");
    Some(Draft { pattern: Pattern::OverrideGeneration, detail, changes })
}
