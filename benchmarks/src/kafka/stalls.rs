//! How long a downstream reader waits when the process that owns a step's partitions is killed: with another process
//! that runs the same step already, and with one that is started only after the kill. On both buses.
//!
//! The owners are this program again, under a name that is not listed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bus::measure::{Load, RunningStep, Work, output_of, record};
use bus::{Bus, Positions, Retention, TopicSpec};
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::place::Place;
use crate::Sizes;
use crate::log;
use crate::measurement::Measurement;
use crate::series::Series;

/// The hidden benchmark that owns partitions until it is killed.
pub(crate) const OWNER: &str = "stalls-owner";
const PARTITIONS: u32 = 6;
/// A partition is never without a record for longer than a few of these.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the undisturbed reader is watched.
const CALM: Duration = Duration::from_secs(5);
/// Nothing here waits longer for anything.
const LIMIT: Duration = Duration::from_secs(120);
/// What an owner says when it handles records.
const HANDLES: &str = "handles";

pub(crate) fn measure(sizes: &Sizes) -> anyhow::Result<Vec<Measurement>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    runtime.block_on(async {
        let broker = Broker::start().await?;
        let (temporary, beside) = (tempfile::tempdir()?, log::folder()?);
        let places = [
            Place::on(&broker, "stalls.", temporary.path().to_owned()),
            Place::Local { file: beside.path().join("stalls.sqlite") },
        ];
        let mut measurements = Vec::new();
        for place in &places {
            measurements.extend(on(place, sizes).await?);
        }
        Ok(measurements)
    })
}

async fn on(place: &Place, sizes: &Sizes) -> anyhow::Result<Vec<Measurement>> {
    let bus = place.open("observer").await?;
    let mut measurements = Vec::new();
    for (successor, what) in [(true, "with a successor"), (false, "without a successor")] {
        let (mut stalls, mut calm) = (Series::default(), Series::default());
        for round in 0..sizes.rounds {
            let step = format!("stalls-{successor}-{round}");
            let watched = kill_one(place, &bus, &step, successor).await.with_context(|| format!("{step} failed"))?;
            stalls.push(watched.stall.as_secs_f64());
            calm.push(watched.calm.as_secs_f64());
        }
        let note = format!(
            "longest time without a record in any of {PARTITIONS} partitions around a SIGKILL of their owner, {}; \
             lease {} s, {} ms between records of a partition; baseline: the longest in the {} s before; {}",
            if successor {
                "while another process ran the step too"
            } else {
                "after which another process was started"
            },
            place.lease().as_secs(),
            PAUSE.as_millis(),
            CALM.as_secs(),
            stalls.spread()
        );
        let name = format!("{}: worst stall after SIGKILL, {what}", place.label());
        measurements.push(Measurement::new(name, stalls.maximum(), "s", note).beside(calm.maximum()));
    }
    Ok(measurements)
}

/// What a reader saw.
struct Watched {
    /// The longest time without a record in a partition before the kill.
    calm: Duration,
    /// And around it.
    stall: Duration,
}

/// When records came, by partition.
type Arrivals = Arc<Mutex<BTreeMap<u32, Vec<Instant>>>>;

async fn kill_one(place: &Place, bus: &Arc<dyn Bus>, step: &str, successor: bool) -> anyhow::Result<Watched> {
    // A topic of its own: what earlier rounds published would have to be caught up with first.
    bus.create_topics(&[TopicSpec::new(input_of(step), PARTITIONS, Retention::default())]).await?;
    let (stop, arrivals) = (CancellationToken::new(), Arrivals::default());
    let _stop_at_the_end = stop.clone().drop_guard();
    let (publishing, watching) = (Arc::clone(bus), Arc::clone(bus));
    tokio::spawn(publish(publishing, input_of(step), stop.clone()));
    let mut first = Owner::start(place, step)?;
    first.handles().await?;
    let mut second = if successor { Some(Owner::start(place, step)?) } else { None };
    if let Some(second) = &mut second {
        second.handles().await?;
    }
    let watch = tokio::spawn(watch(watching, output_of(step), Arc::clone(&arrivals), stop.clone()));
    let all_since = |since: Instant| {
        let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.len() == PARTITIONS as usize
            && arrivals.values().all(|times| times.last().is_some_and(|last| *last > since))
    };
    until("records come from every partition", || all_since(Instant::now() - Duration::from_secs(1))).await?;
    let begun = Instant::now();
    tokio::time::sleep(CALM).await;
    let killed = Instant::now();
    first.kill()?;
    if second.is_none() {
        second = Some(Owner::start(place, step)?);
    }
    // Of what the dead one had committed, something may still be on its way to the reader.
    until("every partition goes on", || {
        let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let since = killed + Duration::from_secs(1);
        arrivals.values().all(|times| times.last().is_some_and(|last| *last > since))
    })
    .await?;
    // One more second, in which a stall that was cut in two would show.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(second);
    stop.cancel();
    watch.await??;
    let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Watched { calm: longest(&arrivals, begun, killed), stall: longest(&arrivals, killed, Instant::now()) })
}

/// The longest time between two records of a partition, the second of which came in this span.
fn longest(arrivals: &BTreeMap<u32, Vec<Instant>>, from: Instant, to: Instant) -> Duration {
    let gaps = arrivals.values().flat_map(|times| times.windows(2)).filter_map(|pair| match pair {
        [before, after] if *after >= from && *after <= to => Some(after.duration_since(*before)),
        _ => None,
    });
    gaps.max().unwrap_or_default()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds() {
        ensure!(begun.elapsed() < LIMIT, "waited {} s until {what}", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Publishes a few records for every partition again and again.
async fn publish(bus: Arc<dyn Bus>, input: String, stop: CancellationToken) -> anyhow::Result<()> {
    let load = load();
    let mut number = 0;
    while !stop.is_cancelled() {
        // Twenty keys in turn are in all partitions.
        let records = (number..number + load.alternating_keys).map(|number| record(number, &load)).collect();
        number += load.alternating_keys;
        for result in bus.publish(&input, records).await {
            result?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn input_of(step: &str) -> String {
    format!("{step}-input")
}

fn load() -> Load {
    Load { partitions: PARTITIONS, alternating_keys: 20, records_per_key: 1 << 40, ..Load::default() }
}

async fn watch(bus: Arc<dyn Bus>, topic: String, arrivals: Arrivals, stop: CancellationToken) -> anyhow::Result<()> {
    let end: Positions = bus.end_positions(&topic).await?;
    let mut look = bus.look(&topic, end).await?;
    while !stop.is_cancelled() {
        let records = look.next(1000, Duration::from_millis(100)).await?;
        let now = Instant::now();
        let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            arrivals.entry(record.partition).or_default().push(now);
        }
    }
    Ok(())
}

/// A process that runs the step.
struct Owner {
    child: Child,
    said: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Owner {
    fn start(place: &Place, step: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([OWNER, "--place", &serde_json::to_string(place)?, "--step", step])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        let (sender, said) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, said })
    }

    /// Waits until it handles records: until then it may own nothing.
    async fn handles(&mut self) -> anyhow::Result<()> {
        match tokio::time::timeout(LIMIT, self.said.recv()).await {
            Ok(Some(line)) if line == HANDLES => Ok(()),
            other => bail!("an owner did not begin to handle records: {other:?}"),
        }
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ended_already = self.kill();
    }
}

/// The other process: owns partitions until it is killed, or its parent is gone.
#[expect(clippy::print_stdout, reason = "its parent listens")]
pub(crate) fn own(place: Option<&str>, step: Option<&str>) -> anyhow::Result<Vec<Measurement>> {
    let place: Place = serde_json::from_str(place.context("an owner is told its --place")?)?;
    let step = step.context("an owner is told its --step")?;
    std::thread::spawn(|| {
        // The pipe is closed when the parent ends, in whatever way.
        let _closed = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    runtime.block_on(async {
        let bus = place.open(&format!("owner-{}", std::process::id())).await?;
        let running = RunningStep::start(&bus, &input_of(step), step, Work::PassThrough, &load()).await?;
        running.until_handled(1).await?;
        println!("{HANDLES}");
        running.until_handled(u64::MAX).await?;
        Ok(Vec::new())
    })
}
