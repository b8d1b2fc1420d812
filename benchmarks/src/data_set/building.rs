//! Data sets of 10^4, 10^5 and 10^6 candidates: every stage, the weights and the digest, beside DuckDB, which leaves
//! out duplicates of the same rows.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use events::{Sha256Digest, TenantId};
use model_registry::lineage::{FORMULA, Purpose, SnapshotFilters};
use serde::Deserialize;
use trainer_orchestrator::LEAST_GATE_OPPORTUNITIES;
use trainer_orchestrator::data_set::composition::{Census, Reason, Stage};
use trainer_orchestrator::data_set::lesson::Lesson;
use trainer_orchestrator::data_set::manifest::SnapshotPlan;
use trainer_orchestrator::data_set::policy::DataSetPolicy;
use trainer_orchestrator::data_set::{Candidate, build};

use super::company::Company;
use super::peers;
use super::pool::Pool;
use crate::labeling::office::AUDIENCE;
use crate::measurement::{Better, Measurement, median};
use crate::memory;

/// Pairs a second that one processor must reach.
const TARGET: f64 = 100_000.0;
/// The largest data set may take so much more a pair than the smallest: sorting is not quite linear, and what fits into
/// a processor's cache is read faster.
const LINEAR: f64 = 2.0;
/// Memory that the largest may take, MiB.
const MEMORY_TARGET: f64 = 4096.0;
const DAYS: usize = 90;
const ROUNDS: std::ops::RangeInclusive<usize> = 3..=9;

/// What DuckDB made of the same rows.
#[derive(Deserialize)]
struct Chosen {
    seconds: f64,
    pairs: usize,
    /// Of the ids that it kept, in their order, as hexadecimal digits one after the other.
    digest: Sha256Digest,
    version: String,
}

/// One size.
struct Built {
    size: usize,
    seconds: f64,
    theirs: f64,
    note: String,
}

pub(super) fn filters(gate_opportunities: usize, maximum_pairs: usize) -> anyhow::Result<SnapshotFilters> {
    Ok(SnapshotFilters {
        tenant: TenantId::default(),
        model: "edit".parse()?,
        audience: AUDIENCE.parse()?,
        label_policy_version: labeler::LABEL_POLICY_VERSION,
        code_version: "benchmark".to_owned(),
        maximum_pairs,
        gate_opportunities,
        placebo_exchange_repositories: false,
        formula: FORMULA,
        policy: serde_json::Value::Null,
    })
}

/// The candidates as DuckDB reads them. None of their texts needs quotes.
fn write_rows(path: &Path, candidates: &[Candidate]) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    writeln!(file, "pair_id,correction,person,repository,weight,opened_at,unfit")?;
    for Candidate { pair, lesson } in candidates {
        let (person, repository, weight) = (&pair.person, &pair.repository, pair.weight);
        let (at, unfit) = (pair.opened_at.as_micros(), lesson.fault.is_some());
        writeln!(file, "{},{},{person},{repository},{weight},{at},{unfit}", pair.pair_id, lesson.correction)?;
    }
    file.flush()?;
    Ok(())
}

/// What is left without duplicates: the members, and what a later stage left out.
fn without_duplicates(plan: &SnapshotPlan) -> (usize, Sha256Digest) {
    let later = plan.left_out.iter().filter(|pair| pair.reason.stage() > Stage::Duplicates).map(|pair| pair.pair_id);
    let mut kept: Vec<_> = plan.members.iter().map(|member| member.entry.pair_id).chain(later).collect();
    kept.sort_unstable();
    let digits: String = kept.iter().map(ToString::to_string).collect();
    (kept.len(), Sha256Digest::of(digits.as_bytes()))
}

fn note(plan: &SnapshotPlan, rounds: usize, theirs: &Chosen) -> String {
    let [training, gate, general] = [Purpose::Training, Purpose::Gate, Purpose::General].map(|set| plan.count(set));
    let reasons = [Reason::Duplicate, Reason::Merged, Reason::BeyondPerson, Reason::NearDuplicate];
    let left_out = reasons.map(|reason| format!("{} {}", plan.composition.left_out(reason), reason.as_str()));
    format!(
        "one thread, median of {rounds}, rows in memory; {training} train, {gate} and {general} judge; left out: {}; \
         baseline: DuckDB {} with one thread, rows in memory, duplicates alone: it kept the same {} pairs",
        left_out.join(", "),
        theirs.version,
        theirs.pairs
    )
}

fn built(folder: &Path, pool: &Pool, lessons: &[Lesson], size: usize, rounds: usize) -> anyhow::Result<Built> {
    let candidates = Company::new(pool, lessons, size, DAYS).candidates(size)?;
    let (policy, census) = (DataSetPolicy::default(), Census::new());
    let (mut seconds, mut last) = (Vec::with_capacity(rounds), None);
    for _ in 0..rounds {
        // The one before does not count for memory.
        drop(last.take());
        let filters = filters(LEAST_GATE_OPPORTUNITIES, size)?;
        let started = Instant::now();
        let plan = build(filters, &policy, std::hint::black_box(&candidates), &census)?;
        seconds.push(started.elapsed().as_secs_f64());
        last = Some(plan);
    }
    let plan = last.context("nothing was built")?;
    for reason in [Reason::Duplicate, Reason::Merged] {
        ensure!(plan.composition.left_out(reason) > 0, "no pair was left out as {}", reason.as_str());
    }
    let file = folder.join("candidates.csv");
    write_rows(&file, &candidates)?;
    drop(candidates);
    let theirs: Chosen = peers::ask("choose", &file)?;
    let ours = without_duplicates(&plan);
    ensure!(ours == (theirs.pairs, theirs.digest), "DuckDB kept {} other pairs than our {}", theirs.pairs, ours.0);
    let note = note(&plan, rounds, &theirs);
    Ok(Built { size, seconds: median(seconds), theirs: theirs.seconds, note })
}

/// The rates of all sizes, smallest first, and what they say of growth and memory.
pub(super) fn measure(
    folder: &Path,
    pool: &Pool,
    lessons: &[Lesson],
    sizes: &[usize],
) -> anyhow::Result<Vec<Measurement>> {
    let most = sizes.iter().copied().max().unwrap_or_default();
    let rounds = |size: usize| (most / size.max(1)).clamp(*ROUNDS.start(), *ROUNDS.end());
    let all = sizes
        .iter()
        .map(|size| built(folder, pool, lessons, *size, rounds(*size)))
        .collect::<anyhow::Result<Vec<Built>>>()?;
    // Of the largest: what came before it is not seen in the peak.
    let peak = memory::own_peak()?;
    let mut measurements = Vec::new();
    for Built { size, seconds, theirs, note } in &all {
        let name = format!("data-set: built from {size} pairs");
        let rate = Measurement::new(name, *size as f64 / seconds, "pairs/s", note.as_str());
        measurements.push(rate.beside(*size as f64 / theirs).aiming_at(TARGET, Better::More));
    }
    let each = |built: Option<&Built>| built.map_or(f64::NAN, |built| built.seconds / built.size as f64 * 1e6);
    let (smallest, largest) = (each(all.first()), each(all.last()));
    let note = format!("baseline: a pair of the smallest; linear: at most {LINEAR} times that");
    let linear = Measurement::new("data-set: time of a pair of the largest", largest, "us", note);
    measurements.push(linear.beside(smallest).aiming_at(smallest * LINEAR, Better::Less));
    let note = "the peak of this process: real texts, candidates without their ciphertext, and one data set of them";
    let memory = Measurement::new("data-set: resident memory, most", peak, "MiB", note);
    measurements.push(memory.aiming_at(MEMORY_TARGET, Better::Less));
    Ok(measurements)
}
