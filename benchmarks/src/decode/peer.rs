//! llama.cpp on the same weights: its server, asked by `peers/llama_cpp.py`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use edit_model::{EditModel, GgufWeights};
use serde::{Deserialize, Serialize};

use crate::measurement::median;

/// Requests that are sent at the same time, each to a slot of its own.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    /// Tokens of each.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Tokens that each is to write.
    pub(super) count: usize,
    /// Whether a slot reads only what differs from its last prompt.
    pub(super) cache: bool,
}

/// How the server runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    pub(super) threads: usize,
    pub(super) slots: usize,
    /// Tokens of a slot.
    pub(super) context: usize,
}

#[derive(Serialize)]
struct Questions<'a> {
    model: &'a Path,
    threads: usize,
    slots: usize,
    context: usize,
    rounds: &'a [Round],
}

/// What the server says of a request.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Timing {
    pub(super) read_ms: f64,
    pub(super) written_ms: f64,
    pub(super) written_tokens: usize,
}

/// What it says of all of them.
#[derive(Debug, Deserialize)]
pub(super) struct Answers {
    pub(super) rounds: Vec<Vec<Timing>>,
    pub(super) peak_mib: f64,
}

impl Answers {
    /// Tokens a second of each round but the first. Every request's clock runs from its first token on.
    pub(super) fn rates(&self) -> Vec<f64> {
        let rate = |round: &Vec<Timing>| {
            let written: usize = round.iter().map(|timing| timing.written_tokens).sum();
            let longest = round.iter().map(|timing| timing.written_ms).fold(0.0, f64::max);
            written as f64 / longest * 1000.0
        };
        self.rounds.iter().skip(1).map(rate).collect()
    }
}

/// A model as llama.cpp reads it, in f32 and in bf16: it may use what it is faster with.
pub(super) struct Peer {
    files: Vec<(&'static str, PathBuf)>,
    folder: tempfile::TempDir,
}

impl Peer {
    /// Exports `model`, whose weights are in bf16 without loss.
    pub(super) fn new(model: &EditModel) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut files = Vec::new();
        for (name, weights) in [("f32", GgufWeights::F32), ("bf16", GgufWeights::Bf16)] {
            let path = folder.path().join(format!("{name}.gguf"));
            model.export_gguf(&path, name, weights)?;
            files.push((name, path));
        }
        Ok(Self { files, folder })
    }

    /// Asks `rounds` once for each number format; the better answers by `cost`, and the name of their format.
    pub(super) fn ask(
        &self,
        server: Server,
        rounds: &[Round],
        cost: impl Fn(&Answers) -> f64,
    ) -> anyhow::Result<(&'static str, Answers)> {
        let mut best: Option<(f64, &'static str, Answers)> = None;
        for (name, model) in &self.files {
            let answers = self.answers(server, model, rounds)?;
            let cost = cost(&answers);
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, *name, answers));
            }
        }
        let (_, name, answers) = best.context("no format")?;
        Ok((name, answers))
    }

    /// The median rate at which it writes `count` tokens behind each of `prompts`, and the format in which it does.
    pub(super) fn rate(
        &self,
        server: Server,
        prompts: &[Vec<u32>],
        count: usize,
        rounds: usize,
    ) -> anyhow::Result<(&'static str, f64)> {
        // The first reads the prompts, and the others find them read.
        let round = Round { prompts: prompts.to_vec(), count, cache: true };
        let cost = |answers: &Answers| -median(answers.rates());
        let (name, answers) = self.ask(server, &vec![round; rounds + 1], cost)?;
        Ok((name, median(answers.rates())))
    }

    fn answers(&self, server: Server, model: &Path, rounds: &[Round]) -> anyhow::Result<Answers> {
        let Server { threads, slots, context } = server;
        let (asked, answered) = (self.folder.path().join("questions.json"), self.folder.path().join("answers.json"));
        let questions = Questions { model, threads, slots, context, rounds };
        std::fs::write(&asked, serde_json::to_vec(&questions)?)?;
        crate::peers::run("llama_cpp.py", &[asked.as_ref(), answered.as_ref()])?;
        let answers: Answers = serde_json::from_slice(&std::fs::read(&answered)?).context("llama.cpp's answers")?;
        let wanted = rounds.iter().flat_map(|round| round.prompts.iter().map(move |_| round.count));
        let written = answers.rounds.iter().flatten().map(|timing| timing.written_tokens);
        if !written.eq(wanted) {
            bail!("llama.cpp wrote other numbers of tokens than it was asked for");
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_all_requests_while_the_slowest_writes() {
        let timing = |written_ms, written_tokens| Timing { read_ms: 1.0, written_ms, written_tokens };
        let first = vec![timing(900.0, 10)];
        let rounds = vec![first, vec![timing(100.0, 10), timing(50.0, 10)], vec![timing(40.0, 10)]];
        assert_eq!(Answers { rounds, peak_mib: 0.0 }.rates(), [200.0, 250.0]);
    }
}
