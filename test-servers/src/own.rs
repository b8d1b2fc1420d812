//! Servers of a test's own, which it may kill and start again on the same data and ports: a database, a gateway, and
//! each of the brokers of `brokers.rs`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::Running;
use crate::{S3Bucket, blocking, postgresql, s3};

/// Whether a server answers whose log is in that directory.
pub(crate) type Ready = Box<dyn Fn(&Path) -> bool + Send + Sync>;

/// How long a server may be kept from starting by what is left of the one before.
const LEFTOVERS: Duration = Duration::from_secs(60);

/// A server that ends with this value.
pub struct OwnServer {
    /// Its runs; the last may have been killed. The data is gone with the first.
    runs: Vec<Arc<Running>>,
    is_ready: Arc<Ready>,
}

impl fmt::Debug for OwnServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OwnServer").field("runs", &self.runs).finish_non_exhaustive()
    }
}

impl OwnServer {
    pub(crate) fn of((running, is_ready): (Running, Ready)) -> Self {
        Self { runs: vec![Arc::new(running)], is_ready: Arc::new(is_ready) }
    }

    /// A PostgreSQL server, whose commits outlive it, and the URL of an empty database on it.
    ///
    /// # Panics
    /// It can not be started: the sentence says what to do.
    pub async fn postgresql() -> (Self, String) {
        let (running, url, is_ready) = blocking(postgresql::start_to_be_killed).await;
        (Self::of((running, is_ready)), url)
    }

    /// An S3 gateway, and an empty bucket of it.
    ///
    /// # Panics
    /// It can not be started: the sentence says what to do.
    pub async fn s3() -> (Self, S3Bucket) {
        let (running, bucket, is_ready) = blocking(s3::start_to_be_killed).await;
        (Self::of((running, is_ready)), bucket)
    }

    /// Kills it without a word, and waits until it is gone.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(&self) {
        let run = self.runs.last().expect("it was started");
        run.kill().unwrap_or_else(|sentence| panic!("{sentence}"));
    }

    /// Starts it again after it was killed, and waits until it answers.
    ///
    /// # Panics
    /// It can not be started.
    pub async fn start_again(&mut self) {
        let (first, is_ready) = (Arc::clone(&self.runs[0]), Arc::clone(&self.is_ready));
        let again = move || {
            let begun = Instant::now();
            loop {
                // Children of PostgreSQL need a moment to see that they are orphans, and a new server waits for them.
                match first.again(&**is_ready) {
                    Err(_) if begun.elapsed() < LEFTOVERS => std::thread::sleep(Duration::from_millis(100)),
                    started => return started,
                }
            }
        };
        let run = blocking(again).await;
        self.runs.push(Arc::new(run));
    }
}
