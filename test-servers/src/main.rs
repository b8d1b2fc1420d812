//! `test-servers run -- COMMAND...`: runs a command with the servers that the tests need, each started once.
//!
//! The servers end with the command; and when this program or whoever started it ends first, killed or not, the command
//! and the servers end too.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program speaks to whoever started it")]

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _, parent_id};
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use test_servers::Servers;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "test-servers run [--start-none] -- COMMAND [ARGUMENT...]

Starts PostgreSQL, an S3 gateway, Apache Kafka and toxiproxy on free ports, with temporary data, unless
TEST_SERVERS_POSTGRESQL, TEST_SERVERS_S3, TEST_SERVERS_KAFKA and TEST_SERVERS_TOXIPROXY name running ones; runs COMMAND with
these variables set; ends them, and drops the databases that COMMAND made on a running one; exits as COMMAND did.

--start-none   starts no server: COMMAND starts what it needs and the environment does not name";

const LOOK: Duration = Duration::from_millis(100);
/// How long a command may take to end by itself once it was asked to.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (servers, program, rest) = match arguments[..] {
        ["run", "--", program, ref rest @ ..] => (Servers::start as fn() -> _, program, rest),
        ["run", "--start-none", "--", program, ref rest @ ..] => (Servers::given as fn() -> _, program, rest),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(servers, program, rest) {
        Ok(code) => ExitCode::from(code),
        Err(sentence) => {
            eprintln!("test-servers: {sentence}");
            ExitCode::from(2)
        }
    }
}

fn run(servers: fn() -> Result<Servers, String>, program: &str, arguments: &[&str]) -> Result<u8, String> {
    let parent = parent_id();
    let begun = Instant::now();
    let servers = servers()?;
    let names: Vec<&str> = servers.variables.iter().map(|(name, _)| *name).collect();
    if !names.is_empty() {
        eprintln!("test-servers: ready in {:.1} s: {}", begun.elapsed().as_secs_f64(), names.join(", "));
    }
    let guard = Guard::start()?;
    let mut command = Command::new(program);
    command.args(arguments).envs(servers.variables.iter().map(|(name, value)| (*name, value.as_str())));
    // The tests' connections would read what whoever works here has set for their own databases.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(name);
        }
    }
    // Of a terminal only one group may read, and this command is in a group of its own: what it starts ends with it.
    if std::io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    let group = guard.group();
    let spawned = i32::try_from(group).map(|group| command.process_group(group).spawn());
    let spawned = spawned.map_err(|error| error.to_string())?;
    let child = spawned.map_err(|error| format!("{program} can not be run: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let status = runtime.map_err(|error| error.to_string())?.block_on(until_ended(child, group, parent));
    guard.release();
    servers.stop()?;
    let status = status?;
    // As a shell says it of a command that a signal ended.
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Kills the command when this program ends without a word: nobody else is left to do it. The command joins the group of
/// the guard, which is there first: so there is no moment in which nobody would end it.
struct Guard {
    process: Child,
    /// Only this program holds it open.
    lifeline: ChildStdin,
}

impl Guard {
    const SCRIPT: &str = "trap '' HUP INT TERM; read -r ended || kill -s KILL -- 0";

    fn start() -> Result<Self, String> {
        let mut guard = Command::new("sh");
        guard.args(["-c", Self::SCRIPT]).current_dir("/").process_group(0);
        let spawned = guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut process = spawned.map_err(|error| format!("sh can not be run: {error}"))?;
        let lifeline = process.stdin.take().ok_or("there is no pipe to sh")?;
        Ok(Self { process, lifeline })
    }

    fn group(&self) -> u32 {
        self.process.id()
    }

    /// The group has ended: its number may be another's from here on.
    fn release(mut self) {
        let _it_may_have_been_killed = writeln!(self.lifeline, "ended");
        drop(self.lifeline);
        let _ended = self.process.wait();
    }
}

/// Waits for the end of the command, and brings it about when this program is asked to end or its parent is gone.
async fn until_ended(mut child: Child, group: u32, parent: u32) -> Result<ExitStatus, String> {
    let group = format!("-{group}");
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
