//! Commands that make models and what models learn from, without a platform.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use simulator::trajectory::{Compiler, Pattern};
use trainer::Device;
use trainer::pretrain::PretrainConfig;

use super::ListArgs;

#[derive(Debug, Clone, Args)]
pub(crate) struct TrainArgs {
    /// Job file (docs/job-contract.md).
    #[arg(long, value_name = "FILE")]
    pub(crate) job: PathBuf,
}

/// A share, as a number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("not from 0 to 1".to_owned()) }
}

/// What `pretrain` says beside its options.
const PRETRAIN_HELP: &str = "docs/pretraining.md says what the tasks are, how directories of code are to be laid out, and the \
                             one command that remakes the base inside.";

#[derive(Debug, Clone, Args)]
#[command(after_help = PRETRAIN_HELP)]
pub(crate) struct PretrainArgs {
    /// Directory with the sources that `simulator/fetch-sources` fetched.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) sources: PathBuf,
    /// Directories that `trajectories build` wrote: their steps are learned beside tasks of natural code.
    #[arg(long, value_name = "DIRECTORY", num_args = 1..)]
    pub(crate) trajectories: Vec<PathBuf>,
    /// Share of the tasks that are of trajectories, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share, requires = "trajectories")]
    pub(crate) share: f64,
    /// A package or repository that is never learned from, beside the one in ten that its name's hash holds out. May be
    /// repeated.
    #[arg(long = "hold-out", value_name = "NAME")]
    pub(crate) hold_out: Vec<String>,
    /// Where the model and its checkpoints go. An interrupted run goes on from its last checkpoint.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) output: PathBuf,
    /// Optimizer steps.
    #[arg(long, default_value_t = PretrainConfig::default().steps)]
    pub(crate) steps: usize,
    /// Same seed, same tasks in the same order, and the same first weights.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What computes: `cpu`, or `cuda` in a build with `--features cuda`.
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,
}

/// What `adopt` says beside its options.
const ADOPT_HELP: &str = "The checkpoint is a decoder of the Llama, Qwen2 or Qwen3 family in Hugging Face's layout. \
                          `flywheel up --base` starts from what is written. It answers nothing sensible before it \
                          was taught: docs/operations.md says what is changed and how much memory it takes.";

#[derive(Debug, Clone, Args)]
#[command(after_help = ADOPT_HELP)]
pub(crate) struct AdoptArgs {
    /// Directory of the checkpoint: config.json, safetensors, tokenizer.json.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) model: PathBuf,
    /// Where the base model goes: a directory that is empty or absent.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) output: PathBuf,
    /// Its name. Default: that of the checkpoint's directory.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Same seed, same first weights of the new tokens.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrajectoriesCommand {
    /// Take back changes in the code of a corpus, so that making them again, step by step, leads to it.
    #[command(after_help = "Nothing is used of a file whose licence is unknown or not allowed. docs/trajectories.md \
                            says how licences are found, what the patterns are and what is written.")]
    Build(TrajectoriesBuildArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TrajectoriesBuildArgs {
    /// Real code: a repository, or a folder of repositories.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) corpus: PathBuf,
    /// Where trajectories go: a new folder. Default: nowhere, they are only counted and shown.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) output: Option<PathBuf>,
    /// A pattern to look for: signature-change, rename-to-convention, extract-function, type-refinement,
    /// override-generation, auto-import or diagnostic-fix. May be repeated. Default: every one.
    #[arg(long = "pattern", value_name = "PATTERN")]
    pub(crate) patterns: Vec<Pattern>,
    /// A compiler that says which slips of the hand are errors, `rustc` or `python`: what `diagnostic-fix` needs. May be
    /// repeated; takes a second or so a file. Default: none.
    #[arg(long = "compiler", value_name = "COMPILER")]
    pub(crate) compilers: Vec<Compiler>,
    /// Another licence that may be used, as SPDX writes it. May be repeated.
    #[arg(long = "allow-licence", value_name = "LICENCE")]
    pub(crate) allow_licences: Vec<String>,
    /// Most trajectories of one pattern that begin in one file, 1 to 1000.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) per_file: u32,
    /// Most steps of a trajectory, 2 to 1000.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(crate) most_steps: u32,
    /// Same seed and corpus, same trajectories.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Threads that parse and search, 1 to 256. Default: one a processor.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: Option<u32>,
    /// Show so many trajectories of each pattern and language as diffs, 1 when no number is given.
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, default_value_t = 0, default_missing_value = "1")]
    #[arg(hide_default_value = true, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) show: u32,
    /// Also write counts and one trajectory of each pattern and language (as many as --show says) to a file, as
    /// Markdown.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// How `export-gguf` stores weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum GgufType {
    // No documentation: help texts would show it at length.
    Bf16,
    F32,
}

/// What `export-gguf` says beside its options.
const EXPORT_GGUF_HELP: &str = "llama.cpp must not write the tokens from `written_tokens` on, and where `splits_alike` is \
                                false it is to be given tokens instead of text: docs/operations.md says how.";

#[derive(Debug, Clone, Args)]
#[command(after_help = EXPORT_GGUF_HELP)]
pub(crate) struct ExportGgufArgs {
    /// Directory of the model, with its manifest.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) model: PathBuf,
    /// Write this adapter in PEFT's layout instead of the model, to be put over it.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) adapter: Option<PathBuf>,
    /// The file that is written; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Its name. Default: the model's, of an adapter that of its directory.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How the model's weights are stored: `bf16`, as they are served here, or `f32`. An adapter's are always `f32`.
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "bf16",
        hide_possible_values = true,
        conflicts_with = "adapter"
    )]
    pub(crate) weights: GgufType,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// What `replay` says beside its options.
pub(super) const REPLAY_HELP: &str = "Reads with the program git and changes nothing in the repository. Versions and answers are \
                           kept, with code of the history, so that the same command goes on after a kill. Exit code: 0 \
                           everything is done, 1 the minutes were too few or something broke, 2 the history can not be \
                           replayed. docs/replay.md says what counts as a change, a point and a right answer.";

#[derive(Debug, Clone, Args)]
pub(crate) struct ReplayArgs {
    /// A git repository, with its whole history: what is checked out there ends it.
    #[arg(long, value_name = "DIRECTORY", required_unless_present = "releases", conflicts_with = "releases")]
    pub(crate) repo: Option<PathBuf>,
    /// Instead, successive releases of a source tree, oldest first: a class of its own.
    #[arg(long, value_name = "DIRECTORY", num_args = 1..)]
    pub(crate) releases: Vec<PathBuf>,
    /// Name of the repository, as the model sees it. Default: that of its folder.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where the report goes: FILE.md is Markdown, FILE.html a page that needs nothing else, FILE.json is JSON. Default:
    /// Markdown on standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where versions and answers are kept. Default: `replay` in the data directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) state: Option<PathBuf>,
    /// How long this call may answer and learn, once the history is read. What is left is done by the next one.
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) minutes: u32,
    /// Windows that the history is cut into; a version learns from each but the last.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=100))]
    pub(crate) windows: u32,
    /// Most points of a window that count; half of them want no edit.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub(crate) points: u32,
    /// Orders that are drawn for the hunks of a change, 1 to 10.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) orders: u32,
    /// Most commits that are read: the newest.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) commits: u64,
    /// Most text that is read, in MiB, oldest first.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) megabytes: u64,
    /// How versions learn, as in job files.
    #[arg(long, default_value = "sft")]
    pub(crate) method: String,
    /// Training steps of a version.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) steps: u32,
    /// Threads that answer and train.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,
    /// Same seed, same points, versions and figures.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Directory of the base model, with its tasks. Default: the one inside.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) base: Option<PathBuf>,
    /// Directory with the base's sources, to compare text with. Default: where `simulator/fetch-sources` puts them.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) sources: Option<PathBuf>,
}
