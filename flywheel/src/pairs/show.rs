//! `flywheel pairs show`: one pair as a difference.

use std::ffi::OsStr;
use std::io::IsTerminal as _;

use events::{ActionList, EditAction, PairText, PreferencePair, apply_actions};
use labeler::lake::{OpenTextError, open_text};
use serde_json::json;

use super::diff::{Colour, Side, difference};
use super::lake::Lake;
use super::list::Facts;
use super::rights::{Reader, Rights, said_of};
use crate::cli::{ListArgs, ReadingKeyArgs};
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::table::{fields, print, print_json, rows_text};
use crate::visible::visible;

pub(super) async fn run(
    foundation: &Foundation,
    id: &str,
    key: &ReadingKeyArgs,
    list: &ListArgs,
) -> Result<(), Failure> {
    let reader = Reader::of(foundation, key).await?;
    let pair = Lake::open(foundation).await?.find(id).await?;
    if let Some(reason) = Rights::now(foundation).await?.forbid(&pair, &pair.audience) {
        return Err(Failure::refused(said_of(id, reason)));
    }
    let text = open_text(&pair, &foundation.keys).await.map_err(|error| closed(id, error))?;
    let subject = pair.pair_id.to_string();
    reader.is_given(foundation, "pair_text_shown", &subject, &json!({ "pairs": 1 })).await?;
    if list.json {
        return print_json(&json!({ "pair": Facts::of(&pair), "text": text }));
    }
    let said = |name: &str| std::env::var_os(name).unwrap_or_default();
    let colour = colour(std::io::stdout().is_terminal(), &said("NO_COLOR"), &said("TERM"));
    print(&shown(&pair, &text, colour)?)
}

/// Colours where somebody looks at a terminal that has them and has not said no (<https://no-color.org>: by any value).
fn colour(is_terminal: bool, no_color: &OsStr, terminal: &OsStr) -> Colour {
    if is_terminal && no_color.is_empty() && terminal != "dumb" { Colour::Always } else { Colour::Never }
}

fn closed(id: &str, error: OpenTextError) -> Failure {
    match error {
        OpenTextError::Erased => Failure::refused(format!("the person of pair {id} was erased: nobody can read it")),
        error @ OpenTextError::Keys(_) => Failure::from(error),
        error => Failure::refused(format!("pair {id} can not be read: {error}")),
    }
}

/// What stands above the difference, and the difference.
fn shown(pair: &PreferencePair, text: &PairText, colour: Colour) -> Result<String, Failure> {
    let facts = rows_text(&["field", "value"], fields(&serde_json::to_value(Facts::of(pair))?), "");
    let (standing, chosen, rejected) = sides(pair, text)
        .ok_or_else(|| Failure::refused(format!("the actions of pair {} do not fit its text", pair.pair_id)))?;
    let (what, before, after) = match (&chosen, &rejected) {
        (Some(chosen), Some(rejected)) => ("- what was proposed, + what the developer wanted", rejected, chosen),
        (Some(chosen), None) => ("- what stood there, + what the developer wanted", &standing, chosen),
        (None, Some(rejected)) => ("- what stood there, + what was proposed and not wanted", &standing, rejected),
        (None, None) => return Ok(facts),
    };
    let ends = match &text.chosen {
        Some(chosen) if chosen.closed => ", and nothing more",
        Some(_) => "; what followed was not observed",
        None => "",
    };
    let difference = difference(before, after, text.context.window.first_line, colour);
    let difference = if difference.is_empty() { "  no line differs".to_owned() } else { difference };
    Ok(format!("{facts}\n\n{}\n{what}{ends}\n\n{difference}", visible(&text.context.path)))
}

/// The window with what both sides had done before, and as each side would have it.
fn sides(pair: &PreferencePair, text: &PairText) -> Option<(Side, Option<Side>, Option<Side>)> {
    let byte = pair.divergence.map(|point| usize::try_from(point.byte).unwrap_or(usize::MAX));
    let whole = |list: &[EditAction]| {
        let actions: Vec<EditAction> = text.shared.iter().chain(list).cloned().collect();
        apply_actions(text.context.window.start_byte, &text.context.window.text, &actions)
    };
    // A side without an action of its own parts where the other one acts.
    let first = |list: &Option<ActionList>| list.as_ref().and_then(|list| list.actions.first()).cloned();
    let (first_chosen, first_rejected) = (first(&text.chosen), first(&text.rejected));
    let side = |list: &Option<ActionList>, own: &Option<EditAction>, other: &Option<EditAction>| {
        let Some(list) = list else { return Some(None) };
        let parts_at = byte.and_then(|byte| {
            let (action, within) = match own {
                Some(own) => (own, byte.min(own.new_text.len())),
                None => (other.as_ref()?, 0),
            };
            Some(place_of(text, &list.actions, action)? + within)
        });
        Some(Some(Side { text: whole(&list.actions)?, parts_at }))
    };
    let chosen = side(&text.chosen, &first_chosen, &first_rejected)?;
    let rejected = side(&text.rejected, &first_rejected, &first_chosen)?;
    Some((Side { text: whole(&[])?, parts_at: None }, chosen, rejected))
}

/// Where an action's place is when those of a side before it have been applied.
fn place_of(text: &PairText, list: &[EditAction], action: &EditAction) -> Option<usize> {
    let is_before = |other: &&EditAction| other.range.end <= action.range.start && *other != action;
    let before = text.shared.iter().chain(list).filter(is_before);
    let mut place = action.range.start.checked_sub(text.context.window.start_byte)?;
    for other in before {
        place = (place + u64::try_from(other.new_text.len()).ok()?).checked_sub(other.range.len())?;
    }
    usize::try_from(place).ok()
}

#[cfg(test)]
mod tests {
    use events::{ByteRange, EditContext, PairReason, Window};

    use super::*;
    use crate::pairs::fixture::pair;

    const TEXT: &str = "let a = get_name(b);\nlet c = 1;\n";

    fn action(old_text: &str, new_text: &str) -> EditAction {
        let start = 100 + u64::try_from(TEXT.find(old_text).unwrap()).unwrap();
        EditAction {
            path: "src/a.rs".to_owned(),
            range: ByteRange::new(start, start + u64::try_from(old_text.len()).unwrap()),
            old_text: old_text.to_owned(),
            new_text: new_text.to_owned(),
        }
    }

    fn open(actions: Vec<EditAction>) -> Option<ActionList> {
        Some(ActionList { actions, closed: false })
    }

    fn text(shared: Vec<EditAction>, chosen: Option<ActionList>, rejected: Option<ActionList>) -> PairText {
        let context = EditContext {
            repository: "acme/shop".to_owned(),
            path: "src/a.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: Window { start_byte: 100, first_line: 6, text: TEXT.to_owned() },
            cursor_byte: 100,
        };
        PairText { context, shared, chosen, rejected }
    }

    #[test]
    fn a_correction_is_shown_against_the_proposal() {
        let text = text(
            vec![action("let a", "let total")],
            open(vec![action("get_name", "get_display_name")]),
            open(vec![action("get_name", "get_full_name")]),
        );
        let shown = shown(&pair(PairReason::TypedAgainst, Some(4)), &text, Colour::Never).unwrap();
        let (_, difference) =
            shown.split_once("+ what the developer wanted; what followed was not observed\n\n").unwrap();
        let expected = "     7 - let total = get_full_name(b);
                         ^ here they part
     7 + let total = get_display_name(b);
                         ^ here they part
     8   let c = 1;";
        assert_eq!(difference, expected);
        assert!(shown.contains("typed_against") && shown.contains("src/a.rs"), "{shown}");
    }

    #[test]
    fn silence_parts_where_the_other_side_acts() {
        let missed = text(Vec::new(), open(vec![action("get_name", "set_name")]), Some(ActionList::no_edit()));
        let (_, chosen, rejected) = sides(&pair(PairReason::Missed, Some(0)), &missed).unwrap();
        assert_eq!((chosen.unwrap().parts_at, rejected.unwrap().parts_at), (Some(8), Some(8)));
        let turned_down = text(Vec::new(), Some(ActionList::no_edit()), open(vec![action("get_name", "set_name")]));
        let head = shown(&pair(PairReason::Dismissed, Some(0)), &turned_down, Colour::Never).unwrap();
        assert!(head.contains("+ what the developer wanted, and nothing more\n"), "{head}");
        let kept = text(Vec::new(), open(vec![action("get_name", "set_name")]), None);
        let shown = shown(&pair(PairReason::AcceptedKept, None), &kept, Colour::Never).unwrap();
        assert!(shown.contains("- let a = get_name(b);") && shown.contains("+ let a = set_name(b);"), "{shown}");
        assert!(!shown.contains("here they part"));
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let colour = |is_terminal, no_color: &str, terminal: &str| {
            super::colour(is_terminal, OsStr::new(no_color), OsStr::new(terminal))
        };
        assert_eq!(colour(true, "", "xterm"), Colour::Always);
        assert_eq!(colour(true, "", ""), Colour::Always);
        for (is_terminal, no_color, terminal) in [(false, "", "xterm"), (true, "1", "xterm"), (true, "", "dumb")] {
            assert_eq!(colour(is_terminal, no_color, terminal), Colour::Never);
        }
    }

    #[test]
    fn actions_that_do_not_fit_are_told_and_not_shown() {
        let wrong = EditAction { old_text: "nothing".to_owned(), ..action("get_name", "x") };
        let text = text(Vec::new(), open(vec![wrong]), None);
        assert!(matches!(
            shown(&pair(PairReason::AcceptedKept, None), &text, Colour::Never),
            Err(Failure::Refused(sentence)) if sentence.contains("do not fit")
        ));
    }
}
