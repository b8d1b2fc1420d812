//! Servers that end with whoever started them.
//!
//! A server is started by a small shell, the watcher, whose standard input is a pipe that only this process holds open.
//! When this process ends, in whatever way, the system closes the pipe; the watcher reads its end, ends the server and
//! removes its data. (The kernel's own death signal is no help: it follows the thread that started the server, and test
//! threads come and go.) The watcher is in a process group of its own, so that what ends the test run does not end it.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts the server, which leaves its id in `pid`, and `ended` when it has ended; waits for the end of the input. (A
/// shell's background commands ignore SIGINT and SIGQUIT, unless they ask for them, as PostgreSQL does.)
const WATCHER: &str = r#"
directory=$1 signal=$2
shift 2
(
    sh -c 'echo $$ >"$0/pid" && exec "$@"' "$directory" "$@" </dev/null >"$directory/log" 2>&1
    echo $? >"$directory/ended"
) &
tenths=0
until [ -s "$directory/pid" ] || [ -e "$directory/ended" ] || [ "$tenths" -ge 100 ]; do
    sleep 0.1
    tenths=$((tenths + 1))
done
server=$(cat "$directory/pid" 2>/dev/null)
cat >/dev/null
# The id of one that has ended may be another program's by now.
alive() { [ -n "$server" ] && [ ! -e "$directory/ended" ] && kill -0 "$server" 2>/dev/null; }
alive && kill -s "$signal" "$server"
tenths=0
while alive && [ "$tenths" -lt 100 ]; do sleep 0.1; tenths=$((tenths + 1)); done
alive && kill -s KILL "$server"
wait
rm -rf "$directory"
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
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Variables of its own.
    pub(crate) environment: Vec<(&'a str, String)>,
    /// The signal that ends it at once, with all its children.
    pub(crate) signal: &'a str,
}

/// A server that runs as long as this value, and no longer than this process.
#[derive(Debug)]
pub(crate) struct Running {
    lifeline: Option<ChildStdin>,
    watcher: Child,
}

impl Running {
    /// Starts a server and waits until it answers.
    pub(crate) fn start(plan: Plan<'_>, mut is_ready: impl FnMut() -> bool) -> Result<Self, String> {
        let Plan { name, directory, command, environment, signal } = plan;
        let mut watcher = Command::new("sh");
        watcher.args(["-c", WATCHER, "watcher"]).arg(&directory).arg(signal).args(&command);
        // What whoever works here has set for their own servers and clients is not meant for these.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("VGW_")) {
                watcher.env_remove(name);
            }
        }
        watcher.envs(environment);
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
        let running = Self { lifeline: watcher.stdin.take(), watcher };
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
        Ok(running)
    }

    /// Ends it, and waits until it is gone.
    pub(crate) fn stop(mut self) {
        drop(self.lifeline.take());
        let _gone = self.watcher.wait();
    }
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
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error: std::io::Error| format!("there is no place for the data of {name}: {error}");
    let made = tempfile::Builder::new().prefix("flywheel-test-").tempdir().map_err(failed)?;
    std::fs::set_permissions(made.path(), std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(made.keep())
}

/// A port that was free a moment ago. Whoever takes it meanwhile makes the start fail, which is then tried again.
pub(crate) fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| format!("there is no free port: {error}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| format!("there is no free port: {error}"))
}

/// Tries to start on three ports.
pub(crate) fn on_free_port<T>(start: impl Fn(u16) -> Result<T, String>) -> Result<T, String> {
    let mut tried = start(free_port()?);
    for _ in 0..2 {
        if tried.is_err() {
            tried = start(free_port()?);
        }
    }
    tried
}
