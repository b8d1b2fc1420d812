//! What candidate and parent do at the opportunities of each language.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gate::{GateConfig, GateOutcome, PartReport, differences};

/// What both do in one language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LanguagePart {
    /// The language; empty: all those together in which fewer than five persons have opportunities, with the smallest of
    /// the others where they would still be too few.
    pub language: String,
    /// Share of its opportunities at which the candidate spoke.
    pub shown_rate_candidate: f64,
    /// Share at which the parent spoke.
    pub shown_rate_parent: f64,
    /// The figures.
    #[serde(flatten)]
    pub figures: PartReport,
}

/// Fewer persons are shown nowhere apart from others.
const FEWEST_SHOWN: usize = 5;

/// The figures of each language; where they would be of few persons, together. What is left out could be told by
/// subtraction: so they take in the smallest of the others where they are still too few, and without others nothing is told.
pub(crate) fn by_language(config: &GateConfig, outcomes: &[GateOutcome]) -> Vec<LanguagePart> {
    let mut languages: BTreeMap<&str, Vec<&GateOutcome>> = BTreeMap::new();
    for outcome in outcomes {
        languages.entry(&outcome.language).or_default().push(outcome);
    }
    let persons = |outcomes: &[&GateOutcome]| differences(outcomes.iter().copied()).len();
    let (mut many, few): (Vec<_>, Vec<_>) =
        languages.into_iter().partition(|(_, outcomes)| persons(outcomes) >= FEWEST_SHOWN);
    let mut others: Vec<&GateOutcome> = few.into_iter().flat_map(|(_, outcomes)| outcomes).collect();
    while !others.is_empty() && persons(&others) < FEWEST_SHOWN {
        let Some(smallest) = (0..many.len()).min_by_key(|index| persons(&many[*index].1)) else { return Vec::new() };
        others.extend(many.remove(smallest).1);
    }
    let shown = |outcomes: &[&GateOutcome], shows: fn(&GateOutcome) -> bool| {
        outcomes.iter().filter(|outcome| shows(outcome)).count() as f64 / outcomes.len().max(1) as f64
    };
    many.into_iter()
        .chain([("", others)])
        .filter_map(|(language, outcomes)| {
            Some(LanguagePart {
                language: language.to_owned(),
                shown_rate_candidate: shown(&outcomes, |outcome| outcome.candidate.shown),
                shown_rate_parent: shown(&outcomes, |outcome| outcome.parent.shown),
                figures: PartReport::of(config, &outcomes)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Behaviour, GateReport, judge};

    #[test]
    fn languages_are_reported_apart_where_five_persons_are_in_each() {
        // Of 30 persons 23 write one language, 4 another and 3 a third.
        let language = |person: usize| match person {
            0..23 => "rust",
            23..27 => "python",
            _ => "go",
        };
        let mixed: Vec<GateOutcome> = (0..300)
            .map(|number| GateOutcome {
                person: format!("p{}", number % 30),
                language: language(number % 30).to_owned(),
                candidate: Behaviour { shown: number % 2 == 0, matches: number % 4 == 0 },
                parent: Behaviour { shown: true, matches: number % 4 == 1 },
                rivals: Vec::new(),
                decision: None,
                identifiers_seen: None,
            })
            .collect();
        let report = judge(&GateConfig::default(), &mixed, 0.7, 0.7);
        let counted: Vec<(&str, usize, usize)> = (report.by_language.iter())
            .map(|part| (part.language.as_str(), part.figures.opportunities, part.figures.persons))
            .collect();
        assert_eq!(counted, [("rust", 230, 23), ("", 70, 7)]);
        let rust = &report.by_language[0];
        assert!((rust.shown_rate_candidate - 0.52).abs() < 0.03 && rust.shown_rate_parent == 1.0, "{rust:?}");
        // Four persons of one other language alone would be told by subtracting the rest from all.
        let few: Vec<GateOutcome> = mixed.into_iter().filter(|outcome| outcome.language != "go").collect();
        let report = judge(&GateConfig::default(), &few, 0.7, 0.7);
        let told = |report: &GateReport| -> Vec<(String, usize)> {
            report.by_language.iter().map(|part| (part.language.clone(), part.figures.opportunities)).collect()
        };
        assert_eq!(told(&report), [(String::new(), report.opportunities)]);
        let alone: Vec<GateOutcome> = few.into_iter().filter(|outcome| outcome.language == "python").collect();
        assert_eq!(told(&judge(&GateConfig::default(), &alone, 0.7, 0.7)), []);
    }
}
