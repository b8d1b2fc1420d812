//! How long the transactions of steps take: what the bus itself records, kept value by value.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit, set_global_recorder,
};

use crate::series::Series;

const METRIC: &str = "flywheel_bus_step_commit_seconds";

/// Times of commits, by step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commits(Arc<Mutex<HashMap<String, Series>>>);

impl Commits {
    /// Those of this process. A process records into one place only.
    pub(crate) fn of_this_process() -> anyhow::Result<Self> {
        static COMMITS: OnceLock<Commits> = OnceLock::new();
        if let Some(commits) = COMMITS.get() {
            return Ok(commits.clone());
        }
        let commits = Self::default();
        set_global_recorder(commits.clone()).ok().context("metrics of this process are recorded elsewhere")?;
        Ok(COMMITS.get_or_init(|| commits).clone())
    }

    /// Milliseconds of every commit of a step so far.
    pub(crate) fn of(&self, step: &str) -> Series {
        let commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        commits.get(step).cloned().unwrap_or_default()
    }
}

/// The commits of one step.
struct OfStep {
    step: String,
    commits: Commits,
}

impl HistogramFn for OfStep {
    fn record(&self, seconds: f64) {
        let mut commits = self.commits.0.lock().unwrap_or_else(PoisonError::into_inner);
        commits.entry(self.step.clone()).or_default().push(seconds * 1000.0);
    }
}

impl Recorder for Commits {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let step = key.labels().find(|label| label.key() == "step").map(|label| label.value().to_owned());
        match step {
            Some(step) if key.name() == METRIC => Histogram::from_arc(Arc::new(OfStep { step, commits: self.clone() })),
            _ => Histogram::noop(),
        }
    }
}
