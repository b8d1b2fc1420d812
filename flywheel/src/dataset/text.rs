//! Data sets for people.

use std::fmt::Write as _;

use labeler::crowd::FEWEST_PERSONS;
use model_registry::lineage::Purpose;
use serde_json::Value;
use trainer_orchestrator::data_set::composition::{Composition, SetStatistics};
use trainer_orchestrator::data_set::manifest::{Manifest, ManifestDiff};
use trainer_orchestrator::data_set::stored::SnapshotSummary;

use crate::failure::Failure;
use crate::table::rows_text;

/// Digits of a digest that tell data sets apart.
const DIGITS: usize = 12;

pub(super) fn short(digest: &impl ToString) -> String {
    digest.to_string().chars().take(DIGITS).collect()
}

/// A word of a table as people read it.
pub(super) fn spoken(symbol: &str) -> String {
    symbol.replace('_', " ")
}

pub(super) fn list(newest: &[SnapshotSummary], has_older: bool) -> String {
    let rows = newest
        .iter()
        .map(|one| {
            vec![
                short(&one.digest),
                one.model.clone(),
                one.audience.clone(),
                one.training_pairs.to_string(),
                one.gate_pairs.to_string(),
                one.last_labeled_at.to_string(),
                one.created_at.to_string(),
            ]
        })
        .collect();
    let header = ["data set", "model", "audience", "to train", "to judge", "newest label", "made"];
    let mut text = rows_text(&header, rows, "no data sets");
    if has_older {
        let _ = write!(text, "\n\nthere are older ones; --limit lists more than {}", newest.len());
    }
    text
}

pub(super) fn manifest(manifest: &Manifest) -> String {
    let filters = &manifest.filters;
    let mut text = format!(
        "data set {}\nfor model {} and audience {}, label policy {}, made by {} (formula {} of the digest)\n",
        manifest.digest,
        filters.model,
        filters.audience,
        filters.label_policy_version,
        filters.code_version,
        filters.formula
    );
    match &manifest.composition {
        Some(composition) => text.push_str(&counted(composition)),
        None => {
            let count = |purpose| manifest.members.iter().filter(|member| member.purpose == purpose).count();
            let (training, judging) = (count(Purpose::Training), count(Purpose::Gate));
            // Writing to a text can not fail.
            let _ = write!(text, "{training} pairs train, {judging} judge; no stage was counted when it was made");
        }
    }
    text
}

/// What each stage made of the pairs: its name, how many entered and were kept, and why the others were not.
pub(super) fn stage_rows(composition: &Composition) -> Vec<Vec<String>> {
    composition
        .stages
        .iter()
        .map(|count| {
            let stage = serde_json::to_value(count.stage).ok();
            let stage = stage.as_ref().and_then(serde_json::Value::as_str).map(spoken).unwrap_or_default();
            let reasons: Vec<String> =
                count.left_out.iter().map(|(reason, count)| format!("{count} {}", spoken(reason))).collect();
            vec![stage, count.entered.to_string(), count.kept.to_string(), reasons.join(", ")]
        })
        .collect()
}

fn counted(composition: &Composition) -> String {
    let stages = stage_rows(composition);
    let sets = [
        ("training", &composition.training),
        ("adapt (benefit)", &composition.adapt),
        ("general (harm)", &composition.general),
    ];
    let sets = sets.into_iter().map(|(name, set)| set_row(name, set)).collect();
    let weights = composition.weights;
    format!(
        "\n{}\n\n{}\n\nweights: sum {:.1}, largest {}, effective sample size {:.1}, {} clipped\n\
         adapt: the developer wrote only names that training pairs write in {} of {}",
        rows_text(&["stage", "entered", "kept", "left out"], stages, ""),
        rows_text(&["set", "pairs", "persons", "repositories", "NO_EDIT chosen/rejected", "merged"], sets, ""),
        weights.sum,
        largest_weight_text(composition),
        weights.effective_sample_size,
        weights.clipped,
        composition.adapt_identifiers_seen,
        composition.adapt.pairs,
    )
}

/// A data set as JSON that tells of no person: its counts as [`told`] has them, and of each pair how many stand behind it
/// only where five do. The weight follows from their number, so it is told with it.
pub(super) fn told_whole(manifest: &Manifest) -> Result<Value, Failure> {
    let mut whole = serde_json::to_value(manifest)?;
    if let Some(composition) = &manifest.composition {
        replace(&mut whole, "/composition", told(composition)?);
    }
    for (number, member) in manifest.members.iter().enumerate() {
        if are_few(member.support.people as usize) {
            for name in ["people", "weight_millionths"] {
                replace(&mut whole, &format!("/members/{number}/{name}"), Value::Null);
            }
        }
    }
    Ok(whole)
}

/// A composition as JSON that tells of no person: what fewer than five made is not told apart, and 1 to 4 are not
/// counted out.
pub(super) fn told(composition: &Composition) -> Result<Value, Failure> {
    let mut counted = composition.clone();
    let (training, adapt, general) = (&mut counted.training, &mut counted.adapt, &mut counted.general);
    let mut untold = Vec::new();
    for (name, set) in [("training", training), ("adapt", adapt), ("general", general)] {
        set.count_by_groups();
        if are_few(set.persons) {
            untold.push(format!("/{name}/persons"));
        }
        if are_few(set.most_support_people as usize) {
            untold.push(format!("/{name}/most_support_people"));
        }
    }
    if largest_weight(composition).is_none() {
        untold.push("/weights/largest".to_owned());
    }
    let mut told = serde_json::to_value(counted)?;
    for place in untold {
        replace(&mut told, &place, Value::Null);
    }
    Ok(told)
}

fn replace(value: &mut Value, pointer: &str, with: Value) {
    if let Some(place) = value.pointer_mut(pointer) {
        *place = with;
    }
}

/// Whether these are too few persons to be counted out.
fn are_few(persons: usize) -> bool {
    (1..FEWEST_PERSONS).contains(&persons)
}

/// The largest weight of a pair. None where it may be that of a pair of two to four persons: it would say how many.
fn largest_weight(composition: &Composition) -> Option<f64> {
    let most = composition.training.most_support_people as usize;
    (most < 2 || !are_few(most)).then_some(composition.weights.largest)
}

/// The same for people.
pub(super) fn largest_weight_text(composition: &Composition) -> String {
    largest_weight(composition).map_or_else(|| "not told".to_owned(), |largest| format!("{largest:.2}"))
}

/// How many persons there are, where that tells of none of them.
pub(super) fn persons_text(persons: usize) -> String {
    if are_few(persons) { format!("fewer than {FEWEST_PERSONS}") } else { persons.to_string() }
}

fn set_row(name: &str, set: &SetStatistics) -> Vec<String> {
    vec![
        name.to_owned(),
        set.pairs.to_string(),
        persons_text(set.persons),
        set.repositories.to_string(),
        format!("{}/{}", set.choosing_no_edit, set.rejecting_no_edit),
        set.merged.to_string(),
    ]
}

pub(super) fn diff(diff: &ManifestDiff) -> String {
    let mut text = format!(
        "from {} to {}: {} pairs came, {} left, {} moved, {} weigh otherwise\n",
        short(&diff.from),
        short(&diff.to),
        diff.came.len(),
        diff.left.len(),
        diff.moved.len(),
        diff.reweighted.len()
    );
    let pairs = diff.summary().into_iter().map(|(from, to, count)| vec![count.to_string(), spoken(&from), spoken(&to)]);
    let settings =
        diff.settings.iter().map(|change| vec![change.name.clone(), change.from.to_string(), change.to.to_string()]);
    for table in [
        rows_text(&["pairs", "were", "are"], pairs.collect(), "the same pairs for the same purposes"),
        rows_text(&["setting", "was", "is"], settings.collect(), "the same settings"),
    ] {
        text.push('\n');
        text.push_str(&table);
        text.push('\n');
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use events::{Sha256Digest, TenantId};
    use labeler::crowd::MERGED;
    use model_registry::lineage::{FORMULA, SnapshotFilters, Support};
    use serde_json::json;
    use trainer_orchestrator::data_set::composition::WeightStatistics;
    use trainer_orchestrator::data_set::groups::{GroupCount, SetGroups};
    use trainer_orchestrator::data_set::manifest::{ManifestMember, PairChange, SettingChange};

    use super::*;

    fn cells(line: &str) -> Vec<&str> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn a_difference_reads_as_counts_of_what_became_of_what() {
        let digest = |text: &[u8]| Sha256Digest::of(text);
        let change = |from: &str, to: &str| PairChange {
            pair_id: digest(to.as_bytes()).to_string().parse().unwrap(),
            from: from.to_owned(),
            to: to.to_owned(),
        };
        let one = ManifestDiff {
            from: digest(b"a"),
            to: digest(b"b"),
            settings: vec![SettingChange { name: "maximum_pairs".to_owned(), from: 5.into(), to: 7.into() }],
            came: vec![change("no candidate", "training"), change("no candidate", "training")],
            left: vec![change("training", "left out: near_duplicate")],
            moved: Vec::new(),
            reweighted: Vec::new(),
        };
        let text = diff(&one);
        let rows: Vec<Vec<&str>> = text.lines().map(cells).collect();
        assert!(text.contains("2 pairs came, 1 left, 0 moved, 0 weigh otherwise"), "{text}");
        for expected in [
            vec!["2", "no candidate", "training"],
            vec!["1", "training", "left out: near duplicate"],
            vec!["maximum_pairs", "5", "7"],
        ] {
            assert!(rows.contains(&expected), "{expected:?} in {text}");
        }
        let none = ManifestDiff { settings: Vec::new(), came: Vec::new(), left: Vec::new(), ..one };
        assert!(diff(&none).ends_with("the same pairs for the same purposes\n\nthe same settings"));
    }

    #[test]
    fn json_tells_of_groups_alone() {
        let raw = BTreeMap::from([("go".to_owned(), 1), ("rust".to_owned(), 6)]);
        let group = GroupCount { name: MERGED.to_owned(), pairs: 7, by_reason: BTreeMap::new() };
        let groups = SetGroups { languages: vec![group], ..SetGroups::default() };
        let training = SetStatistics {
            persons: 6,
            most_support_people: 5,
            by_language: raw.clone(),
            groups,
            ..SetStatistics::default()
        };
        let adapt = SetStatistics {
            persons: 4,
            most_support_people: 1,
            by_language: raw.clone(),
            by_reason: raw,
            ..SetStatistics::default()
        };
        let told = told(&Composition { training, adapt, ..Composition::default() }).unwrap();
        let training = &told["training"];
        assert_eq!((&training["persons"], &training["by_language"]), (&json!(6), &json!({ MERGED: 7 })));
        assert_eq!((&training["most_support_people"], &told["weights"]["largest"]), (&json!(5), &json!(0.0)));
        let adapt = &told["adapt"];
        assert!(adapt["persons"].is_null() && adapt["most_support_people"].is_null(), "{adapt}");
        assert_eq!((&adapt["by_language"], &adapt["by_reason"]), (&json!({}), &json!({})));
        assert_eq!((&told["general"]["persons"], &told["general"]["most_support_people"]), (&json!(0), &json!(0)));
    }

    #[test]
    fn a_largest_weight_does_not_say_how_many_persons_made_it() {
        let largest = |most_support_people| {
            let training = SetStatistics { most_support_people, ..SetStatistics::default() };
            let weights = WeightStatistics { largest: 1.5, ..WeightStatistics::default() };
            let composition = Composition { training, weights, ..Composition::default() };
            let told = told(&composition).unwrap()["weights"]["largest"].clone();
            (told.as_f64(), largest_weight_text(&composition))
        };
        for told in [1, 5, 9] {
            assert_eq!(largest(told), (Some(1.5), "1.50".to_owned()), "{told} persons");
        }
        for untold in [2, 4] {
            assert_eq!(largest(untold), (None, "not told".to_owned()), "{untold} persons");
        }
    }

    #[test]
    fn of_a_pair_fewer_than_five_persons_are_not_counted_out() {
        let member = |people: u8| {
            let digest = Sha256Digest::of(&[people]);
            let support = Support { people: people.into(), repositories: 2, weight_millionths: Some(1_584_963) };
            let pair_id = digest.to_string().parse().unwrap();
            ManifestMember { pair_id, content_digest: digest, purpose: Purpose::Training, support }
        };
        let manifest = Manifest {
            digest: Sha256Digest::of(b"a data set"),
            filters: SnapshotFilters {
                tenant: TenantId::default(),
                model: "edit".parse().unwrap(),
                audience: "everyone".parse().unwrap(),
                label_policy_version: 1,
                code_version: "test".to_owned(),
                maximum_pairs: 100,
                gate_opportunities: 2,
                placebo_exchange_repositories: false,
                formula: FORMULA,
                policy: Value::Null,
            },
            members: [1, 4, 5].map(member).to_vec(),
            left_out: BTreeMap::new(),
            composition: Some(Composition {
                training: SetStatistics { persons: 4, ..SetStatistics::default() },
                ..Composition::default()
            }),
        };
        let told = told_whole(&manifest).unwrap();
        let of = |name: &str| -> Vec<&Value> {
            told["members"].as_array().unwrap().iter().map(|member| &member[name]).collect()
        };
        assert_eq!(of("people"), [&Value::Null, &Value::Null, &json!(5)]);
        assert_eq!(of("weight_millionths"), [&Value::Null, &Value::Null, &json!(1_584_963)]);
        assert_eq!(of("repositories"), [2, 2, 2]);
        assert!(told["composition"]["training"]["persons"].is_null(), "{told}");
    }

    #[test]
    fn small_groups_of_persons_are_not_counted_out() {
        let row = |persons| set_row("training", &SetStatistics { persons, ..SetStatistics::default() })[2].clone();
        assert_eq!([0, 4, 5].map(row), ["0", "fewer than 5", "5"]);
    }
}
