//! How long it takes until a step goes on whose state is as large as you like: on another machine, from its changelog;
//! on the same one, with the copy that it kept; and embedded, where the log is the state.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bus::measure::{Load, RunningStep, Work, publish, record, step};
use bus::{Bus, partition_for};

use super::broker::Broker;
use super::place::Place;
use super::raw;
use crate::Sizes;
use crate::log;
use crate::measurement::Measurement;

const PARTITIONS: u32 = 6;
const INPUT: &str = "restore-input";
const STEP: &str = "restore";
const MEBIBYTE: f64 = (1 << 20) as f64;
/// Changelog of a key: both values, the timer, and their keys.
const KEY_BYTES: u64 = (8 << 10) + 200 + 128;

pub(crate) fn measure(sizes: &Sizes) -> anyhow::Result<Vec<Measurement>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    runtime.block_on(async {
        let mut measurements = on_kafka(sizes).await?;
        measurements.push(embedded(sizes).await?);
        Ok(measurements)
    })
}

/// One record a key, so that nothing in the changelog is written twice; no timer fires.
fn load(sizes: &Sizes) -> Load {
    let records = (sizes.changelog_mib << 20).div_ceil(KEY_BYTES).max(u64::from(PARTITIONS) * 8);
    let keys =
        Load { records, partitions: PARTITIONS, records_per_key: 1, alternating_keys: records, ..Load::default() };
    Load { publishers: 1, ..keys }
}

async fn on_kafka(sizes: &Sizes) -> anyhow::Result<Vec<Measurement>> {
    let broker = Broker::start().await?;
    let folder = tempfile::tempdir()?;
    let place = Place::on(&broker, "restore.", folder.path().to_owned());
    let load = load(sizes);
    let bus = place.open("first").await?;
    publish(&bus, INPUT, &load).await?;
    step(&bus, INPUT, STEP, Work::Stateful, &load).await.context("filling the changelog")?;
    drop(bus);
    let changelog = place.stored(&format!("{STEP}.changelog.v1"));
    let mebibytes = broker.topic_bytes(&changelog)? as f64 / MEBIBYTE;
    let read = tokio::task::block_in_place(|| raw::read(&broker.bootstrap, &changelog, PARTITIONS))?;
    let restored = goes_on(&place, "second", &load).await?.as_secs_f64();
    // The second machine's copy is the newest now.
    let kept = goes_on(&place, "second", &load).await?.as_secs_f64();
    let size = format!("{mebibytes:.0} MiB in {PARTITIONS} partitions, as the broker's segments hold them");
    Ok(vec![
        Measurement::new(
            "kafka: restore on another machine",
            restored,
            "s",
            format!("until a record of every partition is handled; {size}; baseline: a raw client reads the changelog"),
        )
        .beside(read),
        Measurement::new("kafka: restore, rate", mebibytes / restored, "MiB/s", "the same; baseline: the raw client's")
            .beside(mebibytes / read),
        Measurement::new(
            "kafka: start with the copy kept",
            kept,
            "s",
            "the same machine again: only the end of the changelog is read; baseline: without the copy",
        )
        .beside(restored),
    ])
}

async fn embedded(sizes: &Sizes) -> anyhow::Result<Measurement> {
    let folder = log::folder()?;
    let place = Place::Local { file: folder.path().join("restore.sqlite") };
    let load = load(sizes);
    let bus = place.open("first").await?;
    publish(&bus, INPUT, &load).await?;
    step(&bus, INPUT, STEP, Work::Stateful, &load).await.context("filling the state")?;
    drop(bus);
    let started = goes_on(&place, "second", &load).await?.as_secs_f64();
    let note = format!("the same, with {} MiB of state: nothing has to be built", sizes.changelog_mib);
    Ok(Measurement::new("embedded: start with the state in the log", started, "s", note))
}

/// Opens the bus anew and runs the step until it has handled a new record of every partition. Answers how long that
/// took from the start of the step.
async fn goes_on(place: &Place, name: &str, load: &Load) -> anyhow::Result<Duration> {
    let bus = place.open(name).await?;
    let mut covered = BTreeSet::new();
    // Records of keys that are there already, one for each partition.
    let records: Vec<_> = (0..load.records)
        .map(|number| record(number, load))
        .filter(|record| covered.insert(partition_for(&record.key, PARTITIONS)))
        .take(PARTITIONS as usize)
        .collect();
    let count = records.len() as u64;
    publish_all(&bus, records).await?;
    let begun = Instant::now();
    let running = RunningStep::start(&bus, INPUT, STEP, Work::Stateful, load).await?;
    running.until_handled(count).await?;
    let took = begun.elapsed();
    running.until_committed().await?;
    running.stop().await?;
    Ok(took)
}

async fn publish_all(bus: &Arc<dyn Bus>, records: Vec<bus::Record>) -> anyhow::Result<()> {
    for result in bus.publish(INPUT, records).await {
        result?;
    }
    Ok(())
}
