//! The metrics recorder. Names are `flywheel_<room>_<thing>_<unit>`; no label ever holds a person, session or
//! repository.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::process;

/// Upper bounds for histograms of seconds: from a cache hit to a training run.
const SECONDS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3600.0, 14_400.0,
];
/// Upper bounds for histograms of bytes.
const BYTES: [f64; 9] = [256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
/// Units of histograms that count things.
const COUNTED: [&str; 3] = ["_records", "_inputs", "_jobs"];
/// Upper bounds for them.
const COUNTS: [f64; 13] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0];

/// How often recorded samples are folded into their histograms when nobody scrapes.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Metrics that cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The recorder cannot be built.
    #[error("metrics cannot be recorded: {0}")]
    Build(#[from] BuildError),
    /// The process records into another recorder.
    #[error("metrics cannot be recorded: another recorder is installed in this process")]
    AlreadyInstalled,
}

/// Renders what the process recorded.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl std::fmt::Debug for MetricsHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MetricsHandle")
    }
}

impl MetricsHandle {
    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// What a counter has come to, and 0 when nothing was counted under exactly these labels, in the order in which
    /// they are recorded.
    #[must_use]
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let series = if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
        let rendered = self.render();
        let count = rendered.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' ')?.parse().ok());
        count.unwrap_or(0)
    }

    /// Keeps memory bounded between scrapes until `stop`, and records what the process costs.
    pub async fn upkeep(self, stop: CancellationToken) {
        process::record();
        while stop.run_until_cancelled(tokio::time::sleep(UPKEEP_PERIOD)).await.is_some() {
            self.0.run_upkeep();
            process::record();
        }
    }
}

/// Installs the recorder of this process, or returns the one that is installed: the `metrics` macros know only one.
///
/// # Errors
/// Another recorder than ours is installed.
pub fn install() -> Result<MetricsHandle, MetricsError> {
    static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock();
    if let Some(handle) = INSTALLED.get() {
        return Ok(MetricsHandle(handle.clone()));
    }
    let mut builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?;
    for counted in COUNTED {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(counted.to_owned()), &COUNTS)?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::AlreadyInstalled)?;
    Ok(MetricsHandle(INSTALLED.get_or_init(|| handle).clone()))
}
