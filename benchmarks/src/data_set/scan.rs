//! A scan of the lake: parts as our writer makes them, read by our reader and by DuckDB.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use events::PreferencePair;
use events::topics::PREFERENCE_PAIRS;
use labeler::LabelerConfig;
use labeler::lake::{PairPlace, PartGroup, PartMetadata, PlacedPair, read_part, write_part};
use serde::Deserialize;
use trainer_orchestrator::data_set::lesson::Lesson;

use super::company::Company;
use super::peers;
use super::pool::Pool;
use crate::measurement::{Measurement, median};

const PAIRS: usize = 100_000;
/// Days of the labels: a part is of one day, audience and language.
const DAYS: usize = 10;
const DAY_MICROS: i64 = 86_400_000_000;
const ROUNDS: usize = 3;

/// Language, repository, reason and day.
type Key = (String, String, String, i64);

/// What DuckDB says.
#[derive(Deserialize)]
struct Scanned {
    /// Each key with its pairs and the sum of their weights.
    groups: Vec<(Key, usize, f64)>,
    aggregate_seconds: f64,
    /// For all columns of all rows.
    whole_seconds: f64,
    version: String,
}

/// Writes the parts, and says where and how large they are.
fn write_parts(folder: &Path, pool: &Pool, lessons: &[Lesson]) -> anyhow::Result<(Vec<PathBuf>, usize)> {
    let company = Company::new(pool, lessons, PAIRS, DAYS);
    let mut groups: BTreeMap<PartGroup, Vec<PlacedPair>> = BTreeMap::new();
    for (number, open) in (0..PAIRS).zip(pool.pairs.iter().cycle()) {
        // Nobody opens it here: as long as a text is, and as little to be compressed.
        let pair = PreferencePair { sealed: open.pair.sealed.clone(), ..company.candidate(number)?.pair };
        let place = PairPlace { partition: 0, position: format!("{number:020}") };
        groups.entry(PartGroup::of(&pair)).or_default().push((place, pair));
    }
    let limits = LabelerConfig::default().lake.row_groups();
    let (mut paths, mut size) = (Vec::new(), 0);
    for (number, (group, pairs)) in groups.into_iter().enumerate() {
        let metadata = PartMetadata::of(PREFERENCE_PAIRS, Some(group), 1, &pairs).context("a part has no pairs")?;
        let bytes = write_part(&metadata, &pairs, limits)?;
        let path = folder.join(format!("part-{number}.parquet"));
        size += bytes.len();
        std::fs::write(&path, bytes)?;
        paths.push(path);
    }
    Ok((paths, size))
}

fn read(path: &Path) -> anyhow::Result<Vec<PlacedPair>> {
    let (_, pairs) = read_part(Bytes::from(std::fs::read(path)?))?;
    Ok(pairs)
}

fn aggregate(paths: &[PathBuf]) -> anyhow::Result<BTreeMap<Key, (usize, f64)>> {
    let mut groups: BTreeMap<Key, (usize, f64)> = BTreeMap::new();
    for path in paths {
        for (_, pair) in read(path)? {
            let day = pair.labeled_at.as_micros().div_euclid(DAY_MICROS);
            let group = groups.entry((pair.language, pair.repository, pair.reason.to_string(), day)).or_default();
            *group = (group.0 + 1, group.1 + pair.weight);
        }
    }
    Ok(groups)
}

pub(super) fn measure(folder: &Path, pool: &Pool, lessons: &[Lesson]) -> anyhow::Result<Vec<Measurement>> {
    let folder = folder.join("lake");
    std::fs::create_dir(&folder)?;
    let (paths, size) = write_parts(&folder, pool, lessons)?;
    let (mut whole, mut aggregated, mut ours) = (Vec::new(), Vec::new(), BTreeMap::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let mut pairs = 0;
        for path in &paths {
            pairs += std::hint::black_box(read(path)?).len();
        }
        whole.push(started.elapsed().as_secs_f64());
        ensure!(pairs == PAIRS, "{pairs} pairs were read of {PAIRS}");
        let started = Instant::now();
        ours = aggregate(&paths)?;
        aggregated.push(started.elapsed().as_secs_f64());
    }
    let theirs: Scanned = peers::ask("scan", &folder)?;
    let groups = theirs.groups.len();
    ensure!(groups == ours.len(), "DuckDB finds {groups} groups, and we {}", ours.len());
    for (key, pairs, weight) in &theirs.groups {
        let (own_pairs, own_weight) = ours.get(key).copied().unwrap_or_default();
        ensure!(own_pairs == *pairs && (own_weight - weight).abs() < 1e-6, "DuckDB finds something else in a group");
    }
    let (pairs, parts, version) = (PAIRS as f64, paths.len(), &theirs.version);
    let about = format!(
        "one thread, median of {ROUNDS}; {PAIRS} pairs with ciphertext in {parts} parts by day and language, {:.0} MiB",
        size as f64 / f64::from(1 << 20)
    );
    let note = format!(
        "{about}; every column of every row; baseline: DuckDB {version}, every column into a table in memory; ours \
         makes typed rows"
    );
    let read = Measurement::new("data-set: lake parts read whole", pairs / median(whole), "pairs/s", note);
    let note = format!(
        "{about}; pairs and weight by language, repository, reason and day, {groups} groups; baseline: DuckDB \
         {version}, the same from the five columns that it takes, where ours decodes all of them"
    );
    let scan = Measurement::new("data-set: lake parts scanned", pairs / median(aggregated), "pairs/s", note);
    Ok(vec![read.beside(pairs / theirs.whole_seconds), scan.beside(pairs / theirs.aggregate_seconds)])
}
