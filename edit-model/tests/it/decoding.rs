//! What makes decoding fast changes no answer.

use std::sync::OnceLock;

use edit_model::{Completion, DecodeOptions, EditModel};
use events::EditContext;
use proptest::prelude::*;

use crate::{TEXT, context, model};

const PREFIX_BYTES: usize = 1 << 20;

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

/// The answer and the actions that were handed out, without what the answer says of the way to it.
fn answer(model: &EditModel, context: &EditContext, options: &DecodeOptions) -> (Completion, usize) {
    let mut shown = Vec::new();
    let mut completion = model.complete(context, options, &|| false, &mut |action| shown.push(action)).unwrap();
    assert_eq!(shown, completion.actions.actions);
    let reused = std::mem::take(&mut completion.reused_tokens);
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
        let remembering = forgetful.clone().with_prefix_cache(bytes);
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

#[test]
fn other_weights_remember_nothing_of_these() {
    let first = plain()[0].clone().with_prefix_cache(PREFIX_BYTES);
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
