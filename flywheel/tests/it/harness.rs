//! Processes of the binary, with a data directory and ports of their own. Every wait is for a condition and has a
//! bound.

use std::fs::File;
use std::future::Future;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use service::clock::real_now;
use sqlx::AnyPool;
use test_servers::free_port;

/// Longest wait for anything: the machine may be busy with other tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// How long a command may take that ends by itself: a small demo is the longest.
const COMMAND_LIMIT: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(25);

/// The session of everything that tests ask and report by hand.
pub(crate) const SESSION: &str = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d";

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// The JSON of a command that went well.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The one sentence of a refusal.
    pub(crate) fn sentence(&self) -> &str {
        assert_eq!(self.code, Some(2), "{self:?}");
        let sentence = self.stderr.trim_end();
        assert!(sentence.starts_with("flywheel: ") && sentence.lines().count() == 1, "no one sentence: {self:?}");
        sentence.trim_start_matches("flywheel: ")
    }
}

/// The binary that these tests are about.
pub(crate) fn own() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flywheel"))
}

/// A command of the binary, with nothing of our environment that it would read.
pub(crate) fn command(arguments: &[&str]) -> Command {
    command_of(own(), arguments)
}

/// The same of another program.
fn command_of(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLYWHEEL_")) {
        command.env_remove(name);
    }
    command.env("FLYWHEEL_LOG", "error").args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn say(arguments: &[&str]) -> Said {
    finished(command(arguments))
}

/// Runs a prepared command to its end, which it must come to by itself.
pub(crate) fn finished(mut command: Command) -> Said {
    // Files, not pipes: nobody has to read along.
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let (mut child, begun) = (command.spawn().unwrap(), Instant::now());
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if begun.elapsed() > COMMAND_LIMIT => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(LOOK),
        }
    };
    let text = |file: &mut File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    let said =
        Said { code: status.and_then(|status| status.code()), stdout: text(&mut stdout), stderr: text(&mut stderr) };
    assert!(status.is_some(), "{command:?} does not end within {COMMAND_LIMIT:?}: {said:?}");
    said
}

/// Waits for a condition; says what it waited for when it does not come.
pub(crate) async fn until<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    until_seen(what, || {
        let looked = look();
        async { looked.await.ok_or("it has not come") }
    })
    .await
}

/// Waits for a condition; says what it waited for, and what was seen last instead, when it does not come.
pub(crate) async fn until_seen<T, S, F, Fut>(what: &str, mut look: F) -> T
where
    S: std::fmt::Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, S>>,
{
    let begun = Instant::now();
    loop {
        let seen = match look().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}: {seen:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A batch of edits with these numbers, as an editor reports them.
pub(crate) fn edits(sequences: impl IntoIterator<Item = u64>) -> Value {
    let edit = |sequence: u64| {
        json!({ "sequence": sequence, "monotonic_ms": sequence, "kind": "document_edited", "path": "src/a.rs",
            "start": 0, "end": 1, "old_text": "a", "new_text": "b", "origin": "typed" })
    };
    let events: Vec<Value> = sequences.into_iter().map(edit).collect();
    json!({ "person": "ada", "session_id": SESSION, "events": events })
}

/// Ports of the doors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) serving: u16,
    pub(crate) ingest: u16,
    pub(crate) registry: u16,
    pub(crate) admin: u16,
}

impl Ports {
    /// Ports that nobody else has.
    pub(crate) fn free() -> Self {
        Self { serving: free_port(), ingest: free_port(), registry: free_port(), admin: free_port() }
    }
}

/// A directory with a configuration file and the data of a platform.
#[derive(Debug)]
pub(crate) struct Place {
    directory: tempfile::TempDir,
    pub(crate) ports: Ports,
}

/// A process that is killed when the test ends.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Place {
    /// A place with this text in the configuration file, beside the ports. Rooms' sections come as `[section]`; keys
    /// without a section come first.
    pub(crate) fn new(configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self { directory, ports: Ports::free() };
        place.configure(configuration);
        place
    }

    /// Writes the configuration file anew.
    pub(crate) fn configure(&self, configuration: &str) {
        let Ports { serving, ingest, registry, admin } = self.ports;
        let doors = format!(
            "[serving.http]\nlisten = \"127.0.0.1:{serving}\"\n[ingest.http]\nlisten = \"127.0.0.1:{ingest}\"\n\
             [registry.http]\nlisten = \"127.0.0.1:{registry}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n"
        );
        let (plain, sections) = configuration.split_at(configuration.find('[').unwrap_or(configuration.len()));
        std::fs::write(self.configuration(), format!("{plain}\n{doors}{sections}")).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.path().join("flywheel.toml")
    }

    /// A directory whose name a shell must be told literally.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("ada's data")
    }

    /// A command on this place.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(own(), &self.data(), arguments)
    }

    /// A command of any program on this place, with this data directory.
    pub(crate) fn command_of(&self, program: &Path, data: &Path, arguments: &[&str]) -> Command {
        let mut all: Vec<&str> = arguments.to_vec();
        let configuration = self.configuration();
        all.extend(["--config", configuration.to_str().unwrap(), "--data-dir", data.to_str().unwrap()]);
        command_of(program, &all)
    }

    /// Runs a command on this place to its end.
    pub(crate) fn say(&self, arguments: &[&str]) -> Said {
        finished(self.command(arguments))
    }

    /// Starts a command on this place that stays.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.start_with(arguments, &[])
    }

    /// Starts one with these variables in its environment.
    pub(crate) fn start_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        self.spawn(own(), &self.data(), arguments, variables)
    }

    /// Starts one with a data directory of its own, as on another machine.
    pub(crate) fn start_on(&self, data: &Path, arguments: &[&str]) -> Running {
        self.spawn(own(), data, arguments, &[])
    }

    /// Starts one of any program so.
    #[cfg(feature = "production")]
    pub(crate) fn start_of(&self, program: &Path, data: &Path, arguments: &[&str]) -> Running {
        self.spawn(program, data, arguments, &[])
    }

    fn spawn(&self, program: &Path, data: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = self.command_of(program, data, arguments);
        command.envs(variables.iter().copied());
        let name = format!("{}-{}", arguments[0], real_now().as_micros());
        let (stdout, stderr) = (self.path().join(format!("{name}.out")), self.path().join(format!("{name}.err")));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        Running { child: command.spawn().unwrap(), stdout, stderr }
    }

    /// Starts `up` and waits until it is ready.
    pub(crate) async fn up(&self) -> Running {
        let mut running = self.start(&["up"]);
        self.ready(&mut running).await;
        running
    }

    /// Waits until the platform says that it is ready. The words come last: after them, all of it is true.
    pub(crate) async fn ready(&self, running: &mut Running) {
        running.said("Stop with Ctrl-C").await;
        let url = format!("http://127.0.0.1:{}/readyz", self.ports.admin);
        let client = client();
        until("readyz", || async {
            let answer = client.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// The editors' key.
    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.data().join("keys/client.key")).unwrap()
    }

    /// Reports a batch at ingest.
    pub(crate) async fn report(&self, key: &str, batch: &Value) -> reqwest::Response {
        let url = format!("http://127.0.0.1:{}/v1/telemetry", self.ports.ingest);
        client().post(url).bearer_auth(key).json(batch).send().await.unwrap()
    }

    /// Asks serving what to do in a document of this text; the answer has come to its end.
    pub(crate) async fn ask(&self, key: &str, text: &str) -> String {
        let question = json!({
            "person": "ada", "session_id": SESSION, "repository": "shop", "path": "src/cart.rs", "language": "rust",
            "document": { "text": text }, "cursor": 0,
            "recent_edits": [
                { "path": "src/cart.rs", "old_text": "fn total(&self)", "new_text": "fn grand_total(&self)" },
            ],
        });
        let url = format!("http://127.0.0.1:{}/v1/suggestions", self.ports.serving);
        let answer = client().post(url).bearer_auth(key).json(&question).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.contains("event: end\ndata: {") && text.contains("\"model_version\""), "{text}");
        text
    }

    /// The database, beside whoever has it open.
    pub(crate) async fn database(&self) -> AnyPool {
        migrations::connect(&migrations::sqlite_url(&self.data().join("flywheel.sqlite")), 2).await.unwrap()
    }

    /// Lets these persons agree to whole events, and every repository be trained on; waits until the log knows.
    pub(crate) async fn agree(&self, persons: impl IntoIterator<Item = String>) {
        self.agree_in(&self.database().await, persons).await;
    }

    /// The same on another database than the one in the directory.
    pub(crate) async fn agree_in(&self, pool: &AnyPool, persons: impl IntoIterator<Item = String>) {
        assert_eq!(self.say(&["consent", "ceiling", "code"]).code, Some(0));
        for person in persons {
            assert_eq!(self.say(&["consent", "set", &person, "code"]).code, Some(0));
        }
        assert_eq!(self.say(&["repositories", "allow", "*"]).code, Some(0));
        until("consents and rules to reach the log", || async {
            let waiting: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM outbox").fetch_one(pool).await.ok()?;
            (waiting == 0).then_some(())
        })
        .await;
    }
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What was said on standard output so far.
    pub(crate) fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap()
    }

    /// What was said on standard error so far.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// Whether and how it has ended.
    #[cfg(feature = "production")]
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for words on standard output, from a process that lives.
    pub(crate) async fn said(&mut self, words: &str) {
        let begun = Instant::now();
        while !self.stdout().contains(words) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended with {status} before it said \"{words}\": {}\n{}", self.stdout(), self.stderr());
            }
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for \"{words}\"; said so far: {}", self.stdout());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// SIGKILL, wherever it is.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for the end: {}", self.stderr());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn stop(mut self) -> Option<i32> {
        let killed = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().unwrap();
        assert!(killed.success());
        self.ended().await.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

/// A client that keeps no connection: the platform behind a door may be another one by the next request.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(20)).build().unwrap()
}
