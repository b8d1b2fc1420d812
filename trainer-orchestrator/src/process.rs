//! A training job as a child process: started, watched by heartbeat, ended at the deadline, never left behind.
//!
//! The job's standard input stays open for as long as it is wanted. Its first line is the key of the job's data; its
//! end means that nobody waits for the result any more, and the job stops. So a job outlives neither a service that was
//! killed nor one that lost its lease, and two attempts at one run never write side by side for longer than a moment
//! (and never into the same directory, see `attempts`).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use crate::error::OrchestratorError;

/// How often a running job is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Characters of a job's last line that are kept.
const LAST_LINE: usize = 300;

/// How to run a job.
#[derive(Debug, Clone)]
pub struct JobProcess {
    /// `PROGRAM train --job FILE`.
    pub program: PathBuf,
    /// The job file.
    pub job_file: PathBuf,
    /// The job touches it while it lives.
    pub heartbeat_file: PathBuf,
    /// No new heartbeat for this long means that the job hangs.
    pub heartbeat: Duration,
    /// Real time; the job is ended here whatever it does.
    pub deadline: SystemTime,
    /// The first line on the job's standard input: the key of its data.
    pub secret: String,
    /// Where its standard error goes.
    pub log_file: PathBuf,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// Exit status 0.
    Succeeded,
    /// Another exit status, or a signal; with the last line of its log.
    Failed(String),
    /// Its heartbeat stopped.
    Hung,
    /// The deadline of the turn.
    Deadline,
    /// This service is stopping, or another one leads now; whoever leads next takes the run up.
    Stopped,
}

/// Runs a job to its end, as long as `is_wanted`. The child dies with this future.
///
/// # Errors
/// When the program can not be started.
pub async fn run(
    job: &JobProcess,
    stop: &CancellationToken,
    is_wanted: impl Fn() -> bool + Send,
) -> Result<JobEnd, OrchestratorError> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&job.log_file)?;
    let mut child = Command::new(&job.program)
        .arg("train")
        .arg("--job")
        .arg(&job.job_file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| OrchestratorError::Job(format!("{} does not start: {error}", job.program.display())))?;
    // Kept until this returns: its end tells the job to stop.
    let _input = hand_over(&mut child, &job.secret).await;
    let mut heartbeat = Heartbeat::new(&job.heartbeat_file);
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status?;
                return Ok(if status.success() {
                    JobEnd::Succeeded
                } else {
                    JobEnd::Failed(format!("{status}: {}", last_line(&job.log_file)))
                });
            }
            () = stop.cancelled() => {
                end(&mut child).await?;
                return Ok(JobEnd::Stopped);
            }
            _ = tick.tick() => {
                let why = if !is_wanted() {
                    JobEnd::Stopped
                } else if SystemTime::now() >= job.deadline {
                    JobEnd::Deadline
                } else if heartbeat.silent_for() > job.heartbeat {
                    JobEnd::Hung
                } else {
                    continue;
                };
                end(&mut child).await?;
                return Ok(why);
            }
        }
    }
}

async fn hand_over(child: &mut Child, secret: &str) -> Option<ChildStdin> {
    let mut input = child.stdin.take()?;
    // A job that dies at once closes the pipe; its exit status says more than the write error.
    let _written = input.write_all(format!("{secret}\n").as_bytes()).await;
    let _flushed = input.flush().await;
    Some(input)
}

async fn end(child: &mut Child) -> Result<(), OrchestratorError> {
    child.start_kill()?;
    child.wait().await?;
    Ok(())
}

/// When the job last showed that it lives, on this process' monotonic clock: neither a clock that is set nor a file
/// that vanished makes a silent job look alive.
struct Heartbeat<'a> {
    path: &'a Path,
    seen: Option<SystemTime>,
    since: Instant,
}

impl<'a> Heartbeat<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, seen: None, since: Instant::now() }
    }

    fn silent_for(&mut self) -> Duration {
        let modified = std::fs::metadata(self.path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_some() && modified != self.seen {
            self.seen = modified;
            self.since = Instant::now();
        }
        self.since.elapsed()
    }
}

/// The last line that a job wrote, cut to 300 characters. Jobs log numbers and codes, never text of pairs.
fn last_line(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").chars().take(LAST_LINE).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn job(directory: &Path, script: &str, deadline: Duration, heartbeat: Duration) -> JobProcess {
        let program = directory.join("job");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        JobProcess {
            program,
            job_file: directory.join("job.json"),
            heartbeat_file: directory.join("heartbeat"),
            heartbeat,
            deadline: SystemTime::now() + deadline,
            secret: "key".to_owned(),
            log_file: directory.join("log"),
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    async fn end_of(script: &str, deadline: Duration, heartbeat: Duration) -> JobEnd {
        let directory = tempfile::tempdir().unwrap();
        let job = job(directory.path(), script, deadline, heartbeat);
        run(&job, &CancellationToken::new(), || true).await.unwrap()
    }

    #[tokio::test]
    async fn success_failure_and_the_secret() {
        assert_eq!(end_of("read key; test \"$key\" = key", LONG, LONG).await, JobEnd::Succeeded);
        let JobEnd::Failed(message) = end_of("echo first >&2; echo no pairs >&2; exit 3", LONG, LONG).await else {
            panic!("expected a failure");
        };
        assert!(message.contains("exit status: 3") && message.ends_with("no pairs"), "{message}");
    }

    #[tokio::test]
    async fn a_deadline_and_a_silent_heartbeat_end_the_job() {
        assert_eq!(end_of("exec sleep 60", Duration::ZERO, LONG).await, JobEnd::Deadline);
        assert_eq!(end_of("exec sleep 60", LONG, Duration::ZERO).await, JobEnd::Hung);
        // A heartbeat that is taken away is none.
        let vanishing = "echo > \"${0%job}heartbeat\"; rm \"${0%job}heartbeat\"; exec sleep 60";
        assert_eq!(end_of(vanishing, LONG, Duration::from_millis(300)).await, JobEnd::Hung);
    }

    #[tokio::test]
    async fn a_job_that_beats_is_left_alone() {
        let beating = "for beat in 1 2 3 4 5 6 7 8; do echo $beat > \"${0%job}heartbeat\"; sleep 0.1; done";
        assert_eq!(end_of(beating, LONG, Duration::from_secs(30)).await, JobEnd::Succeeded);
    }

    #[tokio::test]
    async fn stopping_the_service_or_losing_the_lease_stops_the_job() {
        let directory = tempfile::tempdir().unwrap();
        let job = job(directory.path(), "exec sleep 60", LONG, LONG);
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(run(&job, &stop, || true).await.unwrap(), JobEnd::Stopped);
        let leads = AtomicBool::new(true);
        let lost = run(&job, &CancellationToken::new(), || leads.swap(false, Ordering::SeqCst)).await.unwrap();
        assert_eq!(lost, JobEnd::Stopped);
    }

    #[tokio::test]
    async fn the_input_ends_with_the_one_who_waits() {
        // `cat` ends at the end of its input, and not before.
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("ended");
        // (A shell gives what runs in the background no input of its own, so it is handed over as another descriptor.)
        let script = format!("exec 3<&0; (cat <&3 > /dev/null; echo > {}) & wait", marker.display());
        let job = job(directory.path(), &script, LONG, LONG);
        let waiting = tokio::spawn(async move { run(&job, &CancellationToken::new(), || true).await });
        let started = directory.path().join("log");
        wait_for(|| started.exists()).await;
        assert!(!marker.exists());
        waiting.abort();
        wait_for(|| marker.exists()).await;
    }

    async fn wait_for(condition: impl Fn() -> bool) {
        for _ in 0..600 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the condition never held");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut job = job(directory.path(), "", LONG, LONG);
        job.program = directory.path().join("absent");
        let error = run(&job, &CancellationToken::new(), || true).await.unwrap_err().to_string();
        assert!(error.contains("absent does not start"), "{error}");
    }
}
