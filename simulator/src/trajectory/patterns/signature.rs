//! A function whose parameters change, what that does to its body, and all its calls.
//!
//! Two changes can be taken back without inventing anything. *Exchanged*: two neighbouring parameters stood the other
//! way round, in the signature and in each call. *Added*: a parameter was not there, nor the arguments for it; in the
//! body either the statements that only it is for were not there, or the constant that a caller passes stood in its
//! place.

use super::Search;
use super::places::{members, statement_of, whole_lines};
use crate::random::Dice;
use crate::trajectory::Pattern;
use crate::trajectory::draft::{Change, Draft, join_lines};
use crate::trajectory::language::{CodeLanguage, call_of, elements};
use crate::trajectory::outline::{Defined, Occurrence, Role};
use crate::trajectory::repository::{ParsedFile, Place, Repository};
use std::ops::Range;
use tree_sitter::Node;

/// Most places of a parameter in a body that are put together from a constant.
const MOST_PLACES: usize = 3;
/// Most statements of a body that only the new parameter is for.
const MOST_STATEMENTS: usize = 3;

/// Around what is only a value: a constant can stand there in every language.
const VALUES: &[&str] = &[
    "arguments",
    "argument_list",
    "keyword_argument",
    "binary_expression",
    "binary_operator",
    "comparison_operator",
    "boolean_operator",
    "not_operator",
    "parenthesized_expression",
    "return_statement",
    "return_expression",
];

/// A parameter that callers pass by its place.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) range: Range<usize>,
    pub(super) name: Range<usize>,
    pub(super) has_default: bool,
}

#[derive(Debug)]
pub(super) struct Signature {
    /// The receiver too, when it stands in the list.
    pub(super) list: Vec<Range<usize>>,
    /// How many of the list callers do not pass: the receiver.
    pub(super) skipped: usize,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Range<usize>,
}

/// A call: the elements of its list, and which of them are for which parameter.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) place: Place,
    pub(super) list: Vec<Range<usize>>,
    /// For each parameter the element that is passed for it, and whether it is named there.
    pub(super) passed: Vec<Option<(usize, bool)>>,
}

pub(super) fn parameter(node: Node<'_>, language: CodeLanguage) -> Option<Parameter> {
    let field = |name: &str| node.child_by_field_name(name);
    let (name, has_default) = match (language, node.kind()) {
        (CodeLanguage::Rust, "parameter") => (field("pattern")?, false),
        (CodeLanguage::Python | CodeLanguage::JavaScript, "identifier") => (node, false),
        (CodeLanguage::Python, "typed_parameter") => (node.named_child(0)?, false),
        (CodeLanguage::Python, "default_parameter" | "typed_default_parameter") => (field("name")?, true),
        (CodeLanguage::JavaScript, "assignment_pattern") => (field("left")?, true),
        (CodeLanguage::TypeScript | CodeLanguage::TypeScriptReact, "required_parameter") => {
            (field("pattern")?, field("value").is_some())
        }
        (CodeLanguage::TypeScript | CodeLanguage::TypeScriptReact, "optional_parameter") => (field("pattern")?, true),
        (CodeLanguage::Go, "parameter_declaration") => {
            // `a, b int` declares two at once.
            let names = node.children_by_field_name("name", &mut node.walk()).count();
            if names != 1 {
                return None;
            }
            (field("name")?, false)
        }
        (CodeLanguage::Java, "formal_parameter") => (field("name")?, false),
        _ => return None,
    };
    (name.kind() == "identifier").then(|| Parameter { range: node.byte_range(), name: name.byte_range(), has_default })
}

pub(super) fn signature(file: &ParsedFile, function: Node<'_>, defined: Defined) -> Option<Signature> {
    let language = file.language();
    let nodes = elements(function.child_by_field_name("parameters")?)?;
    let is_receiver = nodes.first().is_some_and(|first| {
        first.kind() == "self_parameter"
            || (language == CodeLanguage::Python
                && defined == Defined::Method
                && matches!(file.slice(first.byte_range()), "self" | "cls"))
    });
    let skipped = usize::from(is_receiver);
    let parameters: Vec<Parameter> =
        nodes.iter().skip(skipped).map(|node| parameter(*node, language)).collect::<Option<_>>()?;
    let list = nodes.iter().map(|node| node.byte_range()).collect();
    Some(Signature { list, skipped, parameters, body: function.child_by_field_name("body")?.byte_range() })
}

/// What a call in `file` passes for each parameter of a function in `defining`; `None` when that can not be told.
pub(super) fn call(file: &ParsedFile, place: Place, (defining, signature): (&ParsedFile, &Signature)) -> Option<Call> {
    let found = call_of(file.node(place.name)?)?;
    let nodes = elements(found.arguments)?;
    let mut passed = vec![None; signature.parameters.len()];
    for (number, node) in nodes.iter().enumerate() {
        let (slot, is_named) = match node.kind() {
            "keyword_argument" => {
                let name = file.slice(node.child_by_field_name("name")?.byte_range());
                let own = |parameter: &Parameter| defining.slice(parameter.name.clone()) == name;
                (signature.parameters.iter().position(own)?, true)
            }
            kind if kind.contains("splat") || kind.contains("spread") || kind.contains("variadic") => return None,
            "generator_expression" => return None,
            _ => (number, false),
        };
        let slot = passed.get_mut(slot)?;
        if slot.replace((number, is_named)).is_some() {
            return None;
        }
    }
    let is_complete =
        signature.parameters.iter().zip(&passed).all(|(parameter, passed)| parameter.has_default || passed.is_some());
    let list = nodes.iter().map(|node| node.byte_range()).collect();
    is_complete.then_some(Call { place, list, passed })
}

/// The part of a list that has to go with element `number`, comma included.
pub(super) fn with_comma(list: &[Range<usize>], number: usize) -> Option<Range<usize>> {
    let element = list.get(number)?;
    if let Some(before) = number.checked_sub(1).and_then(|before| list.get(before)) {
        return Some(before.end..element.end);
    }
    match list.get(1) {
        Some(next) => Some(element.start..next.start),
        None => Some(element.clone()),
    }
}

/// A function that the repository defines once, here, and all its calls, which can all be told.
pub(super) struct Known<'a> {
    pub(super) file: &'a ParsedFile,
    /// The node of the definition.
    pub(super) function: Node<'a>,
    pub(super) signature: Signature,
    /// Those of its own file first, in text order.
    pub(super) calls: Vec<Call>,
    /// Whether a file imports it.
    pub(super) is_imported: bool,
}

pub(super) fn known<'a>(search: &Search<'a>, name: Occurrence, defined: Defined) -> Option<Known<'a>> {
    if !matches!(defined, Defined::Function | Defined::Method) {
        return None;
    }
    let repository = search.repository;
    let file = repository.files.get(search.file)?;
    let known = repository.known(file.slice(name.range()))?;
    let definition = known.definition()?;
    // Text that speaks of the function may stay as it is; other uses than calls may not.
    let of_call = |role| match defined {
        Defined::Method => matches!(role, Role::Called | Role::CalledOn),
        _ => matches!(role, Role::Called | Role::Imported),
    };
    let is_called = known.places.iter().all(|place| of_call(place.name.role))
        && repository.is_of_one_language(known, file.language())
        && !known.is_unclear;
    if definition.file != search.file || definition.name.start != name.start || !is_called {
        return None;
    }
    let function = file.node(name)?.parent()?;
    let signature = signature(file, function, defined)?;
    let mut calls = Vec::new();
    for place in known.places.iter().filter(|place| place.name.role != Role::Imported) {
        // A call in the function itself would change with its body.
        let is_inside = place.file == search.file && signature.body.contains(&(place.name.start as usize));
        // Rust's `Type::method(value, ..)` passes the receiver too.
        let passes_receiver = defined == Defined::Method && place.name.role == Role::Called && signature.skipped > 0;
        if is_inside || passes_receiver {
            return None;
        }
        calls.push(call(repository.files.get(place.file)?, *place, (file, &signature))?);
    }
    calls.sort_by_key(|call| (call.place.file != search.file, call.place.file, call.place.name.start));
    let is_imported = known.places.iter().any(|place| place.name.role == Role::Imported);
    (!calls.is_empty()).then_some(Known { file, function, signature, calls, is_imported })
}

pub(super) fn draft(search: &Search<'_>, name: Occurrence, defined: Defined, dice: &mut Dice) -> Option<Draft> {
    let Known { file, signature, calls, .. } = known(search, name, defined)?;
    let repository = search.repository;
    let change = Signing {
        repository,
        number: search.file,
        file,
        function: file.slice(name.range()),
        signature: &signature,
        calls: &calls,
    };
    let mut order: Vec<usize> = (0..signature.parameters.len()).collect();
    dice.shuffle(&mut order);
    let added = || order.iter().find_map(|number| change.added(*number));
    let exchanged = || order.iter().find_map(|number| change.exchanged(*number));
    // What is rarer is tried first: nearly every function has two parameters that could stand the other way round.
    let draft = added().or_else(exchanged)?;
    Some(Draft { changes: join_lines(repository, draft.changes), ..draft })
}

/// A function whose signature is to be changed.
struct Signing<'a> {
    repository: &'a Repository,
    /// Number of the file.
    number: usize,
    file: &'a ParsedFile,
    function: &'a str,
    signature: &'a Signature,
    calls: &'a [Call],
}

impl Signing<'_> {
    fn change(&self, file: usize, range: Range<usize>, before: String, cause: Option<usize>) -> Change {
        Change { file, range, before, cause }
    }

    /// Parameters `number` and the next one stood the other way round.
    fn exchanged(&self, number: usize) -> Option<Draft> {
        let left = self.signature.parameters.get(number)?;
        let right = self.signature.parameters.get(number + 1)?;
        if left.has_default || right.has_default {
            return None;
        }
        let range = left.range.start..right.range.end;
        let swapped = swap(self.file, &left.range, &right.range);
        let mut changes = vec![self.change(self.number, range, swapped, None)];
        for call in self.calls {
            let (Some((first, first_named)), Some((second, second_named))) =
                (*call.passed.get(number)?, *call.passed.get(number + 1)?)
            else {
                return None;
            };
            // Named arguments stand in any order.
            if first_named && second_named {
                continue;
            }
            if first_named || second_named {
                return None;
            }
            let (first, second) = (call.list.get(first)?, call.list.get(second)?);
            let file = self.repository.files.get(call.place.file)?;
            let before = swap(file, first, second);
            if before != file.slice(first.start..second.end) {
                changes.push(self.change(call.place.file, first.start..second.end, before, Some(0)));
            }
        }
        let name = |parameter: &Parameter| self.file.slice(parameter.name.clone()).to_owned();
        let detail = format!("{} takes {} before {}", self.function, name(left), name(right));
        (changes.len() >= 2).then_some(Draft { pattern: Pattern::SignatureChange, detail, changes })
    }

    /// Parameter `number` was not there.
    fn added(&self, number: usize) -> Option<Draft> {
        let parameter = self.signature.parameters.get(number)?;
        let range = with_comma(&self.signature.list, number + self.signature.skipped)?;
        let mut changes = vec![self.change(self.number, range, String::new(), None)];
        let body = self.without_statements(parameter).or_else(|| self.with_constant(parameter, number))?;
        changes.extend(body);
        let in_body = changes.len();
        for call in self.calls {
            if let Some((element, _)) = *call.passed.get(number)? {
                let range = with_comma(&call.list, element)?;
                changes.push(self.change(call.place.file, range, String::new(), Some(0)));
            }
        }
        let detail = format!("{} gets {}", self.function, self.file.slice(parameter.range.clone()));
        (changes.len() > in_body).then_some(Draft { pattern: Pattern::SignatureChange, detail, changes })
    }

    /// The places of a parameter in the body; none when there are none, or when a comment or string of the body may
    /// mean it (`"{name}"` does in Rust).
    fn uses(&self, parameter: &Parameter) -> Option<Vec<Occurrence>> {
        let name = self.file.slice(parameter.name.clone());
        let body = &self.signature.body;
        let spoken = &self.file.outline.spoken;
        let mut inside = spoken.iter().filter(|range| range.start >= body.start && range.end <= body.end);
        if inside.any(|range| crate::text::contains_word(self.file.slice(range.clone()), name)) {
            return None;
        }
        // Fields and arguments of the same name are something else.
        let is_meant = |one: &&Occurrence| {
            !matches!(one.role, Role::Member | Role::CalledOn | Role::Keyword) && self.file.slice(one.range()) == name
        };
        let uses: Vec<Occurrence> = self.file.names_in(body).iter().filter(is_meant).copied().collect();
        // Where it is bound again, or stands for a field too, the place can not be taken back alone.
        let plain = |one: &Occurrence| matches!(one.role, Role::Used | Role::Called);
        (!uses.is_empty() && uses.iter().all(plain)).then_some(uses)
    }

    /// The body without the statements that use the parameter, when they are whole lines that bind nothing.
    fn without_statements(&self, parameter: &Parameter) -> Option<Vec<Change>> {
        let mut statements: Vec<Node<'_>> = Vec::new();
        for place in self.uses(parameter)? {
            let statement = statement_of(self.file.node(place)?, &self.signature.body)?;
            if !statements.iter().any(|one| one.id() == statement.id()) {
                statements.push(statement);
            }
        }
        let mut changes = Vec::new();
        for statement in &statements {
            let block = statement.parent()?;
            // A block is not left empty.
            if members(block) <= statements.len() {
                return None;
            }
            let range = whole_lines(self.file, statement.byte_range())?;
            changes.push(self.change(self.number, range, String::new(), Some(0)));
        }
        changes.sort_by_key(|change| change.range.start);
        (changes.len() <= MOST_STATEMENTS).then_some(changes)
    }

    /// The body with the constant that the first call passes in the place of the parameter.
    fn with_constant(&self, parameter: &Parameter, number: usize) -> Option<Vec<Change>> {
        let uses = self.uses(parameter)?;
        let call = self.calls.first()?;
        let (element, is_named) = (*call.passed.get(number)?)?;
        let file = self.repository.files.get(call.place.file)?;
        let text = file.slice(call.list.get(element)?.clone());
        let constant = if is_named { text.split_once('=')?.1.trim() } else { text };
        if uses.len() > MOST_PLACES || !is_constant(constant) {
            return None;
        }
        let change = |one: Occurrence| self.change(self.number, one.range(), constant.to_owned(), Some(0));
        let is_value = |one: &Occurrence| {
            let above = self.file.node(*one).and_then(|node| node.parent());
            one.role == Role::Used && above.is_some_and(|above| VALUES.contains(&above.kind()))
        };
        if !uses.iter().all(is_value) {
            return None;
        }
        Some(uses.into_iter().map(change).collect())
    }
}

/// The text from `left` to `right` with the two exchanged.
fn swap(file: &ParsedFile, left: &Range<usize>, right: &Range<usize>) -> String {
    let part = |range: Range<usize>| file.slice(range);
    format!("{}{}{}", part(right.clone()), part(left.end..right.start), part(left.clone()))
}

/// A literal that means the same in every function: a number, a truth value, nothing, a short text.
fn is_constant(text: &str) -> bool {
    let is_number = text.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.');
    let quote = text.chars().next().filter(|first| matches!(first, '"' | '\''));
    let is_text = quote.is_some_and(|quote| {
        let inside =
            text.get(1..text.len() - 1).filter(|_| text.len() >= 2 && text.len() <= 40 && text.ends_with(quote));
        inside.is_some_and(|inside| !inside.contains([quote, '\\', '\n', '{']))
    });
    is_number || is_text || matches!(text, "true" | "false" | "True" | "False" | "None" | "null" | "nil")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_mean_the_same_everywhere() {
        for text in ["0", "1_000", "2.5", "true", "None", "\"utf-8\"", "'w'"] {
            assert!(is_constant(text), "{text}");
        }
        for text in ["x", "f(1)", "a.b", "\"{x}\"", "\"a\" + \"b\"", "\"", "-x", "self", "", "1 + 1"] {
            assert!(!is_constant(text), "{text}");
        }
    }

    #[test]
    fn an_element_goes_with_its_comma() {
        let list = [1..2, 4..6, 8..9];
        assert_eq!(with_comma(&list, 0), Some(1..4));
        assert_eq!(with_comma(&list, 1), Some(2..6));
        assert_eq!(with_comma(&list, 2), Some(6..9));
        assert_eq!(with_comma(&list[..1], 0), Some(1..2));
        assert_eq!(with_comma(&list, 3), None);
    }
}
