//! What `flywheel status` shows, as metrics: what no counter of one process can tell, because it is a state of the
//! database, the lake and the log. The orchestrator looks, and so does a platform of one process; several that look
//! tell the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, BusError};
use events::{ModelName, ModelVersion, TenantId, topics};
use labeler::crowd::FEWEST_PERSONS;
use labeler::ledger;
use labeler::statistics::Estimate;
use labeler::tally::{self, MeasureFilter, Measures};
use model_registry::{Registry, RegistryError};
use service::clock::SharedClock;
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::freshness::Freshness;
use crate::operations;

/// Shortest pause between two looks. Real time.
const PERIOD: Duration = Duration::from_secs(10);
/// A pause is at least so many times as long as the look before it, so that a large platform spends little on looking.
const REST: u32 = 20;
/// Measures are of what was served within this time.
const WINDOW: Duration = Duration::from_secs(7 * 86_400);

/// Every topic that somebody has to read.
const TOPICS: [&str; 6] = [
    topics::TELEMETRY_RAW,
    topics::TELEMETRY_CLEAN,
    topics::TELEMETRY_QUARANTINE,
    topics::DEAD_LETTERS,
    topics::PREFERENCE_PAIRS,
    topics::SERVING_OUTCOMES,
];

const STEPS: [&str; 2] = [anonymizer::STEP, labeler::step::STEP];

struct Glance {
    bus: Arc<dyn Bus>,
    pool: AnyPool,
    clock: SharedClock,
    freshness: Freshness,
    registry: Registry,
    tenant: TenantId,
    model: ModelName,
    /// Versions that were shown, to be taken back when they serve no more.
    shown: BTreeSet<ModelVersion>,
}

/// Looks again and again until the process drains.
pub(crate) fn keep(foundation: &Foundation) -> Result<(), Failure> {
    let mut glance = Glance {
        bus: Arc::clone(&foundation.bus),
        pool: foundation.pool.clone(),
        clock: Arc::clone(&foundation.clock),
        freshness: Freshness::new(foundation)?,
        registry: operations::registry(foundation)?,
        tenant: foundation.settings.tenant.clone(),
        model: foundation.settings.model.clone(),
        shown: BTreeSet::new(),
    };
    let stop = foundation.drain.token();
    foundation.drain.spawn("glance", async move {
        glance.repeat(stop).await;
        Ok(())
    });
    Ok(())
}

impl Glance {
    async fn repeat(&mut self, stop: CancellationToken) {
        loop {
            let begun = Instant::now();
            let Some(looked) = stop.run_until_cancelled(self.look()).await else { return };
            if let Err(failure) = looked {
                // The parts have metrics of their own that say who is away.
                let why = failure.into_error();
                tracing::debug!("the wheel can not be looked at: {why:#}");
            }
            let pause = PERIOD.max(begun.elapsed() * REST);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        self.log().await?;
        // To count what lies before a step may take longer than brokers are waited for: the rest is told all the same.
        let counted = self.steps().await;
        self.ledger().await?;
        self.versions().await?;
        self.freshness().await?;
        counted
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    async fn log(&self) -> Result<(), Failure> {
        for topic in TOPICS {
            let status = self.bus.topic_status(topic).await?;
            let unread = status.oldest_unread.map_or(Duration::ZERO, |oldest| self.clock.now().since(oldest));
            metrics::gauge!("flywheel_bus_topic_records", "topic" => topic).set(status.records as f64);
            metrics::gauge!("flywheel_bus_topic_oldest_unread_seconds", "topic" => topic).set(unread.as_secs_f64());
            if let Some(age) = status.retention.age {
                metrics::gauge!("flywheel_bus_topic_retention_seconds", "topic" => topic).set(age.as_secs_f64());
            }
        }
        Ok(())
    }

    /// How far the steps are, whoever runs them, and whether anybody does. One that has never run is not shown.
    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    async fn steps(&self) -> Result<(), Failure> {
        for step in STEPS {
            let lag = match self.bus.step_lag(step).await {
                Err(BusError::UnknownStep(_)) => continue,
                lag => lag?,
            };
            for partition in lag.partitions {
                let labels = [("step", step.to_owned()), ("partition", partition.partition.to_string())];
                metrics::gauge!("flywheel_bus_step_lag_records", &labels).set(partition.records_behind as f64);
            }
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    async fn ledger(&self) -> Result<(), Failure> {
        let totals = ledger::statement(&self.pool, &self.tenant).await?.totals;
        for (disposition, events) in [
            ("clean", totals.clean),
            ("filtered", totals.filtered),
            ("quarantined", totals.quarantined),
            ("dead_lettered", totals.dead_lettered),
            ("erased", totals.erased),
            ("lost", totals.lost),
            ("pending", totals.pending),
        ] {
            metrics::gauge!("flywheel_labeler_ledger_events", "disposition" => disposition).set(events as f64);
        }
        let unexplained = totals.entered().abs_diff(totals.accounted()) + totals.anomalies.unsigned_abs();
        metrics::gauge!("flywheel_labeler_ledger_unexplained_events").set(unexplained as f64);
        Ok(())
    }

    async fn freshness(&self) -> Result<(), Failure> {
        let age = self.freshness.age(self.clock.now()).await?;
        metrics::gauge!("flywheel_orchestrator_freshness_seconds").set(age.as_secs_f64());
        Ok(())
    }

    /// The measures of the versions that serve.
    async fn versions(&mut self) -> Result<(), Failure> {
        let serving = match self.registry.routing(&self.tenant, &self.model).await {
            Err(RegistryError::UnknownModel { .. } | RegistryError::NoCurrentVersion { .. }) => return Ok(()),
            routing => routing?.versions().iter().map(|served| served.version).collect::<BTreeSet<_>>(),
        };
        let filter = MeasureFilter { exposed_from: Some(self.clock.now() - WINDOW), ..MeasureFilter::default() };
        for version in serving.union(&self.shown.clone()) {
            let measures = if serving.contains(version) {
                tally::measures(&self.pool, &self.tenant, &self.model, *version, &filter).await?
            } else {
                Measures::default()
            };
            self.show(*version, &measures);
        }
        self.shown = serving;
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    fn show(&self, version: ModelVersion, measures: &Measures) {
        let (model, version) = (self.model.to_string(), version.to_string());
        let value = |estimate: &Option<Estimate>| {
            let shown = estimate.as_ref().filter(|_| measures.persons >= FEWEST_PERSONS as u64);
            shown.map_or(f64::NAN, |estimate| estimate.value)
        };
        let (utility, acceptance) = (value(&measures.utility), value(&measures.acceptance));
        let labels = [("model", model), ("version", version)];
        metrics::gauge!("flywheel_registry_version_opportunities", &labels).set(measures.opportunities as f64);
        metrics::gauge!("flywheel_registry_version_utility", &labels).set(utility);
        metrics::gauge!("flywheel_registry_version_acceptance", &labels).set(acceptance);
        metrics::gauge!("flywheel_registry_version_shown_rate", &labels).set(value(&measures.shown_rate));
        metrics::gauge!("flywheel_registry_version_exposures_missing", &labels).set(measures.exposures_missing as f64);
    }
}
