use events::{ByteRange, RecentEdit, Window, apply_actions};
use proptest::prelude::*;

use super::*;
use crate::tokenizer::tests::{of_every_kind, small};

pub(crate) fn context(text: &str, cursor: usize) -> EditContext {
    EditContext {
        repository: "team/display".to_owned(),
        path: "src/users/name.rs".to_owned(),
        language: "rust".to_owned(),
        recent_edits: vec![RecentEdit {
            path: "src/users/name.rs".to_owned(),
            old_text: "fn get_name(user: &User) -> String {".to_owned(),
            new_text: "fn get_display_name(user: &User) -> String {".to_owned(),
        }],
        window: Window { start_byte: 1000, first_line: 40, text: text.to_owned() },
        cursor_byte: 1000 + cursor as u64,
    }
}

fn action(text: &str, start: usize, end: usize, new_text: &str) -> EditAction {
    EditAction {
        path: "src/users/name.rs".to_owned(),
        range: ByteRange::new(1000 + start as u64, 1000 + end as u64),
        old_text: text[start..end].to_owned(),
        new_text: new_text.to_owned(),
    }
}

const TEXT: &str = "let user = users.get(1);\nlet name = get_name(user, get_name(other));\nprintln!(name);\n";

fn find(text: &str, needle: &str, nth: usize) -> (usize, usize) {
    let (start, _) = text.match_indices(needle).nth(nth).unwrap();
    (start, start + needle.len())
}

fn list(actions: Vec<EditAction>, closed: bool) -> ActionList {
    ActionList { actions, closed }
}

#[test]
fn a_prompt_shows_the_edit_and_the_marked_lines() {
    let tokenizer = small();
    let prompt = encode_prompt(&tokenizer, &context(TEXT, 30)).unwrap();
    assert_eq!(prompt.lines.len(), 3);
    assert!(prompt.tokens.len() <= MAX_PROMPT_TOKENS);
    let special = tokenizer.special();
    let count = |token: u32| prompt.tokens.iter().filter(|other| **other == token).count();
    assert_eq!((count(special.edit), count(special.cursor), count(special.answer)), (1, 1, 1));
    let cursor = prompt.tokens.iter().position(|token| *token == special.cursor).unwrap();
    assert_eq!(prompt.tokens[cursor - 1], special.lines[1]);
}

#[test]
fn old_text_is_widened_until_it_is_unique_in_its_line() {
    let tokenizer = small();
    let context = context(TEXT, 30);
    let (start, end) = find(TEXT, "get_name", 1);
    let answer =
        encode_answer(&tokenizer, &context, &list(vec![action(TEXT, start, end, "get_display_name")], true)).unwrap();
    let to = answer.tokens.iter().position(|token| *token == tokenizer.special().to).unwrap();
    assert_eq!(tokenizer.decode(&answer.tokens[1..to]).unwrap(), ", get_name");
    let parsed = parse_answer(&tokenizer, &context, &answer.tokens).unwrap();
    assert!(parsed.closed);
    assert_eq!(
        apply_actions(1000, TEXT, &parsed.actions).unwrap(),
        TEXT.replace("get_name(other)", "get_display_name(other)")
    );
}

#[test]
fn an_inserted_prefix_becomes_a_whole_word() {
    let tokenizer = small();
    let context = context(TEXT, 30);
    let (start, _) = find(TEXT, "users", 0);
    let answer = encode_answer(&tokenizer, &context, &list(vec![action(TEXT, start, start, "all_")], false)).unwrap();
    let to = answer.tokens.iter().position(|token| *token == tokenizer.special().to).unwrap();
    assert_eq!(tokenizer.decode(&answer.tokens[1..to]).unwrap(), "users");
    assert!(!answer.tokens.contains(&tokenizer.special().stop));
}

#[test]
fn silence_has_a_token_only_when_it_is_evidence() {
    let tokenizer = small();
    let context = context(TEXT, 30);
    let silent = encode_answer(&tokenizer, &context, &ActionList::no_edit()).unwrap();
    assert_eq!(silent.tokens, [tokenizer.special().no_edit]);
    let open = encode_answer(&tokenizer, &context, &ActionList::default()).unwrap();
    assert!(open.tokens.is_empty());
    assert_eq!(parse_answer(&tokenizer, &context, &silent.tokens).unwrap(), ActionList::no_edit());
}

#[test]
fn what_cannot_be_written_is_refused_with_a_reason() {
    let tokenizer = small();
    let base = context(TEXT, 30);
    let refuse = |action: EditAction| encode_answer(&tokenizer, &base, &list(vec![action], true)).unwrap_err();
    let (start, end) = find(TEXT, "get_name", 0);
    assert_eq!(refuse(action(TEXT, start, end, "get_name")), DialectError::NoChange);
    let mut foreign = action(TEXT, start, end, "x");
    foreign.path = "other.rs".to_owned();
    assert_eq!(refuse(foreign), DialectError::OtherFile);
    let mut moved = action(TEXT, start, end, "x");
    moved.range = ByteRange::new(10, 20);
    assert_eq!(refuse(moved), DialectError::NotVisible);
    let mut wrong = action(TEXT, start, end, "x");
    wrong.old_text = "set_name".to_owned();
    assert_eq!(refuse(wrong), DialectError::OldText);
    let twice = vec![action(TEXT, start, end, "a"), action(TEXT, start, end, "b")];
    assert_eq!(encode_answer(&tokenizer, &base, &list(twice, true)).unwrap_err(), DialectError::Overlap);
    let mut outside = base.clone();
    outside.cursor_byte = 5;
    assert_eq!(encode_prompt(&tokenizer, &outside).unwrap_err(), DialectError::Window);
}

#[test]
fn sides_that_replace_different_spans_differ_only_in_new_text() {
    let tokenizer = small();
    let context = context(TEXT, 30);
    let (start, end) = find(TEXT, "get_name(user", 0);
    let chosen = list(vec![action(TEXT, start, end, "get_display_name(user, 1")], false);
    let rejected = list(vec![action(TEXT, start, start + 8, "get_display_name")], false);
    let pair = EncodedPair::encode(&tokenizer, &context, &[], &chosen, &rejected).unwrap();
    let to = pair.chosen.tokens.iter().position(|token| *token == tokenizer.special().to).unwrap();
    let place = pair.divergence.unwrap();
    assert!(place > to && place < pair.chosen_end && place < pair.rejected_end);
}

#[test]
fn commuting_actions_in_another_order_do_not_diverge() {
    let tokenizer = small();
    let context = context(TEXT, 30);
    let one = action(TEXT, 4, 8, "person");
    let (start, end) = find(TEXT, "println", 0);
    let two = action(TEXT, start, end, "print");
    let pair = EncodedPair::encode(
        &tokenizer,
        &context,
        &[],
        &list(vec![one.clone(), two.clone()], true),
        &list(vec![two, one.clone()], true),
    )
    .unwrap();
    assert_eq!(pair.divergence, None);
    let against_silence =
        EncodedPair::encode(&tokenizer, &context, &[], &list(vec![one], false), &ActionList::no_edit()).unwrap();
    assert_eq!(against_silence.divergence, Some(0));
    assert_eq!(against_silence.rejected_end, 1);
}

#[test]
fn enormous_input_costs_no_more_than_what_is_shown() {
    let tokenizer = small();
    let line = "ä".repeat(400_000);
    let mut base = context(&format!("{line}\n{line}\n"), 3);
    base.repository = line.clone();
    base.path = line.clone();
    base.recent_edits =
        vec![RecentEdit { path: line.clone(), old_text: line.clone(), new_text: format!("{line}x") }; 5];
    let prompt = encode_prompt(&tokenizer, &base).unwrap();
    assert!(prompt.tokens.len() <= MAX_PROMPT_TOKENS && prompt.lines[0].cut);
    let answer = list(vec![action(&base.window.text, 800, 802, "o")], true);
    assert_eq!(
        encode_answer(&tokenizer, &EditContext { path: "src/users/name.rs".to_owned(), ..base }, &answer).unwrap_err(),
        DialectError::NotVisible
    );
}

fn document() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-c_]{1,3}[ (),.]{0,2}[a-c]{0,2}", 1..5).prop_map(|lines| lines.join("\n") + "\n")
}

fn edits(text: &str, places: &[(usize, usize, String)]) -> Vec<EditAction> {
    let mut actions: Vec<EditAction> = Vec::new();
    for (start, length, new_text) in places {
        let start = start % text.len();
        let end = (start + length % 4).min(text.len());
        let candidate = action(text, start, end, new_text);
        if actions.iter().all(|other| !other.range.touches(candidate.range)) && candidate.old_text != *new_text {
            actions.push(candidate);
        }
    }
    actions
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_reads_back_with_the_same_effect(
        text in document(),
        places in proptest::collection::vec((0_usize..100, 0_usize..4, "[a-c, ]{0,4}"), 1..4),
    ) {
        let tokenizer = small_shared();
        let context = context(&text, 0);
        let actions = edits(&text, &places);
        let wanted = apply_actions(1000, &text, &actions).unwrap();
        if let Ok(answer) = encode_answer(tokenizer, &context, &list(actions.clone(), true)) {
            let parsed = parse_answer(tokenizer, &context, &answer.tokens).unwrap();
            prop_assert!(parsed.closed || parsed.actions.is_empty() || parsed.actions.len() < actions.len());
            if parsed.closed {
                prop_assert_eq!(apply_actions(1000, &text, &parsed.actions).unwrap(), wanted);
            } else {
                // Only widened hunks that overlap each other are not readable.
                prop_assert!(actions.len() > 1);
            }
        }
    }

    #[test]
    fn the_first_difference_lies_in_the_action_that_differs_in_effect(
        text in document(),
        common in proptest::collection::vec((0_usize..100, 0_usize..4, "[a-c, ]{0,4}"), 0..2),
        left in proptest::collection::vec((0_usize..100, 0_usize..4, "[a-c, ]{0,4}"), 1..3),
        right in proptest::collection::vec((0_usize..100, 0_usize..4, "[a-c, ]{0,4}"), 1..3),
    ) {
        let tokenizer = small_shared();
        let context = context(&text, 0);
        let shared = edits(&text, &common);
        let free = |actions: Vec<EditAction>| -> Vec<EditAction> {
            actions.into_iter().filter(|a| shared.iter().all(|s| !s.range.touches(a.range))).collect()
        };
        let (left, right) = (list(free(edits(&text, &left)), false), list(free(edits(&text, &right)), false));
        if let Ok(pair) = EncodedPair::encode(tokenizer, &context, &shared, &left, &right)
            && let Some(place) = pair.divergence
        {
            // Every complete action before the divergence is the same text on both sides, hence the same effect.
            let before = |answer: &Answer| answer.action_ends.iter().filter(|end| **end <= place).count();
            prop_assert_eq!(before(&pair.chosen), before(&pair.rejected));
            prop_assert!(place < pair.chosen_end && place < pair.rejected_end);
        }
    }
}

/// Longest line or edit with what marks it.
const MAX_MARKED_TOKENS: usize = 50;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn a_keystroke_changes_tokens_only_behind_the_cursor_unless_something_loses_its_room(
        lines in proptest::collection::vec("[a-f_]{0,9}[ (),.]{0,2}[a-f]{0,9}", 1..14),
        old in proptest::collection::vec(("[a-f_ ]{0,30}", "[a-f_ ]{0,30}"), 0..4),
        line in any::<prop::sample::Index>(),
        column in any::<prop::sample::Index>(),
        typed in "[a-f_.( ]{1,3}",
    ) {
        for (name, tokenizer) in kinds() {
            let line = line.index(lines.len());
            let column = column.index(lines[line].len() + 1);
            let start: usize = lines[..line].iter().map(|line| line.len() + 1).sum();
            let place = start + column;
            let text = lines.join("\n") + "\n";
            let mut before = context(&text, place);
            before.recent_edits = old
                .iter()
                .map(|(old, new)| RecentEdit { path: before.path.clone(), old_text: old.clone(), new_text: new.clone() })
                .collect();
            let mut after = before.clone();
            after.window.text.insert_str(place, &typed);
            after.cursor_byte += typed.len() as u64;
            let (before, after) = (encode_prompt(tokenizer, &before).unwrap(), encode_prompt(tokenizer, &after).unwrap());
            let special = tokenizer.special();
            let place_of = |prompt: &Prompt, token: u32| prompt.tokens.iter().position(|other| *other == token);
            // How many edits are shown, and how many lines above the cursor's.
            let shown = |prompt: &Prompt| {
                let cursor = place_of(prompt, special.cursor).unwrap();
                let edits = prompt.tokens[..cursor].iter().filter(|token| **token == special.edit).count();
                (edits, prompt.tokens[..cursor].iter().filter(|token| special.lines.contains(token)).count())
            };
            let same = common(&before.tokens, &after.tokens);
            let head = place_of(&before, special.edit).or(place_of(&before, special.window)).unwrap();
            prop_assert!(same >= head, "{name}: {same} of {head}");
            if shown(&before) == shown(&after) {
                let cursor = place_of(&before, special.cursor).unwrap();
                prop_assert!(same > cursor, "{name}: {same} of {cursor}");
            } else {
                let fullest = before.tokens.len().max(after.tokens.len());
                prop_assert!(fullest + MAX_MARKED_TOKENS > MAX_PROMPT_TOKENS, "{name}: {fullest}");
            }
        }
    }
}

/// Bytes and structuring tokens, one number each.
fn spelled(tokenizer: &CodeTokenizer, tokens: &[u32]) -> Vec<u32> {
    let spell = |token: &u32| match tokenizer.token_bytes(*token) {
        Some(bytes) => bytes.iter().map(|byte| u32::from(*byte)).collect::<Vec<_>>(),
        None => vec![256 + *token],
    };
    tokens.iter().flat_map(spell).collect()
}

fn common<T: PartialEq>(left: &[T], right: &[T]) -> usize {
    left.iter().zip(right).take_while(|(a, b)| a == b).count()
}

fn kinds() -> &'static [(&'static str, CodeTokenizer)] {
    static KINDS: std::sync::OnceLock<Vec<(&'static str, CodeTokenizer)>> = std::sync::OnceLock::new();
    KINDS.get_or_init(of_every_kind)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn for_every_tokenizer_the_first_differing_token_begins_in_the_action_and_not_behind_the_byte(
        text in document(),
        before in proptest::collection::vec((0_usize..100, 0_usize..4, "[a-c, é]{0,4}"), 0..2),
        left in proptest::collection::vec((0_usize..100, 0_usize..4, "[a-c, é]{0,4}"), 1..3),
        right in proptest::collection::vec((0_usize..100, 0_usize..4, "[a-c, é]{0,4}"), 1..3),
        closed in any::<bool>(),
    ) {
        let context = context(&text, 0);
        let shared = edits(&text, &before);
        let free = |actions: Vec<EditAction>| -> Vec<EditAction> {
            actions.into_iter().filter(|a| shared.iter().all(|s| !s.range.touches(a.range))).collect()
        };
        let (left, right) = (list(free(edits(&text, &left)), closed), list(free(edits(&text, &right)), closed));
        for (name, tokenizer) in kinds() {
            let Ok(pair) = EncodedPair::encode(tokenizer, &context, &shared, &left, &right) else { continue };
            let Some(place) = pair.divergence else { continue };
            let (chosen, rejected) = (&pair.chosen, &pair.rejected);
            let complete = |answer: &Answer| answer.action_ends.iter().filter(|end| **end <= place).count();
            prop_assert_eq!(complete(chosen), complete(rejected), "{}", name);
            prop_assert!(place < pair.chosen_end && place < pair.rejected_end, "{name}");
            let (chosen_bytes, rejected_bytes) =
                (spelled(tokenizer, &chosen.tokens), spelled(tokenizer, &rejected.tokens));
            let differs_at = common(&chosen_bytes, &rejected_bytes);
            let begins_at = spelled(tokenizer, &chosen.tokens[..place]).len();
            prop_assert!(begins_at <= differs_at, "{name}");
            // The first differing byte, too, lies in that action: no action that is complete before it differs.
            let action_begins = chosen.action_ends.iter().rfind(|end| **end <= place).copied().unwrap_or(0);
            prop_assert!(spelled(tokenizer, &chosen.tokens[..action_begins]).len() <= begins_at, "{name}");
            for (answer, end) in [(chosen, pair.chosen_end), (rejected, pair.rejected_end)] {
                prop_assert!(differs_at < spelled(tokenizer, &answer.tokens[..end]).len(), "{name}");
            }
        }
    }
}

/// Why losses do not begin at the token that holds the first differing byte.
#[test]
fn tokens_merge_what_is_common_with_what_differs() {
    let words: Vec<String> = ["a", "b", "c", "ab", "bc", "abc", "cab", "acb"].map(str::to_owned).to_vec();
    for (name, tokenizer) in kinds() {
        let early =
            words.iter().flat_map(|left| words.iter().map(move |right| (left, right))).filter(|(left, right)| {
                let (one, other) = (tokenizer.encode(left).unwrap(), tokenizer.encode(right).unwrap());
                let begins_at = spelled(tokenizer, &one[..common(&one, &other)]).len();
                begins_at < common(left.as_bytes(), right.as_bytes())
            });
        assert!(early.count() > 0, "{name}");
    }
}

#[test]
fn what_is_written_is_what_an_answer_says() {
    let tokenizer = small();
    let context = context(TEXT, 30);
    let (start, end) = find(TEXT, "get_name", 1);
    let renamed = action(TEXT, start, end, "get_display_name");
    let (start, end) = find(TEXT, "println", 0);
    let printed = action(TEXT, start, end, "print");
    let answer = encode_answer(&tokenizer, &context, &list(vec![renamed.clone(), printed.clone()], true)).unwrap();
    let parsed = parse_answer(&tokenizer, &context, &answer.tokens).unwrap();
    assert_eq!(written(&context, &[renamed.clone(), printed.clone()]).unwrap(), parsed.actions);
    assert_eq!(parsed.actions[0].old_text, ", get_name");
    let no_edit = ActionList::no_edit();
    let both = list(vec![renamed.clone(), printed], false);
    let (shown, nothing) = written_pair(&context, &[], &both, &no_edit).unwrap();
    assert_eq!((shown, nothing), (parsed.actions.clone(), vec![]));
    // Compared with a side that changes more, it is written as long as that one.
    let (start, end) = find(TEXT, "get_name(other)", 0);
    let longer = list(vec![action(TEXT, start, end, "other.name()")], false);
    let (_, rejected) = written_pair(&context, &[], &longer, &list(vec![renamed], false)).unwrap();
    assert_ne!(rejected[0], parsed.actions[0]);
    assert_eq!(apply_actions(1000, TEXT, &rejected), apply_actions(1000, TEXT, &parsed.actions[..1]));
}

fn small_shared() -> &'static crate::tokenizer::CodeTokenizer {
    static TOKENIZER: std::sync::OnceLock<crate::tokenizer::CodeTokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(small)
}
