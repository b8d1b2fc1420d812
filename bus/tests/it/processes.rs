//! Several processes on one log: fencing of a stopped owner, and ends without warning.
//!
//! The other process is this test binary again, running [`child`] alone with its part in an environment variable.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use bus::local::{LocalLog, LocalLogConfig};
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{
    Bus, CommittedRecord, Failed, FailedInput, Input, Outcome, Record, Sealed, StepContext, StepHandler, StepLimits,
    StepSpec,
};
use bytes::Bytes;
use events::Timestamp;
use service::clock::SimulatedClock;
use tokio_util::sync::CancellationToken;

use crate::suite::{self, BOUND, Running, caught_up, dead_letters, eventually, key, publish, read_all, start, texts};

const PART: &str = "BUS_TEST_PART";
const LOG: &str = "BUS_TEST_LOG";

/// Lines for the parent begin with this; the test runner prints others.
const MARK: &str = "@@";

/// A lease that outlives every test, so that only the end of a process frees its partitions.
const LONG_LEASE_MS: u64 = 3_600_000;

/// A lease that runs out while the test waits, and is renewed seldom.
const STOPPED_LEASE_MS: u64 = 2_000;

fn config(lease_ms: u64) -> LocalLogConfig {
    LocalLogConfig { lease_ms, ..LocalLogConfig::default() }
}

fn open(path: &Path, lease_ms: u64) -> Arc<dyn Bus> {
    let clock = SimulatedClock::new(start());
    Arc::new(LocalLog::open(path, clock.shared(), config(lease_ms)).unwrap())
}

/// Another process, ended with the test. What it told on its standard error is shown when the test fails.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    told: Arc<Mutex<String>>,
}

impl Process {
    fn start(part: &str, log: &Path) -> Self {
        Self::of("processes::child", &[(PART, OsStr::new(part)), (LOG, log.as_os_str())])
    }

    /// This test binary again, running one test alone.
    pub(crate) fn of(test: &str, environment: &[(&str, &OsStr)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads", "1"])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let told = Arc::<Mutex<String>>::default();
        let (errors, telling) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&told));
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let mut told = telling.lock().unwrap();
                told.push_str(&line);
                told.push('\n');
            }
        });
        let output = BufReader::new(child.stdout.take().unwrap());
        let marked = output.lines().map_while(Result::ok).filter_map(|line| {
            let from = line.find(MARK)? + MARK.len();
            Some(line[from..].to_owned())
        });
        let (lines, received) = channel();
        std::thread::spawn(move || marked.map(|line| lines.send(line)).all(|sent| sent.is_ok()));
        Self { child, lines: received, told }
    }

    /// The next line for the parent; none when the process has ended.
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(BOUND) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the other process says nothing within {BOUND:?}"),
        }
    }

    /// Lets it go on from where it waits for a line.
    fn go_on(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap(), "go on").unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status().unwrap();
        assert!(status.success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = self.child.try_wait();
            let told = self.told.lock().unwrap();
            let _ = writeln!(std::io::stderr(), "the other process ({ended:?}) told:\n{told}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the parent.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{line}").unwrap();
    out.flush().unwrap();
}

/// What a process that was started by a test does. As a test of its own it does nothing.
#[test]
fn child() {
    let (Ok(part), Ok(log)) = (std::env::var(PART), std::env::var(LOG)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let path = Path::new(&log);
        match part.as_str() {
            "publish" => publish_for_ever(path).await,
            "step" => run_step(path, LONG_LEASE_MS, Scripted::new("out")).await,
            "gated-step" => {
                tokio::spawn(say_when_fenced());
                run_step(path, STOPPED_LEASE_MS, Arc::new(Gated(Scripted::new("out")))).await;
            }
            "deadly-timer-step" => run_step(path, LONG_LEASE_MS, Arc::new(DeadlyTimer(Scripted::new("out")))).await,
            "deadly-step" => run_step(path, LONG_LEASE_MS, Arc::new(Deadly(Scripted::new("out")))).await,
            other => panic!("{other}"),
        }
    });
}

async fn publish_for_ever(path: &Path) {
    let (bus, process) = (open(path, LONG_LEASE_MS), std::process::id());
    for number in 0_u64.. {
        let text = |part: u8| format!("{process} {number} {part} {}", "x".repeat(500));
        let records: Vec<Record> =
            (0..20).map(|part| Record { key: key(part), value: Bytes::from(text(part)) }).collect();
        let results = bus.publish("in", records).await;
        assert!(results.iter().all(Result::is_ok));
        say(&number.to_string());
    }
}

async fn run_step(path: &Path, lease_ms: u64, handler: Arc<dyn StepHandler>) {
    let bus = open(path, lease_ms);
    say("ready");
    let limits = StepLimits { batch_records: 7, ..StepLimits::default() };
    let spec = StepSpec { limits, ..suite::spec() };
    let ended = bus.step(spec, handler, CancellationToken::new()).await;
    say(&format!("ended {ended:?}"));
}

/// Says when a commit of this process was refused, because another one owns the partition.
pub(crate) async fn say_when_fenced() {
    let metrics = service::metrics::install().unwrap();
    while metrics.counter("flywheel_bus_fenced_total", &[("step", "step")]) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    say("fenced");
}

/// Says when it handles its first record, and then waits for a line.
struct Gated(Arc<Scripted>);

/// Ends the process at records that say so.
struct Deadly(Arc<Scripted>);

macro_rules! delegate {
    ($name:ident, $record:ident => $before:block) => {
        impl StepHandler for $name {
            fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
                let prepared = if let Input::Record { record: $record, .. } = &input {
                    $before
                    bus::Prepared::ready($record.value.len())
                } else {
                    bus::Prepared::Nothing
                };
                match input {
                    Input::Record { record, .. } => self.0.handle(Input::Record { record, prepared }, context),
                    timer => self.0.handle(timer, context),
                }
            }

            fn partition_time_of(&self, record: &CommittedRecord, prepared: &bus::Prepared) -> Option<Timestamp> {
                self.0.partition_time_of(record, prepared)
            }

            fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
                if let FailedInput::Record(record) = &failed.input {
                    return Sealed { payload: Some(record.value.clone()), affected: Vec::new() };
                }
                Sealed::default()
            }
        }
    };
}

delegate!(Gated, record => {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        say(&format!("handles {}", record.position));
        std::io::stdin().read_line(&mut String::new()).unwrap();
    });
});

delegate!(Deadly, record => {
    if record.value.starts_with(b"deadly") {
        say("dies");
        std::process::abort();
    }
});

/// Ends the process at timers that say so.
struct DeadlyTimer(Arc<Scripted>);

impl StepHandler for DeadlyTimer {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<bus::Prepared> {
        self.0.prepare(records)
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        if let Input::Timer { name: "deadly", .. } = &input {
            say("dies");
            std::process::abort();
        }
        self.0.handle(input, context)
    }

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &bus::Prepared) -> Option<Timestamp> {
        self.0.partition_time_of(record, prepared)
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        self.0.dead_letter(failed)
    }
}

/// The log of a test, with its topics.
async fn prepared(partitions: u32, lease_ms: u64) -> (tempfile::TempDir, std::path::PathBuf, Arc<dyn Bus>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.sqlite");
    let bus = open(&path, lease_ms);
    suite::topics(&*bus, partitions).await;
    (folder, path, bus)
}

/// The owner handles a record, and once in a while another thread of it renews the lease. Stopped in that transaction
/// it would hold the write lock of the file; then it is let go and stopped again.
async fn stop_outside_a_transaction(owner: &Process, bus: &Arc<dyn Bus>) {
    loop {
        owner.signal("STOP");
        if tokio::time::timeout(Duration::from_secs(3), suite::topics(&**bus, 1)).await.is_ok() {
            return;
        }
        owner.signal("CONT");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_owner_is_replaced_and_fenced() {
    let (_folder, path, bus) = prepared(1, STOPPED_LEASE_MS).await;
    publish(&*bus, (0..7).map(|_| scripted(key(1), &[Action::Add(1)])).collect()).await;
    let mut owner = Process::start("gated-step", &path);
    assert_eq!(owner.line().as_deref(), Some("ready"));
    assert!(owner.line().unwrap().starts_with("handles "));
    stop_outside_a_transaction(&owner, &bus).await;

    let handler = Scripted::new("out");
    let running = Running::start(&bus, &handler);
    caught_up(&*bus).await;
    let expected: Vec<String> = (1..=7).map(|sum| format!("sum {sum} at 1970-01-01T00:00:00.000000Z")).collect();
    assert_eq!(texts(&*bus).await, expected);

    // It goes on with its batch, and its commit is refused: nothing of it is ever seen.
    owner.signal("CONT");
    owner.go_on();
    assert_eq!(owner.line().as_deref(), Some("fenced"));
    assert_eq!(texts(&*bus).await, expected);
    assert_eq!(bus.step_lag("step").await.unwrap().records_behind(), 0);
    running.stop().await;
    // Fenced, it takes the partition again when it is free, and goes on after what the other one did.
    publish(&*bus, vec![scripted(key(1), &[Action::Add(10)])]).await;
    let found = eventually("the old owner goes on", || async {
        let found = texts(&*bus).await;
        if found.len() > 7 { Ok(found) } else { Err(found) }
    })
    .await;
    assert_eq!(found[..7], expected[..]);
    assert_eq!(found[7..], ["sum 17 at 1970-01-01T00:00:00.000000Z"]);
    assert!(dead_letters(&*bus).await.is_empty());
    owner.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    let (_folder, path, bus) = prepared(4, LONG_LEASE_MS).await;
    for round in 0..5_u64 {
        let mut publisher = Process::start("publish", &path);
        let mut acknowledged = 0;
        while acknowledged < 3 + round * 7 {
            acknowledged = publisher.line().unwrap().parse::<u64>().unwrap() + 1;
        }
        publisher.kill();
        while let Some(line) = publisher.line() {
            acknowledged = line.parse::<u64>().unwrap() + 1;
        }
        let process = format!("{} ", publisher.child.id());
        let values: Vec<String> = read_all(&*bus, "in")
            .await
            .iter()
            .filter_map(|record| std::str::from_utf8(&record.value).unwrap().split('x').next()?.strip_prefix(&process))
            .map(str::to_owned)
            .collect();
        for number in 0..acknowledged {
            for part in 0..20 {
                let expected = format!("{number} {part} ");
                assert_eq!(values.iter().filter(|value| **value == expected).count(), 1, "round {round}: {expected}");
            }
        }
        // At most the one call that was not acknowledged is there besides, and whole.
        assert!([0, 20].contains(&(values.len() - usize::try_from(acknowledged).unwrap() * 20)), "{}", values.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_is_killed_again_and_again_does_everything_once() {
    let (_folder, path, bus) = prepared(2, LONG_LEASE_MS).await;
    const RECORDS: usize = 3_000;
    for _ in 0..RECORDS / 100 {
        publish(&*bus, (0..100).map(|number| scripted(key(number % 10), &[Action::Add(1)])).collect()).await;
    }
    for round in 1..=6 {
        let mut owner = Process::start("step", &path);
        assert_eq!(owner.line().as_deref(), Some("ready"));
        let behind = u64::try_from(RECORDS - round * 300).unwrap();
        eventually("the step gets on", || async {
            // The first process has to register the step first.
            match bus.step_lag("step").await {
                Ok(lag) if lag.records_behind() < behind => Ok(()),
                other => Err(other),
            }
        })
        .await;
        owner.kill();
    }
    let running = Running::start(&bus, &Scripted::new("out"));
    caught_up(&*bus).await;
    running.stop().await;
    let out = read_all(&*bus, "out").await;
    assert_eq!(out.len(), RECORDS);
    for number in 0..10 {
        let sums: Vec<Bytes> =
            out.iter().filter(|record| record.key == key(number)).map(|record| record.value.clone()).collect();
        let expected: Vec<String> =
            (1..=RECORDS / 10).map(|sum| format!("sum {sum} at 1970-01-01T00:00:00.000000Z")).collect();
        assert_eq!(sums, expected);
    }
    assert!(dead_letters(&*bus).await.is_empty());
}

/// A record that ends whoever handles it, with others of its key around it.
pub(crate) async fn publish_around(bus: &dyn Bus, deadly: &Record) {
    let add = || scripted(key(1), &[Action::Add(1)]);
    publish(bus, vec![add(), add(), deadly.clone(), add(), add()]).await;
}

/// The deadly record is a dead letter, and the others were handled.
pub(crate) async fn only_it_was_given_up(bus: &dyn Bus, deadly: Record) {
    let sums: Vec<String> = (1..=4).map(|sum| format!("sum {sum} at 1970-01-01T00:00:00.000000Z")).collect();
    assert_eq!(texts(bus).await, sums);
    let letters = dead_letters(bus).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].reason, bus::REASON_KILLED_PROCESS);
    assert_eq!(letters[0].redrive(), Some(deadly));
}

/// A timer that ends whoever handles it, and what makes it due.
pub(crate) async fn publish_deadly_timer(bus: &dyn Bus) {
    let sets = scripted(key(1), &[Action::At(10), Action::Add(1), Action::Timer("deadly".into(), 5)]);
    let makes_due = scripted(key(2), &[Action::At(20), Action::Add(1)]);
    publish(bus, vec![sets, makes_due.clone(), scripted(key(1), &[Action::Add(1)]), makes_due]).await;
}

/// The timer's key is poisoned, and another one goes on.
pub(crate) async fn its_key_is_poisoned(bus: &dyn Bus) {
    let sums = ["sum 1 at 1970-01-01T00:00:10.000000Z", "sum 1 at 1970-01-01T00:00:20.000000Z"];
    assert_eq!(texts(bus).await, [sums[0], sums[1], "sum 2 at 1970-01-01T00:00:20.000000Z"]);
    let letters = dead_letters(bus).await;
    let seen: Vec<(&str, bool)> = letters.iter().map(|letter| (letter.reason.as_str(), letter.key_poisoned)).collect();
    assert_eq!(seen, [(bus::REASON_KILLED_PROCESS, true), (bus::REASON_KEY_POISONED, false)]);
    assert_eq!(letters[0].timer_name.as_deref(), Some("deadly"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_ends_the_process_three_times_is_given_up() {
    let (_folder, path, bus) = prepared(1, LONG_LEASE_MS).await;
    let deadly = Record { key: key(1), value: Bytes::from_static(b"deadly\nadd 1") };
    publish_around(&*bus, &deadly).await;
    for _ in 0..3 {
        let mut owner = Process::start("deadly-step", &path);
        assert_eq!(owner.line().as_deref(), Some("ready"));
        assert_eq!(owner.line().as_deref(), Some("dies"));
        owner.ended();
    }
    let mut owner = Process::start("deadly-step", &path);
    assert_eq!(owner.line().as_deref(), Some("ready"));
    caught_up(&*bus).await;
    owner.kill();
    only_it_was_given_up(&*bus, deadly).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_that_ends_the_process_three_times_poisons_its_key() {
    let (_folder, path, bus) = prepared(1, LONG_LEASE_MS).await;
    publish_deadly_timer(&*bus).await;
    for _ in 0..3 {
        let mut owner = Process::start("deadly-timer-step", &path);
        assert_eq!(owner.line().as_deref(), Some("ready"));
        assert_eq!(owner.line().as_deref(), Some("dies"));
        owner.ended();
    }
    let mut owner = Process::start("deadly-timer-step", &path);
    assert_eq!(owner.line().as_deref(), Some("ready"));
    caught_up(&*bus).await;
    owner.kill();
    its_key_is_poisoned(&*bus).await;
}
