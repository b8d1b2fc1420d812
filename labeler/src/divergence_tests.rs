use std::collections::BTreeSet;
use std::sync::OnceLock;

use edit_model::CodeTokenizer;
use edit_model::dialect::{Answer, EncodedPair};
use events::{ByteRange, Window};
use proptest::prelude::*;

use super::*;

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

/// What was inserted into a repetition is told at its end, far from the action that did it.
#[test]
fn what_moves_along_a_repetition_keeps_its_place_in_the_order() {
    let text = "x\nx\nx\nother\nlast\n";
    let served = [action(text, 0, 0, "x\n"), replace(text, "last", "end")];
    let written = canonical(&context(text), &served).unwrap();
    assert_eq!(written.iter().map(|action| action.range.start - START).collect::<Vec<_>>(), [6, 12]);
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

/// What both sides make of the text.
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

    /// Both sides can be rebuilt: nothing of their effect is lost.
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

    /// However it was written.
    #[test]
    fn identical_effect_is_no_pair(
        (words, chosen, _) in script(),
        cuts in prop::collection::vec(any::<bool>(), 4), other_cuts in prop::collection::vec(any::<bool>(), 4),
        chosen_closed in any::<bool>(), rejected_closed in any::<bool>(),
    ) {
        let context = context(&base_of(&words));
        let script = Script { words, results: chosen };
        let chosen = ActionList { actions: actions_of(&script, &cuts), closed: chosen_closed };
        let rejected = ActionList { actions: actions_of(&script, &other_cuts), closed: rejected_closed };
        prop_assert_eq!(divergence(&context, &chosen, &rejected), None);
    }

    /// Clusters grown by hand: one after the other takes in what touches it, until nothing does.
    #[test]
    fn boundaries_are_the_union_of_both_sides(
        (words, chosen, rejected) in script(),
        cuts in prop::collection::vec(any::<bool>(), 4),
    ) {
        let context = context(&base_of(&words));
        let chosen = closed(actions_of(&Script { words: words.clone(), results: chosen }, &cuts));
        let rejected = closed(actions_of(&Script { words, results: rejected }, &[true]));
        let ranges = |actions: &[EditAction]| -> Vec<ByteRange> {
            canonical(&context, actions).unwrap().iter().map(|action| action.range).collect()
        };
        let (ours, theirs) = (ranges(&chosen.actions), ranges(&rejected.actions));
        let grown = |seed: ByteRange| {
            let mut range = seed;
            loop {
                let touched = ours.iter().chain(&theirs).filter(|other| range.touches(**other));
                let next = touched.fold(range, |grown, other| {
                    ByteRange::new(grown.start.min(other.start), grown.end.max(other.end))
                });
                if next == range {
                    return range;
                }
                range = next;
            }
        };
        let of_side = |own: &[ByteRange], other: &[ByteRange]| -> BTreeSet<ByteRange> {
            let is_shared = |range: ByteRange| other.iter().any(|other| range.touches(*other));
            own.iter().map(|range| if is_shared(grown(*range)) { grown(*range) } else { *range }).collect()
        };
        let Some(parted) = divergence(&context, &chosen, &rejected) else { return Ok(()) };
        let found = |list: &ActionList| -> BTreeSet<ByteRange> {
            parted.shared.iter().chain(&list.actions).map(|action| action.range).collect()
        };
        prop_assert_eq!(found(&parted.chosen), of_side(&ours, &theirs));
        prop_assert_eq!(found(&parted.rejected), of_side(&theirs, &ours));
    }

    #[test]
    fn no_character_is_cut(common in "[aé😀]{0,4}", left in "[aéè😀😁]{0,4}", right in "[aéè😀😁]{0,4}") {
        let (left, right) = (common.clone() + &left, common + &right);
        let byte = first_difference(&left, &right);
        prop_assert_eq!(left.get(..byte), right.get(..byte));
        prop_assert!(left.is_char_boundary(byte) && right.is_char_boundary(byte));
        prop_assert!(left == right || left[byte..].chars().next() != right[byte..].chars().next());
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

/// Lines of one word each, and which of them the two sides rewrite, in the order in which they do. No word of the base
/// shares a letter with one that is written, so every rewritten line is one hunk, whatever differences are.
#[derive(Debug, Clone)]
struct Rewrites {
    base: Vec<String>,
    chosen: Vec<(usize, String)>,
    rejected: Vec<(usize, String)>,
}

fn rewrites() -> impl Strategy<Value = Rewrites> {
    prop::collection::vec(("[n-zé]{1,3}", "[n-zéè]{1,3}", 0..3_u8, 0..4_u8), 1..6)
        .prop_flat_map(|lines| {
            let base: Vec<String> = ["aaa", "bb", "cccc", "d", "ee", "ff"].map(str::to_owned)[..lines.len()].to_vec();
            let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
            for (line, (one, other, ours, theirs)) in lines.into_iter().enumerate() {
                if ours > 0 {
                    chosen.push((line, one.clone()));
                }
                if theirs > 0 {
                    rejected.push((line, if theirs == 1 { other } else { one }));
                }
            }
            (Just(base), Just(chosen).prop_shuffle(), Just(rejected).prop_shuffle())
        })
        .prop_map(|(base, chosen, rejected)| Rewrites { base, chosen, rejected })
}

impl Rewrites {
    fn text(&self) -> String {
        self.base.join("\n") + "\n"
    }

    fn starts(&self) -> Vec<usize> {
        let mut next = 0;
        let start_of = |word: &String| {
            let start = next;
            next += word.len() + 1;
            start
        };
        self.base.iter().map(start_of).collect()
    }

    fn actions(&self, rewritten: &[(usize, String)]) -> Vec<EditAction> {
        let (text, starts) = (self.text(), self.starts());
        let rewrite =
            |(line, word): &(usize, String)| action(&text, starts[*line], starts[*line] + self.base[*line].len(), word);
        rewritten.iter().map(rewrite).collect()
    }
}

/// Where two lists of rewritten lines part: how many they share, the first differing byte, and the line that each side
/// rewrites next. The definition, read aloud.
fn oracle(
    chosen: &[(usize, String)],
    chosen_closed: bool,
    rejected: &[(usize, String)],
    rejected_closed: bool,
) -> Option<(usize, usize, Option<usize>, Option<usize>)> {
    let mut shared = 0;
    while shared < rejected.len() && chosen.contains(&rejected[shared]) {
        shared += 1;
    }
    let left: Vec<&(usize, String)> = chosen.iter().filter(|line| !rejected[..shared].contains(line)).collect();
    if shared == rejected.len() {
        let goes_on = !left.is_empty() && rejected_closed;
        return goes_on.then(|| (shared, 0, Some(left[0].0), None));
    }
    let (line, served) = &rejected[shared];
    if let Some((_, wanted)) = left.iter().find(|(other, _)| other == line) {
        let mut byte = 0;
        for (one, other) in wanted.chars().zip(served.chars()) {
            if one != other {
                break;
            }
            byte += one.len_utf8();
        }
        return Some((shared, byte, Some(*line), Some(*line)));
    }
    match left.first() {
        Some((other, _)) => Some((shared, 0, Some(*other), Some(*line))),
        None => chosen_closed.then_some((shared, 0, None, Some(*line))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn as_the_oracle_says(rewrites in rewrites(), chosen_closed in any::<bool>(), rejected_closed in any::<bool>()) {
        let chosen = ActionList { actions: rewrites.actions(&rewrites.chosen), closed: chosen_closed };
        let rejected = ActionList { actions: rewrites.actions(&rewrites.rejected), closed: rejected_closed };
        let starts = rewrites.starts();
        let line_of = |list: &ActionList| {
            list.actions.first().map(|action| {
                starts.iter().position(|start| START + *start as u64 == action.range.start).unwrap()
            })
        };
        let found = divergence(&context(&rewrites.text()), &chosen, &rejected).map(|parted| {
            let point = parted.point;
            let (chosen, rejected) = (line_of(&parted.chosen), line_of(&parted.rejected));
            (point.action_index as usize, point.byte as usize, chosen, rejected)
        });
        prop_assert_eq!(found, oracle(&rewrites.chosen, chosen_closed, &rewrites.rejected, rejected_closed));
    }

    #[test]
    fn the_served_order_is_kept(rewrites in rewrites()) {
        let context = context(&rewrites.text());
        let (chosen, rejected) = (rewrites.actions(&rewrites.chosen), rewrites.actions(&rewrites.rejected));
        prop_assert_eq!(canonical(&context, &rejected), Some(rejected.clone()));
        let Some(parted) = divergence(&context, &closed(chosen.clone()), &closed(rejected.clone())) else {
            return Ok(());
        };
        let served: Vec<EditAction> = parted.shared.iter().chain(&parted.rejected.actions).cloned().collect();
        prop_assert_eq!(&served, &rejected);
        // The chosen side's own order, but for what is shared and for the counterpart, which come first.
        let rest = &parted.chosen.actions[parted.chosen.actions.len().min(1)..];
        let own: Vec<&EditAction> = chosen.iter().filter(|action| rest.contains(action)).collect();
        prop_assert_eq!(rest.iter().collect::<Vec<_>>(), own);
    }

    #[test]
    fn commuting_actions_in_another_order_do_not_diverge(
        (served, other) in rewrites().prop_flat_map(|rewrites| {
            let shuffled = Just(rewrites.rejected.clone()).prop_shuffle();
            (Just(rewrites), shuffled)
        }),
        chosen_closed in any::<bool>(), rejected_closed in any::<bool>(),
    ) {
        let chosen = ActionList { actions: served.actions(&other), closed: chosen_closed };
        let rejected = ActionList { actions: served.actions(&served.rejected), closed: rejected_closed };
        prop_assert_eq!(divergence(&context(&served.text()), &chosen, &rejected), None);
    }
}

/// From nearly bytes to whole words of the tests' texts.
fn tokenizers() -> &'static [CodeTokenizer] {
    static TOKENIZERS: OnceLock<Vec<CodeTokenizer>> = OnceLock::new();
    TOKENIZERS.get_or_init(|| {
        let texts = ["abab baba (abé, aab) bé", "éa, ab( ba, bb) (a aé ba", "ab, ba aab( éb, b"];
        let train = |size| CodeTokenizer::train(texts.iter().copied().cycle().take(30), size).unwrap();
        [290, 310, 400].map(train).to_vec()
    })
}

proptest! {
    /// From the actions of both sides to the tokens that train: the first one that differs lies in the action with the
    /// point's number, on both sides. A line of this text is short enough for a prompt to show it.
    #[test]
    fn the_first_differing_token_lies_in_the_diverging_action(
        (words, chosen, rejected) in script(),
        cuts in prop::collection::vec(any::<bool>(), 4),
        chosen_closed in any::<bool>(), rejected_closed in any::<bool>(),
    ) {
        let context = context(&base_of(&words));
        let chosen = Script { words: words.clone(), results: chosen };
        let rejected = Script { words, results: rejected };
        let chosen = ActionList { actions: actions_of(&chosen, &cuts), closed: chosen_closed };
        let rejected = ActionList { actions: actions_of(&rejected, &[true]), closed: rejected_closed };
        let Some(parted) = divergence(&context, &chosen, &rejected) else { return Ok(()) };
        for tokenizer in tokenizers() {
            let encoded = EncodedPair::encode(tokenizer, &context, &parted.shared, &parted.chosen, &parted.rejected);
            // Some places cannot be named in the dialect; those that can be must part there.
            let Ok(pair) = encoded else { continue };
            let place = pair.divergence.unwrap();
            let complete = |answer: &Answer| answer.action_ends.iter().filter(|end| **end <= place).count();
            let number = parted.point.action_index as usize;
            prop_assert_eq!((complete(&pair.chosen), complete(&pair.rejected)), (number, number));
            prop_assert!(place < pair.chosen_end && place < pair.rejected_end);
        }
    }
}
