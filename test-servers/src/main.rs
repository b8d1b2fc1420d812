//! `test-servers run -- COMMAND...`: runs a command with the servers that the tests need, each started once.
//!
//! The servers end with the command; and when whoever started this program ends first, killed or not, the command and
//! the servers end too.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program speaks to whoever started it")]

use std::os::unix::process::{ExitStatusExt as _, parent_id};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use test_servers::Servers;

const USAGE: &str = "test-servers run -- COMMAND [ARGUMENT...]

Starts PostgreSQL and an S3 gateway on free ports, with temporary data, unless TEST_SERVERS_POSTGRESQL and
TEST_SERVERS_S3 name running ones; runs COMMAND with these variables set; ends them; exits as COMMAND did.";

const LOOK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["run", "--", program, ref rest @ ..] => match run(program, rest) {
            Ok(code) => ExitCode::from(code),
            Err(sentence) => {
                eprintln!("test-servers: {sentence}");
                ExitCode::from(2)
            }
        },
        ["--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<u8, String> {
    let parent = parent_id();
    let begun = Instant::now();
    let servers = Servers::start()?;
    let names: Vec<&str> = servers.variables.iter().map(|(name, _)| *name).collect();
    eprintln!("test-servers: started in {:.1} s: {}", begun.elapsed().as_secs_f64(), names.join(", "));
    let variables = servers.variables.iter().map(|(name, value)| (*name, value.as_str()));
    let mut child = Command::new(program)
        .args(arguments)
        .envs(variables)
        .spawn()
        .map_err(|error| format!("{program} can not be run: {error}"))?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if parent_id() != parent {
            let _ended_already = child.kill();
            return Err("whoever started this run is gone".to_owned());
        }
        std::thread::sleep(LOOK);
    };
    servers.stop();
    // As a shell says it of a command that a signal ended.
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}
