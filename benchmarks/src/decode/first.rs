//! The first action behind a prompt of 512 tokens, and the memory that it takes.

use std::time::Instant;

use anyhow::{Context as _, bail};
use edit_model::{DecodeOptions, EditModel, ModelConfig, ServedWeights};
use events::EditContext;
use simulator::driver::quantile_of;

use super::peer::{Answers, Peer, Round, Server};
use super::rates::base_directory;
use super::{LIFETIME, contexts, prompt_of};
use crate::measurement::{Better, Measurement, median};
use crate::memory::{apart, own_peak};

/// The hidden benchmark that tells the peak of a process which does nothing else.
pub(crate) const ALONE: &str = "decode-alone";
/// The same with matrices in 8 bits.
pub(crate) const ALONE_INT8: &str = "decode-alone-int8";
/// Tokens of a prompt.
const PROMPT: usize = 512;
/// Prompts that are asked.
const PROMPTS: usize = 60;
/// A prompt with its answer.
const CONTEXT: usize = 768;
/// Room for all prompts.
const PREFIX_BYTES: usize = 1 << 30;
/// What the first action behind a warm prompt may take, milliseconds.
const WARM_MS: f64 = 100.0;
/// Processors of the machine that the target is stated for.
const THREADS: usize = 2;

/// The base model with room for such prompts. Its own are shorter: what it writes behind these is not looked at.
fn roomy() -> anyhow::Result<EditModel> {
    let base = EditModel::load(&base_directory()).context("the base model")?;
    let config = ModelConfig { max_position_embeddings: CONTEXT, ..base.network().config().clone() };
    Ok(EditModel::new(config, base.weights().to_vec(), base.tokenizer().clone())?)
}

/// Prompts of [`PROMPT`] tokens, made of those of tasks.
fn prompts(base: &EditModel, contexts: &[EditContext]) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut parts = Vec::new();
    for context in contexts {
        parts.push(prompt_of(base, context)?);
    }
    let from =
        |first: usize| -> Vec<u32> { parts.iter().cycle().skip(first).flatten().copied().take(PROMPT).collect() };
    Ok((0..PROMPTS.min(parts.len())).map(from).collect())
}

/// The prompt of some keystrokes before: all but the last tokens stood there already.
fn before(prompt: &[u32], known: usize, written: u32) -> Vec<u32> {
    let (kept, moved) = prompt.split_at(known);
    kept.iter().copied().chain(moved.iter().map(|token| (token + 1) % written)).collect()
}

/// Tokens of a first action of the base model: the median over the tasks in which it writes one.
fn action_tokens(base: &EditModel, contexts: &[EditContext]) -> anyhow::Result<usize> {
    let options = DecodeOptions { force_edit: true, max_actions: 1, ..DecodeOptions::default() };
    let mut tokens = Vec::new();
    for context in contexts {
        let completion = base.complete(context, &options, &|| false, &mut |_| {})?;
        if completion.actions.actions.len() == 1 {
            tokens.push(completion.generated_tokens as f64);
        }
    }
    if tokens.is_empty() {
        bail!("the base model proposes nothing");
    }
    Ok(median(tokens) as usize)
}

/// Milliseconds until `tokens` tokens are written behind each prompt, each after that of some keystrokes before was read.
fn milliseconds(
    model: &EditModel,
    prompts: &[Vec<u32>],
    before: &[Vec<u32>],
    tokens: usize,
) -> anyhow::Result<Vec<f64>> {
    let mut passed = Vec::new();
    for (prompt, before) in prompts.iter().zip(before) {
        model.continuing(std::slice::from_ref(before))?;
        let started = Instant::now();
        let mut continuation = model.continuing(std::slice::from_ref(prompt))?;
        for _ in 0..tokens {
            continuation.write()?;
        }
        passed.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(passed)
}

/// The same of llama.cpp: of every second round, the first of which reads what stood there before.
fn theirs(answers: &Answers) -> Vec<f64> {
    let asked = answers.rounds.iter().skip(1).step_by(2);
    asked.flatten().map(|timing| timing.read_ms + timing.written_ms).collect()
}

/// P50 and P99.
fn quantiles(name: &str, mut ours: Vec<f64>, mut theirs: Vec<f64>, note: &str) -> anyhow::Result<[Measurement; 2]> {
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let figure = |quantile: &str, share: f64| -> anyhow::Result<Measurement> {
        let figure = quantile_of(&ours, share).context("nothing was asked")?;
        let baseline = quantile_of(&theirs, share).context("llama.cpp was not asked")?;
        let name = format!("decode: first action, {name}, {quantile}");
        Ok(Measurement::new(name, figure, "ms", note).beside(baseline))
    };
    Ok([figure("P50", 0.5)?, figure("P99", 0.99)?])
}

/// First actions, cold and warm, where `known` of a prompt's tokens stood there some keystrokes before; and peaks.
pub(super) fn measure(base: &EditModel, known: f64) -> anyhow::Result<Vec<Measurement>> {
    let tasks = contexts()?;
    let model = roomy()?;
    let prompts = prompts(base, &tasks)?;
    let tokens = action_tokens(base, &tasks)?;
    let written = u32::try_from(base.network().config().written())?;
    let known = (known * PROMPT as f64) as usize;
    let earlier: Vec<Vec<u32>> = prompts.iter().map(|prompt| before(prompt, known, written)).collect();
    let peer = Peer::new(&model)?;
    let server = Server { threads: THREADS, slots: 1, context: CONTEXT };
    let ask = |cache: bool| {
        let round = |prompt: &Vec<u32>| Round { prompts: vec![prompt.clone()], count: tokens, cache };
        let rounds: Vec<Round> =
            earlier.iter().zip(&prompts).flat_map(|(before, prompt)| [round(before), round(prompt)]).collect();
        peer.ask(server, &rounds, |answers| median(theirs(answers)))
    };
    let mut measurements = Vec::new();
    let mut their_peak = 0.0_f64;
    for (name, cache) in [("cold", false), ("warm", true)] {
        let (format, answers) = ask(cache)?;
        let read = if cache { PROMPT - known } else { PROMPT };
        their_peak = their_peak.max(answers.peak_mib);
        for (precision, weights) in [("f32", ServedWeights::Full), ("int8", ServedWeights::Int8)] {
            let bytes = if cache { PREFIX_BYTES } else { 0 };
            let asked = model.clone().served_with(weights)?.with_prefix_cache(bytes, LIFETIME);
            let ours = milliseconds(&asked, &prompts, &earlier, tokens)?;
            let note = format!(
                "base model, one thread; {read} of {PROMPT} tokens read, {tokens} written, as many as its first actions \
                 have; baseline: llama.cpp in {format}, {THREADS} threads, by its own clock"
            );
            let [p50, p99] = quantiles(&format!("{name}, {precision}"), ours, theirs(&answers), &note)?;
            measurements.push(if cache { p50.aiming_at(WARM_MS, Better::Less) } else { p50 });
            measurements.push(p99);
        }
    }
    for (precision, alone) in [("f32", ALONE), ("int8", ALONE_INT8)] {
        let note = "a process that loads the base model and answers such prompts; baseline: llama.cpp with its Python";
        let name = format!("decode: peak memory, {precision}");
        measurements.push(Measurement::new(name, apart(alone)?, "MiB", note).beside(their_peak));
    }
    Ok(measurements)
}

/// This process answers by `weights`, and tells its own peak.
pub(crate) fn alone(weights: ServedWeights) -> anyhow::Result<Vec<Measurement>> {
    let model = roomy()?.served_with(weights)?;
    let prompts = prompts(&model, &contexts()?)?;
    milliseconds(&model.with_prefix_cache(PREFIX_BYTES / 32, LIFETIME), &prompts, &prompts, 16)?;
    Ok(vec![Measurement::new("decode: peak alone", own_peak()?, "MiB", "")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_there_before_differs_from_the_known_tokens_on() {
        assert_eq!(before(&[1, 2, 3, 9], 2, 10), [1, 2, 4, 0]);
        assert_eq!(before(&[1, 2], 2, 10), [1, 2]);
    }
}
