//! The thread that looks after the file: what other processes appended, and retention.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use service::clock::SharedClock;

use super::LocalLogConfig;
use super::ends::{self, Ends};
use super::retention;
use super::schema::{Access, open_reader};
use super::writer::WriterHandle;
use crate::error::BusError;

/// Stops its thread when it is dropped.
pub(super) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// `sweeping`: retention is ours to see to.
    pub(super) fn start(
        path: &Path,
        access: Access,
        config: &LocalLogConfig,
        ends: Arc<Ends>,
        sweeping: Option<(WriterHandle, SharedClock)>,
    ) -> Result<Self, BusError> {
        let connection = open_reader(path, access)?;
        let (stop, stopped) = channel();
        let interval = config.watch_interval().max(Duration::from_millis(1));
        let retention_interval = Duration::from_millis(config.retention_interval_ms.max(1));
        let run = move || {
            let mut version = None;
            let mut retention_at = Instant::now() + retention_interval;
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                look(&connection, &mut version, &ends);
                if Instant::now() >= retention_at {
                    retention_at = Instant::now() + retention_interval;
                    if let Some((writer, clock)) = &sweeping {
                        retention::sweep(writer, clock);
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("bus-watch".into()).spawn(run);
        let thread = thread.map_err(|error| BusError::Storage(error.to_string()))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `data_version` changes when any other connection has committed; looking at it costs no more than a few microseconds.
fn look(connection: &Connection, version: &mut Option<i64>, ends: &Ends) {
    let found: rusqlite::Result<i64> = connection.query_row("PRAGMA data_version", [], |row| row.get(0));
    let loaded = match found {
        Ok(found) if *version == Some(found) => return,
        Ok(found) => ends::load(connection, ends).map(|()| *version = Some(found)),
        Err(error) => Err(error),
    };
    if let Err(error) = loaded {
        tracing::warn!(%error, "cannot look for records of other processes");
    }
}
