//! What is finished, a line of JSON for each run, so that a comparison of many hours is done in pieces. A run that was
//! killed left no line and is done again; nothing else is. Lines hold figures, never text of anybody.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use edit_model::write_whole;
use serde::{Deserialize, Serialize};
use trainer::evaluation::TaskSummary;

use super::arm::Arm;
use super::suppression::Suppression;

/// A part of the comparison; each is chosen by the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// A small model, every arm.
    A1,
    /// A small model, the best six under every way to collect.
    A2,
    /// The shipped base, the best four beside sft and the placebo.
    B,
}

impl Stage {
    pub(super) const ALL: [Self; 3] = [Self::A1, Self::A2, Self::B];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::A1 => "a1",
            Self::A2 => "a2",
            Self::B => "b",
        }
    }
}

/// How pairs are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Collection {
    /// Temperature at which the model speaks that developers answer, in tenths.
    pub(super) temperature_tenths: u8,
    /// Whether Esc and then nothing also teaches `NO_EDIT`.
    pub(super) teaches_silence: bool,
}

impl Collection {
    pub(super) fn temperature(self) -> f32 {
        f32::from(self.temperature_tenths) / 10.0
    }

    pub(super) fn name(self) -> String {
        let taught = if self.teaches_silence { "Esc teaches NO_EDIT" } else { "Esc teaches no NO_EDIT" };
        format!("T = {:.1}, {taught}", self.temperature())
    }
}

/// What arms learn from and are asked: the same for all that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Lot {
    pub(super) stage: Stage,
    pub(super) collection: Collection,
    pub(super) seed: u64,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) lot: Lot,
    pub(super) arm: Arm,
    /// What all arms learn with: under other settings it is another run.
    pub(super) settings: String,
}

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Look {
    /// All tasks, a third of each kind.
    pub(super) all: TaskSummary,
    /// Those that want a convention.
    pub(super) convention: TaskSummary,
    pub(super) suppression: Suppression,
}

/// What a model does after some steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) step: usize,
    /// Distance to where training started, by [`super::matched::Ruler`].
    pub(super) kl: f64,
    /// What the step log says of the step's own pairs; none for methods without a reference.
    pub(super) logged_kl: Option<f64>,
    pub(super) look: Look,
}

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) key: Key,
    /// Pairs that were collected.
    pub(super) pairs: usize,
    /// The model that collected them.
    pub(super) start: Look,
    pub(super) checkpoints: Vec<Checkpoint>,
    /// Why the run would not have been served.
    pub(super) failed: Option<String>,
    /// Seconds since the run before.
    pub(super) seconds: f64,
    pub(super) threads: usize,
}

/// The folder of a comparison.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    file: File,
    runs: Vec<Run>,
    _lock: File,
}

impl State {
    /// Opens the folder for this process alone, and makes it if it is absent. The line that a killed process was writing
    /// is dropped.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let unwritable = || format!("{} can not be written", folder.display());
        std::fs::create_dir_all(folder).with_context(unwritable)?;
        let lock = File::create(folder.join("lock")).with_context(unwritable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another comparison is at work in {}", folder.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(unwritable),
        }
        let path = folder.join("runs.jsonl");
        let written = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("{} can not be read", path.display())),
        };
        let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut runs = Vec::new();
        for (number, line) in written[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let run = serde_json::from_slice(line)
                .with_context(|| format!("{}, line {}, is no finished run", path.display(), number + 1))?;
            runs.push(run);
        }
        write_whole(&path, &written[..whole])?;
        let file = OpenOptions::new().append(true).open(&path).with_context(unwritable)?;
        Ok(Self { folder: folder.to_owned(), file, runs, _lock: lock })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(super) fn is_done(&self, key: &Key) -> bool {
        self.runs.iter().any(|run| run.key == *key)
    }

    /// Processor time of all runs, at most.
    pub(super) fn processor_seconds(&self) -> f64 {
        self.runs.iter().map(|run| run.seconds * run.threads as f64).sum()
    }

    fn keep(&mut self, run: Run) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&run)?;
        line.push(b'\n');
        let failed = || format!("a run can not be kept in {}", self.folder.display());
        self.file.write_all(&line).with_context(failed)?;
        self.file.sync_data().with_context(failed)?;
        self.runs.push(run);
        Ok(())
    }

    /// Does what is missing of `keys`, in their order, until `is_over` says so between two runs. Returns whether nothing
    /// is missing any more.
    pub(super) fn go_on(
        &mut self,
        keys: &[Key],
        is_over: &dyn Fn(&Self) -> bool,
        work: &mut dyn FnMut(&Key) -> anyhow::Result<Run>,
    ) -> anyhow::Result<bool> {
        for key in keys {
            if self.is_done(key) {
                continue;
            }
            if is_over(self) {
                return Ok(false);
            }
            let run = work(key)?;
            self.keep(run)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::actionrl) fn look(right: f64, shown: f64) -> Look {
        let all = TaskSummary {
            edits: 20,
            exact: right,
            first_matches: right,
            edits_shown: shown,
            silences: 10,
            silent: 1.0,
            parse_errors: 0.0,
        };
        Look { all, convention: TaskSummary::default(), suppression: Suppression::default() }
    }

    pub(in crate::actionrl) fn checkpoint(step: usize, kl: f64, look: Look) -> Checkpoint {
        Checkpoint { step, kl, logged_kl: None, look }
    }

    pub(in crate::actionrl) fn run(stage: Stage, arm: Arm, seed: u64, checkpoints: Vec<Checkpoint>) -> Run {
        let collection = Collection { temperature_tenths: 3, teaches_silence: true };
        Run {
            key: Key { lot: Lot { stage, collection, seed }, arm, settings: "as tried".to_owned() },
            pairs: 100,
            start: look(0.25, 0.5),
            checkpoints,
            failed: None,
            seconds: 30.0,
            threads: 2,
        }
    }

    fn keys() -> Vec<Key> {
        Arm::ALL.into_iter().map(|arm| run(Stage::A1, arm, 1, Vec::new()).key).collect()
    }

    /// Goes on in `folder` and says which arms were run; `most` of them, and then it is killed.
    fn piece(folder: &Path, most: usize) -> (Vec<Arm>, bool) {
        let mut state = State::open(folder).unwrap();
        let mut done = Vec::new();
        let result = state.go_on(&keys(), &|_| false, &mut |key| {
            if done.len() == most {
                bail!("killed");
            }
            done.push(key.arm);
            Ok(run(Stage::A1, key.arm, 1, vec![checkpoint(1, 0.5, look(0.5, 0.5))]))
        });
        (done, result.is_ok_and(|is_complete| is_complete))
    }

    #[test]
    fn a_killed_run_is_done_again_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a/b");
        assert_eq!(piece(&place, 3), (Arm::ALL[..3].to_vec(), false));
        // Killed in the middle of a line.
        let path = place.join("runs.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"key\": {\"lot\"").unwrap();
        assert_eq!(piece(&place, 20), (Arm::ALL[3..].to_vec(), true));
        assert_eq!(piece(&place, 20), (Vec::new(), true));
        let state = State::open(&place).unwrap();
        assert_eq!(state.runs().iter().map(|run| run.key.arm).collect::<Vec<_>>(), Arm::ALL);
        assert_eq!(state.runs()[7], run(Stage::A1, Arm::ALL[7], 1, vec![checkpoint(1, 0.5, look(0.5, 0.5))]));
        assert!((state.processor_seconds() - 12.0 * 60.0).abs() < 1e-9);
        // Under other settings it is another run.
        let other = Key { settings: "others".to_owned(), ..keys()[0].clone() };
        assert!(state.is_done(&keys()[0]) && !state.is_done(&other));
    }

    #[test]
    fn a_piece_ends_between_two_runs() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path()).unwrap();
        let is_complete = state
            .go_on(&keys(), &|state| state.runs().len() >= 2, &mut |key| Ok(run(Stage::A1, key.arm, 1, Vec::new())))
            .unwrap();
        assert!(!is_complete);
        assert_eq!(state.runs().len(), 2);
        let second = State::open(folder.path()).unwrap_err().to_string();
        assert!(second.starts_with("another comparison is at work in "), "{second}");
        drop(state);
        // A line that was finished and is none is no killed run.
        std::fs::write(folder.path().join("runs.jsonl"), "{}\n").unwrap();
        let damaged = State::open(folder.path()).unwrap_err().to_string();
        assert!(damaged.ends_with("runs.jsonl, line 1, is no finished run"), "{damaged}");
    }
}
