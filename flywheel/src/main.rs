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
mod visible;

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
    // Training is plain computation on its own threads; everything else is served by one runtime.
    if let Command::Train(arguments) = &cli.command {
        return train::run(arguments);
    }
    if let Command::Pretrain(arguments) = &cli.command {
        return pretrain::run(arguments);
    }
    if let Command::Adopt(arguments) = &cli.command {
        return adopt::run(arguments);
    }
    if let Command::Replay(arguments) = &cli.command {
        return replay::run(&cli.common, arguments);
    }
    if let Command::Trajectories(command) = &cli.command {
        return trajectories::run(command);
    }
    if let Command::ExportGguf(arguments) = &cli.command {
        return export_gguf::run(arguments);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("the runtime does not start: {error}")))?;
    let result = runtime.block_on(async {
        // A limit of the file size is told as a full disk is, by the write that meets it, and not by the end of the
        // process.
        let _file_size_limit = tokio::signal::unix::signal(SignalKind::from_raw(FILE_SIZE_LIMIT_SIGNAL))?;
        let common = &cli.common;
        match &cli.command {
            Command::Demo(arguments) => demo::run(common, arguments).await,
            Command::Up(arguments) => up::run(common, arguments).await,
            Command::Status(list) => status::run(common, list).await,
            Command::Audit(arguments) => audit::run(common, arguments).await,
            Command::Doctor(arguments) => doctor::run(common, arguments).await,
            Command::Config(command) => config_show::run(common, command),
            Command::Migrate(arguments) => database::migrate(common, arguments).await,
            Command::Ingest => services::run(common, services::Service::Ingest).await,
            Command::Anonymizer => services::run(common, services::Service::Anonymizer).await,
            Command::Labeler => services::run(common, services::Service::Labeler).await,
            Command::Registry => services::run(common, services::Service::Registry).await,
            Command::Orchestrator => services::run(common, services::Service::Orchestrator).await,
            Command::Serving => services::run(common, services::Service::Serving).await,
            Command::Keys(command) => operations::keys(common, command).await,
            Command::Repositories(command) => operations::repositories(common, command).await,
            Command::Consent(command) => operations::consent(common, command).await,
            Command::DeadLetters(command) => operations::dead_letters(common, command).await,
            Command::Log(command) => log_skip::run(common, command).await,
            Command::Pairs(command) => pairs::run(common, command).await,
            Command::Models(command) => operations::models(common, command).await,
            Command::Rollout(command) => operations::rollout(common, command).await,
            Command::Dataset(command) => dataset::run(common, command).await,
            Command::Train(_)
            | Command::Pretrain(_)
            | Command::Adopt(_)
            | Command::Replay(_)
            | Command::Trajectories(_)
            | Command::ExportGguf(_) => Err(Failure::refused("handled above".to_owned())),
        }
    });
    // A thread that waits for brokers can not be cut off, and nothing waits for it.
    runtime.shutdown_timeout(LAST_WAIT);
    result
}
