//! `flywheel pairs stats`: how many pairs there are of what.

use std::collections::{BTreeMap, HashSet};

use events::{PersonPseudonym, PreferencePair};
use labeler::crowd::{Crowd, FEWEST_PERSONS, apart};
use labeler::lake::LakePart;
use serde::Serialize;

use super::lake::{Filter, Lake, Look};
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
        if !self.persons.contains(&pair.person) {
            self.persons.insert(pair.person.clone());
        }
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
    // Of equals in the order of their names.
    rows.sort_by(|one, other| other.pairs.cmp(&one.pairs).then_with(|| one.name.cmp(&other.name)));
    rows
}

/// How many pairs there are of all persons together. Nobody's are none.
fn total(all: &Group) -> Option<u64> {
    (all.pairs == 0 || all.persons() >= FEWEST_PERSONS).then_some(all.pairs)
}

/// What is counted: no more in memory than who made pairs of what.
struct Counting {
    filter: Filter,
    all: Group,
    reasons: BTreeMap<String, Group>,
    languages: BTreeMap<String, Group>,
    repositories: BTreeMap<String, Group>,
    audiences: BTreeMap<String, Group>,
}

impl Counting {
    fn new(filter: Filter) -> Self {
        let [reasons, languages, repositories, audiences]: [BTreeMap<String, Group>; 4] = Default::default();
        Self { filter, all: Group::default(), reasons, languages, repositories, audiences }
    }

    fn statistics(self) -> Statistics {
        Statistics {
            pairs: total(&self.all),
            by_reason: counted(self.reasons),
            by_language: counted(self.languages),
            by_repository: counted(self.repositories),
            by_audience: counted(self.audiences),
        }
    }
}

impl Look for Counting {
    const NEEDS_TEXT: bool = false;

    fn needs(&self, part: &LakePart) -> bool {
        self.filter.may_hold(part)
    }

    fn see(&mut self, pair: PreferencePair) {
        if !self.filter.takes(&pair) {
            return;
        }
        self.all.add(&pair);
        for (groups, name) in [
            (&mut self.reasons, pair.reason.as_str()),
            (&mut self.languages, pair.language.as_str()),
            (&mut self.repositories, pair.repository.as_str()),
            (&mut self.audiences, pair.audience.as_str()),
        ] {
            match groups.get_mut(name) {
                Some(group) => group.add(&pair),
                None => groups.entry(name.to_owned()).or_default().add(&pair),
            }
        }
    }
}

pub(super) async fn run(foundation: &Foundation, arguments: &PairsStatsArgs) -> Result<(), Failure> {
    let mut counting = Counting::new(Filter::new(&arguments.filter)?);
    let unread = Lake::open(foundation).await?.look("counting pairs", &mut counting).await?;
    let statistics = counting.statistics();
    if arguments.list.json {
        print_json(&statistics)?;
    } else {
        print(&text(statistics))?;
    }
    unread.told()
}

fn text(statistics: Statistics) -> String {
    let Some(pairs) = statistics.pairs else {
        return format!("pairs of fewer than {FEWEST_PERSONS} people, which are not counted out");
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
    text.join("\n\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use events::PairReason;
    use labeler::crowd::MERGED;

    use super::*;
    use crate::cli::PairFilterArgs;
    use crate::pairs::fixture::pair;

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

    /// Two pairs of each of so many people.
    fn statistics_of(persons: usize) -> Statistics {
        let arguments = PairFilterArgs {
            reason: Some("missed".to_owned()),
            language: None,
            audience: None,
            labeled_from: None,
            labeled_before: None,
        };
        let mut counting = Counting::new(Filter::new(&arguments).unwrap());
        for number in 0..persons {
            for byte in [None, Some(0)] {
                let person = format!("{number:032x}").parse().unwrap();
                counting.see(PreferencePair { person, ..pair(PairReason::Missed, byte) });
            }
            counting.see(pair(PairReason::Dismissed, None));
        }
        counting.statistics()
    }

    /// What docs/pairs.md promises to programs.
    #[test]
    fn statistics_in_json() {
        let group = |name: &str| vec![serde_json::json!({ "name": name, "pairs": 10, "two_sided": 5, "weight": 5.0 })];
        let expected = serde_json::json!({
            "pairs": 10,
            "by_reason": group("missed"),
            "by_language": group("rust"),
            "by_repository": group("acme/shop"),
            "by_audience": group("everyone"),
        });
        assert_eq!(serde_json::to_value(statistics_of(5)).unwrap(), expected);
        let nothing = serde_json::json!({
            "pairs": null, "by_reason": [], "by_language": [], "by_repository": [], "by_audience": [],
        });
        assert_eq!(serde_json::to_value(statistics_of(4)).unwrap(), nothing);
        assert!(text(statistics_of(4)).starts_with("pairs of fewer than 5 people"));
        assert!(text(statistics_of(5)).starts_with("10 pairs\n\n"), "{}", text(statistics_of(5)));
    }
}
