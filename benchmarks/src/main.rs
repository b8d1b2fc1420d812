//! Every claimed figure: a command that measures it beside its baseline.

mod convention;
mod demo;
mod door;
mod log;
mod measurement;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;

use crate::measurement::Measurement;

/// Measures one figure of the product beside its baseline, in the same run.
#[derive(Debug, Parser)]
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
    /// Seeds of `demo`, `convention` and `methods`.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
}

const NAMES: [(&str, &str); 6] = [
    (
        "demo",
        "the claim over seeds, with and without placebo, beside \"repeat the last substitution\"; wall time, turn time",
    ),
    ("bus", "acknowledged records/s published, and through a stateful step, beside plain SQLite transactions"),
    ("convention", "a convention after 24 steps on 120 corrections, beside the base model"),
    ("methods", "sft, dpo and actionrl on seeds and files other than the demo's; the winner is the default"),
    ("latency", "first-action latency of `up` under load: P50, P90, P99"),
    ("memory", "peak memory of `up` under load"),
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
        "convention" => convention::measure(arguments.seeds)?,
        "methods" => convention::methods(arguments.seeds)?,
        "latency" => door::latency()?,
        "memory" => door::memory()?,
        other => bail!("there is no benchmark \"{other}\"; --list names them all"),
    };
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&measurements)? + "\n")
            .with_context(|| format!("{} can not be written", file.display()))?;
    }
    Ok(measurements)
}
