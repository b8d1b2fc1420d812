//! The platform's records against those of replays.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bus::RecordKey;
use events::Timestamp;
use rusqlite::params;

use super::report::Check;
use super::scratch::{FIRST_REPLAY, LATER, PLATFORM, Scratch, reason};
use super::stage::{Kind, Stage};

/// Keys that are replayed a second time at most: more of them are no matter of timing.
const MOST_KEYS: i64 = 100_000;

/// Verdicts that are no reasons of the report: another replay agrees; and what is counted with its key already.
const EITHER: &str = "either";
const SKIPPED: &str = "skipped";

/// That an item of this kind and id differs between the platform and a side: what must be there is not, or something is
/// there that does not follow, or is there more often.
const DIFFERS: &str = "
    SELECT replayed.kind AS kind, replayed.id AS id, replayed.partition AS partition, replayed.key AS key, 1 AS missing,
        0 AS extra
    FROM items AS replayed
    LEFT JOIN items AS found ON found.side = ?3 AND found.kind = replayed.kind AND found.id = replayed.id
        AND found.digest = replayed.digest
    LEFT JOIN items AS later ON later.side = ?4 AND later.kind = replayed.kind AND later.id = replayed.id
        AND later.digest = replayed.digest
    WHERE replayed.side = ?1 AND replayed.kind = ?2
        AND replayed.required > COALESCE(found.times, 0) + COALESCE(later.times, 0)
    UNION ALL
    SELECT found.kind, found.id, found.partition, found.key, 0, 1 FROM items AS found
    LEFT JOIN items AS replayed ON replayed.side = ?1 AND replayed.kind = found.kind AND replayed.id = found.id
        AND replayed.digest = found.digest
    WHERE found.side = ?3 AND found.kind = ?2 AND found.times > COALESCE(replayed.times, 0)
";

/// What is known of retention about a step.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    /// Partitions of the input whose beginning is gone, and when the first entry left was appended.
    pub(crate) input: BTreeMap<u32, Timestamp>,
    /// The same of the topic of each kind: the latest of its partitions; none when all of it is there.
    pub(crate) outputs: BTreeMap<Kind, Option<Timestamp>>,
}

fn list(partitions: impl Iterator<Item = u32>) -> String {
    partitions.map(|partition| partition.to_string()).collect::<Vec<_>>().join(", ")
}

/// Marks the sessions that can not be judged, because what they began with is not in the log any more.
pub(crate) fn skip_the_cut_off(scratch: &Scratch, stage: Stage, retained: &Retained) -> anyhow::Result<()> {
    if retained.input.is_empty() {
        return Ok(());
    }
    /// What of a session may precede its first event: an exposure that waited for it.
    const MARGIN_MICROS: i64 = 3_600_000_000;
    let connection = &scratch.connection;
    for (partition, first) in &retained.input {
        connection
            .prepare_cached(
                "INSERT INTO skipped (stage, key, reason) SELECT stage, key, ?1 FROM keys \
                 WHERE stage = ?2 AND partition = ?3 AND (begins = 0 OR first_appended < ?4) ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                reason::BEFORE,
                stage.number(),
                partition,
                first.as_micros().saturating_add(MARGIN_MICROS)
            ])?;
    }
    // A rule that changed within the range was another one before. What a person agreed to concerns the person, anything
    // else everybody.
    let concerned = format!(
        "controls.stage = keys.stage AND controls.partition = keys.partition \
         AND keys.first_position < controls.first_position AND controls.kind <> '{}' AND ({OF_OWNER} = controls.subject \
         OR controls.kind <> '{}' OR controls.subject = keys.tenant || '/ceiling')",
        // An operator's word about one session, which a step had given up.
        bus::control::RELEASE_KEY,
        service::consent::CONTROL_KIND
    );
    let truncated = list(retained.input.keys().copied());
    connection
        .prepare(&format!(
            "INSERT INTO skipped (stage, key, reason) SELECT DISTINCT keys.stage, keys.key, ?1 FROM keys JOIN controls \
             ON {concerned} WHERE keys.stage = ?2 AND keys.partition IN ({truncated}) ON CONFLICT DO NOTHING"
        ))?
        .execute(params![reason::RULES, stage.number()])?;
    // What was decided since, and is not in the log yet: what was so before is not known.
    let oldest = retained.input.values().min().map_or(i64::MAX, |first| first.as_micros());
    let undecided = format!(
        "seeds.stage = keys.stage AND seeds.decided_at >= ?3 AND NOT EXISTS (SELECT 1 FROM controls \
         WHERE controls.stage = seeds.stage AND controls.kind = seeds.kind AND controls.subject = seeds.subject) \
         AND ({OF_OWNER} = seeds.subject OR seeds.kind <> '{}' OR seeds.subject = keys.tenant || '/ceiling')",
        service::consent::CONTROL_KIND
    );
    connection
        .prepare(&format!(
            "INSERT INTO skipped (stage, key, reason) SELECT DISTINCT keys.stage, keys.key, ?1 FROM keys JOIN seeds \
             ON {undecided} WHERE keys.stage = ?2 AND keys.partition IN ({truncated}) ON CONFLICT DO NOTHING"
        ))?
        .execute(params![reason::RULES, stage.number(), oldest])?;
    Ok(())
}

/// The subject of a session's person, as consent names it.
const OF_OWNER: &str = "keys.tenant || '/' || keys.person";

/// Finds what differs from the first replay, and explains what the limits of the log explain.
pub(crate) fn find(scratch: &Scratch, stage: Stage, retained: &Retained) -> anyhow::Result<()> {
    let connection = &scratch.connection;
    let truncated = list(retained.input.keys().copied());
    for kind in stage.kinds() {
        let insert = format!(
            "INSERT INTO differences (kind, id, partition, key, missing, extra) \
             SELECT kind, id, MAX(partition), MAX(key), SUM(missing), SUM(extra) FROM ({DIFFERS}) GROUP BY kind, id"
        );
        connection.prepare(&insert)?.execute(params![FIRST_REPLAY, kind.as_str(), PLATFORM, LATER])?;
        connection
            .prepare(
                "UPDATE differences SET verdict = ?1 WHERE kind = ?2 \
                 AND key IN (SELECT key FROM skipped WHERE stage = ?3)",
            )?
            .execute(params![SKIPPED, kind.as_str(), stage.number()])?;
        if !retained.input.is_empty() {
            // Of a session that the log knows nothing of any more. Outcomes lie in partitions of persons.
            let place = if kind == Kind::Outcome { "1".to_owned() } else { format!("partition IN ({truncated})") };
            connection
                .prepare(&format!(
                    "UPDATE differences SET verdict = ?1 WHERE kind = ?2 AND verdict IS NULL AND missing = 0 AND {place} \
                     AND NOT EXISTS (SELECT 1 FROM keys WHERE keys.stage = ?3 AND keys.key = differences.key)"
                ))?
                .execute(params![reason::BEFORE, kind.as_str(), stage.number()])?;
        }
        if let Some(Some(first)) = retained.outputs.get(&kind) {
            connection
                .prepare(
                    "UPDATE differences SET verdict = ?1 WHERE kind = ?2 AND verdict IS NULL AND extra = 0 AND EXISTS \
                     (SELECT 1 FROM keys WHERE keys.stage = ?3 AND keys.key = differences.key AND first_appended < ?4)",
                )?
                .execute(params![reason::DELETED, kind.as_str(), stage.number(), first.as_micros()])?;
        }
    }
    Ok(())
}

fn kinds(stage: Stage) -> String {
    let [one, other] = stage.kinds().map(Kind::as_str);
    format!("'{one}', '{other}'")
}

/// The sessions of what still differs.
pub(crate) fn open_keys(scratch: &Scratch, stage: Stage) -> anyhow::Result<HashSet<RecordKey>> {
    let query = format!(
        "SELECT DISTINCT key FROM differences WHERE kind IN ({}) AND verdict IS NULL AND key IS NOT NULL LIMIT ?1",
        kinds(stage)
    );
    Ok(scratch.keys_of(&query, [MOST_KEYS])?.into_iter().collect())
}

/// What another replay of these sessions agrees with is no difference.
pub(crate) fn agree(scratch: &Scratch, stage: Stage, side: i64, keys: &HashSet<RecordKey>) -> anyhow::Result<()> {
    let connection = &scratch.connection;
    connection.execute("DELETE FROM reopened", [])?;
    let mut insert = connection.prepare("INSERT INTO reopened (key) VALUES (?1)")?;
    for key in keys {
        insert.execute([key.0])?;
    }
    for kind in stage.kinds() {
        let update = format!(
            "UPDATE differences SET verdict = ?5 WHERE kind = ?2 AND verdict IS NULL \
             AND key IN (SELECT key FROM reopened) AND id NOT IN (SELECT id FROM ({DIFFERS}))"
        );
        connection.prepare(&update)?.execute(params![side, kind.as_str(), PLATFORM, LATER, EITHER])?;
    }
    Ok(())
}

/// What no replay agrees with is no difference either, where the replays do not agree with each other about its
/// session: the platform's own time may have gone in yet another way.
pub(crate) fn leave_to_time(scratch: &Scratch, stage: Stage, replays: i64) -> anyhow::Result<()> {
    let update = format!(
        "UPDATE differences SET verdict = ?1 WHERE kind IN ({0}) AND verdict IS NULL AND key IN ( \
         SELECT key FROM items WHERE side >= ?2 AND kind IN ({0}) \
         AND key IN (SELECT key FROM differences WHERE verdict IS NULL) GROUP BY kind, id, digest, key \
         HAVING COUNT(*) <> ?3 OR MIN(times) <> MAX(times))",
        kinds(stage)
    );
    scratch.connection.prepare(&update)?.execute(params![reason::TIMING, FIRST_REPLAY, replays])?;
    Ok(())
}

/// What the comparison of a kind came to.
pub(crate) fn check(scratch: &Scratch, kind: Kind) -> anyhow::Result<Check> {
    let stage = kind.stage();
    let found = scratch.count(
        "SELECT COUNT(DISTINCT id) FROM items WHERE side = ?1 AND kind = ?2",
        params![PLATFORM, kind.as_str()],
    )?;
    let mut reasons = scratch.by_reason(
        "SELECT skipped.reason, COUNT(DISTINCT items.id) FROM items JOIN skipped \
         ON skipped.stage = ?1 AND skipped.key = items.key WHERE items.side = ?2 AND items.kind = ?3 \
         GROUP BY skipped.reason",
        params![stage.number(), PLATFORM, kind.as_str()],
    )?;
    let open = scratch.by_reason(
        "SELECT verdict, COUNT(*) FROM differences WHERE kind = ?1 AND verdict IS NOT NULL \
         AND verdict NOT IN (?2, ?3) GROUP BY verdict",
        params![kind.as_str(), EITHER, SKIPPED],
    )?;
    for (reason, count) in open {
        *reasons.entry(reason).or_default() += count;
    }
    let on_the_platform = scratch.count(
        "SELECT COUNT(*) FROM differences WHERE kind = ?1 AND verdict NOT IN (?2, ?3) AND extra > 0",
        params![kind.as_str(), EITHER, SKIPPED],
    )?;
    let skipped: u64 = scratch.count(
        "SELECT COUNT(DISTINCT items.id) FROM items JOIN skipped ON skipped.stage = ?1 AND skipped.key = items.key \
         WHERE items.side = ?2 AND items.kind = ?3",
        params![stage.number(), PLATFORM, kind.as_str()],
    )?;
    let pending = scratch.count(
        "SELECT COUNT(*) FROM items AS replayed WHERE side = ?1 AND kind = ?2 AND required = 0 AND NOT EXISTS \
         (SELECT 1 FROM items AS found WHERE found.side IN (?3, ?4) AND found.kind = replayed.kind \
         AND found.id = replayed.id)",
        params![FIRST_REPLAY, kind.as_str(), PLATFORM, LATER],
    )?;
    if pending > 0 {
        reasons.insert(reason::PENDING.to_owned(), pending);
    }
    let differences = scratch
        .count("SELECT COUNT(*) FROM differences WHERE kind = ?1 AND verdict IS NULL", params![kind.as_str()])?;
    let first = scratch.named(
        "SELECT id, CASE WHEN missing > 0 AND extra > 0 THEN 'differs' WHEN missing > 0 THEN 'missing' \
         WHEN EXISTS (SELECT 1 FROM items WHERE side = ?2 AND items.kind = ?1 AND items.id = differences.id) \
         THEN 'there_twice' ELSE 'does_not_follow' END \
         FROM differences WHERE kind = ?1 AND verdict IS NULL ORDER BY id LIMIT ?3",
        params![kind.as_str(), FIRST_REPLAY, super::report::SHOWN],
    )?;
    Ok(Check {
        name: kind.plural().to_owned(),
        checked: found.saturating_sub(skipped).saturating_sub(on_the_platform),
        differences,
        not_covered: reasons.values().sum(),
        reasons,
        first,
        ..Check::default()
    })
}

/// When the first entries left were appended, of partitions that begin later than they began: the latest of them. Where
/// nothing is left of any of these, whatever came until `now` may have been deleted.
pub(crate) fn latest(first: &BTreeMap<u32, Timestamp>, truncated: &BTreeSet<u32>, now: Timestamp) -> Option<Timestamp> {
    let left = first.iter().filter(|(partition, _)| truncated.contains(partition)).map(|(_, at)| *at).max();
    left.or_else(|| (!truncated.is_empty()).then_some(now))
}
