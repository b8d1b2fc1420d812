//! `test-servers run -- COMMAND...`: runs a command with the servers that the tests need, each started once.
//!
//! The servers end with the command; and when whoever started this program ends first, killed or not, the command and
//! the servers end too.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program speaks to whoever started it")]

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _, parent_id};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use test_servers::Servers;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "test-servers run -- COMMAND [ARGUMENT...]

Starts PostgreSQL, an S3 gateway and Apache Kafka on free ports, with temporary data, unless TEST_SERVERS_POSTGRESQL,
TEST_SERVERS_S3 and TEST_SERVERS_KAFKA name running ones; runs COMMAND with these variables set; ends them; exits as
COMMAND did.";

const LOOK: Duration = Duration::from_millis(100);
/// How long a command may take to end by itself once it was asked to.
const PATIENCE: Duration = Duration::from_secs(5);

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
    // In a group of its own: what the command starts ends with it.
    let child = Command::new(program)
        .args(arguments)
        .envs(variables)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{program} can not be run: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let status = runtime.map_err(|error| error.to_string())?.block_on(until_ended(child, parent));
    servers.stop();
    let status = status?;
    // As a shell says it of a command that a signal ended.
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Waits for the end of the command, and brings it about when this program is asked to end or its parent is gone.
async fn until_ended(mut child: Child, parent: u32) -> Result<ExitStatus, String> {
    let group = format!("-{}", child.id());
    let end = |signal: &str| {
        // It may have ended by itself.
        let _none_left = Command::new("kill").args(["-s", signal, "--", &group]).stderr(Stdio::null()).status();
    };
    let listen = |kind| signal(kind).map_err(|error| error.to_string());
    let (mut interrupt, mut terminate, mut hang_up) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    let mut asked: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            if asked.is_some() {
                end("KILL");
            }
            return Ok(status);
        }
        let is_asked = tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            _ = hang_up.recv() => true,
            () = tokio::time::sleep(LOOK) => parent_id() != parent,
        };
        match asked {
            None if is_asked => {
                end("TERM");
                asked = Some(Instant::now());
            }
            Some(asked) if asked.elapsed() > PATIENCE => end("KILL"),
            _ => {}
        }
    }
}
