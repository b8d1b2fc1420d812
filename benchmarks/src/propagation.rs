//! What the base is for: utility per opportunity on trajectories of code that it has not learned from, by language, beside
//! two baselines that learn nothing. Half of the opportunities want no edit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, bail};
use edit_model::{DecodeOptions, EditModel};
use events::ActionList;
use simulator::base::package_of;
use simulator::baseline::{NgramCache, repeat_last_substitution};
use simulator::history::judgement::{Judgement, judge};
use simulator::random::Dice;
use simulator::trajectory::opportunities::Quiet;
use simulator::trajectory::training::{QUIET_KINDS, RepositorySource, family};
use simulator::trajectory::{
    BuildSettings, CodeCorpus, CodeLanguage, CorpusSettings, Pattern, PlayedTrajectory, TrajectoryTask, build,
};
use simulator::{BaseManifest, Split};
use trainer::evaluation::in_parallel;
use trainer::gate::{Behaviour, bootstrap};

use crate::measurement::{Better, Measurement, tell};

const LANGUAGES: [CodeLanguage; 3] = [CodeLanguage::Rust, CodeLanguage::Python, CodeLanguage::TypeScript];
const PATTERNS: [Pattern; 4] =
    [Pattern::SignatureChange, Pattern::RenameToConvention, Pattern::TypeRefinement, Pattern::AutoImport];
/// Most pairs of opportunities of a language, one of each pair quiet.
const PAIRS: usize = 600;
/// Most pairs of a trajectory: its points are much alike.
const PAIRS_EACH: usize = 2;
/// Places that are drawn for a quiet opportunity of one kind.
const QUIET_DRAWS: usize = 8;
/// Fewest repositories that are resampled; of fewer, files are.
const FEWEST_REPOSITORIES: usize = 5;
const SEED: u64 = 1;
const RESAMPLES: usize = 2_000;
const THREADS: usize = 2;

/// The packages that a base has learned from.
struct Learned(BTreeSet<String>);

impl Learned {
    fn of(base: &Path) -> anyhow::Result<Self> {
        let path = base.join("provenance.json");
        let provenance: serde_json::Value = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is not valid", path.display()))?,
            // A base of natural code alone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => serde_json::Value::Null,
            Err(error) => return Err(error).with_context(|| format!("{} can not be read", path.display())),
        };
        let made_of = &provenance["made_of"];
        let held_out: BTreeSet<String> =
            serde_json::from_value::<Option<_>>(made_of["held_out_by_name"].clone())?.unwrap_or_default();
        let repositories: BTreeMap<String, RepositorySource> =
            serde_json::from_value::<Option<_>>(made_of["trajectories"]["sources"]["repositories"].clone())?
                .unwrap_or_default();
        let packages = BaseManifest::read(&base.join("sources.json"))?.packages.into_iter().map(|one| one.package);
        let of_sources = packages.filter(|name| Split::of_package(name) == Split::Train && !held_out.contains(name));
        let of_trajectories = repositories.iter().filter(|(_, source)| !source.held_out);
        Ok(Self(of_sources.chain(of_trajectories.map(|(name, _)| package_of(name).to_owned())).collect()))
    }

    fn contains(&self, repository: &str) -> bool {
        self.0.contains(package_of(repository))
    }
}

/// Trajectories of what was not learned from.
fn held_out(corpus: &Path, learned: &Learned) -> anyhow::Result<Vec<PlayedTrajectory>> {
    let corpus = CodeCorpus::open(corpus, CorpusSettings::default())?;
    let settings = BuildSettings { seed: SEED, patterns: PATTERNS.to_vec(), ..BuildSettings::default() };
    let mut found = Vec::new();
    build(&corpus, &settings, &|_| (), &mut |built| {
        if !learned.contains(&built.trajectory.repository) {
            found.push(PlayedTrajectory::from(built));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Opportunities of one trajectory: as many that want an edit as that want none.
struct Asked<'a> {
    played: &'a PlayedTrajectory,
    tasks: Vec<TrajectoryTask>,
}

fn pair(played: &PlayedTrajectory, step: usize, dice: &mut Dice) -> Option<[TrajectoryTask; 2]> {
    let edit = played.edit_task(step, dice)?;
    let why = [Quiet::Done, Quiet::Away, Quiet::Before].get(dice.weighted(&QUIET_KINDS)).copied()?;
    let quiet = (0..QUIET_DRAWS).find_map(|_| played.quiet_task(why, step, dice))?;
    Some([edit, quiet])
}

/// The opportunities of a language: repositories take turns, so that none dominates where there are enough.
fn asked(all: &[PlayedTrajectory], language: CodeLanguage) -> Vec<Asked<'_>> {
    let mut dice = Dice::new(SEED, "propagation", &[language as u64]);
    let mut repositories: BTreeMap<&str, Vec<&PlayedTrajectory>> = BTreeMap::new();
    for played in all.iter().filter(|played| family(played.trajectory.language) == language) {
        repositories.entry(package_of(&played.trajectory.repository)).or_default().push(played);
    }
    let mut waiting: Vec<Vec<&PlayedTrajectory>> = repositories.into_values().collect();
    waiting.iter_mut().for_each(|trajectories| dice.shuffle(trajectories));
    let (mut found, mut pairs) = (Vec::new(), 0);
    while pairs < PAIRS && waiting.iter().any(|trajectories| !trajectories.is_empty()) {
        for played in waiting.iter_mut().filter_map(Vec::pop) {
            let mut steps: Vec<usize> = played.steps().collect();
            dice.shuffle(&mut steps);
            let tasks: Vec<TrajectoryTask> = steps
                .into_iter()
                .filter_map(|step| pair(played, step, &mut dice))
                .take(PAIRS_EACH.min(PAIRS.saturating_sub(pairs)))
                .flatten()
                .collect();
            pairs += tasks.len() / 2;
            found.push(Asked { played, tasks });
        }
    }
    found
}

/// One opportunity and what each of the three did there.
struct Row<'a> {
    repository: &'a str,
    file: String,
    pattern: Pattern,
    wants_edit: bool,
    in_sight: bool,
    base: Judgement,
    repeat: Judgement,
    cache: Judgement,
}

fn utility(judgement: Judgement) -> f64 {
    Behaviour { shown: judgement.shown, matches: judgement.content }.utility()
}

fn rows<'a>(model: &EditModel, asked: &[Asked<'a>]) -> anyhow::Result<Vec<Row<'a>>> {
    let options = DecodeOptions { max_actions: 1, ..DecodeOptions::default() };
    let tasks: Vec<&TrajectoryTask> = asked.iter().flat_map(|one| &one.tasks).collect();
    let answers: Vec<ActionList> = in_parallel(&tasks, THREADS, |task| {
        Ok(model.complete(&task.point.context, &options, &|| false, &mut |_| {})?.actions)
    })?;
    let mut answers = answers.into_iter();
    let mut cache = NgramCache::default();
    let mut rows = Vec::new();
    for Asked { played, tasks } in asked {
        for (task, answer) in tasks.iter().zip(&mut answers) {
            let context = &task.point.context;
            rows.push(Row {
                repository: package_of(&played.trajectory.repository),
                file: played.origin(),
                pattern: task.pattern,
                wants_edit: task.point.wants_edit(),
                in_sight: task.is_in_sight(),
                base: judge(&task.point, &answer),
                repeat: judge(&task.point, &repeat_last_substitution(context)),
                cache: judge(&task.point, &cache.propose(context)),
            });
        }
        // What was asked about is known afterwards, as in a history.
        let replaced = played.replaced();
        cache.learn(replaced.iter().map(|(old, new)| (old.as_str(), new.as_str())));
    }
    Ok(rows)
}

/// A mean, and its 95% interval.
struct Estimate {
    mean: f64,
    low: f64,
    high: f64,
    clusters: usize,
}

impl Estimate {
    fn of(rows: &[&Row<'_>], value: impl Fn(&Row<'_>) -> f64) -> Self {
        let repositories: BTreeSet<&str> = rows.iter().map(|row| row.repository).collect();
        let is_many = repositories.len() >= FEWEST_REPOSITORIES;
        let mut clusters: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for row in rows {
            let cluster = clusters.entry(if is_many { row.repository } else { row.file.as_str() }).or_default();
            cluster.0 += value(row);
            cluster.1 += 1.0;
        }
        let clusters: Vec<(f64, f64)> = clusters.into_values().collect();
        let (low, high) = bootstrap(&clusters, RESAMPLES, SEED);
        let sum: f64 = clusters.iter().map(|(sum, _)| sum).sum();
        Self { mean: sum / rows.len().max(1) as f64, low, high, clusters: clusters.len() }
    }

    fn interval(&self) -> String {
        format!("95% {:+.3} to {:+.3}, {} clusters", self.low, self.high, self.clusters)
    }
}

/// Shares of the opportunities that want an edit in which it was right, and of the others in which nothing was said.
fn shares(rows: &[&Row<'_>], of: impl Fn(&Row<'_>) -> Judgement) -> (f64, f64) {
    let share = |wants_edit: bool, test: fn(Judgement) -> bool| {
        let fitting = rows.iter().filter(|row| row.wants_edit == wants_edit);
        let count = fitting.clone().filter(|row| test(of(row))).count();
        100.0 * count as f64 / fitting.count().max(1) as f64
    };
    (share(true, |judgement| judgement.content), share(false, |judgement| !judgement.shown))
}

fn measurements(language: CodeLanguage, rows: &[Row<'_>]) -> Vec<Measurement> {
    let all: Vec<&Row<'_>> = rows.iter().collect();
    let repositories: BTreeSet<&str> = all.iter().map(|row| row.repository).collect();
    let base = Estimate::of(&all, |row| utility(row.base));
    let repeat = Estimate::of(&all, |row| utility(row.repeat));
    let cache = Estimate::of(&all, |row| utility(row.cache));
    let ((right, silent), (repeat_right, repeat_silent), (cache_right, cache_silent)) =
        (shares(&all, |row| row.base), shares(&all, |row| row.repeat), shares(&all, |row| row.cache));
    let edits = all.iter().filter(|row| row.wants_edit);
    let copied = edits.clone().filter(|row| row.in_sight).count() as f64 / edits.count().max(1) as f64;
    let note = format!(
        "{}; {} opportunities in {} repositories, half of them quiet; {:.1}% of the edits can be copied from \
         what is seen; right {right:.1}%, silent {silent:.1}%; baseline: the better of repeat the last substitution \
         ({:+.3}; {repeat_right:.1}%, {repeat_silent:.1}%) and a cache of n-grams ({:+.3}; {cache_right:.1}%, \
         {cache_silent:.1}%)",
        base.interval(),
        all.len(),
        repositories.len(),
        100.0 * copied,
        repeat.mean,
        cache.mean,
    );
    let mut found = vec![
        Measurement::new(format!("propagation: {language}"), base.mean, "utility", note)
            .beside(repeat.mean.max(cache.mean))
            .aiming_at(0.0, Better::Above),
    ];
    let beyond_repeat = Estimate::of(&all, |row| utility(row.base) - utility(row.repeat));
    let beyond_cache = Estimate::of(&all, |row| utility(row.base) - utility(row.cache));
    for (name, beyond) in [("repeating", beyond_repeat), ("the cache", beyond_cache)] {
        // Beyond a baseline is what chance does not explain: the lower end has to be above nothing.
        let note = format!("lower end of the paired difference {:+.3}, {}", beyond.mean, beyond.interval());
        let name = format!("propagation: {language}, beyond {name}");
        found.push(Measurement::new(name, beyond.low, "utility", note).aiming_at(0.0, Better::Above));
    }
    for pattern in PATTERNS {
        let some: Vec<&Row<'_>> = all.iter().copied().filter(|row| row.pattern == pattern).collect();
        if some.is_empty() {
            continue;
        }
        let base = Estimate::of(&some, |row| utility(row.base));
        let repeat = Estimate::of(&some, |row| utility(row.repeat)).mean;
        let cache = Estimate::of(&some, |row| utility(row.cache)).mean;
        let (right, silent) = shares(&some, |row| row.base);
        let note = format!(
            "{}; {} opportunities; right {right:.1}%, silent {silent:.1}%; repeating {repeat:+.3}, the cache {cache:+.3}",
            base.interval(),
            some.len(),
        );
        let name = format!("propagation: {language}, {pattern}");
        found.push(Measurement::new(name, base.mean, "utility", note).beside(repeat.max(cache)));
    }
    found
}

/// Utility per opportunity of `base`, by language. Without `base` and `corpus`, of the base inside on the demo's corpus.
pub(crate) fn measure(base: Option<&Path>, corpus: Option<&Path>) -> anyhow::Result<Vec<Measurement>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (inside, demo) = (root.join("edit-model/base"), root.join("simulator/corpus"));
    let base = base.unwrap_or(&inside);
    let model = EditModel::load(base).with_context(|| format!("the base model {}", base.display()))?;
    let all = held_out(corpus.unwrap_or(&demo), &Learned::of(base)?)?;
    let mut found = Vec::new();
    for language in LANGUAGES {
        let asked = asked(&all, language);
        let count: usize = asked.iter().map(|one| one.tasks.len()).sum();
        tell(&format!("propagation: {language}, {count} opportunities"));
        if count > 0 {
            found.extend(measurements(language, &rows(&model, &asked)?));
        }
    }
    if found.is_empty() {
        bail!("the corpus has no trajectory in Rust, Python or TypeScript that the base has not learned from");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn what_a_base_learned_from_does_not_judge_it() {
        let folder = tempfile::tempdir().unwrap();
        let sources = root().join("edit-model/base/sources.json");
        std::fs::copy(&sources, folder.path().join("sources.json")).unwrap();
        let plain = Learned::of(folder.path()).unwrap();
        // By the hash of their names: one in ten judges.
        assert!(plain.contains("flask") && plain.contains("flask-3.1.3") && !plain.contains("http-1.4.0"));
        assert!(!plain.contains("document-press") && !plain.contains("zod-4.6.7"));
        let repository = |held_out| RepositorySource { held_out, ..RepositorySource::default() };
        let repositories = BTreeMap::from([("zod-4.6.7", repository(false)), ("wonka-6.3.6", repository(true))]);
        let provenance = serde_json::json!({ "made_of": {
            "held_out_by_name": ["flask"], "trajectories": { "sources": { "repositories": repositories } },
        }});
        std::fs::write(folder.path().join("provenance.json"), provenance.to_string()).unwrap();
        let mixed = Learned::of(folder.path()).unwrap();
        assert!(!mixed.contains("flask") && mixed.contains("zod-4.1") && !mixed.contains("wonka"));
    }

    #[test]
    fn as_many_opportunities_want_an_edit_as_want_none() {
        let all = held_out(&root().join("simulator/corpus"), &Learned(BTreeSet::new())).unwrap();
        for language in [CodeLanguage::Rust, CodeLanguage::Python] {
            let asked = asked(&all, language);
            let tasks: Vec<&TrajectoryTask> = asked.iter().flat_map(|one| &one.tasks).collect();
            let edits = tasks.iter().filter(|task| task.point.wants_edit()).count();
            assert!(edits > 20 && tasks.len() == 2 * edits && edits <= PAIRS, "{edits} of {}", tasks.len());
            assert!(asked.iter().all(|one| one.tasks.len() <= 2 * PAIRS_EACH));
        }
    }

    #[test]
    fn an_estimate_rests_on_repositories_or_files() {
        let row = |repository, file: usize, wants_edit| Row {
            repository,
            file: format!("{repository}/{file}"),
            pattern: Pattern::AutoImport,
            wants_edit,
            in_sight: true,
            base: Judgement { shown: wants_edit, place: wants_edit, content: wants_edit },
            repeat: Judgement { shown: true, place: false, content: false },
            cache: Judgement::default(),
        };
        let rows: Vec<Row<'_>> = ["a", "b"]
            .into_iter()
            .flat_map(|repository| {
                (0..4).flat_map(move |file| [row(repository, file, true), row(repository, file, false)])
            })
            .collect();
        let all: Vec<&Row<'_>> = rows.iter().collect();
        let estimate = Estimate::of(&all, |row| utility(row.base));
        assert_eq!((estimate.clusters, estimate.mean), (8, 0.375));
        assert_eq!((estimate.low, estimate.high), (0.375, 0.375));
        let many: Vec<Row<'_>> =
            ["a", "b", "c", "d", "e"].into_iter().map(|repository| row(repository, 0, true)).collect();
        assert_eq!(Estimate::of(&many.iter().collect::<Vec<_>>(), |_| 0.0).clusters, 5);
        assert_eq!(shares(&all, |row| row.base), (100.0, 100.0));
        let found = measurements(CodeLanguage::Rust, &rows);
        assert_eq!(found.len(), 4, "the whole, beyond both baselines, one pattern");
        assert!(found.iter().all(|one| one.met != Some(false)), "{found:?}");
    }
}
