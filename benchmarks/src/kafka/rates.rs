//! Rates of the bus: on Apache Kafka beside raw clients on the same broker, embedded beside plain SQLite. Ours and the
//! baseline take turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bus::measure::{Load, RunningStep, Work, publish, record, step};
use bus::{Bus, Retention, TopicSpec};

use super::broker::Broker;
use super::commits::Commits;
use super::place::Place;
use super::raw::{self, Looped, Loops, RawLoop};
use crate::Sizes;
use crate::log;
use crate::measurement::{Better, Measurement};
use crate::platform::processes::{own_processor_seconds, processor_seconds};
use crate::series::Series;

const PREFIX: &str = "rates.";
const PARTITIONS: u32 = 6;
/// Publish calls of 500 records that wait for their acknowledgements at the same time.
const PUBLISHERS: usize = 16;
/// Targets, as shares of the raw client's rate.
const PUBLISH: f64 = 0.9;
const PASS_THROUGH: f64 = 0.8;
const STATEFUL: f64 = 0.5;
/// Most bytes of changelog for a byte of input.
const CHANGELOG: f64 = 2.0;
/// Longest median of commits, in milliseconds.
const COMMIT_MS: f64 = 10.0;
/// A rate at which a step is far from its limit.
const CALM_RECORDS: u64 = 1_000;
const CALM_SECONDS: u64 = 10;
/// Records between two looks at the clock while publishing calmly.
const CALM_BATCH: u64 = 50;

/// Ours and the baseline's.
#[derive(Debug, Default)]
struct Pair {
    ours: Series,
    raw: Series,
    /// The baseline in its other form.
    raw_each: Series,
}

impl Pair {
    /// The better form of the baseline, and what it is.
    fn baseline(&self) -> (&Series, String) {
        let records = raw::BATCH_RECORDS;
        if self.raw_each.median() > self.raw.median() {
            (&self.raw_each, format!("{PARTITIONS} loops of {records} records a transaction"))
        } else {
            (&self.raw, format!("one loop of {} records a transaction", records * PARTITIONS as usize))
        }
    }
}

pub(crate) fn measure(sizes: &Sizes) -> anyhow::Result<Vec<Measurement>> {
    let commits = Commits::of_this_process()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    let mut measurements = runtime.block_on(on_kafka(sizes, &commits))?;
    measurements.extend(embedded(sizes, &commits)?);
    Ok(measurements)
}

/// A load whose keys' records are near each other, as those of an episode are.
fn near(sizes: &Sizes) -> Load {
    Load { records: sizes.records, partitions: PARTITIONS, publishers: PUBLISHERS, ..Load::default() }
}

/// One in which no two records of a key meet in a transaction: every record writes its key's whole state.
fn apart(sizes: &Sizes) -> Load {
    let records = sizes.records / 4;
    Load { records, alternating_keys: (records / 12).max(1), ..near(sizes) }
}

async fn on_kafka(sizes: &Sizes, commits: &Commits) -> anyhow::Result<Vec<Measurement>> {
    let broker = Broker::start().await?;
    let folder = tempfile::tempdir()?;
    let place = Place::on(&broker, PREFIX, folder.path().to_owned());
    let bus = place.open("rates").await?;
    let (near, apart) = (near(sizes), apart(sizes));
    // In the order of the records' times, so that a key's timer is moved by its records and fires after the last.
    publish(&bus, "near", &Load { publishers: 1, ..near.clone() }).await?;
    publish(&bus, "apart", &Load { publishers: 1, ..apart.clone() }).await?;
    let (mut published, mut passed, mut kept) = (Pair::default(), Pair::default(), Pair::default());
    let (mut pass_commits, mut keep_commits) = (Pair::default(), Pair::default());
    for round in 0..=sizes.rounds {
        let rounds = Rounds { bus: &bus, broker: &broker, place: &place, load: &near, round };
        rounds.publish(&mut published).await?;
        rounds.step(Work::PassThrough, commits, &mut passed, &mut pass_commits).await?;
        rounds.step(Work::Stateful, commits, &mut kept, &mut keep_commits).await?;
        if round == 0 {
            // The broker's own code is compiled while it works; what is measured comes after that.
            for pair in [&mut published, &mut passed, &mut kept, &mut pass_commits, &mut keep_commits] {
                *pair = Pair::default();
            }
        }
    }
    let spent = Rounds { bus: &bus, broker: &broker, place: &place, load: &near, round: 0 }.spent().await?;
    step(&bus, "apart", "far-apart", Work::Stateful, &apart).await?;
    let parts = Load { large_state_once: true, ..apart.clone() };
    step(&bus, "apart", "parts-apart", Work::Stateful, &parts).await?;
    let calm = calm(&bus, commits, &near).await?;
    let bytes = |topic: &str| broker.topic_bytes(&place.stored(topic)).map(|bytes| bytes as f64);
    let changelog_near = bytes("stateful-0.changelog.v1")? / bytes("near")?;
    let changelog_apart = bytes("far-apart.changelog.v1")? / bytes("apart")?;
    let changelog_parts = bytes("parts-apart.changelog.v1")? / bytes("apart")?;
    let raw_changelog = bytes("raw-stateful-0-each.changelog")? / bytes("near")?;

    let load = format!("1 KiB that does not shrink, {PARTITIONS} partitions, {}", Broker::described());
    let state = "6 records a key, 8 KiB + 200 B of state, one timer moved and fired";
    Ok(vec![
        rate("kafka: published, acknowledged", &published, PUBLISH, &format!("{load}; baseline: a raw producer")),
        rate("kafka: through a pass-through step", &passed, PASS_THROUGH, &load),
        processors(&spent),
        rate("kafka: through a stateful step", &kept, STATEFUL, &format!("{load}; {state}")),
        Measurement::new(
            "kafka: changelog bytes per input byte",
            changelog_near,
            "B/B",
            format!("{state}, 200 keys at a time; baseline: the raw loop's; both as the broker's segments hold them"),
        )
        .beside(raw_changelog)
        .aiming_at(CHANGELOG, Better::Less),
        Measurement::new(
            "kafka: changelog bytes, a key's records far apart",
            changelog_apart,
            "B/B",
            "every record of a key is in a transaction of its own, and each writes the whole state anew",
        ),
        Measurement::new(
            "kafka: changelog bytes, far apart, the large part written once",
            changelog_parts,
            "B/B",
            "the same, but as an episode is kept: its context is written once, what was done with it by each record",
        )
        .aiming_at(CHANGELOG, Better::Less),
        commit("kafka: commit P50, pass-through, full rate", &pass_commits),
        commit("kafka: commit P50, stateful, full rate", &keep_commits),
        Measurement::new(
            "kafka: commit P50, pass-through, 1,000 records/s",
            calm.median(),
            "ms",
            format!("{} commits, P99 {:.1} ms", calm.len(), calm.quantile(0.99)),
        )
        .aiming_at(COMMIT_MS, Better::Less),
    ])
}

/// One round of steps.
struct Rounds<'a> {
    bus: &'a Arc<dyn Bus>,
    broker: &'a Broker,
    place: &'a Place,
    load: &'a Load,
    round: usize,
}

impl Rounds<'_> {
    /// Makes a topic for a raw client, and answers its stored name.
    async fn topic(&self, name: &str) -> anyhow::Result<String> {
        self.bus.create_topics(&[TopicSpec::new(name, PARTITIONS, Retention::default())]).await?;
        Ok(self.place.stored(name))
    }

    /// Who is measured first in this round: by turns.
    fn ours_first(&self) -> bool {
        self.round.is_multiple_of(2)
    }

    async fn publish(&self, rates: &mut Pair) -> anyhow::Result<()> {
        for ours in [self.ours_first(), !self.ours_first()] {
            if ours {
                let topic = format!("published-{}", self.round);
                rates.ours.push(publish(self.bus, &topic, self.load).await?.per_second());
            } else {
                let topic = self.topic(&format!("raw-published-{}", self.round)).await?;
                let published = tokio::task::block_in_place(|| raw::publish(&self.broker.bootstrap, &topic, self.load));
                rates.raw.push(published?);
            }
        }
        Ok(())
    }

    /// Ours, and the raw loop in both forms.
    async fn step(&self, work: Work, commits: &Commits, rates: &mut Pair, times: &mut Pair) -> anyhow::Result<()> {
        let kind = if work == Work::Stateful { "stateful" } else { "passed" };
        let name = format!("{kind}-{}", self.round);
        for ours in [self.ours_first(), !self.ours_first()] {
            if ours {
                rates.ours.push(step(self.bus, "near", &name, work, self.load).await?.per_second());
                times.ours.extend(commits.of(&name).into_values());
            } else {
                self.raw_loops(work, &name, rates, times).await?;
            }
        }
        Ok(())
    }

    async fn raw_loops(&self, work: Work, name: &str, rates: &mut Pair, times: &mut Pair) -> anyhow::Result<()> {
        for loops in [Loops::One, Loops::OneEach] {
            let looped = self.loop_topics(work, name, loops).await?.run(self)?;
            let (rate, time) = match loops {
                Loops::One => (&mut rates.raw, &mut times.raw),
                Loops::OneEach => (&mut rates.raw_each, &mut times.raw_each),
            };
            rate.push(looped.records_per_second);
            time.extend(looped.commits.into_values());
        }
        Ok(())
    }

    /// Makes the topics of a raw loop.
    async fn loop_topics(&self, work: Work, name: &str, loops: Loops) -> anyhow::Result<LoopTopics> {
        let form = if loops == Loops::One { "one" } else { "each" };
        let name = format!("raw-{name}-{form}");
        let output = self.topic(&format!("{name}.out")).await?;
        let changelog = self.topic(&format!("{name}.changelog")).await?;
        let changelog = (work == Work::Stateful).then_some(changelog);
        Ok(LoopTopics { name: self.place.stored(&name), input: self.place.stored("near"), output, changelog, loops })
    }

    /// What a pass-through step and both forms of the raw loop take of the processors: the step from its first record to
    /// its last commit, a loop with the opening and closing of its clients. All topics are made before.
    async fn spent(&self) -> anyhow::Result<[Spent; 3]> {
        const NAME: &str = "spent";
        let running = RunningStep::start(self.bus, "near", NAME, Work::PassThrough, self.load).await?;
        running.until_handled(1).await?;
        let before = self.spent_so_far()?;
        running.until_handled(self.load.records).await?;
        running.until_committed().await?;
        let ours = self.spent_since(before)?;
        running.stop().await?;
        let one = self.loop_topics(Work::PassThrough, NAME, Loops::One).await?;
        let each = self.loop_topics(Work::PassThrough, NAME, Loops::OneEach).await?;
        let before = self.spent_so_far()?;
        one.run(self)?;
        let one = self.spent_since(before)?;
        let before = self.spent_so_far()?;
        each.run(self)?;
        Ok([ours, one, self.spent_since(before)?])
    }

    /// Seconds, from the beginning of the processes.
    fn spent_so_far(&self) -> anyhow::Result<Spent> {
        Ok(Spent { client: own_processor_seconds()?, broker: processor_seconds(self.broker.started.process)? })
    }

    /// Microseconds of a record.
    fn spent_since(&self, before: Spent) -> anyhow::Result<Spent> {
        let now = self.spent_so_far()?;
        let of_record = |now: f64, before: f64| (now - before) * 1e6 / self.load.records as f64;
        Ok(Spent { client: of_record(now.client, before.client), broker: of_record(now.broker, before.broker) })
    }
}

/// A raw loop whose topics are there, by their stored names.
struct LoopTopics {
    name: String,
    input: String,
    output: String,
    /// Where the state goes, if it keeps any.
    changelog: Option<String>,
    loops: Loops,
}

impl LoopTopics {
    fn run(&self, rounds: &Rounds<'_>) -> anyhow::Result<Looped> {
        let raw = RawLoop {
            bootstrap: &rounds.broker.bootstrap,
            name: &self.name,
            input: &self.input,
            output: &self.output,
            changelog: self.changelog.as_deref(),
            load: rounds.load,
            loops: self.loops,
        };
        tokio::task::block_in_place(|| raw::run(&raw)).context("the raw loop")
    }
}

/// Time of processors.
#[derive(Debug, Clone, Copy)]
struct Spent {
    client: f64,
    broker: f64,
}

impl Spent {
    fn all(self) -> f64 {
        self.client + self.broker
    }

    fn words(self) -> String {
        format!("{:.1} us of the client and {:.1} us of the broker", self.client, self.broker)
    }
}

fn processors([ours, one, each]: &[Spent; 3]) -> Measurement {
    let note = format!(
        "once, after the rounds; ours, from its first record to its last commit, {}; one raw loop, with the opening and \
         closing of its clients, {}; {PARTITIONS} raw loops, likewise, {}; baseline: the loops that take less",
        ours.words(),
        one.words(),
        each.words()
    );
    Measurement::new("kafka: processors for a record of a pass-through step", ours.all(), "us", note)
        .beside(one.all().min(each.all()))
}

/// Commits of a pass-through step that is given few records: milliseconds.
async fn calm(bus: &Arc<dyn Bus>, commits: &Commits, load: &Load) -> anyhow::Result<Series> {
    let topic = TopicSpec::new("calm-input", load.partitions, Retention::default());
    bus.create_topics(&[topic]).await?;
    let running = RunningStep::start(bus, "calm-input", "calm", Work::PassThrough, load).await?;
    let records = CALM_RECORDS * CALM_SECONDS;
    let pause = Duration::from_secs(1) * u32::try_from(CALM_BATCH)? / u32::try_from(CALM_RECORDS)?;
    let begun = Instant::now();
    for (turn, from) in (0_u32..).zip((0..records).step_by(usize::try_from(CALM_BATCH)?)) {
        tokio::time::sleep_until((begun + pause * turn).into()).await;
        let batch = (from..from + CALM_BATCH).map(|number| record(number, load)).collect();
        for result in bus.publish("calm-input", batch).await {
            result?;
        }
    }
    running.until_handled(records).await?;
    running.until_committed().await?;
    running.stop().await?;
    Ok(commits.of("calm"))
}

fn rate(name: &str, pair: &Pair, share: f64, note: &str) -> Measurement {
    let (baseline, form) = pair.baseline();
    let form = if pair.raw_each.len() == 0 {
        String::new()
    } else {
        format!("; baseline: a raw loop, the better of two: {form}")
    };
    let note =
        format!("{note}{form}; ours {}, baseline {}; target: {share} of it", pair.ours.spread(), baseline.spread());
    Measurement::new(name, pair.ours.median(), "records/s", note)
        .beside(baseline.median())
        .aiming_at(share * baseline.median(), Better::More)
}

fn commit(name: &str, pair: &Pair) -> Measurement {
    let (ours, raw) = (&pair.ours, &pair.raw_each);
    let note = format!(
        "{} commits, P99 {:.1} ms; from what is written being known to the commit; baseline: the six raw loops, P99 {:.1} ms",
        ours.len(),
        ours.quantile(0.99),
        raw.quantile(0.99)
    );
    Measurement::new(name, ours.median(), "ms", note).beside(raw.median()).aiming_at(COMMIT_MS, Better::Less)
}

/// The same loads on the embedded bus.
fn embedded(sizes: &Sizes, commits: &Commits) -> anyhow::Result<Vec<Measurement>> {
    let folder = log::folder()?;
    let load = Load { publishers: 4, ..near(sizes) };
    let mut rates: [Pair; 3] = Default::default();
    let mut times: [Series; 2] = Default::default();
    for round in 0..sizes.rounds {
        let name = format!("embedded-{round}");
        let measured = log::rates(folder.path(), &name, &load)?;
        for (pair, rate) in rates.iter_mut().zip(measured.all()) {
            pair.ours.push(rate.ours);
            pair.raw.push(rate.plain);
        }
        for (series, work) in times.iter_mut().zip(["passed", "stateful"]) {
            series.extend(commits.of(&format!("{name}-{work}")).into_values());
        }
    }
    let named = ["published, acknowledged", "through a pass-through step", "through a stateful step"];
    let mut measurements = Vec::new();
    for (pair, name) in rates.iter().zip(named) {
        let (ours, plain) = (&pair.ours, &pair.raw);
        let spread = format!("ours {}, baseline {}", ours.spread(), plain.spread());
        let note = format!("the same load; baseline: the same by hand in SQLite, fsynced like ours; {spread}");
        let measurement = Measurement::new(format!("embedded: {name}"), ours.median(), "records/s", note);
        measurements.push(measurement.beside(plain.median()));
    }
    for (series, name) in times.iter().zip(["pass-through", "stateful"]) {
        let note = format!(
            "{} commits, P99 {:.1} ms; fsynced, several partitions together",
            series.len(),
            series.quantile(0.99)
        );
        let name = format!("embedded: commit P50, {name}, full rate");
        measurements.push(Measurement::new(name, series.median(), "ms", note).aiming_at(COMMIT_MS, Better::Less));
    }
    Ok(measurements)
}
