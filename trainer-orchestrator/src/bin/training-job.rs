//! The training job alone: what `flywheel train` is, in an image of its own that holds no service.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let [command, flag, path] = arguments.as_slice() else { return usage() };
    if command != "train" || flag != "--job" {
        return usage();
    }
    match trainer_orchestrator::job::run_as_process(&PathBuf::from(path), &mut |_| {}) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error.to_string(), 1),
    }
}

fn usage() -> ExitCode {
    report("usage: training-job train --job FILE, with the key of the data as the first line of standard input", 2)
}

#[expect(clippy::print_stderr, reason = "the log of a job is its standard error")]
fn report(message: &str, code: u8) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(code)
}
