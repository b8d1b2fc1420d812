//! Tokens a second beside llama.cpp, with the same weights, prompts and threads.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context as _, bail};
use edit_model::{EditModel, ModelConfig, Network};
use events::EditContext;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::peer::{Peer, Server};
use super::prompt_of;
use crate::measurement::{Better, Measurement, median};

/// Tokens that each request writes: together with a prompt they fit the base model's context.
const COUNT: usize = 96;
/// Threads, and requests at once.
const LOADS: [(usize, usize); 6] = [(1, 1), (1, 4), (1, 8), (2, 1), (2, 4), (2, 8)];
/// Our rate is to be at least so much of llama.cpp's.
const SHARE: f64 = 0.8;

/// A model, how its figures are called, and how often each is measured.
struct Subject {
    name: &'static str,
    model: EditModel,
    rounds: usize,
}

/// Random weights of a model that no cache of a processor holds; what it writes makes no sense and takes as long.
fn large(base: &EditModel) -> anyhow::Result<EditModel> {
    let config = ModelConfig {
        hidden_size: 512,
        intermediate_size: 1408,
        num_hidden_layers: 8,
        num_attention_heads: 8,
        num_key_value_heads: 8,
        ..base.network().config().clone()
    };
    let weights = Network::new(config.clone())?.initialize(&mut ChaCha8Rng::seed_from_u64(1));
    Ok(EditModel::new(config, weights, base.tokenizer().clone())?.in_served_precision()?)
}

/// Seconds in which all of `parts`, a thread each, write their tokens.
fn seconds(model: &EditModel, parts: &[&[Vec<u32>]]) -> anyhow::Result<f64> {
    let start = Barrier::new(parts.len());
    let write = |prompts: &[Vec<u32>]| -> anyhow::Result<f64> {
        let read = model.continuing(prompts);
        // Before anything can fail: the others wait for this thread.
        start.wait();
        let mut continuation = read?;
        let started = Instant::now();
        for _ in 0..COUNT {
            continuation.write()?;
        }
        Ok(started.elapsed().as_secs_f64())
    };
    let write = &write;
    let passed: Vec<anyhow::Result<f64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = parts.iter().copied().map(|prompts| scope.spawn(move || write(prompts))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| bail!("a thread that decodes panicked")))
            .collect()
    });
    passed.into_iter().try_fold(0.0, |longest, seconds| Ok(f64::max(longest, seconds?)))
}

/// Median tokens a second of `threads` threads that share `prompts`, each with its part in one batch.
fn rate(model: &EditModel, prompts: &[Vec<u32>], threads: usize, rounds: usize) -> anyhow::Result<f64> {
    let parts: Vec<&[Vec<u32>]> = prompts.chunks(prompts.len().div_ceil(threads)).collect();
    let mut rates = Vec::new();
    for round in 0..=rounds {
        let rate = (COUNT * prompts.len()) as f64 / seconds(model, &parts)?;
        // The first allocates.
        if round > 0 {
            rates.push(rate);
        }
    }
    Ok(median(rates))
}

/// The figures of the base model and of a larger one.
pub(super) fn measure(base: &EditModel, contexts: &[EditContext]) -> anyhow::Result<Vec<Measurement>> {
    let subjects = [
        Subject { name: "base", model: base.clone(), rounds: 15 },
        Subject { name: "28M weights", model: large(base)?, rounds: 3 },
    ];
    let mut prompts = Vec::new();
    for context in contexts {
        prompts.push(prompt_of(base, context)?);
    }
    let mut measurements = Vec::new();
    for Subject { name, model, rounds } in subjects {
        let peer = Peer::new(&model)?;
        let rounded = model.in_int8()?;
        let config = model.network().config();
        for (threads, requests) in LOADS {
            let prompts = prompts.get(..requests).context("the base model has too few tasks")?;
            let server = Server { threads, slots: requests, context: config.max_position_embeddings };
            let (format, theirs) = peer.rate(server, prompts, COUNT, rounds)?;
            for (precision, model) in [("f32", &model), ("int8", &rounded)] {
                let ours = rate(model, prompts, threads, rounds)?;
                let note = format!(
                    "a request is decoded on one thread, those of a thread in one batch; {COUNT} tokens each behind prompts \
                     of the base's tasks; baseline: llama.cpp in {format}, by its own clock, which computes logits of {} \
                     tokens where ours computes {}",
                    config.vocab_size,
                    config.written(),
                );
                let name = format!("decode: {name}, {precision}, threads {threads}, requests {requests}");
                let measured = Measurement::new(name, ours, "tokens/s", note).beside(theirs);
                measurements.push(measured.aiming_at(SHARE * theirs, Better::More));
            }
        }
    }
    Ok(measurements)
}

/// The base model of this repository.
pub(super) fn base_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base")
}
