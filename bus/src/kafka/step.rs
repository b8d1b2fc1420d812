//! Running a step: claiming partitions by leases in the database, one task for each, waking and pausing them.
//!
//! A lease only decides who may try; what keeps two owners apart is the transactional id of the partition (`slot.rs`).
//! Who runs the step holds a member's lease too, so that every run knows how many there are and takes its fair share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use service::lease::{Fence, LeaseError, LeaseStore};
use tokio::task::{JoinError, JoinHandle, JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::slot::{Lease, RunTopics, SlotLog, Waits};
use super::{Inner, topics};
use crate::error::BusError;
use crate::step::{StepHandler, StepSpec};
use crate::worker::log::{Held, PartitionLog as _};
use crate::worker::{PartitionWorker, StepShared, Turn};

/// A lease is renewed that often within its time.
const RENEWALS_PER_LEASE: u32 = 4;
/// A lease that runs out is taken so long after that, when it surely has.
const JUST_AFTER: Duration = Duration::from_millis(10);
/// A waiting partition takes a turn at least that often, in real time.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The same when it waits for the step before it.
const HELD_HERE_WAIT: Duration = Duration::from_millis(50);
const HELD_ELSEWHERE_WAIT: Duration = Duration::from_millis(250);

/// Runs a step until `shutdown`.
pub(super) async fn run(
    inner: Arc<Inner>,
    spec: StepSpec,
    handler: Arc<dyn StepHandler>,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    if spec.name.is_empty() || spec.name.len() > 100 {
        return Err(BusError::Invalid("a step's name has 1 to 100 bytes".into()));
    }
    let leases = inner.steps()?.leases.clone();
    let partitions = inner.partitions(&spec.input).await?;
    let known = {
        let (inner, step) = (Arc::clone(&inner), spec.name.clone());
        Arc::clone(&inner).blocking(move || inner.input_of_step(&step)).await?
    };
    if let Some(actual) = known.filter(|known| *known != spec.input) {
        return Err(BusError::InputDiffers { step: spec.name, expected: spec.input, actual });
    }
    let mut outputs = Vec::with_capacity(spec.outputs.len());
    for output in &spec.outputs {
        outputs.push((inner.config.stored_name(output), inner.partitions(output).await?));
    }
    let dead_letters = (inner.config.stored_name(&spec.dead_letters), inner.partitions(&spec.dead_letters).await?);
    let changelog = topics::changelog_of(&spec.name);
    match inner.ask_partitions(&changelog).await? {
        None => {
            let state_bytes = spec.limits.state_value_bytes;
            topics::create_changelog(&inner.admin, &inner.context, &inner.config, &changelog, partitions, state_bytes)
                .await?;
            inner.appears(&changelog, partitions).await?;
        }
        Some(actual) if actual == partitions => {}
        Some(actual) => {
            return Err(BusError::PartitionsDiffer { topic: changelog, expected: partitions, actual });
        }
    }
    inner.inputs.lock().insert(spec.name.clone(), spec.input.clone());
    let topics = RunTopics {
        step: spec.name.clone(),
        input: Arc::from(spec.input.as_str()),
        outputs,
        dead_letters,
        changelog: inner.config.stored_name(&changelog),
    };
    let shared = StepShared::new(spec, handler, Arc::clone(&inner.clock), inner.config.record_bytes);
    let holder = hex::encode(rand::random::<[u8; 16]>());
    let held = Arc::default();
    let leave = Leave { inner: Arc::clone(&inner), leases: leases.clone(), held: Arc::clone(&held) };
    let mut run = Run {
        inner,
        leases,
        shared: Arc::new(shared),
        topics: Arc::new(topics),
        partitions,
        holder,
        held,
        workers: JoinSet::new(),
        running: HashMap::new(),
    };
    let result = run.until(&shutdown).await;
    run.stop().await;
    run.release_all().await;
    drop(leave);
    result
}

/// Leases that are held, by name.
type HeldLeases = Arc<parking_lot::Mutex<HashMap<String, Fence>>>;

/// Gives everything back when the run is dropped in the middle.
struct Leave {
    inner: Arc<Inner>,
    leases: LeaseStore,
    held: HeldLeases,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let fences: Vec<Fence> = std::mem::take(&mut *self.held.lock()).into_values().collect();
        if !fences.is_empty() {
            let leases = self.leases.clone();
            self.inner.runtime.spawn(async move {
                for fence in fences {
                    // One that can not be given back runs out.
                    drop(leases.release(&fence).await);
                }
            });
        }
    }
}

/// The name of a lease: that of a partition, or of one who runs the step.
pub(super) fn lease_name(changelog: &str, what: &str, number: u32) -> String {
    format!("{}{what}/{number}", lease_prefix(changelog))
}

/// What the names of all leases of a step begin with.
fn lease_prefix(changelog: &str) -> String {
    format!("bus/{changelog}/")
}

struct Run {
    inner: Arc<Inner>,
    leases: LeaseStore,
    shared: Arc<StepShared>,
    topics: Arc<RunTopics>,
    partitions: u32,
    holder: String,
    held: HeldLeases,
    workers: JoinSet<(u32, Result<(), BusError>)>,
    running: HashMap<u32, Running>,
}

/// A partition that is worked on.
struct Running {
    lease: Lease,
    token: CancellationToken,
    task: tokio::task::Id,
}

impl Run {
    fn lease_name(&self, what: &str, number: u32) -> String {
        lease_name(&self.topics.changelog, what, number)
    }

    fn lease_prefix(&self, what: &str) -> String {
        format!("{}{what}/", lease_prefix(&self.topics.changelog))
    }

    async fn until(&mut self, shutdown: &CancellationToken) -> Result<(), BusError> {
        let renewal = self.inner.lease() / RENEWALS_PER_LEASE;
        let (mut claim_now, mut claim_at) = (true, tokio::time::Instant::now());
        loop {
            if claim_now {
                claim_at = tokio::time::Instant::now() + renewal;
                // A server that vanished without a word never answers; meanwhile workers end, and so may we.
                let claimed = tokio::time::timeout(self.inner.lease() / 2, self.claim());
                let why = tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    claimed = claimed => match claimed {
                        Ok(Ok(next)) => {
                            claim_at = claim_at.min(tokio::time::Instant::now() + next.unwrap_or(renewal));
                            None
                        }
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_) => Some("the database does not answer".to_owned()),
                    }
                };
                if let Some(why) = why {
                    // Leases run on for a while, and commits tell whether we are still the owner.
                    tracing::warn!(step = %self.topics.step, why, "cannot renew partitions");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(claim_at) => claim_now = true,
                Some(ended) = self.workers.join_next() => claim_now = self.ended(ended).await?,
            }
        }
    }

    /// Renews what is held and takes what is free, up to the fair share. Answers when something that others hold runs
    /// out, unless they renew it: whoever was killed is followed at that moment.
    async fn claim(&mut self) -> Result<Option<Duration>, LeaseError> {
        self.join().await?;
        let of_step = self.leases.held(&lease_prefix(&self.topics.changelog)).await?;
        let member = self.lease_prefix("member");
        let members = of_step.iter().filter(|lease| lease.name.starts_with(&member)).count();
        let others = of_step.iter().filter(|lease| lease.holder != self.holder);
        let runs_out = others.map(|lease| lease.left).min().map(|left| left + JUST_AFTER);
        let fair = (self.partitions as usize).div_ceil(members.max(1));
        let mut kept = Vec::new();
        for partition in 0..self.partitions {
            let name = self.lease_name("partition", partition);
            if !self.running.contains_key(&partition) {
                continue;
            }
            let until = Instant::now() + self.inner.lease();
            let fence = self.held.lock().get(&name).cloned();
            match fence {
                Some(fence) => match self.leases.renew(&fence, self.inner.lease()).await {
                    Ok(fence) => {
                        self.held.lock().insert(name, fence);
                        if let Some(running) = self.running.get(&partition) {
                            *running.lease.lock() = until;
                        }
                        kept.push(partition);
                    }
                    Err(LeaseError::Lost { .. }) => {
                        self.held.lock().remove(&name);
                        self.cancel(partition);
                    }
                    Err(error) => return Err(error),
                },
                None => self.cancel(partition),
            }
        }
        for partition in kept.iter().skip(fair) {
            self.cancel(*partition);
        }
        let mut owned = kept.len();
        for partition in 0..self.partitions {
            if owned >= fair {
                break;
            }
            if self.running.contains_key(&partition) {
                continue;
            }
            let name = self.lease_name("partition", partition);
            let until = Instant::now() + self.inner.lease();
            if let Some(fence) = self.leases.acquire(&name, &self.holder, self.inner.lease()).await? {
                let epoch = fence.epoch();
                self.held.lock().insert(name, fence);
                self.start(partition, epoch, until);
                owned += 1;
            }
        }
        Ok(runs_out)
    }

    /// Counts itself among those who run the step.
    async fn join(&self) -> Result<(), LeaseError> {
        let member = self.lease_prefix("member");
        let mine = self.held.lock().iter().find(|(name, _)| name.starts_with(&member)).map(|(_, fence)| fence.clone());
        if let Some(fence) = mine {
            match self.leases.renew(&fence, self.inner.lease()).await {
                Ok(renewed) => {
                    self.held.lock().insert(fence.name().to_owned(), renewed);
                    return Ok(());
                }
                Err(LeaseError::Lost { .. }) => {
                    self.held.lock().remove(fence.name());
                }
                Err(error) => return Err(error),
            }
        }
        // More runs than partitions have nothing to do, and need not be counted.
        for number in 0..=self.partitions {
            let name = self.lease_name("member", number);
            if let Some(fence) = self.leases.acquire(&name, &self.holder, self.inner.lease()).await? {
                self.held.lock().insert(name, fence);
                return Ok(());
            }
        }
        Ok(())
    }

    fn cancel(&self, partition: u32) {
        if let Some(running) = self.running.get(&partition) {
            running.token.cancel();
        }
    }

    fn start(&mut self, partition: u32, epoch: i64, until: Instant) {
        let (lease, token) = (Lease::new(until.into()), CancellationToken::new());
        let (inner, shared, topics) = (Arc::clone(&self.inner), Arc::clone(&self.shared), Arc::clone(&self.topics));
        let given = GivenUp { token: token.clone(), patience: patience(&inner) };
        let place = (topics.step.clone(), partition);
        let open = {
            let (inner, lease) = (Arc::clone(&inner), Arc::clone(&lease));
            move || SlotLog::new(Arc::clone(&inner), Arc::clone(&topics), partition, epoch, Arc::clone(&lease))
        };
        let working = self.workers.spawn(async move {
            let result = match opened(&shared, partition, &given, open).await {
                Ok(Some(log)) => work(&shared, PartitionWorker::new(log, Arc::clone(&shared)), given).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            inner.live.lock().remove(&place);
            (partition, result)
        });
        self.running.insert(partition, Running { lease, token, task: working.id() });
    }

    /// Whether to claim again at once.
    async fn ended(&mut self, ended: Result<(u32, Result<(), BusError>), JoinError>) -> Result<bool, BusError> {
        let (partition, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let failed = BusError::Storage(format!("a partition's task failed: {error}"));
                let its = self.running.iter().find(|(_, running)| running.task == error.id());
                let Some((partition, _)) = its else { return Err(failed) };
                (*partition, Err(failed))
            }
        };
        self.running.remove(&partition);
        let fence = self.held.lock().remove(&self.lease_name("partition", partition));
        if let Some(fence) = fence {
            self.release(&fence).await;
        }
        match result {
            Ok(()) => Ok(false),
            Err(BusError::Fenced { .. }) => {
                let step = self.topics.step.clone();
                tracing::warn!(
                    step,
                    partition,
                    "another process owns the partition now; what was computed is discarded"
                );
                metrics::counter!("flywheel_bus_fenced_total", "step" => step).increment(1);
                Ok(false)
            }
            // Work that failed, or did not come back, is begun anew: here or wherever the partition is taken next.
            Err(error) if error.may_pass() => {
                tracing::error!(step = %self.topics.step, partition, %error, "a partition is given up, and taken again");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn stop(&mut self) {
        for running in self.running.values() {
            running.token.cancel();
        }
        while self.workers.join_next().await.is_some() {}
    }

    async fn release_all(&self) {
        let fences: Vec<Fence> = std::mem::take(&mut *self.held.lock()).into_values().collect();
        for fence in fences {
            self.release(&fence).await;
        }
    }

    /// Gives a lease back, so that whoever comes next need not wait.
    async fn release(&self, fence: &Fence) {
        let released = tokio::time::timeout(self.inner.lease() / RENEWALS_PER_LEASE, self.leases.release(fence)).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!(lease = fence.name(), "a lease could not be given back; it will run out");
        }
    }
}

/// Whether a partition was given up, and how long what is being done about it may take then.
pub(super) struct GivenUp {
    pub(super) token: CancellationToken,
    pub(super) patience: Duration,
}

/// What waits for the brokers comes back before.
fn patience(inner: &Inner) -> Duration {
    Duration::from_millis(inner.config.delivery_timeout_ms) + inner.request_timeout() * 2
}

/// Opens the log of a partition; none when it is given up first. A disk that is full may have room later.
async fn opened(
    shared: &StepShared,
    partition: u32,
    given_up: &GivenUp,
    open: impl Fn() -> Result<SlotLog, BusError> + Clone + Send + 'static,
) -> Result<Option<SlotLog>, BusError> {
    let mut pause = shared.spec.limits.first_pause;
    while !given_up.token.is_cancelled() {
        // The file may be locked for a while.
        match in_time(spawn_blocking(open.clone()), given_up).await {
            Ok(Ok(log)) => return Ok(Some(log)),
            Ok(Err(error)) | Err(error) if error.may_pass() => {
                tracing::warn!(step = %shared.spec.name, partition, %error, "will try again");
                wait(&given_up.token, &mut pause, shared.spec.limits.longest_pause).await;
            }
            Ok(Err(error)) | Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Works on one partition until it is cancelled, fenced, or cannot go on; or until a call of the client does not return,
/// whose lease would be renewed for ever.
pub(super) async fn work(
    shared: &Arc<StepShared>,
    worker: PartitionWorker<SlotLog>,
    given_up: GivenUp,
) -> Result<(), BusError> {
    let waits = worker.log().waits();
    tokio::select! {
        ended = work_on(shared, worker, &given_up) => ended,
        () = waits_too_long(&waits, given_up.patience) => Err(left_alone()),
    }
}

/// Ends when a call of the client has been waited for longer than any may take.
async fn waits_too_long(waits: &Waits, patience: Duration) {
    loop {
        tokio::time::sleep(patience / 8).await;
        if waits.lock().is_some_and(|since| since.elapsed() > patience) {
            return;
        }
    }
}

async fn work_on(
    shared: &Arc<StepShared>,
    mut worker: PartitionWorker<SlotLog>,
    given_up: &GivenUp,
) -> Result<(), BusError> {
    let token = &given_up.token;
    let limits = &shared.spec.limits;
    let partition = worker.log().partition();
    let labels = [("step", shared.spec.name.clone()), ("partition", partition.to_string())];
    let paused = metrics::gauge!("flywheel_bus_step_paused", &labels);
    let mut pause = limits.first_pause;
    let mut ended = Ok(());
    while !token.is_cancelled() {
        let result;
        (worker, result) = on_thread(worker, PartitionWorker::turn, given_up).await?;
        paused.set(if matches!(result, Ok(Turn::Paused(_))) { 1.0 } else { 0.0 });
        match result {
            Ok(Turn::Progress) => pause = limits.first_pause,
            Ok(Turn::Idle { wake_at, held }) => {
                let longest = match held {
                    Some(Held::Here) => HELD_HERE_WAIT,
                    Some(Held::Elsewhere) => HELD_ELSEWHERE_WAIT,
                    None => LONGEST_WAIT,
                };
                let until = Instant::now() + longest;
                // Looks are short, so that a simulated clock that goes on is noticed.
                loop {
                    let grown;
                    (worker, grown) = on_thread(worker, |worker| worker.with_log(SlotLog::wait), given_up).await?;
                    let grown = match grown {
                        Ok(grown) => grown,
                        Err(error) => {
                            // The next turn says why, when it is not over by then, but for what only reading meets.
                            if matches!(error, BusError::NotAdmitted(_)) {
                                tracing::warn!(step = %shared.spec.name, partition, %error, "will try again");
                            } else {
                                tracing::debug!(step = %shared.spec.name, partition, %error, "begins again");
                            }
                            wait(token, &mut pause, limits.longest_pause).await;
                            break;
                        }
                    };
                    let over = token.is_cancelled() || Instant::now() >= until || shared.clock.now() >= wake_at;
                    if over || grown {
                        pause = limits.first_pause;
                        break;
                    }
                }
            }
            Ok(Turn::Paused(dependencies)) => {
                tracing::debug!(step = %shared.spec.name, partition, "waits for a dependency");
                tokio::select! {
                    () = token.cancelled() => {}
                    () = shared.handler.make_available(&dependencies) => {}
                }
                wait(token, &mut pause, limits.longest_pause).await;
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(step = %shared.spec.name, partition, %error, "will try again");
                wait(token, &mut pause, limits.longest_pause).await;
            }
            Err(error) => {
                let log = worker.log();
                // The partition may have changed under our hands.
                let is_ours = log.is_leased();
                if !is_ours {
                    tracing::debug!(step = %shared.spec.name, partition, %error, "found when the lease was over");
                }
                ended = Err(if is_ours { error } else { log.fenced() });
                break;
            }
        }
    }
    // It may wait for the brokers, and closes a file.
    let closed = spawn_blocking(move || {
        worker.leave();
        drop(worker);
    });
    token.cancel();
    if let Err(error) = in_time(closed, given_up).await {
        tracing::warn!(step = %shared.spec.name, partition, %error, "a partition was not left in order");
    }
    ended
}

async fn wait(token: &CancellationToken, pause: &mut Duration, longest: Duration) {
    tokio::select! {
        () = token.cancelled() => {}
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = pause.saturating_mul(2).min(longest);
}

/// On a thread that may block: handlers compute, and the brokers are waited for.
async fn on_thread<W: Send + 'static, R: Send + 'static>(
    mut worker: W,
    work: impl FnOnce(&mut W) -> R + Send + 'static,
    given_up: &GivenUp,
) -> Result<(W, R), BusError> {
    let done = spawn_blocking(move || {
        let result = work(&mut worker);
        (worker, result)
    });
    in_time(done, given_up).await
}

/// Waits for work on a partition. When that was given up, and the work does not come back in time, it is left alone: some
/// calls of the client never return (librdkafka issues 4420 and 5456). To whoever takes the partition next it is an owner
/// that was stopped.
async fn in_time<T>(mut done: JoinHandle<T>, given_up: &GivenUp) -> Result<T, BusError> {
    let too_late = async {
        given_up.token.cancelled().await;
        tokio::time::sleep(given_up.patience).await;
    };
    tokio::select! {
        done = &mut done => done.map_err(|error| BusError::Storage(format!("work on a partition failed: {error}"))),
        () = too_late => Err(left_alone()),
    }
}

fn left_alone() -> BusError {
    metrics::counter!("flywheel_bus_kafka_stalls_total").increment(1);
    BusError::Storage("work on a partition does not come back, and is left alone".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// It bounds what must end by itself.
    const BOUND: Duration = Duration::from_secs(60);

    fn given_up() -> GivenUp {
        GivenUp { token: CancellationToken::new(), patience: Duration::from_millis(50) }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_partition_that_was_given_up_waits_only_so_long_for_work_that_does_not_come_back() {
        let (go_on, told) = mpsc::channel();
        let given_up = given_up();
        given_up.token.cancel();
        let working = on_thread(told, |told| told.recv().is_ok(), &given_up);
        let left = tokio::time::timeout(BOUND, working).await.unwrap();
        assert!(left.is_err_and(|error| error.may_pass()), "it is taken again");
        // Nobody waits for it, but the runtime of this test.
        go_on.send(()).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_on_a_partition_that_is_kept_takes_as_long_as_it_takes() {
        let given_up = given_up();
        let work = |patience: &mut Duration| std::thread::sleep(*patience * 4);
        let (patience, ()) = on_thread(given_up.patience, work, &given_up).await.unwrap();
        assert_eq!(patience, given_up.patience);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_of_the_client_is_not_waited_for_for_ever_though_the_partition_is_kept() {
        let patience = Duration::from_millis(50);
        let waits = Waits::default();
        let watched = tokio::time::timeout(patience * 4, waits_too_long(&waits, patience)).await;
        assert!(watched.is_err(), "nothing is waited for");
        *waits.lock() = Some(Instant::now());
        tokio::time::timeout(BOUND, waits_too_long(&waits, patience)).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_that_panics_is_begun_anew() {
        let work = |finds: &mut bool| assert!(!*finds, "on purpose");
        let failed = on_thread(true, work, &given_up()).await;
        assert!(failed.is_err_and(|error| error.may_pass()));
    }
}
