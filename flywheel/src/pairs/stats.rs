//! `flywheel pairs stats`: how many pairs there are of what.

use std::collections::{BTreeMap, HashSet};

use events::{PersonPseudonym, PreferencePair};
use labeler::crowd::{Crowd, FEWEST_PERSONS, apart};
use serde::Serialize;

use super::lake::{Filter, Lake};
use crate::cli::PairsStatsArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::table::{print, print_json, rows_text};

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

impl Crowd for Group {
    fn persons(&self) -> usize {
        self.persons.len()
    }

    fn merge(&mut self, others: Self) {
        self.pairs += others.pairs;
        self.two_sided += others.two_sided;
        self.weight += others.weight;
        self.persons.extend(others.persons);
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
    /// None where fewer than five persons made them.
    pairs: Option<u64>,
    by_reason: Vec<Counted>,
    by_language: Vec<Counted>,
    by_repository: Vec<Counted>,
    by_audience: Vec<Counted>,
}

/// Groups by name, the largest first, as far as no person can be told from them.
fn counted(groups: BTreeMap<String, Group>) -> Vec<Counted> {
    let mut rows: Vec<Counted> = apart(groups)
        .into_iter()
        .map(|told| Counted {
            name: told.name().to_owned(),
            pairs: told.crowd.pairs,
            two_sided: told.crowd.two_sided,
            weight: told.crowd.weight,
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.pairs));
    rows
}

/// How many pairs there are of all persons together. Nobody's are none.
fn total(all: &Group) -> Option<u64> {
    (all.pairs == 0 || all.persons() >= FEWEST_PERSONS).then_some(all.pairs)
}

pub(super) async fn run(foundation: &Foundation, arguments: &PairsStatsArgs) -> Result<(), Failure> {
    let filter = Filter::new(&arguments.filter)?;
    let lake = Lake::open(foundation).await?;
    let mut all = Group::default();
    let mut groups: [BTreeMap<String, Group>; 4] = Default::default();
    lake.each("counting pairs", async |pair| {
        if !filter.takes(&pair) {
            return Ok(());
        }
        all.add(&pair);
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
        pairs: total(&all),
        by_reason: counted(reasons),
        by_language: counted(languages),
        by_repository: counted(repositories),
        by_audience: counted(audiences),
    };
    if arguments.list.json {
        return print_json(&statistics);
    }
    let Some(pairs) = statistics.pairs else {
        return print(&format!("pairs of fewer than {FEWEST_PERSONS} people, which are not counted out"));
    };
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
    use labeler::crowd::MERGED;

    use super::*;

    fn group(persons: usize, pairs: u64) -> Group {
        let person = |number: usize| format!("{number:032x}").parse().unwrap();
        Group { pairs, two_sided: 1, weight: 0.5, persons: (0..persons).map(person).collect() }
    }

    fn named<const GROUPS: usize>(groups: [(&str, Group); GROUPS]) -> BTreeMap<String, Group> {
        groups.into_iter().map(|(name, group)| (name.to_owned(), group)).collect()
    }

    #[test]
    fn small_groups_are_shown_with_as_many_others_as_it_takes() {
        let groups = [("go", group(4, 9)), ("java", group(1, 1)), ("python", group(5, 7)), ("rust", group(6, 8))];
        let rows = counted(named(groups));
        let shown: Vec<(&str, u64)> = rows.iter().map(|row| (row.name.as_str(), row.pairs)).collect();
        // Who writes Java writes Go, too: four persons.
        assert_eq!(shown, [(MERGED, 17), ("rust", 8)]);
        assert_eq!((rows[0].two_sided, rows[0].weight), (3, 1.5));
    }

    #[test]
    fn nothing_is_told_of_fewer_than_five() {
        assert!(counted(named([("missed", group(4, 9)), ("typed_against", group(1, 2))])).is_empty());
        let totals = [group(0, 0), group(1, 3), group(4, 9), group(5, 9)].map(|all| total(&all));
        assert_eq!(totals, [Some(0), None, None, Some(9)]);
    }
}
