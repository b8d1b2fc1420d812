//! Running a step: claiming partitions, one task for each, waking and pausing them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::ownership::{Claim, StepInfo, release_all};
use super::slot::{RunTopics, SlotLog};
use super::writer::WriterHandle;
use crate::error::BusError;
use crate::step::{StepHandler, StepSpec};
use crate::worker::log::{Held, PartitionLog as _};
use crate::worker::{PartitionWorker, StepShared, Turn};

/// A claim is renewed that often within a lease.
const RENEWALS_PER_LEASE: u32 = 4;

/// A waiting partition looks again at least that often (in real time), whatever woke it or not.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often a partition looks that waits for the step before it, when that one works in this process, in real time.
const HELD_HERE_WAIT: Duration = Duration::from_millis(50);
/// The same when it does not: it commits the time of an idle partition only now and then, and looking reads the file.
const HELD_ELSEWHERE_WAIT: Duration = Duration::from_millis(250);

/// Runs a step until `shutdown`.
pub(super) async fn run(
    inner: Arc<Inner>,
    spec: StepSpec,
    handler: Arc<dyn StepHandler>,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    let (step, shared, topics) = share(&inner, spec, handler).await?;
    let leave = Leave { writer: inner.writer.clone(), step: step.id, owner: topics.owner.clone() };
    let mut run = Run { inner, shared, topics, step, workers: JoinSet::new(), running: HashMap::new() };
    let result = run.until(&shutdown).await;
    run.stop().await;
    drop(leave);
    result
}

/// Registers the step and looks up what its partitions share.
pub(super) async fn share(
    inner: &Arc<Inner>,
    spec: StepSpec,
    handler: Arc<dyn StepHandler>,
) -> Result<(StepInfo, Arc<StepShared>, Arc<RunTopics>), BusError> {
    let step = inner.register_step(&spec).await?;
    let mut outputs = Vec::with_capacity(spec.outputs.len());
    for output in &spec.outputs {
        outputs.push(inner.topic(output).await?);
    }
    let topics = RunTopics {
        step: spec.name.clone(),
        owner: inner.liveness()?.next_owner(),
        input: Arc::clone(&step.topic),
        outputs,
        dead_letters: inner.topic(&spec.dead_letters).await?,
    };
    let shared = StepShared::new(spec, handler, Arc::clone(&inner.clock), inner.config.record_bytes);
    Ok((step, Arc::new(shared), Arc::new(topics)))
}

/// Gives everything back when the run ends, also when it is dropped in the middle.
struct Leave {
    writer: WriterHandle,
    step: i64,
    owner: String,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let (step, owner) = (self.step, std::mem::take(&mut self.owner));
        self.writer.write_later(move |transaction| Ok(release_all(transaction.connection, step, &owner)?));
    }
}

struct Run {
    inner: Arc<Inner>,
    shared: Arc<StepShared>,
    topics: Arc<RunTopics>,
    step: StepInfo,
    workers: JoinSet<Ended>,
    /// By partition: epoch, and how to stop it.
    running: HashMap<u32, (i64, CancellationToken)>,
}

/// How a partition's task ended.
struct Ended {
    partition: u32,
    epoch: i64,
    slot: i64,
    result: Result<(), BusError>,
}

impl Run {
    async fn until(&mut self, shutdown: &CancellationToken) -> Result<(), BusError> {
        let renewal = self.inner.config.lease() / RENEWALS_PER_LEASE;
        let mut claim_now = true;
        let mut interval = tokio::time::interval(renewal);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval.tick().await;
        loop {
            if claim_now {
                match self.inner.claim(self.step.id, &self.topics.owner).await {
                    Ok(claim) => self.apply(claim)?,
                    Err(BusError::Closed) => return Err(BusError::Closed),
                    // Leases run on for a while, and commits tell whether we are still the owner.
                    Err(error) => tracing::warn!(step = %self.shared.spec.name, %error, "cannot renew partitions"),
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = interval.tick() => claim_now = true,
                Some(ended) = self.workers.join_next() => claim_now = self.ended(ended).await?,
            }
        }
    }

    /// Starts what was won, and stops what must be given to others.
    fn apply(&mut self, claim: Claim) -> Result<(), BusError> {
        for owned in claim.owned {
            if self.running.contains_key(&owned.partition) {
                continue;
            }
            let log = SlotLog::new(Arc::clone(&self.inner), Arc::clone(&self.topics), owned)?;
            let worker = PartitionWorker::new(log, Arc::clone(&self.shared));
            let token = CancellationToken::new();
            self.running.insert(owned.partition, (owned.epoch, token.clone()));
            let (inner, shared) = (Arc::clone(&self.inner), Arc::clone(&self.shared));
            self.workers.spawn(async move {
                let result = work(&inner, &shared, worker, token).await;
                inner.live.lock().remove(&owned.slot);
                Ended { partition: owned.partition, epoch: owned.epoch, slot: owned.slot, result }
            });
        }
        for partition in claim.too_many {
            if let Some((_, token)) = self.running.get(&partition) {
                token.cancel();
            }
        }
        Ok(())
    }

    /// Whether to claim again at once.
    async fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) -> Result<bool, BusError> {
        let Ended { partition, epoch, slot, result } =
            ended.map_err(|error| BusError::Storage(format!("a partition's task failed: {error}")))?;
        if self.running.get(&partition).is_some_and(|(running, _)| *running == epoch) {
            self.running.remove(&partition);
        }
        match result {
            // It was too many for us; now another process may have it.
            Ok(()) => {
                self.inner.release(slot, &self.topics.owner).await?;
                Ok(false)
            }
            Err(BusError::Fenced { .. }) => {
                let step = self.shared.spec.name.clone();
                tracing::warn!(
                    step,
                    partition,
                    "another process owns the partition now; what was computed is discarded"
                );
                metrics::counter!("flywheel_bus_fenced_total", "step" => step).increment(1);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    async fn stop(&mut self) {
        for (_, token) in self.running.values() {
            token.cancel();
        }
        while self.workers.join_next().await.is_some() {}
    }
}

/// Works on one partition until it is cancelled, fenced, or cannot go on.
async fn work(
    inner: &Arc<Inner>,
    shared: &Arc<StepShared>,
    mut worker: PartitionWorker<SlotLog>,
    token: CancellationToken,
) -> Result<(), BusError> {
    let mut changes = inner.ends.subscribe();
    let limits = &shared.spec.limits;
    let (partition, partition_id) = (worker.log().partition(), worker.log().partition_id());
    let labels = [("step", shared.spec.name.clone()), ("partition", partition.to_string())];
    let paused = metrics::gauge!("flywheel_bus_step_paused", &labels);
    let mut pause = limits.first_pause;
    while !token.is_cancelled() {
        changes.borrow_and_update();
        let result;
        (worker, result) = turn(worker).await?;
        paused.set(if matches!(result, Ok(Turn::Paused(_))) { 1.0 } else { 0.0 });
        match result {
            Ok(Turn::Progress) => pause = limits.first_pause,
            Ok(Turn::Idle { wake_at, held }) => {
                pause = limits.first_pause;
                let longest = match held {
                    Some(Held::Here) => HELD_HERE_WAIT,
                    Some(Held::Elsewhere) => HELD_ELSEWHERE_WAIT,
                    None => LONGEST_WAIT,
                };
                let grown = async {
                    // Growth of another partition is none of ours; the worker knows its own end.
                    while inner.ends.end(partition_id) <= worker.position() {
                        if changes.changed().await.is_err() {
                            std::future::pending::<()>().await;
                        }
                    }
                };
                tokio::select! {
                    () = token.cancelled() => {}
                    () = grown => {}
                    () = inner.clock.sleep_until(wake_at) => {}
                    () = tokio::time::sleep(longest) => {}
                }
            }
            Ok(Turn::Paused(dependencies)) => {
                tracing::debug!(step = %shared.spec.name, partition, "waits for a dependency");
                tokio::select! {
                    () = token.cancelled() => {}
                    () = shared.handler.make_available(&dependencies) => {}
                }
                wait(&token, &mut pause, limits.longest_pause).await;
            }
            Err(error @ (BusError::Storage(_) | BusError::StorageFull)) => {
                tracing::warn!(step = %shared.spec.name, partition, %error, "will try again");
                wait(&token, &mut pause, limits.longest_pause).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn wait(token: &CancellationToken, pause: &mut Duration, longest: Duration) {
    tokio::select! {
        () = token.cancelled() => {}
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = pause.saturating_mul(2).min(longest);
}

/// A turn on a thread that may block: handlers compute, and the commit is waited for.
async fn turn(
    mut worker: PartitionWorker<SlotLog>,
) -> Result<(PartitionWorker<SlotLog>, Result<Turn, BusError>), BusError> {
    let turn = tokio::task::spawn_blocking(move || {
        let result = worker.turn();
        (worker, result)
    });
    turn.await.map_err(|error| BusError::Storage(format!("a turn failed: {error}")))
}
