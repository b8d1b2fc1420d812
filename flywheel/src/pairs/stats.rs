//! `flywheel pairs stats`: how many pairs there are of what.

use std::collections::{BTreeMap, HashSet};

use events::{PersonPseudonym, PreferencePair};
use labeler::crowd::FEWEST_PERSONS;
use serde::Serialize;

use super::lake::{Filter, Lake};
use crate::cli::PairsStatsArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::table::{print, print_json, rows_text};

/// What stands for everything that fewer people did.
const MERGED: &str = "(groups of fewer than 5 people)";

/// Pairs that have something in common.
#[derive(Debug, Default)]
struct Group {
    pairs: u64,
    two_sided: u64,
    weight: f64,
    persons: HashSet<PersonPseudonym>,
}

impl Group {
    fn add(&mut self, pair: &PreferencePair) {
        self.pairs += 1;
        self.two_sided += u64::from(pair.divergence.is_some());
        self.weight += pair.weight;
        self.persons.insert(pair.person.clone());
    }
}

/// What is said of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Counted {
    name: String,
    pairs: u64,
    two_sided: u64,
    weight: f64,
}

#[derive(Debug, Serialize)]
struct Statistics {
    pairs: u64,
    by_reason: Vec<Counted>,
    by_language: Vec<Counted>,
    by_repository: Vec<Counted>,
    by_audience: Vec<Counted>,
}

/// Groups by name, the largest first. A reason is nobody's; of every other name small groups are merged.
fn counted(groups: BTreeMap<String, Group>, fewest: usize) -> Vec<Counted> {
    let (large, small): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(_, group)| group.persons.len() >= fewest);
    let row = |name: String, group: &Group| Counted {
        name,
        pairs: group.pairs,
        two_sided: group.two_sided,
        weight: group.weight,
    };
    let mut rows: Vec<Counted> = large.into_iter().map(|(name, group)| row(name, &group)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.pairs));
    if !small.is_empty() {
        let merged = small.iter().fold(Group::default(), |mut all, (_, group)| {
            all.pairs += group.pairs;
            all.two_sided += group.two_sided;
            all.weight += group.weight;
            all
        });
        rows.push(row(MERGED.to_owned(), &merged));
    }
    rows
}

pub(super) async fn run(foundation: &Foundation, arguments: &PairsStatsArgs) -> Result<(), Failure> {
    let filter = Filter::new(&arguments.filter)?;
    let lake = Lake::open(foundation).await?;
    let mut pairs = 0;
    let mut groups: [BTreeMap<String, Group>; 4] = Default::default();
    lake.each("counting pairs", async |pair| {
        if !filter.takes(&pair) {
            return Ok(());
        }
        pairs += 1;
        let names =
            [pair.reason.to_string(), pair.language.clone(), pair.repository.clone(), pair.audience.to_string()];
        for (groups, name) in groups.iter_mut().zip(names) {
            groups.entry(name).or_default().add(&pair);
        }
        Ok(())
    })
    .await?;
    let [reasons, languages, repositories, audiences] = groups;
    let statistics = Statistics {
        pairs,
        by_reason: counted(reasons, 0),
        by_language: counted(languages, FEWEST_PERSONS),
        by_repository: counted(repositories, FEWEST_PERSONS),
        by_audience: counted(audiences, FEWEST_PERSONS),
    };
    if arguments.list.json {
        return print_json(&statistics);
    }
    let mut text = vec![format!("{pairs} pairs")];
    for (what, rows) in [
        ("reason", statistics.by_reason),
        ("language", statistics.by_language),
        ("repository", statistics.by_repository),
        ("audience", statistics.by_audience),
    ] {
        let rows = rows
            .into_iter()
            .map(|row| vec![row.name, row.pairs.to_string(), row.two_sided.to_string(), format!("{:.1}", row.weight)]);
        text.push(rows_text(&[what, "pairs", "with two sides", "weight"], rows.collect(), ""));
    }
    print(text.join("\n\n").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(persons: usize, pairs: u64) -> Group {
        let person = |number: usize| format!("{number:032x}").parse().unwrap();
        Group { pairs, two_sided: 1, weight: 0.5, persons: (0..persons).map(person).collect() }
    }

    #[test]
    fn small_groups_are_shown_as_one() {
        let groups = [("go", group(4, 9)), ("java", group(1, 1)), ("python", group(5, 7)), ("rust", group(6, 8))];
        let rows = counted(groups.map(|(name, group)| (name.to_owned(), group)).into(), FEWEST_PERSONS);
        let shown: Vec<(&str, u64)> = rows.iter().map(|row| (row.name.as_str(), row.pairs)).collect();
        assert_eq!(shown, [("rust", 8), ("python", 7), (MERGED, 10)]);
        assert_eq!((rows[2].two_sided, rows[2].weight), (2, 1.0));
    }
}
