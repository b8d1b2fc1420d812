//! Every claimed figure: a command that measures it beside its baseline.

mod actionrl;
mod convention;
mod data_set;
mod decode;
mod demo;
mod door;
mod faults;
#[cfg(feature = "production")]
mod kafka;
mod labeling;
mod log;
mod measurement;
mod memorisation;
mod memory;
mod peers;
#[cfg(feature = "production")]
mod platform;
mod propagation;
#[cfg(feature = "production")]
mod series;
mod training;
mod trajectories;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;
use edit_model::ServedWeights;
use trainer::methods::{Method, MethodConfig};

use crate::actionrl::ActionrlPiece;
use crate::data_set::DataSetSizes;
use crate::labeling::LabelingSizes;
use crate::measurement::Measurement;

/// Measures one figure of the product beside its baseline, in the same run.
#[derive(Debug, Parser)]
#[cfg_attr(not(feature = "production"), allow(dead_code, reason = "some of it is for what needs `production`"))]
#[command(name = "benchmarks/run")]
struct Arguments {
    /// Which; `--list` names them.
    name: Option<String>,
    /// Write what was measured as a JSON list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name all benchmarks.
    #[arg(long)]
    list: bool,
    /// Seeds of `demo`, `convention`, `methods`, `memorisation` and `ablations`.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// How often `faults` kills something.
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Other moments and victims of `faults`.
    #[arg(long, default_value_t = 4)]
    fault_seed: u64,
    #[command(flatten)]
    trial: Trial,
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    labeling: LabelingSizes,
    #[command(flatten)]
    data_set: DataSetSizes,
    #[command(flatten)]
    actionrl: ActionrlPiece,
    /// Code of `trajectories` and `propagation`. Default: the demo's corpus.
    #[arg(long, value_name = "DIRECTORY")]
    corpus: Option<PathBuf>,
    /// Directory of the base model that `propagation` asks. Default: the one inside.
    #[arg(long, value_name = "DIRECTORY")]
    base: Option<PathBuf>,
    /// Of the process that `stalls` starts.
    #[arg(long, hide = true)]
    place: Option<String>,
    /// The same.
    #[arg(long, hide = true)]
    step: Option<String>,
}

/// How much is measured of what needs real servers.
#[derive(Debug, Clone, Copy, clap::Args)]
#[cfg_attr(not(feature = "production"), allow(dead_code, reason = "what it sizes needs `production`"))]
struct Sizes {
    /// Records of one round of `rates`, at least 24,000: fewer fire no timer of a load far apart.
    #[arg(long, default_value_t = 120_000)]
    records: u64,
    /// Rounds of `rates` and of each kind of `stalls`.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Size of the changelog of `restore`, MiB.
    #[arg(long, default_value_t = 1024)]
    changelog_mib: u64,
    /// Rate of `stages`.
    #[arg(long, default_value_t = 1_000)]
    events_per_second: u64,
    /// How long `stages` keeps it up, at most 280: a session must not be quiet for 10 s.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=280))]
    seconds: u64,
    /// Suggestions of `sizing`.
    #[arg(long, default_value_t = 2_000)]
    suggestions: u64,
    /// Write what `sizing` measures into docs/sizing.md.
    #[arg(long)]
    write_docs: bool,
}

/// Settings of learning that `convention`, `methods`, `actionrl`, `memorisation` and `ablations` try instead of the
/// defaults. What is tried is in the figures' notes.
#[derive(Debug, Default, Clone, Copy, clap::Args)]
struct Trial {
    /// Steps of a turn.
    #[arg(long)]
    steps: Option<usize>,
    /// Highest learning rate of everything but habits.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Highest learning rate of habit tokens.
    #[arg(long)]
    habit_rate: Option<f64>,
    /// Pairs in a step.
    #[arg(long)]
    pairs: Option<usize>,
    /// Replayed base tasks in a step.
    #[arg(long)]
    replay: Option<usize>,
    /// Start habits from neutral places instead of the spelling that explains a team's edits best.
    #[arg(long)]
    neutral_habits: bool,
}

impl Trial {
    fn config(self, method: Method, seed: u64) -> MethodConfig {
        let defaults = MethodConfig::default();
        MethodConfig {
            method,
            seed,
            steps: self.steps.unwrap_or(defaults.steps),
            learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
            habit_rate: self.habit_rate.unwrap_or(defaults.habit_rate),
            batch_pairs: self.pairs.unwrap_or(defaults.batch_pairs),
            batch_replay: self.replay.unwrap_or(defaults.batch_replay),
            spell_habits: !self.neutral_habits,
            ..defaults
        }
    }
}

const NAMES: [(&str, &str); 22] = [
    (
        "demo",
        "the claim over seeds, with and without placebo, beside \"repeat the last substitution\"; wall time, turn time",
    ),
    ("bus", "acknowledged records/s published, and through a stateful step, beside plain SQLite transactions"),
    ("rates", "the bus on Apache Kafka beside raw clients on the same broker; the same loads on the embedded bus"),
    ("stalls", "the worst wait of a reader after SIGKILL of a step's owner, with and without a successor; both buses"),
    ("restore", "time until a step goes on with a state of 1 GiB, beside a raw client that reads its changelog"),
    ("stages", "time of an event through ingest, anonymizer and labeler at 1,000 events/s, windows apart; both buses"),
    ("faults", "kills of services and servers under load: how long nothing is acknowledged, and what the audit finds"),
    ("sizing", "processor seconds and bytes for 1,000 suggestions, of services and servers in processes of their own"),
    ("convention", "a convention after one turn's steps on 120 corrections, and what was lost, beside the base model"),
    ("methods", "sft, dpo and actionrl on seeds and files other than the demo's; the winner is the default"),
    (
        "actionrl",
        "twelve methods by how far they moved, in resumable pieces; what each suppresses; beside sft and the start model",
    ),
    (
        "labels",
        "precision and recall of every label beside what developers meant; events lost, late, reordered; other edits",
    ),
    ("ablations", "what each rule of the label table is worth to the model that learns from it, beside a placebo"),
    (
        "labeling",
        "labels/s in memory and through the local log beside a bare stateful step; memory; the divergence point alone",
    ),
    (
        "data-set",
        "data sets of 10^4, 10^5 and 10^6 pairs, lessons, near-duplicates, scans; beside DuckDB and datasketch",
    ),
    ("latency", "first-action latency of `up` under load: P50, P90, P99, beside the same model asked in process"),
    (
        "decode",
        "tokens/s, first action and memory beside llama.cpp; a prompt after a keystroke, guesses, beside going without",
    ),
    (
        "memorisation",
        "markers of one person that a turn makes the model complete, beside controls that were not planted",
    ),
    ("memory", "peak memory of `up` under load, beside the model alone in a process"),
    (
        "propagation",
        "utility of the base in the middle of real changes, by language, beside two baselines that learn nothing",
    ),
    ("training", "time of a training step and tokens/s of our engine, beside burn on the same processors"),
    ("trajectories", "source/s/core of which trajectories are made, beside parsing the same files once"),
];

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line tool talks to its terminal")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for (name, what) in NAMES {
            println!("{name:<12} {what}");
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(measurements) => {
            for measurement in &measurements {
                println!("{}", measurement.line());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("benchmarks: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<Vec<Measurement>> {
    let name = arguments.name.as_deref().context("name a benchmark; --list names them all")?;
    let measurements = match name {
        "demo" => demo::measure(arguments.seeds)?,
        "bus" => log::measure()?,
        "convention" => convention::measure(arguments.seeds, arguments.trial)?,
        "methods" => convention::methods(arguments.seeds, arguments.trial)?,
        "actionrl" => actionrl::measure(&arguments.actionrl, arguments.trial)?,
        "labels" => labeling::truth::measure(&arguments.labeling)?,
        "ablations" => labeling::ablation::measure(arguments.seeds, arguments.trial)?,
        "labeling" => labeling::speed::measure(&arguments.labeling)?,
        "data-set" => data_set::measure(&arguments.data_set)?,
        "latency" => door::latency()?,
        "decode" => decode::measure()?,
        "memorisation" => memorisation::measure(arguments.seeds, arguments.trial)?,
        "memory" => door::memory()?,
        "propagation" => propagation::measure(arguments.base.as_deref(), arguments.corpus.as_deref())?,
        "training" => training::measure()?,
        "trajectories" => trajectories::measure(arguments.corpus.as_deref())?,
        "faults" => faults::measure(arguments.kills, arguments.fault_seed)?,
        // Not listed: the baseline of `memory`, which has to be a process of its own.
        door::ALONE => door::alone()?,
        // Nor are these: the peaks of `decode`, for the same reason.
        decode::ALONE => decode::alone(ServedWeights::Full)?,
        decode::ALONE_INT8 => decode::alone(ServedWeights::Int8)?,
        #[cfg(feature = "production")]
        "rates" => kafka::rates::measure(&arguments.sizes)?,
        #[cfg(feature = "production")]
        "stalls" => kafka::stalls::measure(&arguments.sizes)?,
        #[cfg(feature = "production")]
        "restore" => kafka::restore::measure(&arguments.sizes)?,
        #[cfg(feature = "production")]
        "stages" => platform::stages::measure(&arguments.sizes)?,
        #[cfg(feature = "production")]
        "sizing" => platform::sizing::measure(&arguments.sizes)?,
        #[cfg(feature = "production")]
        kafka::stalls::OWNER => kafka::stalls::own(arguments.place.as_deref(), arguments.step.as_deref())?,
        listed if NAMES.iter().any(|(name, _)| *name == listed) => {
            bail!("{listed} needs the cargo feature `production`; start it with benchmarks/run")
        }
        other => bail!("there is no benchmark \"{other}\"; --list names them all"),
    };
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&measurements)? + "\n")
            .with_context(|| format!("{} can not be written", file.display()))?;
    }
    Ok(measurements)
}
