//! What an audit came to: a table for people, JSON for programs. Ids and counts only.

use std::collections::BTreeMap;

use bus::Positions;
use events::Timestamp;
use serde::Serialize;

use super::cut::Cut;
use super::scratch::Named;
use crate::table::rows_text;

/// How many differences of a check are named.
pub(crate) const SHOWN: i64 = 5;

/// How a check ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Result {
    /// Everything that could be judged is as it must be.
    #[default]
    Ok,
    /// Something is not.
    Difference,
    /// Nothing could be judged.
    NotCovered,
}

/// One check.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) result: Result,
    /// How many were judged.
    pub(crate) checked: u64,
    pub(crate) differences: u64,
    /// How many could not be judged.
    pub(crate) not_covered: u64,
    /// Why, with how many for each reason.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// The first differences.
    pub(crate) first: Vec<Named>,
}

impl Serialize for Named {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut named = serializer.serialize_struct("Named", 2)?;
        named.serialize_field("id", &self.id)?;
        named.serialize_field("what", &self.what)?;
        named.end()
    }
}

/// What is covered of a topic.
#[derive(Debug, Serialize)]
pub(crate) struct Covered {
    /// The oldest position of each partition that was read.
    pub(crate) from: Positions,
    /// The positions before which everything was read.
    pub(crate) until: Positions,
    /// Partitions whose beginning retention has deleted.
    pub(crate) truncated: Vec<u32>,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether no check found a difference.
    pub(crate) consistent: bool,
    /// The platform's time at which the cut was taken.
    pub(crate) taken_at: Timestamp,
    pub(crate) checks: Vec<Check>,
    pub(crate) covered: BTreeMap<&'static str, Covered>,
}

impl Report {
    pub(crate) fn new(taken_at: Timestamp, mut checks: Vec<Check>, cut: &Cut) -> Self {
        for check in &mut checks {
            check.result = match (check.differences, check.checked, check.not_covered) {
                (1.., ..) => Result::Difference,
                (0, 0, 1..) => Result::NotCovered,
                _ => Result::Ok,
            };
        }
        let covered = cut.from.iter().map(|(topic, from)| {
            let until = cut.until(topic);
            (*topic, Covered { from: from.clone(), until, truncated: cut.truncated(topic).into_iter().collect() })
        });
        let consistent = checks.iter().all(|check| check.result != Result::Difference);
        Self { consistent, taken_at, covered: covered.collect(), checks }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let word = |result: Result| match result {
            Result::Ok => "ok",
            Result::Difference => "DIFFERENCE",
            Result::NotCovered => "not covered",
        };
        let rows = self.checks.iter().map(|check| {
            vec![
                check.name.clone(),
                word(check.result).to_owned(),
                check.checked.to_string(),
                check.differences.to_string(),
                check.not_covered.to_string(),
            ]
        });
        let header = ["check", "result", "checked", "differences", "not covered"];
        let mut text = rows_text(&header, rows.collect(), "");
        for check in &self.checks {
            for named in &check.first {
                text += &format!("\n{}: {} {}", check.name, named.id, named.what.replace('_', " "));
            }
            let named = u64::try_from(check.first.len()).unwrap_or(u64::MAX);
            if check.differences > named {
                text += &format!("\n{}: and {} more", check.name, check.differences - named);
            }
        }
        for check in self.checks.iter().filter(|check| !check.reasons.is_empty()) {
            let reasons: Vec<String> =
                check.reasons.iter().map(|(reason, count)| format!("{count} {}", reason.replace('_', " "))).collect();
            text += &format!("\nnot covered of {}: {}", check.name, reasons.join(", "));
        }
        text += "\n";
        for (topic, covered) in &self.covered {
            let ranges: Vec<String> = covered
                .until
                .iter()
                .map(|(partition, until)| {
                    let from = covered.from.get(partition).unwrap_or(bus::Position::START);
                    format!("{partition}: {}-{}", digits(&from.to_string()), digits(&until.to_string()))
                })
                .collect();
            let deleted = if covered.truncated.is_empty() { "" } else { "; what was before is deleted" };
            text += &format!("\n{topic} {}{deleted}", ranges.join(", "));
        }
        let verdict = if self.consistent { "consistent" } else { "NOT CONSISTENT" };
        text + &format!("\n{verdict}, as of {}", self.taken_at)
    }
}

/// Without the zeros that make positions sort as text.
fn digits(position: &str) -> &str {
    let digits = position.trim_start_matches('0');
    if digits.is_empty() { "0" } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(checked: u64, differences: u64, not_covered: u64) -> Check {
        let first = (0..differences.min(2))
            .map(|number| Named { id: format!("id-{number}"), what: "there_twice".to_owned() })
            .collect();
        let reasons = (not_covered > 0).then(|| ("depends_on_time".to_owned(), not_covered)).into_iter().collect();
        Check { name: "pairs".to_owned(), checked, differences, not_covered, reasons, first, ..Check::default() }
    }

    #[test]
    fn a_difference_is_never_covered_up_by_what_could_not_be_judged() {
        let results = |checks: Vec<Check>| {
            let report = Report::new(Timestamp::EPOCH, checks, &Cut::default());
            (report.consistent, report.checks.iter().map(|check| check.result).collect::<Vec<_>>())
        };
        assert_eq!(results(vec![check(0, 1, 9), check(5, 0, 0)]), (false, vec![Result::Difference, Result::Ok]));
        assert_eq!(results(vec![check(1, 0, 9), check(0, 0, 9)]), (true, vec![Result::Ok, Result::NotCovered]));
        assert_eq!(results(vec![check(0, 0, 0)]), (true, vec![Result::Ok]));
    }

    #[test]
    fn people_read_what_differs_and_what_was_not_looked_at() {
        let report = Report::new(Timestamp::EPOCH, vec![check(10, 3, 4)], &Cut::default());
        insta::assert_snapshot!(report.text(), @r"
         check  result      checked  differences  not covered
         pairs  DIFFERENCE  10       3            4
        pairs: id-0 there twice
        pairs: id-1 there twice
        pairs: and 1 more
        not covered of pairs: 4 depends on time

        NOT CONSISTENT, as of 1970-01-01T00:00:00.000000Z
        ");
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value.pointer("/checks/0/first/0/id"), Some(&"id-0".into()));
    }
}
