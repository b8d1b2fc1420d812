//! Parts by rows: each object against its row and its digest, and each pair of the log in exactly one part.

use anyhow::bail;
use bus::Positions;
use events::Timestamp;
use labeler::lake::{LakeError, LakePart, LakeReader, PartGroup};
use rusqlite::params;

use super::items::Items;
use super::report::{Check, SHOWN};
use super::scratch::{Named, Scratch, reason};
use crate::progress::Progress;

/// Reads every part.
pub(crate) async fn parts(
    scratch: &Scratch,
    reader: &LakeReader,
    items: &Items,
    progress: &Progress,
) -> anyhow::Result<Check> {
    let of = scratch.count("SELECT COUNT(*) FROM parts", [])?;
    progress.begin("reading lake parts", Some(of));
    let mut check = Check { name: "lake: parts by rows".to_owned(), ..Check::default() };
    for number in 1..=i64::try_from(of).unwrap_or(i64::MAX) {
        let part = part(scratch, number)?;
        check.checked += 1;
        progress.advance(1);
        let what = match reader.read_placed(&part).await {
            Ok(pairs) => {
                let insert = "INSERT INTO pair_rows (partition, position, pair_id, digest, part) \
                     VALUES (?1, ?2, ?3, ?4, ?5)";
                for (place, pair) in pairs {
                    scratch.connection.prepare_cached(insert)?.execute(params![
                        place.partition,
                        place.position,
                        pair.pair_id.to_string(),
                        items.stored(&pair)?,
                        number
                    ])?;
                }
                continue;
            }
            Err(LakeError::BadPart(bad)) => bad.fault.as_str(),
            Err(LakeError::Replaced { part_id }) => bail!(
                "lake part {part_id} was replaced while the audit went on, and is removed by now: audit again, with a \
                 longer labeler.lake.compaction.keep_replaced_hours"
            ),
            // That the store does not answer says nothing about the part.
            Err(error) => return Err(error.into()),
        };
        check.differences += 1;
        if i64::try_from(check.first.len()).unwrap_or(i64::MAX) < SHOWN {
            check.first.push(Named { id: part.part_id, what: what.to_owned() });
        }
    }
    Ok(check)
}

fn part(scratch: &Scratch, number: i64) -> anyhow::Result<LakePart> {
    let mut query = scratch.connection.prepare_cached("SELECT * FROM parts WHERE number = ?1")?;
    let (text, counts, digest, tenant, group) = query.query_row([number], |row| {
        let text = (row.get::<_, String>(1)?, row.get::<_, String>(3)?, row.get(5)?, row.get(6)?);
        let counts = (row.get(4)?, row.get::<_, i64>(8)?, row.get::<_, i64>(9)?, row.get(10)?, row.get(11)?);
        let group = (row.get::<_, Option<i64>>(12)?, row.get::<_, Option<String>>(13)?, row.get(14)?, row.get(15)?);
        Ok((text, counts, row.get::<_, String>(7)?, row.get::<_, String>(2)?, group))
    })?;
    let (part_id, topic, first_position, last_position) = text;
    let (partition, pairs, bytes, min, max) = counts;
    let (day, audience, language, generation): (_, _, Option<String>, i64) = group;
    let group = match (day, audience, language) {
        (Some(day), Some(audience), Some(language)) => Some(PartGroup { day, audience: audience.parse()?, language }),
        _ => None,
    };
    Ok(LakePart {
        part_id,
        tenant: tenant.parse()?,
        topic,
        partition,
        first_position,
        last_position,
        digest: digest.parse()?,
        pairs: u64::try_from(pairs).unwrap_or(0),
        bytes: u64::try_from(bytes).unwrap_or(0),
        min_labeled_at: Timestamp::from_micros(min),
        max_labeled_at: Timestamp::from_micros(max),
        group,
        generation: u32::try_from(generation).unwrap_or(u32::MAX),
        erasures: 0,
    })
}

/// Each pair of the log up to the lake's positions in exactly one part, as it stands in the log; and no other one there.
/// A pair of an erased person and one that is past retention may be in none: compaction leaves it out.
pub(crate) fn pairs(scratch: &Scratch, from: &Positions, until: &Positions) -> anyhow::Result<Check> {
    let connection = &scratch.connection;
    connection.execute_batch(
        "CREATE INDEX pair_rows_by_place ON pair_rows (partition, position); \
         CREATE TABLE covered (partition INTEGER PRIMARY KEY, from_position TEXT, until_position TEXT);",
    )?;
    for (partition, until) in until.iter() {
        let from = from.get(partition).unwrap_or(bus::Position::START);
        connection.prepare_cached("INSERT INTO covered VALUES (?1, ?2, ?3)")?.execute(params![
            partition,
            from.to_string(),
            until.to_string()
        ])?;
    }
    let differing = "
        SELECT pair_log.pair_id AS id, CASE
            WHEN COUNT(pair_rows.part) = 0 AND pair_log.may_be_gone IS NOT NULL THEN NULL
            WHEN COUNT(pair_rows.part) = 0 THEN 'in_no_part' WHEN COUNT(pair_rows.part) > 1 THEN 'in_several_parts'
            WHEN MAX(pair_rows.digest) <> pair_log.digest OR MAX(pair_rows.pair_id) <> pair_log.pair_id THEN 'differs'
            END AS what
        FROM pair_log JOIN covered ON covered.partition = pair_log.partition
            AND pair_log.position < covered.until_position
        LEFT JOIN pair_rows ON pair_rows.partition = pair_log.partition AND pair_rows.position = pair_log.position
        GROUP BY pair_log.partition, pair_log.position
        UNION ALL SELECT pair_rows.pair_id, 'not_in_the_log' FROM pair_rows
        LEFT JOIN covered ON covered.partition = pair_rows.partition
        LEFT JOIN pair_log ON pair_log.partition = pair_rows.partition AND pair_log.position = pair_rows.position
        WHERE pair_log.pair_id IS NULL AND pair_rows.position >= COALESCE(covered.from_position, '')
        UNION ALL SELECT pair_id, 'twice_in_the_lake' FROM pair_rows GROUP BY pair_id
        HAVING COUNT(DISTINCT partition || ':' || position) > 1";
    let differences = scratch.count(&format!("SELECT COUNT(*) FROM ({differing}) WHERE what IS NOT NULL"), [])?;
    let first = scratch
        .named(&format!("SELECT id, what FROM ({differing}) WHERE what IS NOT NULL ORDER BY id LIMIT {SHOWN}"), [])?;
    let checked = scratch.count(
        "SELECT COUNT(*) FROM pair_log JOIN covered ON covered.partition = pair_log.partition \
         AND pair_log.position < covered.until_position",
        [],
    )?;
    let before = scratch.count(
        "SELECT COUNT(*) FROM pair_rows JOIN covered ON covered.partition = pair_rows.partition \
         AND pair_rows.position < covered.from_position",
        [],
    )?;
    let mut reasons = scratch.by_reason(
        "SELECT may_be_gone, COUNT(*) FROM pair_log JOIN covered ON covered.partition = pair_log.partition \
         AND pair_log.position < covered.until_position WHERE may_be_gone IS NOT NULL AND NOT EXISTS (SELECT 1 FROM \
         pair_rows WHERE pair_rows.partition = pair_log.partition AND pair_rows.position = pair_log.position) \
         GROUP BY may_be_gone",
        [],
    )?;
    let gone: u64 = reasons.values().sum();
    if before > 0 {
        reasons.insert(reason::DELETED.to_owned(), before);
    }
    let (name, not_covered) = ("lake: pairs against the log".to_owned(), before + gone);
    Ok(Check { name, checked: checked - gone, differences, not_covered, reasons, first, ..Check::default() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bus::Position;

    use super::*;

    /// What the log and the lake hold: places, what stands there, and why it may be gone, or which part.
    type Logged = (u64, &'static str, Option<&'static str>);
    type Stored = (u64, &'static str, i64);

    fn place(number: u64) -> Position {
        format!("{number:020}").parse().unwrap()
    }

    /// The check over one partition, of which the log still holds 10 to 20.
    fn check(log: &[Logged], lake: &[Stored]) -> Check {
        let scratch = Scratch::open(None).unwrap();
        let pair = |number: u64| (place(number).to_string(), format!("pair {number}"));
        for (number, text, may_be_gone) in log {
            let (position, id) = pair(*number);
            let insert = "INSERT INTO pair_log VALUES (0, ?1, ?2, ?3, ?4)";
            scratch.connection.execute(insert, params![position, id, text.as_bytes(), may_be_gone]).unwrap();
        }
        for (number, text, part) in lake {
            let (position, id) = pair(*number);
            let insert = "INSERT INTO pair_rows VALUES (0, ?1, ?2, ?3, ?4)";
            scratch.connection.execute(insert, params![position, id, text.as_bytes(), part]).unwrap();
        }
        let of_partition = |number| -> Positions { std::iter::once((0, place(number))).collect() };
        pairs(&scratch, &of_partition(10), &of_partition(20)).unwrap()
    }

    fn differences(check: &Check) -> Vec<(&str, &str)> {
        check.first.iter().map(|named| (named.id.as_str(), named.what.as_str())).collect()
    }

    fn reasons(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }

    #[test]
    fn only_a_pair_of_an_erased_person_or_past_retention_may_be_in_no_part() {
        let erased = check(&[(10, "a", None), (11, "b", Some(reason::ERASED))], &[(10, "a", 1)]);
        assert_eq!((erased.checked, erased.differences, erased.not_covered), (1, 0, 1));
        assert_eq!(erased.reasons, reasons(&[(reason::ERASED, 1)]));
        let expired = check(&[(10, "a", None), (11, "b", Some(reason::RETENTION))], &[(10, "a", 1)]);
        assert_eq!((expired.checked, expired.differences, expired.not_covered), (1, 0, 1));
        assert_eq!(expired.reasons, reasons(&[(reason::RETENTION, 1)]));
        let lost = check(&[(10, "a", None), (11, "b", None)], &[(10, "a", 1)]);
        assert_eq!((lost.checked, lost.not_covered), (2, 0));
        assert_eq!(differences(&lost), [("pair 11", "in_no_part")]);
    }

    #[test]
    fn an_erased_pair_that_is_still_in_the_lake_is_judged_like_every_other() {
        let as_it_stands = check(&[(10, "a", Some(reason::ERASED))], &[(10, "a", 1)]);
        assert_eq!((as_it_stands.checked, as_it_stands.differences, as_it_stands.not_covered), (1, 0, 0));
        let changed = check(
            &[(10, "a", Some(reason::ERASED)), (11, "b", Some(reason::ERASED))],
            &[(10, "other", 1), (11, "b", 1), (11, "b", 2)],
        );
        assert_eq!((changed.checked, changed.not_covered), (2, 0));
        assert_eq!(differences(&changed), [("pair 10", "differs"), ("pair 11", "in_several_parts")]);
    }

    #[test]
    fn what_lies_outside_of_the_cut_is_no_difference_and_what_nobody_wrote_is_one() {
        // The log has let go of what is before 10; behind 20 the lake has not read yet.
        let around = check(&[(10, "a", None), (25, "c", Some(reason::ERASED))], &[(5, "b", 1), (10, "a", 1)]);
        assert_eq!((around.checked, around.differences, around.not_covered), (1, 0, 1));
        assert_eq!(around.reasons, reasons(&[(reason::DELETED, 1)]));
        let invented = check(&[(10, "a", None)], &[(10, "a", 1), (15, "d", 1)]);
        assert_eq!(differences(&invented), [("pair 15", "not_in_the_log")]);
    }
}
