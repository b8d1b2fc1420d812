//! What makes decoding fast changes no answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use edit_model::{Completion, DecodeOptions, EditModel, ModelError, Question};
use events::{EditAction, EditContext};
use proptest::prelude::*;

use crate::{TEXT, context, model};

const PREFIX_BYTES: usize = 1 << 20;
/// Longer than any test takes.
const LIFETIME: Duration = Duration::from_secs(3600);

fn plain() -> &'static [EditModel] {
    static MODELS: OnceLock<Vec<EditModel>> = OnceLock::new();
    MODELS.get_or_init(|| (0..3).map(model).collect())
}

/// The developer has typed `typed` at the end of the cursor's line.
fn after(typed: &str) -> EditContext {
    let mut context = context();
    let line_end = TEXT.match_indices('\n').nth(1).unwrap().0;
    context.window.text.insert_str(line_end, typed);
    context.cursor_byte = context.window.start_byte + (line_end + typed.len()) as u64;
    context
}

/// The answer without what it says of the way to it, and how many tokens of the prompt were known.
fn answer(model: &EditModel, context: &EditContext, options: &DecodeOptions) -> (Completion, usize) {
    let mut shown = Vec::new();
    let mut completion = model.complete(context, options, &|| false, &mut |action| shown.push(action)).unwrap();
    assert_eq!(shown, completion.actions.actions);
    assert!(completion.kept_draft_tokens <= completion.drafted_tokens);
    let reused = std::mem::take(&mut completion.reused_tokens);
    (completion.drafted_tokens, completion.kept_draft_tokens) = (0, 0);
    (completion, reused)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn what_is_remembered_of_earlier_prompts_changes_no_answer(
        which in 0_usize..3,
        typed in proptest::collection::vec("[a-z_.(), ]{0,6}", 2..8),
        temperature in prop_oneof![Just(0.0_f32), Just(1.2)],
        seed in any::<u64>(),
        bytes in prop_oneof![Just(PREFIX_BYTES), Just(60_000), Just(1)],
    ) {
        let forgetful = &plain()[which];
        let remembering = forgetful.clone().with_prefix_cache(bytes, LIFETIME);
        let options = DecodeOptions { force_edit: true, temperature, seed, ..DecodeOptions::default() };
        for (index, typed) in typed.iter().enumerate() {
            let context = after(typed);
            let (wanted, none) = answer(forgetful, &context, &options);
            let (got, reused) = answer(&remembering, &context, &options);
            prop_assert_eq!(got, wanted);
            prop_assert_eq!(none, 0);
            // Everything before the cursor's line, at least, is known from the prompt before.
            prop_assert!(bytes < PREFIX_BYTES || index == 0 || reused > 10, "{reused}");
        }
    }
}

/// Weights under which a token is likely to be followed by itself, so that some guesses are right.
fn repetitive() -> &'static EditModel {
    static MODEL: OnceLock<EditModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let model = model(7);
        let mut weights = model.weights().to_vec();
        for tensor in model.network().tensors() {
            // The output layer is the embedding: what is read decides what is written, and the layers little.
            let factor = match tensor.name.as_str() {
                "model.embed_tokens.weight" => 8.0,
                name if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => 0.05,
                _ => 1.0,
            };
            weights[tensor.range].iter_mut().for_each(|weight| *weight *= factor);
        }
        model.with_weights(weights).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn guesses_change_no_answer(
        which in 0_usize..4,
        typed in "[a-z_.(), ]{0,12}",
        temperature in prop_oneof![Just(0.0_f32), Just(0.8)],
        seed in any::<u64>(),
        draft_tokens in 1_usize..9,
        max_tokens in 1_usize..60,
        max_actions in 1_usize..4,
    ) {
        let model = plain().get(which).unwrap_or_else(repetitive);
        let options =
            DecodeOptions { force_edit: true, temperature, seed, max_tokens, max_actions, ..DecodeOptions::default() };
        let guessing = DecodeOptions { draft_tokens, ..options.clone() };
        let context = after(&typed);
        prop_assert_eq!(answer(model, &context, &guessing), answer(model, &context, &options));
        let remembering = model.clone().with_prefix_cache(PREFIX_BYTES, LIFETIME);
        for _ in 0..2 {
            prop_assert_eq!(answer(&remembering, &context, &guessing).0, answer(model, &context, &options).0);
        }
    }
}

#[test]
fn some_guesses_are_right_and_some_are_wrong() {
    let (mut drafted, mut kept) = (0, 0);
    for seed in 0..40 {
        let options =
            DecodeOptions { force_edit: true, temperature: 0.5, seed, draft_tokens: 4, ..DecodeOptions::default() };
        let completion = repetitive().complete(&context(), &options, &|| false, &mut |_| {}).unwrap();
        drafted += completion.drafted_tokens;
        kept += completion.kept_draft_tokens;
        assert!(completion.generated_tokens > completion.kept_draft_tokens);
    }
    assert!(0 < kept && kept < drafted, "{kept} of {drafted}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn prompts_continued_together_are_the_prompts_continued_one_by_one(
        which in 0_usize..4,
        prompts in proptest::collection::vec(proptest::collection::vec(0_u32..200, 1..90), 1..6),
        count in 1_usize..20,
    ) {
        let model = plain().get(which).unwrap_or_else(repetitive);
        let written = |prompts: &[Vec<u32>]| -> Vec<Vec<u32>> {
            let mut continuation = model.continuing(prompts).unwrap();
            (0..count).map(|_| continuation.write().unwrap()).collect()
        };
        let together = written(&prompts);
        for (place, prompt) in prompts.iter().enumerate() {
            let alone: Vec<u32> = written(std::slice::from_ref(prompt)).concat();
            let of_it: Vec<u32> = together.iter().map(|tokens| tokens[place]).collect();
            prop_assert_eq!(of_it, alone);
        }
    }
}

/// What each of several questions heard, by its number.
#[derive(Debug, Default)]
struct Heard {
    actions: Vec<Vec<EditAction>>,
    ends: Vec<Option<Result<Completion, ModelError>>>,
    /// How many were being answered when each began.
    beside: Vec<usize>,
    open: usize,
}

struct Asked<'a> {
    number: usize,
    context: Arc<EditContext>,
    options: DecodeOptions,
    is_cancelled: bool,
    breaks: bool,
    heard: &'a RefCell<Heard>,
}

impl Question for Asked<'_> {
    fn context(&self) -> Arc<EditContext> {
        assert!(!self.breaks, "on purpose");
        Arc::clone(&self.context)
    }

    fn options(&self) -> DecodeOptions {
        self.options.clone()
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    fn on_action(&self, action: EditAction) {
        self.heard.borrow_mut().actions[self.number].push(action);
    }

    fn on_end(self, result: Result<Completion, ModelError>) {
        let mut heard = self.heard.borrow_mut();
        assert!(heard.ends[self.number].replace(result).is_none(), "it ends once");
        heard.open -= 1;
    }
}

/// What `questions` hear when they are asked together, at most `most` at once; `arrives` says at each look whether there is
/// one to join.
fn together(
    model: &EditModel,
    most: usize,
    questions: &[(EditContext, DecodeOptions)],
    arrives: &[bool],
    change: impl Fn(&mut Asked<'_>),
) -> Heard {
    let count = questions.len();
    let heard = RefCell::new(Heard {
        actions: vec![Vec::new(); count],
        ends: (0..count).map(|_| None).collect(),
        ..Heard::default()
    });
    let mut left: VecDeque<usize> = (0..count).collect();
    let mut looks = arrives.iter().copied().cycle();
    while !left.is_empty() {
        let mut next = || {
            // When nobody is being answered, there is always somebody who asks.
            if heard.borrow().open > 0 && looks.next() == Some(false) {
                return None;
            }
            let number = left.pop_front()?;
            let open = heard.borrow().open;
            heard.borrow_mut().beside.push(open);
            heard.borrow_mut().open += 1;
            let (context, options) = questions[number].clone();
            let (is_cancelled, breaks) = (false, false);
            let mut asked = Asked { number, context: Arc::new(context), options, is_cancelled, breaks, heard: &heard };
            change(&mut asked);
            Some(asked)
        };
        model.complete_together::<Asked<'_>>(most, &mut next).unwrap();
    }
    heard.into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn questions_answered_together_are_answered_as_if_each_were_alone(
        which in 0_usize..4,
        asked in proptest::collection::vec(
            (
                "[a-z_.(), ]{0,12}",
                prop_oneof![Just(0.0_f32), Just(0.8)],
                any::<u64>(),
                0_usize..4,
                0_usize..50,
                0_usize..4,
            ),
            1..8,
        ),
        most in 1_usize..6,
        arrives in proptest::collection::vec(any::<bool>(), 1..12),
        bytes in prop_oneof![Just(0), Just(PREFIX_BYTES), Just(60_000)],
    ) {
        let model = plain().get(which).unwrap_or_else(repetitive);
        let questions: Vec<(EditContext, DecodeOptions)> = asked
            .into_iter()
            .map(|(typed, temperature, seed, draft_tokens, max_tokens, max_actions)| {
                // Some are silent.
                let force_edit = seed % 4 > 0;
                let threshold = if force_edit { 0.5 } else { 2.0 };
                let options = DecodeOptions {
                    force_edit,
                    threshold,
                    temperature,
                    seed,
                    draft_tokens,
                    max_tokens,
                    max_actions,
                    ..DecodeOptions::default()
                };
                (after(&typed), options)
            })
            .collect();
        let remembering = model.clone().with_prefix_cache(bytes, LIFETIME);
        let heard = together(&remembering, most, &questions, &arrives, |_| {});
        prop_assert!(heard.beside.iter().all(|beside| *beside < most));
        for (((context, options), shown), end) in questions.iter().zip(heard.actions).zip(heard.ends) {
            let (wanted, _) = answer(model, context, options);
            let mut got = end.unwrap().unwrap();
            got.reused_tokens = 0;
            (got.drafted_tokens, got.kept_draft_tokens) = (0, 0);
            prop_assert_eq!(&got, &wanted);
            prop_assert_eq!(shown, wanted.actions.actions);
        }
    }
}

#[test]
fn questions_join_while_others_are_answered_one_at_a_time_and_leave_alone() {
    let options =
        |max_tokens| DecodeOptions { force_edit: true, max_actions: 9, max_tokens, ..DecodeOptions::default() };
    let questions: Vec<_> = [30, 2, 30, 30, 30].into_iter().map(|most| (context(), options(most))).collect();
    let heard = together(&plain()[0], 3, &questions, &[true], |asked| {
        asked.is_cancelled = asked.number == 2;
        asked.breaks = asked.number == 3;
    });
    let ends: Vec<Result<Completion, ModelError>> = heard.ends.into_iter().map(Option::unwrap).collect();
    assert_eq!(heard.beside[..2], [0, 1]);
    assert_eq!(heard.beside.len(), 5);
    // One leaves with its client, one breaks, and nobody else hears of it.
    assert_eq!(ends[2].as_ref().unwrap().stopped_reason, edit_model::StopReason::Cancelled);
    assert!(matches!(ends[3], Err(ModelError::Panicked)));
    for place in [0, 1, 4] {
        let (wanted, _) = answer(&plain()[0], &questions[place].0, &questions[place].1);
        assert_eq!(ends[place].as_ref().unwrap(), &wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn in_8_bits_too_nothing_that_makes_it_fast_changes_an_answer(
        which in 0_usize..4,
        typed in proptest::collection::vec("[a-z_.(), ]{0,12}", 1..5),
        draft_tokens in 0_usize..5,
        most in 1_usize..4,
    ) {
        let model = plain().get(which).unwrap_or_else(repetitive).in_int8().unwrap();
        let options = DecodeOptions { force_edit: true, ..DecodeOptions::default() };
        let questions: Vec<_> =
            typed.iter().map(|typed| (after(typed), DecodeOptions { draft_tokens, ..options.clone() })).collect();
        let remembering = model.clone().with_prefix_cache(PREFIX_BYTES, LIFETIME);
        let heard = together(&remembering, most, &questions, &[true, false], |_| {});
        for ((context, _), end) in questions.iter().zip(heard.ends) {
            let mut got = end.unwrap().unwrap();
            (got.reused_tokens, got.drafted_tokens, got.kept_draft_tokens) = (0, 0, 0);
            prop_assert_eq!(got, answer(&model, context, &options).0);
        }
    }
}

#[test]
fn a_model_in_8_bits_has_rounded_weights_and_nearly_the_same_gate() {
    for model in plain() {
        let rounded = model.in_int8().unwrap();
        assert_ne!(rounded.weights(), model.weights());
        let largest = model.weights().iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let is_near = |(one, other): (&f32, &f32)| (one - other).abs() <= 0.51 / 127.0 * largest;
        assert!(rounded.weights().iter().zip(model.weights()).all(is_near));
        let gate = |model: &EditModel| model.gate_score(&context()).unwrap();
        assert!((gate(&rounded) - gate(model)).abs() < 0.02);
        // Other weights are not rounded.
        let other = rounded.with_weights(model.weights().to_vec()).unwrap();
        let options = DecodeOptions { force_edit: true, ..DecodeOptions::default() };
        assert_eq!(answer(&other, &context(), &options), answer(model, &context(), &options));
    }
    let mut weights = plain()[0].weights().to_vec();
    let place = weights.len() - 100;
    weights[place] = f32::NAN;
    let broken = plain()[0].with_weights(weights).unwrap();
    assert!(broken.in_int8().unwrap_err().to_string().contains("no numbers"));
}

#[test]
fn other_weights_remember_nothing_of_these() {
    let first = plain()[0].clone().with_prefix_cache(PREFIX_BYTES, LIFETIME);
    let options = DecodeOptions { force_edit: true, ..DecodeOptions::default() };
    answer(&first, &context(), &options);
    assert!(answer(&first, &context(), &options).1 > 0);
    let second = first.with_weights(plain()[1].weights().to_vec()).unwrap();
    let (got, reused) = answer(&second, &context(), &options);
    assert_eq!(reused, 0);
    assert_eq!(got, answer(&plain()[1], &context(), &options).0);
    // The clone shares what is kept.
    assert!(answer(&first.clone(), &context(), &options).1 > 0);
}

#[test]
fn what_one_tenant_asked_makes_no_answer_to_another_faster() {
    let model = plain()[0].clone().with_prefix_cache(PREFIX_BYTES, LIFETIME);
    let reused = |tenant: &str| {
        let options = DecodeOptions { force_edit: true, tenant: tenant.to_owned(), ..DecodeOptions::default() };
        answer(&model, &context(), &options).1
    };
    assert_eq!((reused("one"), reused("two")), (0, 0));
    assert!(reused("one") > 0 && reused("two") > 0);
}
