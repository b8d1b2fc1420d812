//! What 1,000 suggestions cost a production platform: every service in a process of its own, on Apache Kafka, PostgreSQL
//! and an S3 gateway of this machine.
//!
//! A suggestion is a request that serving answered, whether it showed something or kept silent, together with all that
//! its editor reports about it. What processes use while nothing happens is measured first, told apart and taken off.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use events::topics;
use service::clock::real_now;
use test_servers::Started;

use super::crowd::{self, Report};
use super::deployment::{Deployment, Parts};
use super::processes::{bytes_below, processor_seconds};
use super::sizing_report::{Figures, Server, Stored, Used, document};
use crate::Sizes;
use crate::kafka::broker::Broker;
use crate::measurement::Measurement;

/// Opportunities of a session.
const OPPORTUNITIES: usize = 10;
/// Sessions before anything is counted: caches, connections, files that are made once.
const WARM_UP: usize = 8;
/// How long idle processes are watched.
const IDLE: Duration = Duration::from_secs(30);
const DOCUMENT: &str = "docs/sizing.md";

/// What everything has used and holds at one moment.
struct Snapshot {
    at: Instant,
    /// Processor seconds, by process.
    seconds: BTreeMap<&'static str, f64>,
    /// Bytes, by what keeps them.
    bytes: BTreeMap<Stored, u64>,
}

/// What is measured, and where.
struct Measured<'a> {
    deployment: &'a Deployment,
    broker: &'a Broker,
    database: Started,
    gateway: Started,
}

impl Measured<'_> {
    fn seconds(&self) -> anyhow::Result<BTreeMap<&'static str, f64>> {
        let mut seconds = BTreeMap::new();
        for process in &self.deployment.processes {
            seconds.insert(process.name, processor_seconds(process.id())?);
        }
        let servers = [
            (Server::KAFKA, self.broker.started.process),
            (Server::POSTGRESQL, self.database.process),
            (Server::S3, self.gateway.process),
        ];
        for (name, process) in servers {
            seconds.insert(name, processor_seconds(process)?);
        }
        Ok(seconds)
    }

    async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let at = Instant::now();
        let seconds = self.seconds()?;
        let mut bytes = BTreeMap::new();
        for (topic, size) in self.broker.bytes_by_topic()? {
            let stored = match topic.strip_prefix(&self.deployment.prefix) {
                Some(topics::TELEMETRY_RAW) => Stored::Raw,
                Some(topics::TELEMETRY_CLEAN) => Stored::Clean,
                Some(topics::PREFERENCE_PAIRS) => Stored::Pairs,
                Some(topics::SERVING_OUTCOMES) => Stored::Outcomes,
                Some(topics::TELEMETRY_QUARANTINE | topics::DEAD_LETTERS) => Stored::Quarantine,
                Some(topic) if topic.ends_with(".changelog.v1") => Stored::Changelogs,
                _ => Stored::Brokers,
            };
            *bytes.entry(stored).or_default() += size;
        }
        let database = self.deployment.count("SELECT pg_database_size(current_database())").await?;
        bytes.insert(Stored::Database, u64::try_from(database)?);
        bytes.insert(Stored::Bucket, bytes_below(&self.gateway.directory.join("data")));
        bytes.insert(Stored::Copies, bytes_below(&self.deployment.data().join("steps")));
        Ok(Snapshot { at, seconds, bytes })
    }
}

pub(crate) fn measure(sizes: &Sizes) -> anyhow::Result<Vec<Measurement>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    let figures = runtime.block_on(figures(sizes))?;
    if sizes.write_docs {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(DOCUMENT);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{DOCUMENT} can not be read"))?;
        std::fs::write(&path, document(&text, &figures)?)?;
    }
    Ok(measurements(&figures))
}

async fn figures(sizes: &Sizes) -> anyhow::Result<Figures> {
    let parts = Parts::servers().await?;
    let Parts::Servers { broker } = &parts else { anyhow::bail!("there are servers") };
    // What a turn costs does not depend on suggestions, and is counted apart.
    let deployment = Deployment::start(&parts, "[orchestrator]\nenabled = false\n").await?;
    let started =
        |name: &str| test_servers::started(name).with_context(|| format!("unset the variable that names {name}"));
    let measured = Measured {
        deployment: &deployment,
        broker,
        database: started("PostgreSQL")?,
        gateway: started("the S3 gateway")?,
    };
    deployment.agree(crowd::persons()).await?;
    let sessions = (sizes.suggestions as usize).div_ceil(OPPORTUNITIES);
    let plan = crowd::plan(WARM_UP + sessions, OPPORTUNITIES)?;
    let play = async |sessions: std::ops::Range<usize>| {
        crowd::play(&deployment.doors, &plan, sessions, OPPORTUNITIES, real_now(), Report::AtOnce).await
    };
    play(0..WARM_UP).await?;
    deployment.settled((WARM_UP * OPPORTUNITIES) as u64).await?;

    let (idle_begun, idle_before) = (Instant::now(), measured.seconds()?);
    tokio::time::sleep(IDLE).await;
    let (idle_seconds, idle_after) = (idle_begun.elapsed().as_secs_f64(), measured.seconds()?);
    let before = measured.snapshot().await?;
    let played = play(WARM_UP..WARM_UP + sessions).await?;
    let playing_seconds = before.at.elapsed().as_secs_f64();
    let suggestions = (sessions * OPPORTUNITIES) as u64;
    deployment.settled((WARM_UP * OPPORTUNITIES) as u64 + suggestions).await?;
    let after = measured.snapshot().await?;

    let wall = after.at.duration_since(before.at).as_secs_f64();
    let thousands = suggestions as f64 / 1000.0;
    let of = |seconds: &BTreeMap<&'static str, f64>, name: &str| seconds.get(name).copied().unwrap_or_default();
    let used = after.seconds.keys().map(|name| {
        let idle_cores = (of(&idle_after, name) - of(&idle_before, name)) / idle_seconds;
        let seconds = of(&after.seconds, name) - of(&before.seconds, name) - idle_cores * wall;
        Used { name, seconds: (seconds / thousands).max(0.0), idle_cores }
    });
    let stored = after.bytes.iter().map(|(stored, bytes)| {
        let grown = bytes.saturating_sub(before.bytes.get(stored).copied().unwrap_or_default());
        (*stored, grown as f64 / thousands)
    });
    let events: usize = played.iter().flat_map(|played| &played.opportunities).map(Vec::len).sum();
    Ok(Figures {
        date: real_now().to_string().chars().take(10).collect(),
        suggestions,
        events_per_suggestion: events as f64 / suggestions as f64,
        suggestions_per_second: suggestions as f64 / playing_seconds,
        used: used.collect(),
        stored: stored.collect(),
    })
}

fn measurements(figures: &Figures) -> Vec<Measurement> {
    let about = format!(
        "{} suggestions with {:.1} events each, {:.0}/s on a machine that runs everything",
        figures.suggestions, figures.events_per_suggestion, figures.suggestions_per_second
    );
    let seconds = figures.used.iter().map(|used| {
        let note = format!("{about}; idle: {:.3} cores, taken off", used.idle_cores);
        Measurement::new(format!("sizing: {}", used.name), used.seconds, "CPU-s/1,000", note)
    });
    let bytes = figures.stored.iter().map(|(stored, bytes)| {
        let name = format!("sizing: {}", stored.label());
        Measurement::new(name, bytes / f64::from(1 << 20), "MiB/1,000", format!("{about}; {}", stored.note()))
    });
    seconds.chain(bytes).collect()
}
