//! How long events take through ingest, anonymizer and labeler at a steady rate, windows apart.
//!
//! # Windows apart
//!
//! The anonymizer holds what a session reports until the developer was quiet for 10 s, the labeler until an opportunity
//! is 300 s old: by design, and by the client's own clock. Both go on as soon as an event of the session *shows* that so
//! much of that time has passed. So the editors here report a whole opportunity at once, then the next one, whose clock is
//! 330 s further: its first event ends what the last one of the opportunity before waits for. A stage's time is that
//! from the moment at which a reader could see the event that ends a wait to the moment at which it can see what the
//! stage then lets go. No window is in it, and nothing is subtracted.
//!
//! # Load
//!
//! Serving is asked first, for all sessions, and everything that it exposed goes through. Then what the editors report
//! is sent at fixed times, whether the doors keep up or not; times count from when a report was due, not from when
//! somebody got round to sending it. A reader follows the topics as committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bus::kafka::{KafkaBus, KafkaConfig};
use bus::local::{LocalLog, LocalLogConfig};
use bus::{Bus, Tail};
use bytes::Bytes;
use events::avro;
use events::wire::ClientEvent;
use events::{CleanEvent, OpportunityOutcome, RawEvent, SessionId, topics};
use service::clock::{RealClock, real_now};
use simulator::driver::Doors;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::crowd::{self, Played, Report};
use super::deployment::{Deployment, Parts};
use super::stage_times::{Seen, Session, Times, times};
use crate::Sizes;
use crate::measurement::Measurement;
use crate::series::Series;

/// Opportunities of a session: below the labeler's limit of those that are open at once.
const OPPORTUNITIES: usize = 30;
/// About so many events are reported of one.
const EVENTS_EACH: u64 = 7;
/// How long the last conclusions may take after the last report.
const LAST: Duration = Duration::from_secs(60);

pub(crate) fn measure(sizes: &Sizes) -> anyhow::Result<Vec<Measurement>> {
    // Its own work must not be what is measured.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    runtime.block_on(async {
        let mut measurements = Vec::new();
        for parts in [Parts::servers().await?, Parts::Embedded] {
            let label = parts.label();
            measurements.extend(on(&parts, sizes).await.with_context(|| format!("the platform on {label} parts"))?);
        }
        Ok(measurements)
    })
}

async fn on(parts: &Parts, sizes: &Sizes) -> anyhow::Result<Vec<Measurement>> {
    let deployment = Deployment::start(parts, "[orchestrator]\nenabled = false\n").await?;
    deployment.agree(crowd::persons()).await?;
    let wanted = sizes.events_per_second * sizes.seconds / EVENTS_EACH;
    let sessions = usize::try_from(wanted)?.div_ceil(OPPORTUNITIES).max(1);
    let plan = crowd::plan(sessions, OPPORTUNITIES)?;
    let played = crowd::play(&deployment.doors, &plan, 0..sessions, OPPORTUNITIES, real_now(), Report::Later).await?;
    deployment.drained().await?;

    let bus = reader(parts, &deployment).await?;
    let stop = CancellationToken::new();
    let mut readers = Vec::new();
    for topic in [topics::TELEMETRY_RAW, topics::TELEMETRY_CLEAN, topics::SERVING_OUTCOMES] {
        let look = bus.look(topic, bus.end_positions(topic).await?).await?;
        readers.push(tokio::spawn(collect(look, stop.clone())));
    }
    let sent = send(&deployment.doors, &played, sizes.events_per_second).await?;
    let concluded = (sessions * (OPPORTUNITIES - 1)) as i64;
    let begun = Instant::now();
    while deployment.count("SELECT COUNT(*) FROM opportunity_outcomes").await? < concluded {
        ensure!(begun.elapsed() < LAST, "opportunities are not closed {} s after the last report", LAST.as_secs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stop.cancel();
    let times = times(&sent.sessions, &seen(readers).await?)?;
    Ok(measurements(parts, &sent, &times))
}

/// A handle of our own on the platform's log: reads only.
async fn reader(parts: &Parts, deployment: &Deployment) -> anyhow::Result<Arc<dyn Bus>> {
    let prefix = deployment.prefix.clone();
    Ok(match parts {
        Parts::Embedded => {
            // Another process notices new records by looking; this one looks often.
            let config = LocalLogConfig { prefix, watch_interval_ms: 1, ..LocalLogConfig::default() };
            Arc::new(LocalLog::open(&deployment.data().join("bus.sqlite"), RealClock::shared(), config)?)
        }
        Parts::Servers { broker } => {
            let config = KafkaConfig {
                prefix,
                bootstrap_servers: broker.bootstrap.clone(),
                replication: 1,
                single_broker: true,
                ..KafkaConfig::default()
            };
            Arc::new(KafkaBus::open(config, RealClock::shared(), None).await?)
        }
    })
}

/// Values of a topic, each with when it could be read.
type Arrived = Vec<(Instant, Bytes)>;

async fn collect(mut look: Box<dyn Tail>, stop: CancellationToken) -> anyhow::Result<Arrived> {
    let mut arrived = Vec::new();
    // Decoding waits: it would hold up what is measured.
    while !stop.is_cancelled() {
        let records = look.next(1000, Duration::from_millis(100)).await?;
        let now = Instant::now();
        arrived.extend(records.into_iter().map(|record| (now, record.value)));
    }
    Ok(arrived)
}

/// When each event and each conclusion could be read.
async fn seen(readers: Vec<JoinHandle<anyhow::Result<Arrived>>>) -> anyhow::Result<Seen> {
    let mut arrived = Vec::new();
    for reader in readers {
        arrived.push(reader.await??);
    }
    let [raw, clean, outcomes] = <[Arrived; 3]>::try_from(arrived).ok().context("three topics were read")?;
    let (mut seen_raw, mut seen_clean, mut seen_outcomes) = (HashMap::new(), HashMap::new(), HashMap::new());
    for (at, value) in raw {
        seen_raw.insert(avro::decode::<RawEvent>(&value)?.header.event_id, at);
    }
    for (at, value) in clean {
        seen_clean.insert(avro::decode::<CleanEvent>(&value)?.header.event_id, at);
    }
    for (at, value) in outcomes {
        seen_outcomes.insert(avro::decode::<OpportunityOutcome>(&value)?.opportunity_id, at);
    }
    Ok(Seen { raw: seen_raw, clean: seen_clean, outcomes: seen_outcomes })
}

/// What was reported, and how that went.
struct Sent {
    sessions: Vec<Session>,
    /// From when a report was due to its acknowledgement, milliseconds.
    acknowledged: Series,
    events: u64,
    seconds: f64,
}

/// Reports opportunity after opportunity of all sessions, in turn, at fixed times.
async fn send(doors: &Doors, played: &[Played], per_second: u64) -> anyhow::Result<Sent> {
    let mut sessions: Vec<Session> = played.iter().map(|played| Session::new(played.session.session_id())).collect();
    let (mut reports, mut events) = (JoinSet::new(), 0_u64);
    let begun = Instant::now() + Duration::from_millis(100);
    for opportunity in 0..OPPORTUNITIES {
        for (session, played) in sessions.iter_mut().zip(played) {
            let Some(report) = played.opportunities.get(opportunity).filter(|report| !report.is_empty()) else {
                continue;
            };
            let due = begun + Duration::from_secs_f64(events as f64 / per_second as f64);
            tokio::time::sleep_until(due.into()).await;
            session.reported(due, report);
            events += report.len() as u64;
            let (doors, report) = (doors.clone(), report.clone());
            let (person, id) = (played.session.person().to_owned(), played.session.session_id());
            reports.spawn(async move { one(&doors, &person, id, &report, due).await });
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut acknowledged = Series::default();
    while let Some(one) = reports.join_next().await {
        acknowledged.push(one??);
    }
    Ok(Sent { sessions, acknowledged, events, seconds })
}

async fn one(
    doors: &Doors,
    person: &str,
    session: SessionId,
    report: &[ClientEvent],
    due: Instant,
) -> anyhow::Result<f64> {
    doors.report(person, session, report).await?;
    Ok(due.elapsed().as_secs_f64() * 1000.0)
}

fn measurements(parts: &Parts, sent: &Sent, times: &Times) -> Vec<Measurement> {
    let form = match parts {
        Parts::Embedded => "`flywheel up`: one process on a local log and SQLite",
        Parts::Servers { .. } => "services of their own on Apache Kafka, PostgreSQL and S3",
    };
    let rate = sent.events as f64 / sent.seconds.max(0.001);
    let load = format!(
        "{rate:.0} events/s of {} sessions for {:.0} s, {form}; {} waits ended by a timer are not counted",
        sent.sessions.len(),
        sent.seconds,
        times.by_timer
    );
    let stages = [
        ("report acknowledged", &sent.acknowledged, "from when a report of about 7 events was due"),
        ("ingest", &times.ingest, "from when an event was due to when it can be read in telemetry.raw"),
        ("anonymizer", &times.anonymizer, "from the raw event that ends the wait to the clean event that waited"),
        ("labeler", &times.labeler, "from the clean event that closes an opportunity to its outcome"),
        ("all three", &times.whole, "from when the event was due that ends the last wait to the outcome"),
    ];
    let mut measurements = Vec::new();
    for (stage, series, what) in stages {
        for (name, quantile) in [("P50", 0.5), ("P99", 0.99)] {
            let note = format!("{what}; {} times; {load}", series.len());
            let name = format!("{}: {stage}, {name}", parts.label());
            measurements.push(Measurement::new(name, series.quantile(quantile), "ms", note));
        }
    }
    measurements
}
