//! The binary: a subcommand a service, `up`, `demo`, operations commands.

mod adopt;
mod artifact_store;
mod audit;
mod cli;
mod config_show;
mod data_dir;
mod database;
mod dataset;
mod demo;
mod doctor;
mod embedded;
mod export_gguf;
mod failure;
mod foundation;
mod freshness;
mod glance;
mod greeting;
mod log_skip;
mod operations;
mod pairs;
mod parts;
mod platform;
mod pretrain;
mod progress;
mod replay;
mod report;
mod rules;
mod services;
mod serving_alone;
mod settings;
mod shell;
mod sinks;
mod status;
mod table;
mod train;
mod trajectories;
mod up;
mod version_report;
mod visible;

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::SignalKind;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

/// SIGXFSZ, which has this number on Linux and macOS.
const FILE_SIZE_LIMIT_SIGNAL: i32 = 25;

/// How long the end of the process waits for threads that block.
const LAST_WAIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let common = &cli.common;
    // Training and what prepares it is plain computation on its own threads; everything else is served by one runtime.
    let served: Pin<Box<dyn Future<Output = Result<ExitCode, Failure>> + '_>> = match &cli.command {
        Command::Train(arguments) => return train::run(arguments),
        Command::Pretrain(arguments) => return pretrain::run(arguments),
        Command::Adopt(arguments) => return adopt::run(arguments),
        Command::Replay(arguments) => return replay::run(common, arguments),
        Command::Trajectories(command) => return trajectories::run(command),
        Command::ExportGguf(arguments) => return export_gguf::run(arguments),
        Command::Config(command) => return config_show::run(common, command),
        Command::Demo(arguments) => Box::pin(demo::run(common, arguments)),
        Command::Up(arguments) => Box::pin(up::run(common, arguments)),
        Command::Status(list) => Box::pin(status::run(common, list)),
        Command::Audit(arguments) => Box::pin(audit::run(common, arguments)),
        Command::Doctor(arguments) => Box::pin(doctor::run(common, arguments)),
        Command::Migrate(arguments) => Box::pin(database::migrate(common, arguments)),
        Command::Ingest => Box::pin(services::run(common, services::Service::Ingest)),
        Command::Anonymizer => Box::pin(services::run(common, services::Service::Anonymizer)),
        Command::Labeler => Box::pin(services::run(common, services::Service::Labeler)),
        Command::Registry => Box::pin(services::run(common, services::Service::Registry)),
        Command::Orchestrator => Box::pin(services::run(common, services::Service::Orchestrator)),
        Command::Serving => Box::pin(services::run(common, services::Service::Serving)),
        Command::Keys(command) => Box::pin(operations::keys(common, command)),
        Command::Repositories(command) => Box::pin(operations::repositories(common, command)),
        Command::Consent(command) => Box::pin(operations::consent(common, command)),
        Command::DeadLetters(command) => Box::pin(operations::dead_letters(common, command)),
        Command::Log(command) => Box::pin(log_skip::run(common, command)),
        Command::Pairs(command) => Box::pin(pairs::run(common, command)),
        Command::Models(command) => Box::pin(operations::models(common, command)),
        Command::Rollout(command) => Box::pin(operations::rollout(common, command)),
        Command::Dataset(command) => Box::pin(dataset::run(common, command)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("the runtime does not start: {error}")))?;
    let result = runtime.block_on(async {
        // A limit of the file size is told as a full disk is, by the write that meets it, and not by the end of the
        // process.
        let _file_size_limit = tokio::signal::unix::signal(SignalKind::from_raw(FILE_SIZE_LIMIT_SIGNAL))?;
        served.await
    });
    // A thread that waits for brokers can not be cut off, and nothing waits for it.
    runtime.shutdown_timeout(LAST_WAIT);
    result
}
