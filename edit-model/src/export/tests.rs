use events::{ByteRange, RecentEdit, Window, apply_actions};
use proptest::prelude::*;

use super::base::BaseTokenizer;
use super::*;
use crate::dialect::MAX_SEQUENCE_TOKENS;
use crate::error::ModelError;
use crate::tokenizer::tests::small;

const QWEN: &[u8] = include_bytes!("../../tests/fixtures/qwen2.5-coder/tokenizer.json");
const STARCODER: &[u8] = include_bytes!("../../tests/fixtures/starcoder/tokenizer.json");
const STARCODER2: &[u8] = include_bytes!("../../tests/fixtures/starcoder2/tokenizer.json");
const START_BYTE: u64 = 1000;
const TEXT: &str = "fn one() {\n    let user = users.get(1);\n    let name = get_name(user);\n    print(name);\n}\n";

/// Every dialect with every base that it suits. Ours takes no less room than its model.
fn suited(maximum_tokens: usize) -> Vec<(Dialect, BaseTokenizer, Renderer)> {
    let own = small().to_json().unwrap();
    let bases = [
        (Dialect::Flywheel, own.as_bytes()),
        (Dialect::QwenCoderFim, QWEN),
        (Dialect::StarcoderFim, STARCODER),
        (Dialect::StarcoderFim, STARCODER2),
        (Dialect::RegionRewrite, QWEN),
        (Dialect::RegionRewrite, STARCODER),
        (Dialect::RegionRewrite, STARCODER2),
    ];
    let made = |(dialect, bytes): (Dialect, &[u8])| {
        let base = BaseTokenizer::from_bytes(bytes).unwrap();
        (dialect, base, Renderer::from_bytes(dialect, bytes, maximum_tokens).unwrap())
    };
    let has_room =
        |(dialect, _): &(Dialect, &[u8])| *dialect != Dialect::Flywheel || maximum_tokens >= MAX_SEQUENCE_TOKENS;
    bases.into_iter().filter(has_room).map(made).collect()
}

pub(super) fn context(text: &str, cursor: usize) -> EditContext {
    EditContext {
        repository: "team/display".to_owned(),
        path: "src/name.rs".to_owned(),
        language: "rust".to_owned(),
        recent_edits: vec![RecentEdit {
            path: "src/user.rs".to_owned(),
            old_text: "fn get_name()".to_owned(),
            new_text: "fn get_display_name()".to_owned(),
        }],
        window: Window { start_byte: START_BYTE, first_line: 40, text: text.to_owned() },
        cursor_byte: START_BYTE + cursor as u64,
    }
}

fn action(text: &str, start: usize, end: usize, new_text: &str) -> EditAction {
    EditAction {
        path: "src/name.rs".to_owned(),
        range: ByteRange::new(START_BYTE + start as u64, START_BYTE + end as u64),
        old_text: text[start..end].to_owned(),
        new_text: new_text.to_owned(),
    }
}

pub(super) fn list(actions: Vec<EditAction>) -> ActionList {
    ActionList { actions, closed: false }
}

/// `get_name(user)` becomes what was typed, and not what was proposed.
fn renamed() -> (EditContext, ActionList, ActionList) {
    let start = TEXT.find("get_name").unwrap();
    let side = |new_text: &str| list(vec![action(TEXT, start, start + 8, new_text)]);
    (context(TEXT, start), side("get_display_name"), side("get_full_name"))
}

/// Tokens of the prompt and the longer answer.
fn with_longer_answer(pair: &Rendered) -> usize {
    let longest = pair.chosen.iter().chain(&pair.rejected).map(|answer| answer.tokens).max();
    pair.prompt_tokens + longest.unwrap_or(0)
}

fn rendered(dialect: Dialect, base: &[u8], sides: &Sides<'_>) -> Rendered {
    Renderer::from_bytes(dialect, base, 1024).unwrap().render(sides).unwrap()
}

#[test]
fn qwen_is_asked_as_it_was_trained() {
    let (context, chosen, rejected) = renamed();
    let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&rejected) };
    let pair = rendered(Dialect::QwenCoderFim, QWEN, &sides);
    let expected = "<|repo_name|>team/display\n<|file_sep|>src/user.rs.diff\n-fn get_name()\n+fn get_display_name()\n\
                    <|file_sep|>src/name.rs\n<|fim_prefix|>fn one() {\n    let user = users.get(1);\n    let name = \
                    <|fim_suffix|>(user);\n    print(name);\n}\n<|fim_middle|>";
    assert_eq!(pair.prompt, expected);
    assert_eq!(pair.chosen.unwrap().text, "get_display_name");
    assert_eq!(pair.rejected.unwrap().text, "get_full_name");
    assert_eq!(pair.divergence.map(|point| point.byte), Some("get_".len()));
}

#[test]
fn both_starcoders_are_asked_as_they_were_trained() {
    let (mut context, chosen, rejected) = renamed();
    context.recent_edits.clear();
    let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&rejected) };
    let code = "fn one() {\n    let user = users.get(1);\n    let name = <fim_suffix>(user);\n    print(name);\n}\n\
                <fim_middle>";
    let first = rendered(Dialect::StarcoderFim, STARCODER, &sides);
    assert_eq!(first.prompt, format!("<fim_prefix><reponame>team/display<filename>src/name.rs\n{code}"));
    let second = rendered(Dialect::StarcoderFim, STARCODER2, &sides);
    assert_eq!(second.prompt, format!("<repo_name>team/display<file_sep><fim_prefix>src/name.rs\n{code}"));
}

#[test]
fn a_region_is_rewritten_with_a_line_more_each_way() {
    let (context, chosen, _) = renamed();
    let silence = ActionList::no_edit();
    let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&silence) };
    let pair = rendered(Dialect::RegionRewrite, STARCODER, &sides);
    let expected = "### Recent edits\nsrc/user.rs\n-fn get_name()\n+fn get_display_name()\n\n### File\nteam/display \
                    src/name.rs\n\nfn one() {\n<|editable_region_start|>\n    let user = users.get(1);\n    let name = \
                    <|user_cursor_is_here|>get_name(user);\n    print(name);\n<|editable_region_end|>\n}\n\n\
                    ### Region as it should be\n";
    assert_eq!(pair.prompt, expected);
    let answer = |name: &str| {
        format!(
            "<|editable_region_start|>\n    let user = users.get(1);\n    let name = {name}(user);\n    print(name);\n\
             <|editable_region_end|>"
        )
    };
    let (chosen, rejected) = (pair.chosen.unwrap().text, pair.rejected.unwrap().text);
    assert_eq!((&chosen, &rejected), (&answer("get_display_name"), &answer("get_name")));
    let byte = pair.divergence.unwrap().byte;
    assert!(chosen[byte..].starts_with("display_name") && rejected[byte..].starts_with("name"));
}

#[test]
fn our_own_dialect_reads_as_its_tokens() {
    let (context, chosen, _) = renamed();
    let silence = ActionList::no_edit();
    let own = small().to_json().unwrap();
    let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&silence) };
    let pair = rendered(Dialect::Flywheel, own.as_bytes(), &sides);
    assert!(pair.prompt.starts_with("<start><repository>") && pair.prompt.ends_with("<answer>"), "{}", pair.prompt);
    let chosen = pair.chosen.unwrap().text;
    assert!(chosen.starts_with("<line ") && chosen.ends_with(">get_name<to>get_display_name<end_action>"), "{chosen}");
    assert_eq!((pair.rejected.unwrap().text.as_str(), pair.divergence.map(|point| point.byte)), ("<no_edit>", Some(1)));
}

#[test]
fn our_own_dialect_keeps_to_the_room_of_its_model_and_refuses_less() {
    let own = small().to_json().unwrap();
    let with_room = |tokens| Renderer::from_bytes(Dialect::Flywheel, own.as_bytes(), tokens);
    let refused = with_room(MAX_SEQUENCE_TOKENS - 1).unwrap_err();
    assert!(matches!(refused, ModelError::Room { needed: MAX_SEQUENCE_TOKENS }), "{refused}");

    let lines: String = (0..200).map(|number| format!("let value_{number} = {number};\n")).collect();
    let start = lines.find("value_100").unwrap();
    let side = |new_text: &str| list(vec![action(&lines, start, start + 9, new_text)]);
    let (context, chosen, rejected) = (context(&lines, start), side("wanted_100"), side("proposed_100"));
    let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&rejected) };
    let renderer = with_room(MAX_SEQUENCE_TOKENS).unwrap();
    assert!(with_longer_answer(&renderer.render(&sides).unwrap()) <= MAX_SEQUENCE_TOKENS);

    // However much room there is: its model can not write more.
    let long = side(&"1 + 2 * ".repeat(40));
    let renderer = with_room(100_000).unwrap();
    for sides in [Sides { chosen: Some(&long), ..sides }, Sides { chosen: Some(&long), rejected: None, ..sides }] {
        let refused = renderer.render(&sides).unwrap_err();
        assert_eq!((refused, refused.code()), (Refusal::AnswerTooLong, "answer_too_long"));
    }
}

#[test]
fn what_both_had_done_before_is_in_the_prompt() {
    let (context, chosen, rejected) = renamed();
    let start = TEXT.find("users").unwrap();
    let shared = [action(TEXT, start, start + 5, "all_users")];
    let sides = Sides { context: &context, shared: &shared, chosen: Some(&chosen), rejected: Some(&rejected) };
    let pair = rendered(Dialect::QwenCoderFim, QWEN, &sides);
    assert!(pair.prompt.contains("let user = all_users.get(1);"), "{}", pair.prompt);
    let pair = rendered(Dialect::RegionRewrite, QWEN, &sides);
    assert_eq!(pair.prompt.matches("all_users").count(), 1);
    assert!(pair.chosen.unwrap().text.contains("all_users") && pair.rejected.unwrap().text.contains("all_users"));
}

#[test]
fn one_side_is_enough_and_none_is_refused() {
    let (context, chosen, _) = renamed();
    let silence = ActionList::no_edit();
    for (dialect, _, renderer) in suited(1024) {
        let one = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: None };
        let pair = renderer.render(&one).unwrap();
        assert!(pair.chosen.is_some() && pair.rejected.is_none() && pair.divergence.is_none(), "{dialect}");
        let none = Sides { context: &context, shared: &[], chosen: None, rejected: None };
        assert_eq!(renderer.render(&none).unwrap_err(), Refusal::NothingChanges, "{dialect}");
        let same = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&chosen) };
        assert_eq!(renderer.render(&same).unwrap_err(), Refusal::SameAnswer, "{dialect}");
        let silent = Sides { context: &context, shared: &[], chosen: Some(&silence), rejected: None };
        let is_a_token = dialect == Dialect::Flywheel;
        assert_eq!(renderer.render(&silent).is_ok(), is_a_token, "only our dialect has a word for silence");
    }
}

#[test]
fn silence_is_no_text_where_text_was_to_be_inserted() {
    let context = context(TEXT, 0);
    let (inserted, silence) = (list(vec![action(TEXT, 0, 0, "pub ")]), ActionList::no_edit());
    let sides = Sides { context: &context, shared: &[], chosen: Some(&inserted), rejected: Some(&silence) };
    let render = |dialect, base| Renderer::from_bytes(dialect, base, 1024).unwrap().render(&sides);
    assert_eq!(render(Dialect::QwenCoderFim, QWEN).unwrap_err(), Refusal::EmptyAnswer);
    assert!(render(Dialect::RegionRewrite, QWEN).unwrap().rejected.unwrap().text.contains("\nfn one() {\n"));
}

#[test]
fn what_does_not_fit_its_window_is_refused() {
    let (base, chosen, _) = renamed();
    let (start, end) = (4, 10);
    let wrong = [
        EditAction { path: "src/other.rs".to_owned(), ..action(TEXT, start, end, "x") },
        EditAction { old_text: "nothing".to_owned(), ..action(TEXT, start, end, "x") },
        EditAction { range: ByteRange::new(0, 6), ..action(TEXT, start, end, "x") },
        EditAction { range: ByteRange::new(START_BYTE, START_BYTE + 9000), ..action(TEXT, start, end, "x") },
    ];
    for (dialect, _, renderer) in suited(1024) {
        for wrong in &wrong {
            let rejected = list(vec![wrong.clone()]);
            let sides = Sides { context: &base, shared: &[], chosen: Some(&chosen), rejected: Some(&rejected) };
            assert_eq!(renderer.render(&sides).unwrap_err(), Refusal::Unfit, "{dialect}");
        }
    }
}

#[test]
fn a_base_without_the_tokens_is_refused_with_their_names() {
    for (dialect, base) in [(Dialect::QwenCoderFim, STARCODER), (Dialect::StarcoderFim, QWEN)] {
        let refused = Renderer::from_bytes(dialect, base, 1024).unwrap_err().to_string();
        assert!(refused.contains("fim_prefix") && refused.contains(dialect.as_str()), "{refused}");
    }
    assert!(Renderer::from_bytes(Dialect::Flywheel, QWEN, 1024).is_err());
    assert!(Renderer::from_bytes(Dialect::RegionRewrite, b"{}", 1024).is_err());
}

#[test]
fn a_cut_takes_what_is_farthest_from_the_region() {
    let lines: String = (0..200).map(|number| format!("let value_{number} = {number};\n")).collect();
    let start = lines.find("value_100").unwrap();
    let side = |new_text: &str| list(vec![action(&lines, start, start + 9, new_text)]);
    let (context, chosen, rejected) = (context(&lines, start), side("wanted_100"), side("proposed_100"));
    let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&rejected) };
    for (dialect, _, renderer) in suited(600).into_iter().filter(|(dialect, ..)| *dialect != Dialect::Flywheel) {
        let pair = renderer.render(&sides).unwrap();
        assert!((451..=600).contains(&with_longer_answer(&pair)), "{dialect}: {pair:?}");
        assert!(pair.prompt.contains("value_99") && pair.prompt.contains("value_101"), "{dialect}");
        assert!(!pair.prompt.contains("value_3 ") && !pair.prompt.contains("value_190"), "{dialect}");
    }
    for (dialect, _, renderer) in suited(4) {
        assert_eq!(renderer.render(&sides).unwrap_err(), Refusal::TooLong, "{dialect}");
    }
}

/// What developers write, and what reads like the marks of every dialect.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = vec![
        "<|fim_middle|>",
        "<|fim_",
        "middle|>",
        "<|endoftext|>",
        "<fim_suffix>",
        "<fim_",
        "suffix>",
        "<file_sep>",
        "<|file_sep|>",
        "<|editable_region_start|>",
        "<|user_cursor_is_here|>",
        "<stop>",
        "<line 0>",
        "<line ",
        "0>",
        "<reponame>",
        "<",
        "|",
        ">",
        " ",
        "\n",
        "\r\n",
        "    ",
        "\t",
        "name",
        "get_name(user)",
        "é",
        "日本",
        "\u{200b}",
        "e\u{301}",
        "7",
        ";",
        "{",
        "}",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..24).prop_map(|pieces| pieces.concat())
}

/// An action somewhere in a text.
pub(super) fn somewhere(text: &str, start: usize, length: usize, new_text: &str) -> EditAction {
    let places: Vec<usize> = text.char_indices().map(|(place, _)| place).chain([text.len()]).collect();
    let start = start % places.len();
    let end = (start + length).min(places.len() - 1);
    action(text, places[start], places[end], new_text)
}

/// Everything that the room promises of one rendered pair, seen from outside.
fn holds(dialect: Dialect, base: &BaseTokenizer, pair: &Rendered, maximum_tokens: usize) -> Result<(), TestCaseError> {
    let prompt = base.encode(&pair.prompt).unwrap();
    prop_assert_eq!(prompt.len(), pair.prompt_tokens);
    let count = |tokens: &[u32], name: &str| {
        let id = base.control_token(name).unwrap();
        tokens.iter().filter(|token| **token == id).count()
    };
    let control = |tokens: &[u32]| tokens.iter().filter(|token| base.is_control(**token)).count();
    match dialect {
        Dialect::QwenCoderFim => {
            for name in ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>"] {
                prop_assert_eq!(count(&prompt, name), 1);
            }
            prop_assert_eq!(control(&prompt), 4 + count(&prompt, "<|file_sep|>"));
            prop_assert!(count(&prompt, "<|file_sep|>") <= 2);
        }
        Dialect::StarcoderFim => {
            for name in ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"] {
                prop_assert_eq!(count(&prompt, name), 1);
            }
            prop_assert!(control(&prompt) <= 6);
        }
        Dialect::RegionRewrite => {
            prop_assert_eq!(control(&prompt), 0);
            prop_assert_eq!(pair.prompt.matches("<|editable_region_start|>").count(), 1);
            prop_assert!(pair.prompt.matches("<|user_cursor_is_here|>").count() <= 1);
        }
        Dialect::Flywheel => {
            for (name, times) in [("<start>", 1), ("<answer>", 1), ("<stop>", 0), ("<end_action>", 0)] {
                prop_assert_eq!(count(&prompt, name), times);
            }
        }
    }
    for answer in pair.chosen.iter().chain(&pair.rejected) {
        let tokens = base.encode(&answer.text).unwrap();
        prop_assert!(!tokens.is_empty() && tokens.len() == answer.tokens);
        let whole = base.encode(&format!("{}{}", pair.prompt, answer.text)).unwrap();
        prop_assert!(whole.len() <= maximum_tokens);
        prop_assert_eq!(whole, [prompt.clone(), tokens.clone()].concat());
        if dialect != Dialect::Flywheel {
            prop_assert_eq!(control(&tokens), 0);
        }
    }
    if let (Some(chosen), Some(rejected)) = (&pair.chosen, &pair.rejected) {
        let AnswerDivergence { byte, token } = pair.divergence.unwrap();
        let (tokens, others) = (base.encode(&chosen.text).unwrap(), base.encode(&rejected.text).unwrap());
        prop_assert!(tokens[..token] == others[..token] && tokens.get(token) != others.get(token));
        let (left, right) = (chosen.text.split_at_checked(byte), rejected.text.split_at_checked(byte));
        let ((left, wanted), (right, proposed)) = (left.unwrap(), right.unwrap());
        prop_assert_eq!(left, right);
        prop_assert!(wanted.chars().next() != proposed.chars().next());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn what_is_rendered_keeps_every_promise(
        text in hostile(),
        names in (hostile(), hostile(), hostile(), hostile()),
        chosen in (0_usize..200, 0_usize..6, hostile()),
        rejected in (0_usize..200, 0_usize..6, hostile()),
        cursor in 0_usize..200,
        roomy in 0_usize..3,
    ) {
        let (repository, path, old_text, new_text) = names;
        let context = EditContext {
            repository,
            path: path.clone(),
            recent_edits: vec![RecentEdit { path: path.clone(), old_text, new_text }],
            ..context(&text, cursor % (text.len() + 1))
        };
        let [chosen, rejected] = [chosen, rejected].map(|(start, length, new_text)| {
            list(vec![EditAction { path: path.clone(), ..somewhere(&text, start, length, &new_text) }])
        });
        let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&rejected) };
        for (dialect, base, renderer) in every(roomy) {
            if let Ok(pair) = renderer.render(&sides) {
                holds(*dialect, base, &pair, ROOMS[roomy])?;
            }
        }
    }

    /// With room for everything and nothing to neutralise, prompt and answer are the file as each side would have it.
    #[test]
    fn a_filled_window_is_what_the_developer_wanted(
        text in "[a-c \n]{1,40}",
        chosen in (0_usize..40, 0_usize..6, "[a-c \n]{0,5}"),
        rejected in (0_usize..40, 0_usize..6, "[a-c \n]{0,5}"),
    ) {
        let context = context(&text, 0);
        let [chosen, rejected] =
            [chosen, rejected].map(|(start, length, new_text)| list(vec![somewhere(&text, start, length, &new_text)]));
        let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&rejected) };
        for (_, _, renderer) in every(2).iter().filter(|(dialect, ..)| *dialect == Dialect::QwenCoderFim) {
            let Ok(pair) = renderer.render(&sides) else { continue };
            let (_, shown) = pair.prompt.split_once("<|fim_prefix|>").unwrap();
            let (before, rest) = shown.split_once("<|fim_suffix|>").unwrap();
            let after = rest.strip_suffix("<|fim_middle|>").unwrap();
            for (side, answer) in [(&chosen, pair.chosen.unwrap()), (&rejected, pair.rejected.unwrap())] {
                let wanted = apply_actions(START_BYTE, &text, &side.actions).unwrap();
                prop_assert_eq!(format!("{before}{}{after}", answer.text), wanted);
            }
        }
    }
}

const ROOMS: [usize; 3] = [60, MAX_SEQUENCE_TOKENS, 2000];

/// [`suited`] with one of [`ROOMS`], made once.
fn every(room: usize) -> &'static [(Dialect, BaseTokenizer, Renderer)] {
    static MADE: std::sync::OnceLock<Vec<Vec<(Dialect, BaseTokenizer, Renderer)>>> = std::sync::OnceLock::new();
    &MADE.get_or_init(|| ROOMS.into_iter().map(suited).collect())[room]
}
