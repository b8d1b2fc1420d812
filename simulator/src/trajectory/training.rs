//! Stored trajectories as an endless stream of tasks for the base model, and which of them it may learn from.
//!
//! Repositories are held out by name: one in ten by the hash of the name, as for [`crate::base`], and whichever the caller
//! names. A version behind a name is no part of it (`toml-1.2` is `toml`), so that no release of a package is learned from
//! while another one judges. Nor is a trajectory learned from that touches a file of the demo's corpus, or the same text
//! as a file that is held out.

use crate::base::{Split, package_of};
use crate::error::Result;
use crate::random::Dice;
use crate::source::demo_digests;
use crate::tasks::Mix;
use crate::trajectory::language::CodeLanguage;
use crate::trajectory::opportunities::{PlayedTrajectory, Quiet, TrajectoryTask};
use crate::trajectory::store::TrajectoryReader;
use crate::trajectory::{Pattern, TrajectoryManifest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Weights of [`Quiet::Done`], [`Quiet::Away`] and [`Quiet::Before`] among the tasks that want no edit.
pub const QUIET_KINDS: [f64; 3] = [0.35, 0.5, 0.15];
/// Attempts for one task; most succeed.
const ATTEMPTS: u64 = 400;

/// One folder of trajectories, as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSource {
    /// SHA-256 of its `manifest.json`.
    pub manifest_sha256: String,
    /// What built it.
    pub code_version: String,
    /// Its seed.
    pub seed: u64,
    /// Which patterns were looked for.
    pub patterns: Vec<Pattern>,
    /// Most trajectories of one pattern that begin in one file.
    pub per_file: usize,
    /// Most steps of a trajectory.
    pub most_steps: usize,
    /// Licences that were allowed.
    pub allowed: Vec<String>,
}

/// One repository of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositorySource {
    /// Whether it judges and is never learned from.
    pub held_out: bool,
    /// Trajectories that are used.
    pub trajectories: u64,
    /// Trajectories that are not, because a file of theirs judges somewhere.
    pub left_out: u64,
    /// Files that trajectories lead to.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their licences.
    pub licences: BTreeSet<String>,
}

/// What a base learns from and is judged by, beside natural code: part of its provenance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrajectorySources {
    /// The folders, in the order in which they were given.
    pub stores: Vec<StoreSource>,
    /// By name, with the version if the folder's name has one.
    pub repositories: BTreeMap<String, RepositorySource>,
}

/// Stored trajectories, divided.
#[derive(Debug, Default)]
pub struct TrajectorySplit {
    /// To learn from.
    pub train: Vec<PlayedTrajectory>,
    /// To judge by.
    pub held_out: Vec<PlayedTrajectory>,
    /// What they are.
    pub sources: TrajectorySources,
}

impl TrajectorySplit {
    /// Reads `folders`. Packages named in `held_out` are held out beside those that their name's hash holds out.
    ///
    /// # Errors
    /// When a folder is not there, or is not what was written.
    pub fn read(folders: &[PathBuf], held_out: &BTreeSet<String>) -> Result<Self> {
        let readers = folders.iter().map(|folder| TrajectoryReader::open(folder)).collect::<Result<Vec<_>>>()?;
        let is_held_out = |repository: &str| {
            Split::of_repository(repository) == Split::HeldOut
                || held_out.contains(repository)
                || held_out.contains(package_of(repository))
        };
        let mut judging = demo_digests()?;
        let mut split = Self::default();
        for reader in &readers {
            let manifest = reader.manifest();
            split.sources.stores.push(store_source(manifest, reader.manifest_sha256()));
            for file in &manifest.files {
                let source = split.sources.repositories.entry(file.repository.clone()).or_default();
                source.held_out = is_held_out(&file.repository);
                source.files += 1;
                source.bytes += file.bytes;
                source.licences.insert(file.licence.to_string());
                if source.held_out {
                    judging.insert(file.sha256.clone());
                }
            }
        }
        for reader in readers {
            for read in reader {
                let (trajectory, texts) = read?;
                let source = split.sources.repositories.entry(trajectory.repository.clone()).or_default();
                let judges = trajectory.files.iter().any(|file| judging.contains(&file.sha256));
                let played = PlayedTrajectory { trajectory, texts };
                match (source.held_out, judges) {
                    (true, _) => split.held_out.push(played),
                    (false, false) => split.train.push(played),
                    (false, true) => {
                        source.left_out += 1;
                        continue;
                    }
                }
                source.trajectories += 1;
            }
        }
        Ok(split)
    }
}

fn store_source(manifest: &TrajectoryManifest, digest: &str) -> StoreSource {
    StoreSource {
        manifest_sha256: digest.to_owned(),
        code_version: manifest.code_version.clone(),
        seed: manifest.seed,
        patterns: manifest.patterns.clone(),
        per_file: manifest.per_file,
        most_steps: manifest.most_steps,
        allowed: manifest.allowed.clone(),
    }
}

/// Languages that are alike to a model count as one: TypeScript and JavaScript.
#[must_use]
pub fn family(language: CodeLanguage) -> CodeLanguage {
    if language.is_script() { CodeLanguage::TypeScript } else { language }
}

/// Numbers of trajectories.
type ByRepository<'a> = BTreeMap<&'a str, Vec<usize>>;

/// Makes tasks of trajectories. Task `n` is a pure function of the trajectories, the seed and `n`.
///
/// Languages are drawn alike, then patterns of the language, then repositories, then trajectories: neither what is
/// frequent nor what is large dominates. As many want no edit as in [`Mix::no_edit`]. Of the others the answer can be copied
/// ([`TrajectoryTask::is_in_sight`]): that is what a small model can do, and whoever learns to speak where only a guess is
/// possible is wrong there.
#[derive(Debug)]
pub struct TrajectoryTasks {
    played: Vec<PlayedTrajectory>,
    /// By family of languages, pattern and repository.
    places: Vec<Vec<Vec<Vec<usize>>>>,
    seed: u64,
}

impl TrajectoryTasks {
    /// Tasks of `played` under `seed`. Trajectories of one step are left out: nothing follows in them.
    #[must_use]
    pub fn new(played: Vec<PlayedTrajectory>, seed: u64) -> Self {
        let mut places: BTreeMap<CodeLanguage, BTreeMap<Pattern, ByRepository<'_>>> = BTreeMap::new();
        for (number, one) in played.iter().enumerate().filter(|(_, one)| !one.steps().is_empty()) {
            let trajectory = &one.trajectory;
            let patterns = places.entry(family(trajectory.language)).or_default();
            let repositories = patterns.entry(trajectory.pattern).or_default();
            repositories.entry(package_of(&trajectory.repository)).or_default().push(number);
        }
        let places: Vec<Vec<Vec<Vec<usize>>>> = places
            .into_values()
            .map(|patterns| patterns.into_values().map(|repositories| repositories.into_values().collect()).collect())
            .collect();
        Self { played, places, seed }
    }

    /// Whether there is nothing to make tasks of.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Task number `index` that `fits`, which has to be a pure function too; `None` when none was met in many attempts.
    #[must_use]
    pub fn task_at(&self, index: u64, fits: &dyn Fn(&TrajectoryTask) -> bool) -> Option<TrajectoryTask> {
        let mut dice = Dice::new(self.seed, "trajectory task", &[index]);
        let wants_edit = !dice.chance(Mix::default().no_edit);
        (0..ATTEMPTS).find_map(|_| self.attempt(wants_edit, &mut dice).filter(|task| fits(task)))
    }

    fn attempt(&self, wants_edit: bool, dice: &mut Dice) -> Option<TrajectoryTask> {
        let patterns = dice.pick(&self.places)?;
        let repositories = dice.pick(patterns)?;
        let trajectories = dice.pick(repositories)?;
        let played = self.played.get(*dice.pick(trajectories)?)?;
        let steps = played.steps();
        let step = steps.start + dice.below(steps.len());
        if wants_edit {
            return played.edit_task(step, dice).filter(TrajectoryTask::is_in_sight);
        }
        let why = [Quiet::Done, Quiet::Away, Quiet::Before].get(dice.weighted(&QUIET_KINDS)).copied()?;
        played.quiet_task(why, step, dice)
    }
}
