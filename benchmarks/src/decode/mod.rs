//! How fast models answer: beside llama.cpp, and what remembered prompts and guessed tokens are worth, on the base model and
//! its own tasks.

mod first;
mod loss;
mod peer;
mod rates;

pub(crate) use first::{ALONE, ALONE_INT8, alone};

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use edit_model::dialect::encode_prompt;
use edit_model::{DecodeOptions, EditModel};
use events::EditContext;
use trainer::read_tasks;

use crate::measurement::{Measurement, median};

/// Tasks that are asked.
const TASKS: usize = 60;
/// What is typed at the cursor of each, a keystroke at a time.
const TYPED: &str = "value_of";
/// Room for every prompt that one developer leaves.
const PREFIX_BYTES: usize = 32 << 20;
/// Longer than the measurement takes.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Guesses at once.
const DRAFTS: [usize; 3] = [2, 4, 8];

/// What is asked.
fn contexts() -> anyhow::Result<Vec<EditContext>> {
    let tasks = read_tasks(&rates::base_directory().join("old_skills.jsonl"))?;
    let contexts: Vec<EditContext> = tasks.into_iter().take(TASKS).map(|task| task.context).collect();
    if contexts.is_empty() {
        bail!("the base model has no tasks");
    }
    Ok(contexts)
}

fn prompt_of(model: &EditModel, context: &EditContext) -> anyhow::Result<Vec<u32>> {
    Ok(encode_prompt(model.tokenizer(), context)?.tokens)
}

/// `context` and what it becomes keystroke by keystroke.
fn keystrokes(context: &EditContext) -> anyhow::Result<Vec<EditContext>> {
    let mut contexts = vec![context.clone()];
    for letter in TYPED.chars() {
        let mut next = contexts.last().context("the first")?.clone();
        let place = usize::try_from(next.cursor_byte - next.window.start_byte)?;
        next.window.text.insert(place, letter);
        next.cursor_byte += letter.len_utf8() as u64;
        contexts.push(next);
    }
    Ok(contexts)
}

/// Milliseconds to the gate score of each context, and the share of the prompts' tokens that were known.
fn prompts(model: &EditModel, contexts: &[EditContext]) -> anyhow::Result<(Vec<f64>, f64)> {
    let options = DecodeOptions { threshold: f32::INFINITY, ..DecodeOptions::default() };
    let (mut milliseconds, mut tokens, mut reused) = (Vec::new(), 0, 0);
    for context in contexts {
        let started = Instant::now();
        let completion = model.complete(context, &options, &|| false, &mut |_| {})?;
        milliseconds.push(started.elapsed().as_secs_f64() * 1000.0);
        tokens += completion.prompt_tokens;
        reused += completion.reused_tokens;
    }
    Ok((milliseconds, reused as f64 / tokens as f64))
}

/// Written tokens a second with `draft_tokens` guesses at once, the share of guesses that were right, and what was
/// written.
fn writing(model: &EditModel, contexts: &[EditContext], draft_tokens: usize) -> anyhow::Result<(f64, f64, usize)> {
    let options = DecodeOptions { force_edit: true, draft_tokens, ..DecodeOptions::default() };
    let (mut seconds, mut written, mut drafted, mut kept) = (0.0, 0, 0, 0);
    for context in contexts {
        // Reading the prompt is measured apart: here all of it but a token is known.
        model.gate_score(context)?;
        let started = Instant::now();
        let completion = model.complete(context, &options, &|| false, &mut |_| {})?;
        seconds += started.elapsed().as_secs_f64();
        written += completion.generated_tokens;
        drafted += completion.drafted_tokens;
        kept += completion.kept_draft_tokens;
    }
    Ok((written as f64 / seconds, kept as f64 / drafted.max(1) as f64, written))
}

/// The figures, each beside the same without what it is about.
pub(crate) fn measure() -> anyhow::Result<Vec<Measurement>> {
    let plain = EditModel::load(&rates::base_directory()).context("the base model")?;
    let remembering = plain.clone().with_prefix_cache(PREFIX_BYTES, LIFETIME);
    let contexts = contexts()?;
    let mut typed = Vec::new();
    for context in &contexts {
        typed.extend(keystrokes(context)?);
    }
    // The first calls allocate.
    prompts(&plain, &contexts)?;
    let (cold, _) = prompts(&plain, &typed)?;
    let (warm, share) = prompts(&remembering, &typed)?;
    let mut measurements = vec![
        Measurement::new(
            "decode: prompt after a keystroke, P50",
            median(warm),
            "ms",
            format!("{:.0}% of its tokens were known; baseline: the same prompts read whole", 100.0 * share),
        )
        .beside(median(cold)),
    ];
    let (alone, _, tokens) = writing(&remembering, &contexts, 0)?;
    for drafts in DRAFTS {
        let (rate, right, same) = writing(&remembering, &contexts, drafts)?;
        if same != tokens {
            bail!("{drafts} guesses at once changed an answer: {same} tokens instead of {tokens}");
        }
        let note = format!("{:.0}% of the guesses were right; baseline: tokens read one by one", 100.0 * right);
        let name = format!("decode: written tokens, {drafts} guesses at once");
        measurements.push(Measurement::new(name, rate, "tokens/s", note).beside(alone));
    }
    measurements.extend(loss::measure(&plain)?);
    measurements.extend(first::measure(&plain, share)?);
    measurements.extend(rates::measure(&plain, &contexts)?);
    Ok(measurements)
}
