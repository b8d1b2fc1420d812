//! The command line.

mod offline;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use edit_model::export::Dialect;
use events::{Audience, Timestamp};

use self::offline::REPLAY_HELP;
pub(crate) use self::offline::{
    AdoptArgs, ExportGgufArgs, GgufType, PretrainArgs, ReplayArgs, TrainArgs, TrajectoriesBuildArgs,
    TrajectoriesCommand,
};
use crate::pairs::Place;

/// Where help texts tell of the options that every command has: apart from the command's own.
const COMMON: &str = "Options of every command";

/// The package's version and the digest of the sources that this was built from.
pub(crate) const CODE_VERSION: &str = env!("CODE_VERSION");

/// The data flywheel for AI code completion: what developers do with suggestions trains the model that serves them.
#[derive(Debug, Parser)]
#[command(name = "flywheel", version = CODE_VERSION, max_term_width = 110)]
#[command(after_help = "Start with `flywheel demo` (the whole wheel on real code), then `flywheel up` (a platform \
                        that stays).")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Configuration file (TOML; docs/configuration.md lists its keys). Environment variables FLYWHEEL_SECTION__KEY
    /// override it, flags override both. Default: none.
    #[arg(long, global = true, env = "FLYWHEEL_CONFIG", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = COMMON)]
    pub(crate) config: Option<PathBuf>,

    /// Where log, database, artifacts and keys are. Default: flywheel-data; of `demo` a fresh temporary one.
    #[arg(long, global = true, env = "FLYWHEEL_DATA_DIR", hide_env_values = true, value_name = "DIRECTORY")]
    #[arg(help_heading = COMMON)]
    pub(crate) data_dir: Option<PathBuf>,

    /// Override one configuration key, e.g. `--set serving.threshold=0.6`. May be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", help_heading = COMMON)]
    pub(crate) set: Vec<String>,

    /// What services log to standard error (`demo`: to flywheel.log in its data): a `tracing` filter such as `warn` or
    /// `bus=debug,info`. Default: info.
    #[arg(long, global = true, env = "FLYWHEEL_LOG", hide_env_values = true, value_name = "FILTER")]
    #[arg(help_heading = COMMON)]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Turn the whole wheel on real code with simulated developers, and report what it gained.
    Demo(DemoArgs),
    /// Run every service in one process, on embedded parts, until interrupted.
    Up(UpArgs),
    /// Show the wheel at a glance: doors, versions, backlog, last run, freshness, ledger.
    Status(ListArgs),
    /// Check everything that the configured platform depends on, and say what to do. Changes nothing.
    Doctor(DoctorArgs),
    /// Replay the retained log into empty state, and hold everything that was concluded against it.
    #[command(after_help = AUDIT_HELP)]
    Audit(AuditArgs),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Bring the database to the schema of this release.
    Migrate(MigrateArgs),

    /// Run the editors' door alone.
    Ingest,
    /// Run the anonymizer alone.
    Anonymizer,
    /// Run the labeler, the pair lake, the ledger and the tally alone.
    Labeler,
    /// Run the model registry and its rollouts alone.
    Registry,
    /// Run the training orchestrator alone.
    Orchestrator,
    /// Run completion serving alone.
    Serving,

    /// Make, list and revoke API keys; make the master key.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Say which repositories may be trained on, and who may be served the result; without a rule, none.
    #[command(subcommand)]
    Repositories(RepositoriesCommand),
    /// Say what a person agreed to.
    #[command(subcommand)]
    Consent(ConsentCommand),
    /// Look at records that a step could not process, and send them through again.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Let a step or a sink go on behind what was deleted before it was read.
    #[command(subcommand)]
    Log(LogCommand),
    /// Look at preference pairs, and export them for any trainer.
    #[command(subcommand)]
    Pairs(PairsCommand),
    /// Look at registered models.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Look at rollouts and decide them.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Make data sets, look at them, compare them and report what they are made of.
    #[command(subcommand)]
    Dataset(DatasetCommand),

    /// Run one training job (started by the orchestrator).
    Train(TrainArgs),
    /// Remake the base model from its sources.
    Pretrain(PretrainArgs),
    /// Make a base model of a checkpoint that others published.
    Adopt(AdoptArgs),
    /// Learn from a real history of edits in its order, and score every version on what came later.
    #[command(after_help = REPLAY_HELP)]
    Replay(ReplayArgs),
    /// Make edit trajectories that end in real code.
    #[command(subcommand)]
    Trajectories(TrajectoriesCommand),
    /// Write a model, or an adapter over it, for llama.cpp.
    ExportGguf(ExportGgufArgs),
}

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "With --on, the demo is played on a deployment that runs already: separate processes on Apache \
                        Kafka, PostgreSQL and S3, or any other. Its time must run faster than the machine's, which \
                        only a deployment for tests allows; docs/deployment-demo.md has a configuration to begin with."
)]
pub(crate) struct DemoArgs {
    /// Play on the deployment of this configuration file (instead of --config), whose services run already.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["base", "steps", "keep", "placebo"])]
    pub(crate) on: Option<PathBuf>,
    /// With --on: where suggestions are asked for, when that is not where the file lets serving listen. May be repeated:
    /// developers are spread over the addresses.
    #[arg(long, value_name = "URL", requires = "on")]
    pub(crate) serving: Vec<String>,
    /// With --on: where telemetry is reported, as --serving.
    #[arg(long, value_name = "URL", requires = "on")]
    pub(crate) ingest: Vec<String>,
    /// With --on: authorities (PEM) of the certificates at https addresses. Default: those of the registry
    /// (registry.ca_file), else the system's.
    #[arg(long, value_name = "FILE", requires = "on")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Real code: each top-level folder with enough Rust or Python files is a repository. Default: the corpus inside.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) corpus: Option<PathBuf>,
    /// Also write the report to a file, as JSON (docs/report.md says what is in it).
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Keep the temporary data directory when done; one that --data-dir names always stays.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Same seed, same tasks, judgements, arms, snapshots and decisions.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Train with exchanged repository names: must not meet the claim.
    #[arg(long)]
    pub(crate) placebo: bool,
    /// Simulated developers, 10 to 1000.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=1000))]
    pub(crate) developers: u32,
    /// Most rollout blocks of a turn, 1 to 20; in each, every developer meets 6 opportunities.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) blocks: u32,
    /// Training steps of a turn, 1 to 1000.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) steps: u32,
    /// Turns of the wheel, 1 to 10.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) turns: u32,
    /// Directory of the base model. Default: the one inside.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) base: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Directory of the base model that becomes version 1 on the first start. Default: the one inside.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) base: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// Print JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `audit` says beside its options.
const AUDIT_HELP: &str = "Reads the platform, which may run, and never writes to it. Copies the raw and the clean \
                          telemetry of the log into a temporary directory, sealed as they are, and removes it at the \
                          end. Exit code: 0 everything is consistent, 1 something differs, 2 the audit could not be \
                          made. docs/audit.md says what the checks mean.";

#[derive(Debug, Clone, Args)]
pub(crate) struct AuditArgs {
    /// Where the temporary directory is made; it needs about as much room as raw and clean telemetry take. Default:
    /// with the platform's temporary files, in the data directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) scratch: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MigrateArgs {
    /// Change nothing; only say whether this release may work on the database.
    #[arg(long)]
    pub(crate) check: bool,
    /// Then give this role of a PostgreSQL server the rights that services need, as `doctor --print-acls=postgresql`
    /// prints them: where services log in as another role than the one that migrates.
    #[arg(long, value_name = "ROLE", conflicts_with = "check")]
    pub(crate) grant_to: Option<String>,
    /// Then refuse releases before this one for good, so that this one writes what they can not read: once an upgrade
    /// is done and nobody means to go back. A database that this release made needs no such word.
    #[arg(long, conflicts_with = "check")]
    pub(crate) only_this_release: bool,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Clone, Args)]
#[cfg_attr(not(feature = "production"), allow(dead_code, reason = "no part of this build needs rights"))]
pub(crate) struct DoctorArgs {
    /// Check nothing; print the rights that are needed in Apache Kafka, PostgreSQL and S3, as far as they are configured,
    /// or those of one part: `kafka`, `postgresql` or `s3`.
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    #[arg(hide_possible_values = true)]
    pub(crate) print_acls: Option<RightsPart>,
    /// With --print-acls: who gets the rights in Kafka. Default: the user of `bus.kafka.sasl`.
    #[arg(long, value_name = "TYPE:NAME", requires = "print_acls")]
    pub(crate) principal: Option<String>,
    /// With --print-acls: the role that services log in as. Default: the user of `database.url`.
    #[arg(long, value_name = "ROLE", requires = "print_acls")]
    pub(crate) role: Option<String>,
    /// With --print-acls: the role that `flywheel migrate` logs in as, which owns the tables.
    #[arg(long, value_name = "ROLE", requires = "print_acls", default_value = "flywheel_migrate")]
    pub(crate) migrating_role: String,
    /// How long each question may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// Whose rights are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RightsPart {
    // No documentation: help texts would show it at length.
    All,
    Kafka,
    Postgresql,
    S3,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the configuration that is in force, and where each setting was given; no secrets.
    Show(ListArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key and print it once.
    Create {
        /// What it is for, as `keys list` shows it.
        #[arg(long, default_value = "cli")]
        name: String,
        /// What it may do: `telemetry` (report), `suggest` (ask), `registry` (read and change models and rollouts),
        /// `pairs:read` (be shown what is in pairs) or `admin` (everything). May be repeated.
        #[arg(long = "scope", value_name = "SCOPE", default_values_t = ["telemetry".to_owned(), "suggest".to_owned()])]
        scopes: Vec<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// List keys (never the keys themselves).
    List(ListArgs),
    /// Revoke a key.
    Revoke {
        /// Its id, as listed.
        id: String,
    },
    /// Make the file for `keys.master_key_file`: the key that wraps all others. One that is there stays.
    Master {
        /// Where. Only its owner may read it.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RepositoriesCommand {
    /// Allow training on a repository.
    Allow {
        /// Name as editors send it, `*` for all, or the beginning of names, such as `acme/*`.
        repository: String,
        /// Who may be served what is learned from it: `everyone`, or a name that repositories may share.
        #[arg(long, default_value = "everyone")]
        audience: String,
    },
    /// Deny training on a repository, whatever wider rules say.
    Deny {
        /// Name or pattern, as for `allow`.
        repository: String,
    },
    /// List the rules.
    List(ListArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConsentCommand {
    /// Set what a person agreed to: none, usage or code.
    Set {
        /// The name that the person's editor sends.
        person: String,
        /// `none` (only counted), `usage` (what was done, without code) or `code` (whole events).
        tier: String,
    },
    /// Set the widest tier that the tenant allows, whatever its persons agreed to.
    Ceiling {
        /// `none`, `usage` or `code`, as for `set`.
        tier: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List them, newest last; at most about 10,000.
    List(ListArgs),
    /// Show one, without its sealed content.
    Show {
        /// PARTITION:POSITION, as listed.
        id: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Publish its record to its topic again.
    Redrive {
        /// PARTITION:POSITION, as listed; or `all`.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show what keeps a step or a sink from going on in a partition, or in all of them, and, with --yes, let it go on at
    /// the oldest record that is there. What was lost is booked.
    Skip(SkipArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SkipArgs {
    #[command(flatten)]
    pub(crate) reader: ReaderArgs,
    /// The topic that the sink reads; not needed where it reads one only.
    #[arg(long, value_name = "TOPIC", conflicts_with = "step")]
    pub(crate) topic: Option<String>,
    #[command(flatten)]
    pub(crate) partitions: PartitionsArgs,
    /// Do it; without this nothing is changed.
    #[arg(long, requires = "by")]
    pub(crate) yes: bool,
    /// Who decides; `flywheel status` keeps the name.
    #[arg(long, value_name = "PERSON")]
    pub(crate) by: Option<String>,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PartitionsArgs {
    /// The partition, as the step or sink named it when it stopped.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) partition: Option<u32>,
    /// Every partition in which something keeps it.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ReaderArgs {
    /// The step: `anonymizer` or `labeler`. No process may run it.
    #[arg(long, value_name = "STEP")]
    pub(crate) step: Option<String>,
    /// The sink: `lake`, `ledger` or `tally`. No process may run the labeler.
    #[arg(long, value_name = "SINK")]
    pub(crate) sink: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PairsCommand {
    /// List pairs, newest first: what they are about, and none of their text.
    List(PairsListArgs),
    /// Show one pair as a difference: what the developer wanted, what was proposed, and where the two part. Needs a key
    /// with the scope `pairs:read`; the audit log keeps its name.
    Show {
        /// Its id, as listed, or the beginning of it.
        id: String,
        #[command(flatten)]
        key: ReadingKeyArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Count pairs by reason, language, repository and audience. Groups of fewer than five people are merged.
    Stats(PairsStatsArgs),
    /// Say why a pair exists: the row of the label table, and the events behind it as far as the log still holds them.
    Explain {
        /// Its id, as listed, or the beginning of it.
        id: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Write the pairs that may be learned from as text, for a trainer such as TRL. Needs a key with the scope
    /// `pairs:read`; the audit log keeps its name.
    #[command(after_help = EXPORT_HELP)]
    Export(ExportArgs),
}

/// What `pairs export` says beside its options.
const EXPORT_HELP: &str = "Left out, and counted by reason: pairs of persons who were erased or do not agree to whole \
                           events any more, of repositories without a rule or with another audience now, and what the \
                           dialect can not say within the limit. Delete the file when somebody is erased: nobody else \
                           can. docs/pairs.md explains columns, dialects and how trainers read them. Example: flywheel \
                           pairs export --dialect qwen2.5-coder-fim --tokenizer ./Qwen2.5-Coder-1.5B --output \
                           pairs.parquet --key-file reader.key";

/// Which pairs.
#[derive(Debug, Clone, Args)]
pub(crate) struct PairFilterArgs {
    /// Only with this reason, such as `typed_against`; docs/pairs.md lists them.
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: Option<String>,
    /// Only in this language, as LSP calls it.
    #[arg(long, value_name = "LANGUAGE")]
    pub(crate) language: Option<String>,
    /// Only what this audience may be served.
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) audience: Option<Audience>,
    /// Only labeled then (UTC) or later, such as `2026-05-01` or `2026-05-01T08:30:00Z`.
    #[arg(long, value_name = "TIME")]
    pub(crate) labeled_from: Option<Timestamp>,
    /// Only labeled before then.
    #[arg(long, value_name = "TIME")]
    pub(crate) labeled_before: Option<Timestamp>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PairsListArgs {
    #[command(flatten)]
    pub(crate) filter: PairFilterArgs,
    /// Only what follows this pair in the list, as the page before says at its end: LABELED_AT:PAIR_ID.
    #[arg(long, value_name = "PLACE")]
    pub(crate) after: Option<Place>,
    /// Most pairs that are listed.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PairsStatsArgs {
    #[command(flatten)]
    pub(crate) filter: PairFilterArgs,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// By whose right text is read.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReadingKeyArgs {
    /// File with an API key that has the scope `pairs:read`: `flywheel keys create --name ada --scope pairs:read > FILE`.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ExportArgs {
    /// How pairs are written: `flywheel` (ours), `qwen2.5-coder-fim`, `starcoder-fim` (StarCoder or StarCoder2) or
    /// `region-rewrite` (any base).
    #[arg(long, value_name = "DIALECT")]
    pub(crate) dialect: Dialect,
    /// Directory of the base model, for its tokenizer.json.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) tokenizer: PathBuf,
    /// Most tokens of prompt and answer together. The code around a change is cut, never the change. `flywheel` takes 192
    /// or more: its prompts are as long as its model is asked with.
    #[arg(long, value_name = "NUMBER", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub(crate) max_tokens: u32,
    /// The file to write. It is written beside, and put in its place when it is whole.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// `parquet` or `jsonl` (an object a line, with the same fields).
    #[arg(long, value_name = "FORMAT", default_value = "parquet", hide_possible_values = true)]
    pub(crate) format: ExportFormat,
    /// Write single answers with a label (`prompt`, `completion`, `label`), as KTO learns from them, instead of pairs.
    #[arg(long)]
    pub(crate) kto: bool,
    /// The one audience whose pairs are written. Default: that of the data set, or `everyone`.
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) audience: Option<Audience>,
    /// Only what trains in this data set instead of the whole lake: its digest, or the first digits of it, as `flywheel
    /// dataset show` lists them.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) snapshot: Option<String>,
    #[command(flatten)]
    pub(crate) key: ReadingKeyArgs,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// What an export is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    // No documentation: help texts would show it at length.
    Parquet,
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List versions.
    List(ListArgs),
    /// Show one version with its lineage.
    Show {
        /// Version number.
        version: i64,
        /// Write what its gate found to FILE.md, FILE.html or FILE.json.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// List rollouts.
    List(ListArgs),
    /// Show one rollout with its evidence so far.
    Show {
        /// Its id, as listed.
        id: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Promote a rollout that waits for a named person.
    Approve(DecisionArgs),
    /// End a rollout without a verdict.
    Abort(DecisionArgs),
    /// Take a candidate or promoted version back.
    Rollback(DecisionArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// Make the data set that a training run would get now, and store it under its digest. Nothing trains on it.
    #[command(
        after_help = "What is in the lake, in the rules and in the consents of now decides; the settings are those \
                            of [orchestrator]. The same pairs and settings make the same data set, with the same \
                            digest. docs/data-sets.md says what the stages do."
    )]
    Build {
        /// Only say what it would hold; store nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show a data set in counts, once its rows were found to be what its digest names; without a digest, list them.
    #[command(
        after_help = "Never text, and no count of one to four persons. --json also says of every pair what it is used \
                      for, or why not. docs/data-sets.md describes it."
    )]
    Show {
        /// Its digest, or the first digits of it, as listed.
        digest: Option<String>,
        /// Most data sets that are listed, newest first.
        #[arg(long, value_name = "NUMBER", default_value_t = 50, conflicts_with = "digest")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Say which pairs came, which left and why, and what settings differ.
    #[command(after_help = "Pairs are counted by what they were and what they became; --json names every one of them.")]
    Diff {
        /// The first data set: its digest, or the first digits of it.
        from: String,
        /// The second one.
        to: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Report what a data set is made of and what developers did meanwhile, in tables and plots.
    #[command(
        after_help = "Counts and rates, with what each is computed from; never code, and nothing of fewer than five \
                            persons. docs/data-sets.md says what is in it."
    )]
    Report {
        /// Its digest, or the first digits of it, as listed. Default: the newest one.
        digest: Option<String>,
        /// Where the report goes: FILE.md is Markdown, FILE.html a page that needs nothing else. Default: Markdown on
        /// standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// A named person's word about a rollout.
#[derive(Debug, Clone, Args)]
pub(crate) struct DecisionArgs {
    /// Its id, as listed.
    pub(crate) id: String,
    /// Who decides; the audit log keeps the name.
    #[arg(long, value_name = "PERSON")]
    pub(crate) by: String,
    /// Why; the audit log keeps it.
    #[arg(long, value_name = "REASON", default_value = "decided on the command line")]
    pub(crate) because: String,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
