//! Near-duplicates by MinHash, beside datasketch: the same permutations, bands and shingles on both sides, so that the
//! same must be found.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use events::Sha256Digest;
use serde::{Deserialize, Serialize};
use trainer_orchestrator::data_set::lesson::Lesson;
use trainer_orchestrator::data_set::minhash::{BANDS, MinHash, PERMUTATIONS, ROWS, have_near_duplicates};
use trainer_orchestrator::data_set::policy::DataSetPolicy;

use super::company::Company;
use super::peers;
use super::pool::Pool;
use crate::measurement::{Measurement, median};

/// Sets: few enough for the slow and obvious way.
const SETS: usize = 10_000;
/// Of so many of them near-duplicates are looked for, among the others.
const FEW: usize = 1_000;
const DAYS: usize = 90;
const ROUNDS: usize = 5;

/// What datasketch is asked.
#[derive(Serialize)]
struct Question<'a> {
    a: &'a [u64],
    b: &'a [u64],
    bands: usize,
    rows: usize,
    permille: u32,
    few: usize,
    sets: &'a [&'a [u32]],
}

/// What it says.
#[derive(Deserialize)]
struct Answer {
    /// Of all signatures, each number as four bytes, the least first.
    digest: Sha256Digest,
    signatures_seconds: f64,
    /// The same with the permutations that it has by default, which are others.
    default_seconds: f64,
    found_seconds: f64,
    /// Of the few, in their order.
    found: Vec<bool>,
    version: String,
}

/// Whether two sets, sorted, are near-duplicates: the slow and obvious way.
fn is_near(one: &[u32], other: &[u32], permille: u32) -> bool {
    let common = one.iter().filter(|shingle| other.binary_search(shingle).is_ok()).count();
    common * 1000 >= (one.len() + other.len() - common) * permille as usize
}

pub(super) fn measure(folder: &Path, pool: &Pool, lessons: &[Lesson]) -> anyhow::Result<Vec<Measurement>> {
    let candidates = Company::new(pool, lessons, SETS, DAYS).candidates(SETS)?;
    let sets: Vec<&[u32]> = candidates.iter().map(|candidate| candidate.lesson.shingles.as_slice()).collect();
    let (few, many) = sets.split_at_checked(FEW).context("there are too few sets")?;
    let (permutations, permille) = (MinHash::default(), DataSetPolicy::default().near_duplicate_permille);
    let (mut signing, mut finding) = (Vec::new(), Vec::new());
    let (mut signatures, mut found) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        signatures = sets.iter().map(|set| permutations.signature(std::hint::black_box(set))).collect();
        signing.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        found = have_near_duplicates(few, std::hint::black_box(many).iter().copied(), permille);
        finding.push(started.elapsed().as_secs_f64());
    }
    let question =
        Question { a: &permutations.a, b: &permutations.b, bands: BANDS, rows: ROWS, permille, few: FEW, sets: &sets };
    let file = folder.join("sets.json");
    std::fs::write(&file, serde_json::to_vec(&question)?)?;
    let theirs: Answer = peers::ask("near-duplicates", &file)?;
    let bytes: Vec<u8> = signatures.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
    ensure!(Sha256Digest::of(&bytes) == theirs.digest, "our signatures are not those of datasketch");
    ensure!(found == theirs.found, "we do not find the near-duplicates that datasketch finds");
    let there = few.iter().filter(|set| many.iter().any(|other| is_near(set, other, permille))).count();
    let count = found.iter().filter(|found| **found).count();
    ensure!(count > 0, "there are no near-duplicates to be found");

    let sets = SETS as f64;
    let version = &theirs.version;
    let note = format!(
        "one thread, median of {ROUNDS}; {SETS} sets of shingles, {PERMUTATIONS} permutations; baseline: datasketch \
         {version} in Python with the same permutations, which are its scheme \"legacy\", and to the bit the same \
         signatures; with those of its default scheme {:.0} texts/s",
        sets / theirs.default_seconds
    );
    let signed = Measurement::new("data-set: MinHash signatures", sets / median(signing), "texts/s", note);
    let note = format!(
        "one thread, median of {ROUNDS}; {FEW} sets among {} others, Jaccard {:.1}, {BANDS} bands of {ROWS}, compared \
         exactly; found {count} of {there}, chance misses the others; baseline: datasketch {version} in Python, which \
         found the same; ours signs only what can be near",
        SETS - FEW,
        f64::from(permille) / 1000.0
    );
    let found = Measurement::new("data-set: near-duplicates found", sets / median(finding), "texts/s", note);
    Ok(vec![signed.beside(sets / theirs.signatures_seconds), found.beside(sets / theirs.found_seconds)])
}
