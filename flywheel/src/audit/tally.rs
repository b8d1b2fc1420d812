//! The table of closed opportunities against the log.

use super::report::{Check, SHOWN};
use super::scratch::{Scratch, reason};

/// Every outcome of the log up to the tally's positions in a row that says the same; and no row of another one, from
/// `whole_from` on, since when all outcomes are in the log.
pub(crate) fn against_the_log(scratch: &Scratch, whole_from: i64) -> anyhow::Result<Check> {
    let differing = "
        SELECT outcome_log.id AS id, CASE WHEN found.id IS NULL THEN 'not_in_the_table'
            WHEN found.digest <> outcome_log.digest THEN 'differs' END AS what
        FROM outcome_log LEFT JOIN outcome_rows AS found ON found.id = outcome_log.id
        UNION ALL SELECT id, 'not_in_the_log' FROM outcome_rows WHERE closed_at >= ?1
            AND NOT EXISTS (SELECT 1 FROM outcome_log WHERE outcome_log.id = outcome_rows.id)";
    let differences =
        scratch.count(&format!("SELECT COUNT(*) FROM ({differing}) WHERE what IS NOT NULL"), [whole_from])?;
    let first = scratch.named(
        &format!("SELECT id, what FROM ({differing}) WHERE what IS NOT NULL ORDER BY id LIMIT {SHOWN}"),
        [whole_from],
    )?;
    let checked = scratch.count("SELECT COUNT(*) FROM outcome_log", [])?;
    let before = scratch.count(
        "SELECT COUNT(*) FROM outcome_rows WHERE closed_at < ?1 \
         AND NOT EXISTS (SELECT 1 FROM outcome_log WHERE outcome_log.id = outcome_rows.id)",
        [whole_from],
    )?;
    let reasons = (before > 0).then(|| (reason::DELETED.to_owned(), before)).into_iter().collect();
    let name = "tally: rows against the log".to_owned();
    Ok(Check { name, checked, differences, not_covered: before, reasons, first, ..Check::default() })
}
