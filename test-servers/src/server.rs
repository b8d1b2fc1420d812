//! Servers that end with whoever started them.
//!
//! A server is started by a small shell, the watcher, whose standard input is a pipe that only this process holds open.
//! When this process ends, in whatever way, the system closes the pipe; the watcher reads its end, ends the server and
//! removes its data. (The kernel's own death signal is no help: it follows the thread that started the server, and test
//! threads come and go.) The watcher is in a process group of its own, so that what ends the test run does not end it.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::ports;

/// Runs what makes the server's data, then the server, and leaves the id of what runs in `pid`, and `ended` when nothing
/// runs any more; waits for the end of the input, and then ends what runs. (A shell's background commands ignore SIGINT
/// and SIGQUIT, unless they ask for them, as PostgreSQL does.)
const WATCHER: &str = r#"
directory=$1 signal=$2 prepare=$3
shift 3
begin() {
    sh -c 'echo $$ >"$0/pid" && exec "$@"' "$directory" "$@" </dev/null >>"$directory/log" 2>&1
    code=$?
    # The id of one that has ended may be another program's soon.
    rm -f "$directory/pid"
    return "$code"
}
(
    eval "begin $prepare" && [ ! -e "$directory/stop" ] && begin "$@"
    echo "$?" >"$directory/ended"
) &
cat >/dev/null
: >"$directory/stop"
# Again and again: one that was about to start has no id yet.
tenths=0
until [ -e "$directory/ended" ] || [ "$tenths" -ge 300 ]; do
    [ "$tenths" -lt 100 ] || signal=KILL
    running=$(cat "$directory/pid" 2>/dev/null)
    [ -z "$running" ] || kill -s "$signal" "$running" 2>/dev/null
    sleep 0.1
    tenths=$((tenths + 1))
done
# What it had started itself may still write for a moment.
tenths=0
until rm -rf "$directory" 2>/dev/null || [ "$tenths" -ge 50 ]; do sleep 0.1; tenths=$((tenths + 1)); done
"#;

/// How long a server may take to answer: the machine may be busy with a build.
const READY_LIMIT: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a server's log that are shown when it fails.
const SHOWN_LINES: usize = 20;

/// What is started, and where.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// How it is called in sentences.
    pub(crate) name: &'a str,
    /// Made for it by [`directory`]; removed when it has ended.
    pub(crate) directory: PathBuf,
    /// Program and arguments of what makes its data first; none: nothing has to be made.
    pub(crate) prepare: Vec<String>,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Variables of its own.
    pub(crate) environment: Vec<(&'a str, String)>,
    /// The signal that ends it at once, with all its children.
    pub(crate) signal: &'a str,
}

/// A server that this process has started, for whoever measures what it needs.
#[derive(Debug, Clone)]
pub struct Started {
    /// How it is called in sentences: `Kafka`, `PostgreSQL`, `the S3 gateway`.
    pub name: String,
    /// The id of its first process.
    pub process: u32,
    /// Everything that it keeps is below.
    pub directory: PathBuf,
}

static STARTED: Mutex<Vec<Started>> = Mutex::new(Vec::new());

/// The newest server of this name that this process has started.
#[must_use]
pub fn started(name: &str) -> Option<Started> {
    let started = STARTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    started.iter().rev().find(|server| server.name == name).cloned()
}

/// A server that runs as long as this value, and no longer than this process.
#[derive(Debug)]
pub(crate) struct Running {
    directory: PathBuf,
    again: Again,
    lifeline: Option<ChildStdin>,
    watcher: Child,
}

/// What is needed to start it once more.
#[derive(Debug, Clone)]
struct Again {
    name: String,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    signal: String,
}

impl Running {
    /// Starts a server and waits until it answers. Something else may answer in its place: `is_ready` has to ask for
    /// what only this server knows, or for what it says itself.
    pub(crate) fn start(plan: Plan<'_>, mut is_ready: impl FnMut() -> bool) -> Result<Self, String> {
        let Plan { name, directory, prepare, command, environment, signal } = plan;
        let mut watcher = Command::new("sh");
        let prepare = if prepare.is_empty() { "true".to_owned() } else { quoted(&prepare) };
        watcher.args(["-c", WATCHER, "watcher"]).arg(&directory).arg(signal).arg(prepare).args(&command);
        // What whoever works here has set for their own servers and clients is not meant for these.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| FOREIGN.iter().any(|prefix| name.starts_with(prefix))) {
                watcher.env_remove(name);
            }
        }
        watcher.envs(environment.iter().map(|(name, value)| (name, value)));
        // A server inherits the directory that it starts in, and may not be allowed to be in ours.
        watcher.current_dir("/").process_group(0);
        let spawned = watcher.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut watcher = match spawned {
            Ok(watcher) => watcher,
            Err(error) => {
                let _gone = std::fs::remove_dir_all(&directory);
                return Err(format!("{name} can not be started: {error}"));
            }
        };
        let again = Again {
            name: name.to_owned(),
            command,
            environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            signal: signal.to_owned(),
        };
        let running = Self { directory: directory.clone(), again, lifeline: watcher.stdin.take(), watcher };
        let begun = Instant::now();
        while !is_ready() {
            let ended = directory.join("ended").exists();
            if ended || begun.elapsed() > READY_LIMIT {
                let what = if ended { "ended while starting" } else { "did not answer in time" };
                let sentence = format!("{name} {what}: {}", log_of(&directory));
                running.stop();
                return Err(sentence);
            }
            std::thread::sleep(LOOK);
        }
        let process = std::fs::read_to_string(directory.join("pid")).ok().and_then(|id| id.trim().parse().ok());
        if let Some(process) = process {
            let started = Started { name: name.to_owned(), process, directory };
            STARTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(started);
        }
        Ok(running)
    }

    /// Where it keeps what is its own.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Kills it without a word, and waits until it is gone. Its data stays until this value ends.
    pub(crate) fn kill(&self) -> Result<(), String> {
        let process = std::fs::read_to_string(self.directory.join("pid")).map_err(|_| "it does not run".to_owned())?;
        let killed = Command::new("kill").args(["-KILL", process.trim()]).status();
        killed.map_err(|error| format!("kill can not be run: {error}"))?;
        let begun = Instant::now();
        while !self.directory.join("ended").exists() {
            if begun.elapsed() > READY_LIMIT {
                return Err(format!("process {} does not end", process.trim()));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Starts it once more, after it was killed, on the data that it has; that lasts as long as this value. What it says
    /// goes to the directory that `is_ready` is asked with.
    pub(crate) fn again(&self, is_ready: &(dyn Fn(&Path) -> bool + Send + Sync)) -> Result<Self, String> {
        let Again { name, command, environment, signal } = self.again.clone();
        let directory = directory(&name)?;
        let environment = environment.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let (prepare, signal) = (Vec::new(), signal.as_str());
        let plan = Plan { name: &name, directory: directory.clone(), prepare, command, environment, signal };
        Self::start(plan, || is_ready(&directory))
    }

    /// Ends it, and waits until it is gone.
    pub(crate) fn stop(mut self) {
        drop(self.lifeline.take());
        let _gone = self.watcher.wait();
    }
}

/// Beginnings of the names of variables that servers and clients read.
const FOREIGN: [&str; 3] = ["PG", "VGW_", "MINIO_"];

/// The words of a command as a shell reads them back.
fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    quoted.join(" ")
}

/// The last lines of what a server said, in one.
fn log_of(directory: &Path) -> String {
    let log = std::fs::read(directory.join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    match lines.get(lines.len().saturating_sub(SHOWN_LINES)..) {
        None | Some([]) => "it said nothing".to_owned(),
        Some(lines) => lines.join("; "),
    }
}

/// A directory for a server, which other users may pass: the server may be one of them.
pub(crate) fn directory(name: &str) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("there is no place for the data of {name}: {error}");
    let mut builder = tempfile::Builder::new();
    builder.prefix("flywheel-test-");
    // The place that root is given may be closed to the others.
    let made = if is_root() { builder.tempdir_in("/tmp") } else { builder.tempdir() }.map_err(failed)?;
    std::fs::set_permissions(made.path(), std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(made.keep())
}

/// What no other server was given.
pub(crate) fn token(directory: &Path) -> String {
    directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn is_root() -> bool {
    let asked = Command::new("id").arg("-u").output();
    asked.is_ok_and(|said| said.stdout.trim_ascii() == b"0")
}

/// Tries to start on three ports: whoever takes one meanwhile makes the start fail.
pub(crate) fn on_free_port<T>(start: impl Fn(u16) -> Result<T, String>) -> Result<T, String> {
    let mut tried = start(ports::hold()?);
    for _ in 0..2 {
        if tried.is_err() {
            tried = start(ports::hold()?);
        }
    }
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < READY_LIMIT, "waited {READY_LIMIT:?} until {what}");
            std::thread::sleep(LOOK);
        }
    }

    fn plan(directory: &Path, prepare: &str, command: &str) -> Plan<'static> {
        let words = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
        Plan {
            name: "a server",
            directory: directory.to_path_buf(),
            prepare: words(prepare),
            command: words(command),
            environment: Vec::new(),
            signal: "TERM",
        }
    }

    /// Starts it from a thread that waits for ever, and closes the pipe as the end of the process would.
    fn ends_while(prepare: &'static str, command: &'static str, is_reached: impl Fn(&Path) -> bool) {
        let directory = directory("a test").unwrap();
        let running = Running::start(plan(&directory, prepare, command), || is_reached(&directory)).unwrap();
        let process = std::fs::read_to_string(directory.join("pid")).unwrap();
        running.stop();
        assert!(!directory.exists(), "its data is still there");
        assert!(!crate::is_running(process.trim().parse().unwrap()), "{process} still runs");
    }

    #[test]
    fn a_server_ends_while_its_data_is_being_made() {
        ends_while("echo making; sleep 600", "sleep 600", |directory| {
            std::fs::read_to_string(directory.join("log")).is_ok_and(|log| log == "making\n")
        });
    }

    #[test]
    fn a_server_that_does_not_listen_is_killed() {
        let deaf = "trap '' TERM; echo deaf; while :; do sleep 1; done";
        ends_while("true", deaf, |directory| {
            std::fs::read_to_string(directory.join("log")).is_ok_and(|log| log == "deaf\n")
        });
    }

    #[test]
    fn a_server_without_data_does_not_start_and_says_why() {
        let directory = directory("a test").unwrap();
        let refused = Running::start(plan(&directory, "echo \"no room, it's full\"; exit 3", "echo up"), || false);
        assert_eq!(refused.unwrap_err(), "a server ended while starting: no room, it's full");
        until("its data is gone", || !directory.exists());
    }
}
