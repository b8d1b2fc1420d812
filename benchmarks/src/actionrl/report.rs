//! What the runs say: a table for each stage, at a common distance from where training started. Seeds are the units of
//! every interval: what is asked of one seed is answered by one model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use trainer::evaluation::TaskSummary;

use super::arm::Arm;
use super::matched::{common_distance, nearest};
use super::state::{Checkpoint, Collection, Look, Run, Stage};
use crate::labeling::interval::{bounds, mean_of_units};
use crate::measurement::Measurement;

/// What is measured of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    Utility,
    /// Right of what was shown.
    Acceptance,
    /// Shown and right, of all opportunities.
    Generation,
    Shown,
    /// The share right of tasks that want a convention.
    Convention,
    /// Acceptance beside the start model's, relative.
    AcceptanceRise,
    /// Generation likewise.
    GenerationRise,
    /// Changes of [`super::suppression::Suppression`] against the start model.
    LaterAfterCorrected,
    LaterAfterOriginal,
    SilenceWhereWanted,
    SilenceWhereNot,
    StopWhereWanted,
    StopWhereDone,
    Step,
    Distance,
}

/// What could be measured; a share of nothing could not.
type Values = BTreeMap<Measure, f64>;

/// The values of an arm (none: of the start model), each with its seed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    by_seed: BTreeMap<u64, Values>,
    runs: usize,
    failed: usize,
}

/// How pairs were collected (none: over all ways together), then who learned from them.
type Place = (Option<Collection>, Option<Arm>);

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then_some(part / whole)
}

fn behaviour(summary: &TaskSummary) -> Values {
    let (edits, silences) = (summary.edits as f64, summary.silences as f64);
    let right = summary.first_matches * edits;
    let shown = summary.edits_shown * edits + (1.0 - summary.silent) * silences;
    let measured = [
        (Measure::Utility, Some(TaskSummary::utility(&[*summary]))),
        (Measure::Acceptance, ratio(right, shown)),
        (Measure::Generation, ratio(right, edits + silences)),
        (Measure::Shown, ratio(shown, edits + silences)),
    ];
    measured.into_iter().filter_map(|(measure, value)| Some((measure, value?))).collect()
}

fn values(look: &Look, start: &Look, checkpoint: Option<&Checkpoint>) -> Values {
    let mut values = behaviour(&look.all);
    let before = behaviour(&start.all);
    let rise = |measure: Measure| {
        let (now, then) = (values.get(&measure)?, before.get(&measure)?);
        ratio(now - then, *then)
    };
    let change = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
    let (now, then) = (&look.suppression, &start.suppression);
    let more = [
        (Measure::Convention, (look.convention.edits > 0).then_some(look.convention.first_matches)),
        (Measure::AcceptanceRise, rise(Measure::Acceptance)),
        (Measure::GenerationRise, rise(Measure::Generation)),
        (Measure::LaterAfterCorrected, change(now.later_after_corrected, then.later_after_corrected)),
        (Measure::LaterAfterOriginal, change(now.later_after_original, then.later_after_original)),
        (Measure::SilenceWhereWanted, change(now.silence_where_wanted, then.silence_where_wanted)),
        (Measure::SilenceWhereNot, change(now.silence_where_not, then.silence_where_not)),
        (Measure::StopWhereWanted, change(now.stop_where_wanted, then.stop_where_wanted)),
        (Measure::StopWhereDone, change(now.stop_where_done, then.stop_where_done)),
        (Measure::Step, checkpoint.map(|checkpoint| checkpoint.step as f64)),
        (Measure::Distance, checkpoint.map(|checkpoint| checkpoint.kl)),
    ];
    values.extend(more.into_iter().filter_map(|(measure, value)| Some((measure, value?))));
    values
}

fn means(of: &[Values]) -> Values {
    let measures: BTreeSet<Measure> = of.iter().flat_map(BTreeMap::keys).copied().collect();
    let mean = |measure: Measure| {
        let found: Vec<f64> = of.iter().filter_map(|values| values.get(&measure)).copied().collect();
        (measure, found.iter().sum::<f64>() / found.len() as f64)
    };
    measures.into_iter().map(mean).collect()
}

impl Row {
    pub(super) fn series(&self, measure: Measure) -> Vec<f64> {
        self.by_seed.values().filter_map(|values| values.get(&measure)).copied().collect()
    }

    pub(super) fn mean(&self, measure: Measure) -> f64 {
        mean_of_units(&self.series(measure)).value
    }

    /// Differences to `other`, seed by seed.
    fn less(&self, other: &Self, measure: Measure) -> Vec<f64> {
        let pairs = self.by_seed.iter().filter_map(|(seed, ours)| Some((ours, other.by_seed.get(seed)?)));
        pairs.filter_map(|(ours, theirs)| Some(ours.get(&measure)? - theirs.get(&measure)?)).collect()
    }
}

/// The rows of a stage, and the distance at which each way to collect is compared.
pub(super) struct Table {
    stage: Stage,
    pub(super) rows: BTreeMap<Place, Row>,
    distances: BTreeMap<Collection, f64>,
}

impl Table {
    /// None when nothing of the stage is finished.
    pub(super) fn of(stage: Stage, runs: &[&Run]) -> Option<Self> {
        let runs: Vec<&Run> = runs.iter().copied().filter(|run| run.key.lot.stage == stage).collect();
        let collections: BTreeSet<Collection> = runs.iter().map(|run| run.key.lot.collection).collect();
        let mut distances = BTreeMap::new();
        let mut found: BTreeMap<Place, BTreeMap<u64, Vec<Values>>> = BTreeMap::new();
        let mut counts: BTreeMap<Place, (usize, usize)> = BTreeMap::new();
        for collection in &collections {
            let alike: Vec<&Run> = runs.iter().copied().filter(|run| run.key.lot.collection == *collection).collect();
            let distance = common_distance(&alike);
            distances.extend(distance.map(|distance| (*collection, distance)));
            for run in alike {
                let chosen = distance.and_then(|distance| nearest(&run.checkpoints, distance));
                // Of a run that left nothing, what served before goes on serving.
                let look = chosen.map_or(&run.start, |checkpoint| &checkpoint.look);
                let (after, before) = (values(look, &run.start, chosen), values(&run.start, &run.start, None));
                let mut places = vec![Some(*collection)];
                places.extend((collections.len() > 1).then_some(None));
                for place in places {
                    let seed = run.key.lot.seed;
                    found.entry((place, Some(run.key.arm))).or_default().entry(seed).or_default().push(after.clone());
                    found.entry((place, None)).or_default().entry(seed).or_default().push(before.clone());
                    let count = counts.entry((place, Some(run.key.arm))).or_default();
                    *count = (count.0 + 1, count.1 + usize::from(run.failed.is_some()));
                }
            }
        }
        let row = |(place, seeds): (Place, BTreeMap<u64, Vec<Values>>)| {
            let by_seed = seeds.into_iter().map(|(seed, values)| (seed, means(&values))).collect();
            let (runs, failed) = counts.get(&place).copied().unwrap_or_default();
            (place, Row { by_seed, runs, failed })
        };
        let rows: BTreeMap<Place, Row> = found.into_iter().map(row).collect();
        (!rows.is_empty()).then_some(Self { stage, rows, distances })
    }

    /// Where all ways to collect are taken together.
    fn together(&self) -> Option<Collection> {
        let mut collections = self.rows.keys().map(|(collection, _)| *collection);
        // They come first where there are several.
        collections.next().flatten()
    }

    /// Arms by their utility, the best first, over all ways to collect together.
    pub(super) fn ranking(&self) -> Vec<Arm> {
        let together = self.together();
        let mut ranked: Vec<(Arm, f64)> = (self.rows.iter())
            .filter(|((collection, _), _)| *collection == together)
            .filter_map(|((_, arm), row)| Some(((*arm)?, row.mean(Measure::Utility))))
            .collect();
        ranked.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
        ranked.into_iter().map(|(arm, _)| arm).collect()
    }

    fn beside(&self, collection: Option<Collection>, arm: Option<Arm>) -> Option<&Row> {
        self.rows.get(&(collection, arm))
    }

    fn markdown(&self) -> String {
        let mut text = format!("## Stage {}\n\n", self.stage.name());
        for (collection, distance) in &self.distances {
            let name = collection.name();
            let _ =
                writeln!(text, "- {name}: compared at a KL of {distance:.4} nats a token from where training starts.");
        }
        text.push_str(
            "\nUtility, acceptance (right of what is shown), generation (shown x right: of all opportunities those with \
             something right on the screen) and shown, with 95% intervals by seed. Sign: of the difference to sft, none \
             where its interval holds 0.\n\n\
             | pairs | arm | runs, failed | step | KL | utility | less sft | sign | acceptance | sign | generation | \
             sign | shown | conventions |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for ((collection, arm), row) in &self.rows {
            let less = |measure: Measure| self.less_sft(*collection, row, measure);
            let counted = if arm.is_some() { format!("{}, {}", row.runs, row.failed) } else { "-".to_owned() };
            let _ = writeln!(
                text,
                "| {} | {} | {counted} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                collection_name(*collection),
                arm_name(*arm),
                ends(&row.series(Measure::Step)),
                number(&row.series(Measure::Distance)),
                interval(&row.series(Measure::Utility)),
                interval(&less(Measure::Utility)),
                sign(&less(Measure::Utility)),
                interval(&row.series(Measure::Acceptance)),
                sign(&less(Measure::Acceptance)),
                interval(&row.series(Measure::Generation)),
                sign(&less(Measure::Generation)),
                number(&row.series(Measure::Shown)),
                number(&row.series(Measure::Convention)),
            );
        }
        text.push_str(
            "\nOver-suppression: changes against the start model. Log p of the later wanted edits after the corrected and \
             after the original first one; P(NO_EDIT) and P(STOP) where an edit is wanted and where none is.\n\n\
             | pairs | arm | later, corrected | later, original | NO_EDIT, wanted | NO_EDIT, not | STOP, wanted | STOP, \
             not |\n|---|---|---|---|---|---|---|---|\n",
        );
        for ((collection, arm), row) in self.rows.iter().filter(|((_, arm), _)| arm.is_some()) {
            let _ = write!(text, "| {} | {} |", collection_name(*collection), arm_name(*arm));
            for measure in [
                Measure::LaterAfterCorrected,
                Measure::LaterAfterOriginal,
                Measure::SilenceWhereWanted,
                Measure::SilenceWhereNot,
                Measure::StopWhereWanted,
                Measure::StopWhereDone,
            ] {
                let _ = write!(text, " {} |", interval(&row.series(measure)));
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "\nPublished: +65% acceptance, +53% generation, with no baseline named, so that nothing can be compared with \
             it. Ours, relative to the start model that collected the pairs:\n\n| pairs | arm | acceptance | generation |\n\
             |---|---|---|---|"
        );
        for ((collection, arm), row) in self.rows.iter().filter(|((_, arm), _)| arm.is_some()) {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                collection_name(*collection),
                arm_name(*arm),
                percent(&row.series(Measure::AcceptanceRise)),
                percent(&row.series(Measure::GenerationRise)),
            );
        }
        text
    }

    fn less_sft(&self, collection: Option<Collection>, row: &Row, measure: Measure) -> Vec<f64> {
        self.beside(collection, Some(Arm::Sft)).map_or_else(Vec::new, |sft| row.less(sft, measure))
    }

    fn measurements(&self) -> Vec<Measurement> {
        let together = self.together();
        let mut measurements = Vec::new();
        for ((collection, arm), row) in &self.rows {
            let (Some(arm), true) = (arm, *collection == together) else { continue };
            let name = |what: &str| format!("actionrl {}: {}: {what}", self.stage.name(), arm.name());
            let less = self.less_sft(*collection, row, Measure::Utility);
            let note = format!(
                "95% by seed {}; baseline: sft; less sft {}, sign {}; KL {} at steps {}; {} of {} runs failed",
                interval(&row.series(Measure::Utility)),
                interval(&less),
                sign(&less),
                number(&row.series(Measure::Distance)),
                ends(&row.series(Measure::Step)),
                row.failed,
                row.runs
            );
            let utility = Measurement::new(name("utility"), row.mean(Measure::Utility), "utility", note);
            let sft = self.beside(*collection, Some(Arm::Sft)).map(|sft| sft.mean(Measure::Utility));
            measurements.push(match sft {
                Some(sft) => utility.beside(sft),
                None => utility,
            });
            for (what, measure, rise, published) in [
                ("acceptance", Measure::Acceptance, Measure::AcceptanceRise, "+65%"),
                ("generation", Measure::Generation, Measure::GenerationRise, "+53%"),
            ] {
                let less = self.less_sft(*collection, row, measure);
                let note = format!(
                    "95% by seed {}; less sft {}, sign {}; baseline: the start model; relative {}; published: {published}, \
                     of no named baseline",
                    interval(&row.series(measure)),
                    interval(&less),
                    sign(&less),
                    percent(&row.series(rise))
                );
                let share = Measurement::new(name(what), row.mean(measure), "share", note);
                let start = self.beside(*collection, None).map_or(0.0, |start| start.mean(measure));
                measurements.push(share.beside(start));
            }
        }
        measurements
    }
}

fn collection_name(collection: Option<Collection>) -> String {
    collection.map_or_else(|| "all together".to_owned(), Collection::name)
}

fn arm_name(arm: Option<Arm>) -> &'static str {
    arm.map_or("start model", Arm::name)
}

fn number(values: &[f64]) -> String {
    if values.is_empty() { "-".to_owned() } else { format!("{:.3}", mean_of_units(values).value) }
}

/// The least and the greatest.
fn ends(values: &[f64]) -> String {
    let bound = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick);
    match (bound(f64::min), bound(f64::max)) {
        (Some(least), Some(most)) if least < most => format!("{least:.0} to {most:.0}"),
        (Some(least), _) => format!("{least:.0}"),
        _ => "-".to_owned(),
    }
}

fn interval(values: &[f64]) -> String {
    let mean = mean_of_units(values).value;
    match bounds(values) {
        Some((low, high)) => format!("{mean:+.3} [{low:+.3}, {high:+.3}]"),
        None if values.is_empty() => "-".to_owned(),
        None => format!("{mean:+.3}"),
    }
}

fn percent(values: &[f64]) -> String {
    let mean = mean_of_units(values).value * 100.0;
    match bounds(values) {
        Some((low, high)) => format!("{mean:+.0}% [{:+.0}%, {:+.0}%]", low * 100.0, high * 100.0),
        None if values.is_empty() => "-".to_owned(),
        None => format!("{mean:+.0}%"),
    }
}

/// The sign that is found: none where the interval holds 0, or there is no interval.
fn sign(differences: &[f64]) -> &'static str {
    match bounds(differences) {
        Some((low, _)) if low > 0.0 => "+",
        Some((_, high)) if high < 0.0 => "-",
        Some(_) => "none",
        None => "?",
    }
}

/// Everything that is finished: tables for people, and the figures of each stage.
pub(super) fn report(runs: &[&Run]) -> (String, Vec<Measurement>) {
    let tables: Vec<Table> = Stage::ALL.into_iter().filter_map(|stage| Table::of(stage, runs)).collect();
    let text: Vec<String> = tables.iter().map(Table::markdown).collect();
    (text.join("\n"), tables.iter().flat_map(Table::measurements).collect())
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::{checkpoint, look, run};
    use super::*;

    /// Two checkpoints: near where training started, and far.
    fn learned(stage: Stage, arm: Arm, seed: u64, near: f64, far: f64) -> Run {
        run(stage, arm, seed, vec![checkpoint(1, 0.1, look(near, 0.8)), checkpoint(2, 1.0, look(far, 0.8))])
    }

    fn table(runs: &[Run]) -> Table {
        Table::of(Stage::A1, &runs.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn shares_are_of_what_is_shown_and_of_everything() {
        // 20 that want an edit, 16 shown, 10 right; 10 that want none, all silent.
        let found = values(&look(0.5, 0.8), &look(0.25, 0.5), None);
        for (measure, expected) in [
            (Measure::Utility, (0.75 * 10.0 - 0.25 * 6.0) / 30.0),
            (Measure::Acceptance, 10.0 / 16.0),
            (Measure::Generation, 10.0 / 30.0),
            (Measure::Shown, 16.0 / 30.0),
            // Before: 10 shown, 5 right.
            (Measure::AcceptanceRise, 0.25),
            (Measure::GenerationRise, 1.0),
        ] {
            assert!((found[&measure] - expected).abs() < 1e-12, "{measure:?} {}", found[&measure]);
        }
        // Nothing shown is no acceptance of nothing.
        let silent = values(&look(0.0, 0.0), &look(0.25, 0.5), None);
        assert!(!silent.contains_key(&Measure::Acceptance) && !silent.contains_key(&Measure::AcceptanceRise));
        assert_eq!(silent.get(&Measure::GenerationRise), Some(&-1.0));
    }

    #[test]
    fn arms_are_ranked_where_they_moved_equally_far() {
        let mut runs = Vec::new();
        for seed in 1..4 {
            let noise = seed as f64 / 100.0;
            runs.push(learned(Stage::A1, Arm::Sft, seed, 0.5 + noise, 0.55 + noise));
            // It moves further and is better there, but not as far as the others come.
            let far = checkpoint(3, 9.0, look(1.0, 1.0));
            let mut dpo = learned(Stage::A1, Arm::Dpo, seed, 0.2 + noise, 0.3 + noise);
            dpo.checkpoints.push(far);
            runs.push(dpo);
            runs.push(learned(Stage::A1, Arm::Truncate, seed, 0.1, 0.7 + 2.0 * noise));
        }
        let table = table(&runs);
        assert_eq!(table.ranking(), [Arm::Truncate, Arm::Sft, Arm::Dpo]);
        let text = table.markdown();
        assert!(text.contains("compared at a KL of 1.0000 nats a token"), "{text}");
        let row = |arm: &str| text.lines().find(|line| line.contains(&format!("| {arm} |"))).unwrap().to_owned();
        assert!(row("actionrl, truncate").contains("| + |"), "{text}");
        assert!(row("dpo").contains("] | - |") && row("dpo").contains("| 2 |"), "{text}");
        assert!(row("sft").contains("| +0.000 [+0.000, +0.000] | none |"), "{text}");
        assert!(row("start model").contains("| - | - | - |"), "{text}");
        let figures = table.measurements();
        assert_eq!(figures.len(), 9);
        let published = figures.iter().filter(|figure| figure.note.contains("of no named baseline")).count();
        assert_eq!(published, 6);
    }

    #[test]
    fn a_run_that_left_nothing_changes_nothing_and_is_counted() {
        let mut runs = vec![learned(Stage::A1, Arm::Sft, 1, 0.5, 0.6), learned(Stage::A1, Arm::Dpop, 1, 0.5, 0.6)];
        runs[1].checkpoints.clear();
        runs[1].failed = Some("the data set has one class only".to_owned());
        let table = table(&runs);
        let row = |arm| table.beside(table.together(), arm).unwrap();
        assert_eq!(row(Some(Arm::Dpop)).mean(Measure::Utility), row(None).mean(Measure::Utility));
        assert_eq!((row(Some(Arm::Dpop)).runs, row(Some(Arm::Dpop)).failed), (1, 1));
        // One seed has no interval and no sign.
        assert_eq!(sign(&table.less_sft(table.together(), row(Some(Arm::Dpop)), Measure::Utility)), "?");
    }

    #[test]
    fn ways_to_collect_are_compared_apart_and_taken_together() {
        let mut runs = vec![learned(Stage::A1, Arm::Sft, 1, 0.5, 0.6), learned(Stage::A1, Arm::Sft, 1, 0.5, 0.8)];
        runs[1].key.lot.collection.teaches_silence = false;
        runs[1].checkpoints.truncate(1);
        let table = table(&runs);
        let steps: Vec<f64> = table
            .rows
            .iter()
            .map(|((_, arm), row)| (arm, row.mean(Measure::Step)))
            .filter_map(|(arm, step)| arm.map(|_| step))
            .collect();
        assert_eq!(steps, [1.5, 1.0, 2.0]);
        assert_eq!(table.together(), None);
        assert_eq!(table.ranking(), [Arm::Sft]);
    }
}
