//! A training job as a child process: started, watched by heartbeat, ended at the deadline, never left behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::error::OrchestratorError;

/// How to run a job.
#[derive(Debug, Clone)]
pub struct JobProcess {
    /// `PROGRAM train --job FILE`.
    pub program: PathBuf,
    /// The job file.
    pub job_file: PathBuf,
    /// The job touches it while it lives.
    pub heartbeat_file: PathBuf,
    /// A heartbeat older than this means that the job hangs.
    pub heartbeat: Duration,
    /// Real time; the job is ended here whatever it does.
    pub deadline: SystemTime,
    /// Handed to the job on its standard input, then forgotten: the key of its data.
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
    /// This service is stopping; the job is resumed by the next start.
    Stopped,
}

/// Runs a job to its end. The child dies with this future.
///
/// # Errors
/// When the program can not be started.
pub async fn run(job: &JobProcess, stop: &CancellationToken) -> Result<JobEnd, OrchestratorError> {
    touch(&job.heartbeat_file)?;
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
    if let Some(mut stdin) = child.stdin.take() {
        // A job that dies at once closes the pipe; its exit status says more than the write error.
        let _written = stdin.write_all(job.secret.as_bytes()).await;
        drop(stdin);
    }
    let mut tick = tokio::time::interval(Duration::from_millis(250));
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
                if SystemTime::now() >= job.deadline {
                    end(&mut child).await?;
                    return Ok(JobEnd::Deadline);
                }
                if silent_for(&job.heartbeat_file) > job.heartbeat {
                    end(&mut child).await?;
                    return Ok(JobEnd::Hung);
                }
            }
        }
    }
}

async fn end(child: &mut Child) -> Result<(), OrchestratorError> {
    child.start_kill()?;
    child.wait().await?;
    Ok(())
}

fn touch(path: &Path) -> std::io::Result<()> {
    std::fs::write(path, b"")
}

fn silent_for(path: &Path) -> Duration {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok()).unwrap_or_default()
}

/// The last line that a job wrote, cut to 300 characters. Jobs log numbers and codes, never text of pairs.
fn last_line(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        run(&job(directory.path(), script, deadline, heartbeat), &CancellationToken::new()).await.unwrap()
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
    }

    #[tokio::test]
    async fn stopping_the_service_stops_the_job() {
        let directory = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let end = run(&job(directory.path(), "exec sleep 60", LONG, LONG), &stop).await.unwrap();
        assert_eq!(end, JobEnd::Stopped);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut job = job(directory.path(), "", LONG, LONG);
        job.program = directory.path().join("absent");
        let error = run(&job, &CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains("absent does not start"), "{error}");
    }
}
