//! Random schedules over the local log (`../model_tests.rs`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;
use service::clock::SimulatedClock;
use tokio::runtime::Runtime;

use super::ownership::{Owned, release_all};
use super::runner::share;
use super::slot::SlotLog;
use super::{LocalLog, LocalLogConfig};
use crate::interface::Bus;
use crate::model_tests::{self, Owners, Workers, ends_as_the_model_says, schedule};
use crate::step::{StepHandler, StepSpec};
use crate::worker::PartitionWorker;

/// A log, for whoever takes turns on it one by one.
pub(super) struct Local {
    runtime: Runtime,
    folder: tempfile::TempDir,
    clock: SimulatedClock,
    log: LocalLog,
    owner: String,
}

impl Local {
    pub(super) fn new(clock: &SimulatedClock) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let log = open(&folder, clock);
        runtime.block_on(log.create_topics(&model_tests::topics())).unwrap();
        Self { runtime, folder, clock: clock.clone(), log, owner: String::new() }
    }
}

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("log.sqlite")
}

fn open(folder: &tempfile::TempDir, clock: &SimulatedClock) -> LocalLog {
    LocalLog::open(&path(folder), clock.shared(), LocalLogConfig::default()).unwrap()
}

impl Owners for Local {
    type Log = SlotLog;

    const SHOWN_WITHIN: Duration = Duration::ZERO;

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn bus(&self) -> &dyn Bus {
        &self.log
    }

    fn claim(&mut self, spec: &StepSpec, handler: Arc<dyn StepHandler>) -> Workers<SlotLog> {
        let inner = &self.log.inner;
        let (step, shared, topics) = self.runtime.block_on(share(inner, spec.clone(), handler)).unwrap();
        let old = std::mem::replace(&mut self.owner, topics.owner.clone());
        let release = inner.writer.write(0, move |transaction| Ok(release_all(transaction.connection, step.id, &old)?));
        self.runtime.block_on(release).unwrap();
        let claim = self.runtime.block_on(inner.claim(step.id, &self.owner)).unwrap();
        let own = |owned: Owned| {
            let log = SlotLog::new(Arc::clone(inner), Arc::clone(&topics), owned).unwrap();
            (owned.partition, PartitionWorker::new(log, Arc::clone(&shared)))
        };
        claim.owned.into_iter().map(own).collect()
    }

    fn reopen(&mut self) {
        self.log = open(&self.folder, &self.clock);
    }

    fn files(&mut self) -> Vec<Connection> {
        vec![Connection::open(path(&self.folder)).unwrap()]
    }
}

/// Each case fsyncs some hundred times; `PROPTEST_CASES` asks for more of them.
fn proptest_config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32);
    ProptestConfig { cases, max_shrink_iters: 400, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn random_schedules_end_as_the_model_says(planned in schedule(1..110)) {
        let clock = model_tests::clock();
        ends_as_the_model_says(Local::new(&clock), clock, planned);
    }
}
