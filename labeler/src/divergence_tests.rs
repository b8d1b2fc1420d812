use super::*;
use events::{ByteRange, Window};
use proptest::prelude::*;

const START: u64 = 100;

fn context(text: &str) -> EditContext {
    EditContext {
        repository: "r".to_owned(),
        path: "p".to_owned(),
        language: "rust".to_owned(),
        recent_edits: Vec::new(),
        window: Window { start_byte: START, first_line: 3, text: text.to_owned() },
        cursor_byte: START,
    }
}

fn action(text: &str, start: usize, end: usize, new_text: &str) -> EditAction {
    EditAction {
        path: "p".to_owned(),
        range: ByteRange::new(START + start as u64, START + end as u64),
        old_text: text[start..end].to_owned(),
        new_text: new_text.to_owned(),
    }
}

fn replace(text: &str, old: &str, new_text: &str) -> EditAction {
    let start = text.find(old).unwrap();
    action(text, start, start + old.len(), new_text)
}

fn open(actions: Vec<EditAction>) -> ActionList {
    ActionList { actions, closed: false }
}

fn closed(actions: Vec<EditAction>) -> ActionList {
    ActionList { actions, closed: true }
}

fn news(list: &ActionList) -> Vec<&str> {
    list.actions.iter().map(|action| action.new_text.as_str()).collect()
}

const TEXT: &str = "let a = get_name(user);\nlet b = get_name(other);\n";

#[test]
fn parts_at_the_first_differing_byte_of_the_first_differing_action() {
    let context = context(TEXT);
    let chosen = open(vec![replace(TEXT, "get_name(user)", "fetch_name(user)")]);
    let rejected = open(vec![replace(TEXT, "get_name", "fetch_title"), replace(TEXT, "other", "another")]);
    let parted = divergence(&context, &chosen, &rejected).unwrap();
    assert_eq!(parted.point, DivergencePoint { action_index: 0, byte: 6 });
    assert_eq!(news(&parted.chosen), ["fetch_name"]);
    assert_eq!(news(&parted.rejected), ["fetch_title", "another"]);
    assert!(parted.shared.is_empty());
}

#[test]
fn what_both_do_is_shared_and_order_is_no_divergence() {
    let context = context(TEXT);
    let first = replace(TEXT, "user", "owner");
    let second = replace(TEXT, "other", "another");
    let chosen = closed(vec![first.clone(), second.clone()]);
    assert_eq!(divergence(&context, &chosen, &closed(vec![second.clone(), first.clone()])), None);
    let rejected = open(vec![second.clone(), replace(TEXT, "user", "tenant")]);
    let parted = divergence(&context, &chosen, &rejected).unwrap();
    assert_eq!(parted.shared, [second]);
    assert_eq!(parted.point, DivergencePoint { action_index: 1, byte: 0 });
    assert_eq!(news(&parted.chosen), ["owner"]);
    assert_eq!(news(&parted.rejected), ["tenant"]);
}

#[test]
fn stop_needs_evidence_and_no_edit_is_a_decision() {
    let context = context(TEXT);
    let first = replace(TEXT, "user", "owner");
    let second = replace(TEXT, "other", "another");
    let more = open(vec![first.clone(), second.clone()]);
    assert_eq!(divergence(&context, &open(vec![first.clone()]), &more), None, "the developer may have gone on");
    let parted = divergence(&context, &closed(vec![first.clone()]), &more).unwrap();
    assert_eq!((parted.shared.len(), parted.chosen.is_no_edit(), parted.chosen.closed), (1, true, true));
    assert_eq!(parted.point, DivergencePoint { action_index: 1, byte: 0 });
    let missed = divergence(&context, &open(vec![first]), &ActionList::no_edit()).unwrap();
    assert_eq!(missed.point, DivergencePoint { action_index: 0, byte: 0 });
    assert_eq!(news(&missed.chosen), ["owner"]);
    assert!(missed.rejected.is_no_edit() && missed.rejected.closed);
}

#[test]
fn a_character_is_never_cut() {
    assert_eq!(first_difference("aé", "aè"), 1);
    assert_eq!(first_difference("ab", "abc"), 2);
    assert_eq!(first_difference("", "x"), 0);
}

#[test]
fn what_does_not_fit_has_no_divergence() {
    let context = context(TEXT);
    let good = replace(TEXT, "user", "owner");
    let elsewhere = EditAction { path: "q".to_owned(), ..good.clone() };
    let stale = EditAction { old_text: "uses".to_owned(), ..good.clone() };
    for bad in [elsewhere, stale] {
        assert_eq!(divergence(&context, &open(vec![bad.clone()]), &ActionList::no_edit()), None);
        assert_eq!(divergence(&context, &closed(vec![]), &open(vec![bad])), None);
    }
}

/// An edit script over words: for each word keep it, or replace it. Written as actions at random granularity.
#[derive(Debug, Clone)]
struct Script {
    words: Vec<String>,
    results: Vec<String>,
}

fn base_of(words: &[String]) -> String {
    words.join(" ")
}

/// The script's actions, cutting the text at the words where `cut` says so; unchanged pieces are left out.
fn actions_of(script: &Script, cuts: &[bool]) -> Vec<EditAction> {
    let base = base_of(&script.words);
    let mut actions = Vec::new();
    let mut place = 0;
    let mut piece: Option<(usize, String)> = None;
    for (index, (word, result)) in script.words.iter().zip(&script.results).enumerate() {
        let gap = if index == 0 { "" } else { " " };
        let starts_piece = index == 0 || cuts[index % cuts.len()];
        if starts_piece && let Some((start, new_text)) = piece.take() {
            push_changed(&mut actions, &base, start, place, new_text);
        }
        let (_, text) = piece.get_or_insert_with(|| (if index == 0 { 0 } else { place + 1 }, String::new()));
        if !starts_piece {
            text.push_str(gap);
        }
        text.push_str(result);
        place += gap.len() + word.len();
    }
    if let Some((start, new_text)) = piece {
        push_changed(&mut actions, &base, start, place, new_text);
    }
    actions
}

fn push_changed(actions: &mut Vec<EditAction>, base: &str, start: usize, end: usize, new_text: String) {
    if base[start..end] != new_text {
        actions.push(action(base, start, end, &new_text));
    }
}

fn script() -> impl Strategy<Value = (Vec<String>, Vec<String>, Vec<String>)> {
    prop::collection::vec(("[abé]{1,3}", "[abé(,]{1,4}", "[abé(,]{1,4}", 0..3_u8, 0..3_u8), 1..7).prop_map(|words| {
        let base = words.iter().map(|word| word.0.clone()).collect();
        let side = |pick: fn(&(String, String, String, u8, u8)) -> String| words.iter().map(pick).collect();
        (
            base,
            side(|word| if word.3 == 0 { word.1.clone() } else { word.0.clone() }),
            side(|word| {
                if word.4 == 0 {
                    word.2.clone()
                } else if word.4 == 1 {
                    word.1.clone()
                } else {
                    word.0.clone()
                }
            }),
        )
    })
}

/// Slow and obvious: the first byte at which the two results differ, told by the texts alone.
fn results(context: &EditContext, chosen: &[EditAction], rejected: &[EditAction]) -> (String, String) {
    let apply = |actions| apply_actions(START, &context.window.text, actions).unwrap();
    (apply(chosen), apply(rejected))
}

proptest! {
    /// How a side is cut into actions does not matter.
    #[test]
    fn invariant_under_splitting_and_merging(
        (words, chosen, rejected) in script(),
        cuts in prop::collection::vec(any::<bool>(), 4), other_cuts in prop::collection::vec(any::<bool>(), 4),
        chosen_closed in any::<bool>(), rejected_closed in any::<bool>(),
    ) {
        let context = context(&base_of(&words));
        let chosen = Script { words: words.clone(), results: chosen };
        let rejected = Script { words, results: rejected };
        let parted = |chosen_cuts: &[bool], rejected_cuts: &[bool]| {
            let chosen = ActionList { actions: actions_of(&chosen, chosen_cuts), closed: chosen_closed };
            let rejected = ActionList { actions: actions_of(&rejected, rejected_cuts), closed: rejected_closed };
            divergence(&context, &chosen, &rejected)
        };
        prop_assert_eq!(parted(&cuts, &other_cuts), parted(&[true], &[false]));
    }

    /// Both sides can be rebuilt: nothing of their effect is lost, and identical effect is no pair.
    #[test]
    fn keeps_the_effect_of_both_sides(
        (words, chosen, rejected) in script(),
        cuts in prop::collection::vec(any::<bool>(), 4),
    ) {
        let context = context(&base_of(&words));
        let chosen = closed(actions_of(&Script { words: words.clone(), results: chosen }, &cuts));
        let rejected = closed(actions_of(&Script { words, results: rejected }, &[true]));
        let (wanted, served) = results(&context, &chosen.actions, &rejected.actions);
        let parted = divergence(&context, &chosen, &rejected);
        prop_assert_eq!(parted.is_none(), wanted == served);
        if let Some(parted) = parted {
            let with_shared =
                |list: &ActionList| parted.shared.iter().chain(&list.actions).cloned().collect::<Vec<_>>();
            let rebuilt = results(&context, &with_shared(&parted.chosen), &with_shared(&parted.rejected));
            prop_assert_eq!(rebuilt, (wanted, served));
        }
    }

    /// The first actions after the shared ones differ, and at that byte for the first time.
    #[test]
    fn minimal((words, chosen, rejected) in script()) {
        let context = context(&base_of(&words));
        let chosen = closed(actions_of(&Script { words: words.clone(), results: chosen }, &[true]));
        let rejected = closed(actions_of(&Script { words, results: rejected }, &[true]));
        let Some(parted) = divergence(&context, &chosen, &rejected) else { return Ok(()) };
        prop_assert_eq!(parted.point.action_index as usize, parted.shared.len());
        let byte = parted.point.byte as usize;
        match (parted.chosen.actions.first(), parted.rejected.actions.first()) {
            (Some(wanted), Some(served)) if wanted.range == served.range => {
                prop_assert_ne!(&wanted.new_text, &served.new_text);
                prop_assert_eq!(wanted.new_text.get(..byte), served.new_text.get(..byte));
                prop_assert_ne!(wanted.new_text[byte..].chars().next(), served.new_text[byte..].chars().next());
            }
            (wanted, served) => {
                prop_assert!(wanted.is_some() || served.is_some());
                prop_assert_eq!(byte, 0);
                // Nobody else has an action where the served one is: they part before its first byte.
                if let Some(served) = served {
                    prop_assert!(parted.chosen.actions.iter().all(|action| !action.range.touches(served.range)));
                }
            }
        }
        // What is shared is shared in the effect of both.
        for action in &parted.shared {
            let place = |list: &ActionList| list.actions.iter().any(|other| other.range.touches(action.range));
            prop_assert!(!place(&parted.chosen) && !place(&parted.rejected));
        }
    }

    /// Exchanged sides part at the same place, when both change the same places.
    #[test]
    fn symmetric((words, chosen, rejected) in script()) {
        let context = context(&base_of(&words));
        let changed = |side: &[String]| words.iter().zip(side).map(|(word, result)| word != result).collect::<Vec<_>>();
        let same_places = changed(&chosen) == changed(&rejected);
        let chosen = closed(actions_of(&Script { words: words.clone(), results: chosen.clone() }, &[true]));
        let rejected = closed(actions_of(&Script { words: words.clone(), results: rejected.clone() }, &[true]));
        let there = divergence(&context, &chosen, &rejected);
        let back = divergence(&context, &rejected, &chosen);
        prop_assert_eq!(there.is_none(), back.is_none());
        if let (true, Some(there), Some(back)) = (same_places, there, back) {
            prop_assert_eq!(there.point, back.point);
            prop_assert_eq!(there.shared, back.shared);
            prop_assert_eq!(there.chosen, back.rejected);
            prop_assert_eq!(there.rejected, back.chosen);
        }
    }
}
