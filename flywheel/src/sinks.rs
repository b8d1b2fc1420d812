//! How far the sinks are behind, and what the tally holds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bus::{Bus, Position, Positions, TopicSpec};
use events::{
    Arm, Decision, EditPattern, OpportunityId, OpportunityOutcome, OutcomeDetail, Signal, TenantId, Timestamp, topics,
};
use sqlx::any::AnyRow;
use sqlx::{AnyPool, Row};

use crate::failure::Failure;

/// Most records that are counted of one topic; more is shown as this many.
const MOST: usize = 10_000;

/// How long one look at a topic may take.
const LONGEST_LOOK: Duration = Duration::from_secs(30);
/// How long a look waits for records at once.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// The sinks and what each of them reads.
const SINKS: [(&str, &[&str]); 3] = [
    (labeler::lake::SINK, &[topics::PREFERENCE_PAIRS]),
    (
        labeler::ledger::SINK,
        &[topics::TELEMETRY_RAW, topics::TELEMETRY_CLEAN, topics::TELEMETRY_QUARANTINE, topics::DEAD_LETTERS],
    ),
    (labeler::tally::SINK, &[topics::SERVING_OUTCOMES]),
];

/// The topic, read by every sink that follows it.
pub(crate) fn read_by_sinks(spec: TopicSpec) -> TopicSpec {
    let name = spec.name.clone();
    let follow = SINKS.iter().filter(|(_, topics)| topics.contains(&name.as_str()));
    follow.fold(spec, |spec, (sink, _)| spec.read_by(*sink))
}

/// The topic of a sink that is meant; the only one that it reads need not be named.
pub(crate) fn topic_of(sink: &str, topic: Option<&str>) -> Result<&'static str, Failure> {
    let Some((_, topics)) = SINKS.into_iter().find(|(name, _)| *name == sink) else {
        let names = SINKS.map(|(name, _)| name);
        return Err(Failure::refused(format!("there is no sink {sink}; the sinks are {}", names.join(", "))));
    };
    match (topic, topics) {
        (None, &[only]) => Ok(only),
        (None, several) => {
            let several = several.join(", ");
            Err(Failure::refused(format!("sink {sink} reads several topics; name one with --topic: {several}")))
        }
        (Some(topic), topics) => topics.iter().copied().find(|known| *known == topic).ok_or_else(|| {
            Failure::refused(format!("sink {sink} does not read {topic}; it reads {}", topics.join(", ")))
        }),
    }
}

/// Records that some sink has not written yet.
pub(crate) async fn behind(bus: &dyn Bus, pool: &AnyPool) -> Result<u64, Failure> {
    Ok(behind_each(bus, pool).await?.into_iter().map(|(_, behind)| behind).sum())
}

/// Records that each sink has not written yet. Looks at records, not at positions: control records behind the last
/// record move the end of a topic, and no sink waits for them.
pub(crate) async fn behind_each(bus: &dyn Bus, pool: &AnyPool) -> Result<Vec<(&'static str, u64)>, Failure> {
    let mut each = Vec::new();
    for (sink, topics) in SINKS {
        let mut behind = 0;
        for topic in topics {
            behind += behind_in(bus, pool, sink, topic).await?;
        }
        each.push((sink, behind));
    }
    Ok(each)
}

async fn behind_in(bus: &dyn Bus, pool: &AnyPool, sink: &str, topic: &str) -> Result<u64, Failure> {
    let rows = sqlx::query("SELECT partition_index, next_position FROM sink_positions WHERE sink = $1 AND topic = $2")
        .bind(sink.to_owned())
        .bind(topic.to_owned())
        .fetch_all(pool)
        .await?;
    let mut from = Positions::default();
    for row in rows {
        let position: Position = row.try_get::<String, _>(1)?.parse()?;
        from.set(u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0), position);
    }
    records_from(bus, topic, from).await
}

/// Records of a topic from these positions on.
pub(crate) async fn records_from(bus: &dyn Bus, topic: &str, from: Positions) -> Result<u64, Failure> {
    let end = bus.end_positions(topic).await?;
    // A look registers nobody: an interrupted command must not hold retention back, and with it the door.
    let mut tail = bus.look(topic, from).await?;
    let (started, mut counted) = (Instant::now(), 0);
    // Nothing read is no proof of the end: brokers may need a moment.
    while counted < MOST && !tail.positions().reached(&end) {
        if started.elapsed() > LONGEST_LOOK {
            return Err(Failure::refused(format!("the records of {topic} can not be read in time")));
        }
        counted += tail.next(MOST - counted, SHORT_WAIT).await?.len();
    }
    Ok(u64::try_from(counted).unwrap_or(u64::MAX))
}

/// Closed opportunities of a tenant that serving decided at `since` or later, by their ids.
pub(crate) async fn outcomes(
    pool: &AnyPool,
    tenant: &TenantId,
    since: Timestamp,
) -> Result<Vec<OpportunityOutcome>, Failure> {
    let all = "SELECT * FROM opportunity_outcomes WHERE tenant = $1 AND exposed_at >= $2 ORDER BY opportunity_id";
    let rows = sqlx::query(all).bind(tenant.as_str().to_owned()).bind(since.as_micros()).fetch_all(pool).await?;
    rows.iter().map(outcome).collect()
}

/// The ids of the same.
pub(crate) async fn closed(
    pool: &AnyPool,
    tenant: &TenantId,
    since: Timestamp,
) -> Result<BTreeSet<OpportunityId>, Failure> {
    let ids = "SELECT opportunity_id FROM opportunity_outcomes WHERE tenant = $1 AND exposed_at >= $2";
    let rows = sqlx::query(ids).bind(tenant.as_str().to_owned()).bind(since.as_micros()).fetch_all(pool).await?;
    rows.iter().map(|row| Ok(row.try_get::<String, _>(0)?.parse()?)).collect()
}

/// A row of the table of outcomes.
pub(crate) fn outcome(row: &AnyRow) -> Result<OpportunityOutcome, Failure> {
    let text = |name: &str| row.try_get::<String, _>(name);
    // SMALLINT arrives as a wider integer from SQLite.
    let truth = |name: &str| -> Result<bool, sqlx::Error> {
        row.try_get::<i64, _>(name).or_else(|_| row.try_get::<i16, _>(name).map(i64::from)).map(|value| value == 1)
    };
    let optional = |name: &str| row.try_get::<Option<String>, _>(name);
    let number = |name: &str| row.try_get::<Option<i64>, _>(name);
    let detail = match optional("language")? {
        Some(language) => Some(OutcomeDetail {
            language,
            pattern: optional("pattern")?.map(|symbol| EditPattern::from_symbol(&symbol)),
            first_action_ms: number("first_action_ms")?,
            standing_30_s_permille: number("standing_30_s_permille")?,
            standing_120_s_permille: number("standing_120_s_permille")?,
            standing_300_s_permille: number("standing_300_s_permille")?,
        }),
        None => None,
    };
    Ok(OpportunityOutcome {
        opportunity_id: text("opportunity_id")?.parse()?,
        suggestion_id: optional("suggestion_id")?.map(|id| id.parse()).transpose()?,
        tenant: text("tenant")?.parse()?,
        person: text("person")?.parse()?,
        model: text("model")?.parse()?,
        model_version: events::ModelVersion(row.try_get("model_version")?),
        rollout_id: optional("rollout_id")?.map(|id| id.parse()).transpose()?,
        arm: Arm::from_symbol(&text("arm")?),
        block: row.try_get("block")?,
        decision: Decision::from_symbol(&text("decision")?),
        signal: Signal::from_symbol(&text("signal")?),
        utility: row.try_get("utility")?,
        shown: truth("shown")?,
        accepted: truth("accepted")?,
        kept_characters: row.try_get("kept_characters")?,
        censored: truth("censored")?,
        exposure_missing: truth("exposure_missing")?,
        explored: truth("explored")?,
        repository: text("repository")?,
        exposed_at: Timestamp::from_micros(row.try_get("exposed_at")?),
        closed_at: Timestamp::from_micros(row.try_get("closed_at")?),
        detail,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bus::local::{LocalLog, LocalLogConfig};
    use bus::{Record, RecordKey, Retention};
    use service::clock::RealClock;

    use super::*;

    #[test]
    fn every_topic_of_a_sink_waits_for_it() {
        let spec = |topic: &str| read_by_sinks(TopicSpec::new(topic, 1, Retention::default())).readers;
        assert_eq!(spec(topics::TELEMETRY_RAW), [labeler::ledger::SINK]);
        assert_eq!(spec(topics::PREFERENCE_PAIRS), [labeler::lake::SINK]);
        assert_eq!(spec(topics::SERVING_OUTCOMES), [labeler::tally::SINK]);
        assert!(spec(topics::FLYWHEEL_EVENTS).is_empty());
    }

    #[test]
    fn the_topic_of_a_sink_is_named_where_there_are_several() {
        let topic_of = |sink: &str, topic: Option<&str>| match topic_of(sink, topic) {
            Ok(topic) => topic.to_owned(),
            Err(failure) => failure.into_error().to_string(),
        };
        assert_eq!(topic_of("lake", None), topics::PREFERENCE_PAIRS);
        assert_eq!(topic_of("tally", Some(topics::SERVING_OUTCOMES)), topics::SERVING_OUTCOMES);
        assert_eq!(topic_of("ledger", Some(topics::DEAD_LETTERS)), topics::DEAD_LETTERS);
        let several = topic_of("ledger", None);
        assert!(several.contains("name one with --topic: telemetry.raw.v1, "), "{several}");
        assert!(topic_of("lake", Some(topics::DEAD_LETTERS)).contains("does not read"));
        assert!(topic_of("lakes", None).contains("the sinks are lake, ledger, tally"));
    }

    /// `flywheel status` may be interrupted anywhere.
    #[tokio::test]
    async fn counting_leaves_no_reader_wherever_it_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let url = migrations::sqlite_url(&directory.path().join("flywheel.sqlite"));
        let pool = migrations::connect(&url, 1).await.unwrap();
        migrations::migrate(&pool).await.unwrap();
        let path = directory.path().join("bus.sqlite");
        let bus = LocalLog::open(&path, RealClock::shared(), LocalLogConfig::default()).unwrap();
        let bus: Arc<dyn Bus> = Arc::new(bus);
        let names: Vec<&str> = SINKS.iter().flat_map(|(_, topics)| *topics).copied().collect();
        let specs: Vec<TopicSpec> = names.iter().map(|name| TopicSpec::new(*name, 2, Retention::default())).collect();
        bus.create_topics(&specs).await.unwrap();
        for name in &names {
            let records = (0..3).map(|key| Record { key: RecordKey([key; 16]), value: vec![key].into() }).collect();
            assert!(bus.publish(name, records).await.iter().all(Result::is_ok));
        }
        for millis in 0_u64.. {
            let counted = tokio::time::timeout(Duration::from_millis(millis), behind(bus.as_ref(), &pool)).await;
            for name in &names {
                let status = bus.topic_status(name).await.unwrap();
                assert_eq!(status.oldest_unread, None, "{name} after {millis} ms");
            }
            if let Ok(counted) = counted {
                assert_eq!(counted.map_err(Failure::into_error).unwrap(), 18);
                break;
            }
        }
    }
}
