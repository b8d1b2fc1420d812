//! How fast a data set is chosen from the pairs of a lake, and whether twice the pairs take twice the time; beside
//! DuckDB, which answers the same questions of the same rows, and datasketch, whose MinHash finds near-duplicates.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anonymizer::shape::Shape;
use anyhow::{Context as _, bail, ensure};
use events::{
    Audience, DataKey, DivergencePoint, KeyId, ModelVersion, OpportunityId, PairId, PairReason, PersonPseudonym,
    PreferencePair, Probabilities, Sealed, SessionId, Sha256Digest, SuggestionId, TenantId, TenantSecret, Timestamp,
    uuid_v7,
};
use serde::{Deserialize, Serialize};
use service::repositories::RepositoryRule;
use simulator::random::Dice;
use simulator::{Corpus, Meaning, SceneMaker, SceneSettings};
use trainer_orchestrator::allow_list::AllowList;
use trainer_orchestrator::snapshot::{Filters, plan};

use crate::log;
use crate::measurement::{Better, Measurement};

const SEED: u64 = 29;
const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
const PERSONS: usize = 500;
const REPOSITORIES: usize = 20;
/// Pairs a second that one processor must reach.
const TARGET: f64 = 100_000.0;
/// The largest data set may take so much more a pair than the smallest: sorting is not quite linear.
const LINEAR: f64 = 2.0;
/// Texts that near-duplicates are looked for among; Python takes minutes for more.
const TEXTS: usize = 10_000;
/// A share of them differs from another one in a word.
const NEAR_DUPLICATES: f64 = 0.1;
const GATE_OPPORTUNITIES: usize = 500;

/// How many pairs are chosen from.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct DataSetSizes {
    /// Most pairs of `data-set`; a tenth and a hundredth of it are measured too.
    #[arg(long, default_value_t = 1_000_000)]
    pairs_of_lake: usize,
}

/// What all pairs share.
struct Lake {
    audience: Audience,
    sealed: Sealed,
    persons: Vec<PersonPseudonym>,
    repositories: Vec<String>,
}

impl Lake {
    fn new(secret: &TenantSecret) -> anyhow::Result<Self> {
        let key = DataKey::new(KeyId::from_uuid(uuid_v7(START, [0; 10])), [1; 32]);
        let event = PreferencePair::event_id_of(pair_id(0, PairReason::Missed));
        Ok(Self {
            audience: "tenant".parse()?,
            // Nobody opens it here: what is chosen does not depend on text.
            sealed: key.seal(event, "pairs", b"{}"),
            persons: (0..PERSONS).map(|number| secret.person_pseudonym(&format!("person-{number}"))).collect(),
            repositories: (0..REPOSITORIES).map(|number| format!("repository-{number}")).collect(),
        })
    }

    fn pair(&self, number: usize) -> anyhow::Result<PreferencePair> {
        let mut dice = Dice::new(SEED, "pair", &[number as u64]);
        let reason = *dice.pick(PairReason::ALL).context("there are no reasons")?;
        let id = pair_id(number, reason);
        let parts = !matches!(reason, PairReason::AcceptedKept | PairReason::SilenceConfirmed);
        let opened_at = Timestamp::from_micros(START.as_micros() + i64::try_from(dice.below(90 * 86_400))? * 1_000_000);
        Ok(PreferencePair {
            pair_id: id,
            tenant: TenantId::default(),
            person: dice.pick(&self.persons).context("there are no persons")?.clone(),
            session_id: SessionId::from_uuid(uuid_v7(opened_at, unique(number))),
            opportunity_id: opportunity(number),
            suggestion_id: Some(SuggestionId::from_uuid(uuid_v7(opened_at, unique(number)))),
            action_index: 0,
            reason,
            label_policy_version: labeler::LABEL_POLICY_VERSION,
            weight: if reason == PairReason::SilenceConfirmed { 0.0 } else { 1.0 },
            divergence: parts.then_some(DivergencePoint { action_index: 0, byte: 0 }),
            audience: self.audience.clone(),
            repository: dice.pick(&self.repositories).context("there are no repositories")?.clone(),
            language: "rust".to_owned(),
            model: "edit".parse()?,
            model_version: ModelVersion(1),
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: 0.98,
                log_p_text: -1.0,
                gate_score: 0.8,
                threshold: 0.5,
                explored: false,
            },
            altered: false,
            opened_at,
            labeled_at: opened_at + std::time::Duration::from_secs(400),
            last_signal_at: opened_at + std::time::Duration::from_secs(20),
            event_id: PreferencePair::event_id_of(id),
            content_digest: Sha256Digest::of(&number.to_be_bytes()),
            sealed: Some(self.sealed.clone()),
        })
    }
}

fn unique(number: usize) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

fn opportunity(number: usize) -> OpportunityId {
    OpportunityId::from_uuid(uuid_v7(START, unique(number)))
}

fn pair_id(number: usize, reason: PairReason) -> PairId {
    let policy = labeler::LABEL_POLICY_VERSION;
    PairId::derive(&TenantId::default(), opportunity(number), None, 0, reason.as_str(), policy)
}

fn filters(audience: &Audience, most: usize) -> anyhow::Result<Filters> {
    Ok(Filters {
        tenant: TenantId::default(),
        model: "edit".parse()?,
        audience: audience.clone(),
        label_policy_version: labeler::LABEL_POLICY_VERSION,
        code_version: "benchmark".to_owned(),
        maximum_pairs: most,
        gate_opportunities: GATE_OPPORTUNITIES,
        placebo_exchange_repositories: false,
    })
}

/// A pair as the peers read it.
#[derive(Serialize)]
struct Row<'a> {
    pair_id: String,
    opportunity_id: String,
    person: &'a str,
    repository: &'a str,
    reason: &'static str,
    weight: f64,
    opened_at: i64,
}

/// What the peers measured.
#[derive(Deserialize)]
struct Peers {
    /// Seconds of the same choice, by pairs.
    duckdb_seconds: BTreeMap<usize, f64>,
    /// Pairs that it chose.
    duckdb_chosen: BTreeMap<usize, usize>,
    minhash_texts_per_second: f64,
    minhash_near_duplicates: usize,
    versions: String,
}

/// Real windows of code, some of them nearly alike.
fn write_texts(path: &Path) -> anyhow::Result<()> {
    let corpus = Corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus"))?;
    let maker = SceneMaker::new(&corpus, 0, SceneSettings::default()).context("the corpus has no usable line")?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut last = String::new();
    for number in 0..TEXTS {
        let mut dice = Dice::new(SEED, "text", &[number as u64]);
        if last.is_empty() || !dice.chance(NEAR_DUPLICATES) {
            let scene = maker.scene(Meaning::MissesHelp, &mut dice).context("no scene fits the corpus")?;
            last = scene.wanted.unwrap_or(scene.context.window.text);
        } else {
            last.push_str("again\n");
        }
        serde_json::to_writer(&mut file, &last)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}

fn write_rows(path: &Path, pairs: &[PreferencePair]) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for pair in pairs {
        let row = Row {
            pair_id: pair.pair_id.to_string(),
            opportunity_id: pair.opportunity_id.to_string(),
            person: pair.person.as_str(),
            repository: &pair.repository,
            reason: pair.reason.as_str(),
            weight: pair.weight,
            opened_at: pair.opened_at.as_micros(),
        };
        serde_json::to_writer(&mut file, &row)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}

/// Runs the peers in their own environment, one thread as ours.
fn peers(folder: &Path, sizes: &[usize]) -> anyhow::Result<Peers> {
    let python = std::env::var_os("BENCHMARK_PEERS_PYTHON").map(PathBuf::from);
    let python = python.context("BENCHMARK_PEERS_PYTHON names no Python; start this with benchmarks/run")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/data_set.py");
    let mut command = Command::new(python);
    command.arg(script).arg(folder).arg(GATE_OPPORTUNITIES.to_string()).args(sizes.iter().map(usize::to_string));
    let output = command.output().context("the peers do not start")?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("the peers failed: {}", told.lines().last().unwrap_or_default());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Choosing from a hundredth, a tenth and all of the pairs.
pub(crate) fn measure(asked: &DataSetSizes) -> anyhow::Result<Vec<Measurement>> {
    let most = asked.pairs_of_lake;
    ensure!(most / 100 > GATE_OPPORTUNITIES, "--pairs-of-lake must be more than {}", GATE_OPPORTUNITIES * 100);
    let sizes = [most / 100, most / 10, most];
    let folder = log::folder()?;
    let secret = TenantSecret::new([7; 32]);
    let lake = Lake::new(&secret)?;
    let rule = RepositoryRule {
        repository: "*".to_owned(),
        audience: lake.audience.clone(),
        trainable: true,
        updated_at: START,
    };
    let allowed = AllowList::new(&[rule], &Shape::new(&secret));
    let mut ours: Vec<(usize, f64, usize)> = Vec::new();
    for size in sizes {
        let pairs = (0..size).map(|number| lake.pair(number)).collect::<anyhow::Result<Vec<_>>>()?;
        write_rows(&folder.path().join(format!("pairs-{size}.jsonl")), &pairs)?;
        let filters = filters(&lake.audience, size)?;
        let started = Instant::now();
        let chosen = plan(filters, &allowed, pairs).context("nothing was chosen")?;
        ours.push((size, started.elapsed().as_secs_f64(), chosen.training.len()));
    }
    write_texts(&folder.path().join("texts.jsonl"))?;
    let peers = peers(folder.path(), &sizes)?;
    let mut measurements = Vec::new();
    for (size, seconds, training) in &ours {
        let theirs = peers.duckdb_seconds.get(size).context("DuckDB left a size out")?;
        let chosen = peers.duckdb_chosen.get(size).copied().unwrap_or_default();
        let note = format!(
            "one thread, rows in memory, {training} train; baseline: DuckDB over Parquet of the same rows, one thread, \
             {chosen} train; {}",
            peers.versions
        );
        let pairs = *size as f64;
        let rate = Measurement::new(format!("data-set: chosen from {size} pairs"), pairs / seconds, "pairs/s", note);
        measurements.push(rate.beside(pairs / theirs).aiming_at(TARGET, Better::More));
    }
    let each = |place: usize| ours.get(place).map_or(f64::NAN, |(size, seconds, _)| seconds / *size as f64 * 1e6);
    let note = "baseline: a pair of the smallest data set; linear: at most twice that";
    let linear = Measurement::new("data-set: time of a pair of the largest", each(2), "us", note);
    measurements.push(linear.beside(each(0)).aiming_at(each(0) * LINEAR, Better::Less));
    let note = format!(
        "the peer alone: {TEXTS} texts, 5-grams of words, 128 permutations, Jaccard 0.7, {} near-duplicates; {}",
        peers.minhash_near_duplicates, peers.versions
    );
    measurements.push(Measurement::new(
        "data-set: near-duplicates by datasketch",
        peers.minhash_texts_per_second,
        "texts/s",
        note,
    ));
    Ok(measurements)
}
