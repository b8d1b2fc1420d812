//! Which method learns best from what developers did, and whether learning from the first wrong action of an answer
//! suppresses what is right behind it.
//!
//! Stage A learns with a small model: first every arm on pairs of one way to collect (`a1`), then the best six on pairs of
//! every way (`a2`): the temperature at which the model spoke that developers answered, and whether Esc and then nothing
//! teaches `NO_EDIT`. Stage B learns with the shipped base, in other repositories: the best four, sft and the placebo. Every
//! part has seeds of its own, so that none is judged by what chose it. Within a lot all arms learn from the same pairs by
//! the same settings, are looked at along the way, and are compared where they moved equally far ([`matched`]).

mod arm;
mod classroom;
mod matched;
mod report;
mod start;
mod state;
mod suppression;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use trainer::methods::{Method, MethodConfig};

use self::arm::Arm;
use self::classroom::{Classroom, Taught};
use self::report::{Table, report};
use self::start::small_model;
use self::state::{Collection, Key, Lot, Run, Stage, State};
use crate::Trial;
use crate::convention::{Deal, Material, material_of, settings};
use crate::measurement::{Measurement, tell};

/// Steps of a run, at most.
const STEPS: usize = 200;
/// Processor time of everything, at most.
const PROCESSOR_HOURS: f64 = 24.0;
/// Neither the demo's seeds nor those of other benchmarks; a hundred for each stage.
const FIRST_SEED: u64 = 11_000_001;
/// How many arms `a2` and `b` take from the stage before.
const BEST_OF_A1: usize = 6;
const BEST_OF_A2: usize = 4;
/// How pairs are collected where that is not in question: with the label policy of the product.
const USUAL: Collection = Collection { temperature_tenths: 3, teaches_silence: true };
const TEMPERATURES: [u8; 3] = [0, 3, 10];

/// What of `actionrl` is done in this piece.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ActionrlPiece {
    /// Where `actionrl` keeps what is finished and goes on; of the same folder the report is made.
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    /// No run of `actionrl` begins after so many minutes; on two cores the default takes less than two processor hours.
    #[arg(long, default_value_t = 55)]
    minutes: u64,
    /// Which stage of `actionrl`. Default: one after the other.
    #[arg(long, value_enum)]
    stage: Option<Stage>,
}

impl Stage {
    fn seeds(self) -> std::ops::Range<u64> {
        let (number, seeds) = match self {
            Self::A1 => (0, 3),
            Self::A2 => (1, 5),
            Self::B => (2, 5),
        };
        FIRST_SEED + 100 * number..FIRST_SEED + 100 * number + seeds
    }

    /// The repositories in which developers work: those of stage B are in no earlier one.
    fn repositories(self) -> Deal {
        let taken = if self == Self::B { [2, 3] } else { [0, 1] };
        Deal { parts: 4, taken }
    }

    fn collections(self) -> Vec<Collection> {
        if self != Self::A2 {
            return vec![USUAL];
        }
        let with = |temperature_tenths| {
            [true, false].map(|teaches_silence| Collection { temperature_tenths, teaches_silence })
        };
        TEMPERATURES.into_iter().flat_map(with).collect()
    }
}

/// The first `count` of `ranking`; sft, with which all are compared, is one of them in any case.
fn best_of_a1(ranking: &[Arm], count: usize) -> Vec<Arm> {
    let others = ranking.iter().copied().filter(|arm| *arm != Arm::Sft).take(count.saturating_sub(1));
    let mut best: Vec<Arm> = std::iter::once(Arm::Sft).chain(others).collect();
    best.sort();
    best
}

/// The best of what is not there in any case, beside sft and the placebo.
fn arms_of_b(ranking: &[Arm], count: usize) -> Vec<Arm> {
    let always = [Arm::Sft, Arm::RandomPoint];
    let others = ranking.iter().copied().filter(|arm| !always.contains(arm)).take(count);
    let mut arms: Vec<Arm> = others.chain(always).collect();
    arms.sort();
    arms
}

/// What all arms of a lot learn with.
fn shared_config(tried: Trial, seed: u64) -> anyhow::Result<MethodConfig> {
    let steps = tried.steps.unwrap_or(STEPS);
    ensure!((1..=STEPS).contains(&steps), "--steps of actionrl must be 1 to {STEPS}");
    Ok(MethodConfig { steps, ..tried.config(Method::Sft, seed) })
}

/// Those runs that were made with what is tried now.
fn of_settings<'a>(state: &'a State, settings: &str) -> Vec<&'a Run> {
    state.runs().iter().filter(|run| run.key.settings == settings).collect()
}

/// The runs of a stage with `arms`, lot by lot, so that each lot is collected once.
fn keys(stage: Stage, arms: &[Arm], settings: &str) -> Vec<Key> {
    let lots = stage
        .collections()
        .into_iter()
        .flat_map(|collection| stage.seeds().map(move |seed| Lot { stage, collection, seed }));
    lots.flat_map(|lot| arms.iter().map(move |arm| Key { lot, arm: *arm, settings: settings.to_owned() })).collect()
}

/// The arms of a stage; an error while the stage that chooses them is not finished.
fn arms(stage: Stage, state: &State, settings: &str) -> anyhow::Result<Vec<Arm>> {
    let before = match stage {
        Stage::A1 => return Ok(Arm::ALL.to_vec()),
        Stage::A2 => Stage::A1,
        Stage::B => Stage::A2,
    };
    let missing =
        keys(before, &arms(before, state, settings)?, settings).iter().filter(|key| !state.is_done(key)).count();
    if missing > 0 {
        bail!("stage {} is chosen by stage {}, of which {missing} runs are missing", stage.name(), before.name());
    }
    let ranking = Table::of(before, &of_settings(state, settings)).map_or_else(Vec::new, |table| table.ranking());
    Ok(match before {
        Stage::A1 => best_of_a1(&ranking, BEST_OF_A1),
        _ => arms_of_b(&ranking, BEST_OF_A2),
    })
}

/// The model that a stage starts from, and its repositories; none while the model is not finished.
fn material(stage: Stage, state: &State, threads: usize, until: Instant) -> anyhow::Result<Option<Material>> {
    let mut material = material_of(stage.repositories())?;
    if stage != Stage::B {
        let tokenizer = material.base.tokenizer().clone();
        let Some(small) = small_model(&state.folder().join("small"), &tokenizer, threads, until)? else {
            return Ok(None);
        };
        material.base = small;
    }
    Ok(Some(material))
}

/// Goes on with a stage. Returns whether it is finished.
fn go_on(stage: Stage, state: &mut State, tried: Trial, until: Instant) -> anyhow::Result<bool> {
    let mut since = Instant::now();
    let config = shared_config(tried, FIRST_SEED)?;
    let settings = settings(&config);
    let keys = keys(stage, &arms(stage, state, &settings)?, &settings);
    let missing = keys.iter().filter(|key| !state.is_done(key)).count();
    tell(&format!("actionrl: stage {}: {missing} of {} runs are missing", stage.name(), keys.len()));
    if missing == 0 {
        return Ok(true);
    }
    let Some(material) = material(stage, state, config.threads, until)? else { return Ok(false) };
    let is_over = |state: &State| {
        let spent = state.processor_seconds() / 3600.0;
        if spent >= PROCESSOR_HOURS {
            tell(&format!("actionrl: {spent:.1} processor hours are spent, and no more are meant to be"));
        }
        spent >= PROCESSOR_HOURS || Instant::now() >= until
    };
    let mut open: Option<(Lot, Classroom<'_>)> = None;
    state.go_on(&keys, &is_over, &mut |key| {
        let config = key.arm.config(shared_config(tried, key.lot.seed)?);
        let room = match open.take() {
            Some((lot, room)) if lot == key.lot => room,
            _ => Classroom::open(&material, key.lot, config.threads)?,
        };
        let Taught { checkpoints, failed } = room.teach(&config)?;
        let seconds = since.elapsed().as_secs_f64();
        since = Instant::now();
        let (collection, seed, arm) = (key.lot.collection.name(), key.lot.seed, key.arm.name());
        let why = failed.as_ref().map_or_else(String::new, |reason| format!(", {reason}"));
        tell(&format!("actionrl: {collection}, seed {seed}: {arm}, {seconds:.0} s{why}"));
        let (pairs, start, threads) = (room.pairs.len(), room.start, config.threads);
        open = Some((key.lot, room));
        Ok(Run { key: key.clone(), pairs, start, checkpoints, failed, seconds, threads })
    })
}

/// Does a piece, and reports whatever is finished.
pub(crate) fn measure(piece: &ActionrlPiece, tried: Trial) -> anyhow::Result<Vec<Measurement>> {
    let folder = piece.state.as_deref().context("actionrl needs --state DIRECTORY, where it keeps what is finished")?;
    let until = Instant::now() + Duration::from_secs(60 * piece.minutes);
    let mut state = State::open(folder)?;
    let stages = piece.stage.map_or_else(|| Stage::ALL.to_vec(), |stage| vec![stage]);
    for stage in stages {
        if !go_on(stage, &mut state, tried, until)? {
            tell("actionrl: this piece is over; the next goes on here");
            break;
        }
    }
    let settings = settings(&shared_config(tried, FIRST_SEED)?);
    let (text, measurements) = report(&of_settings(&state, &settings));
    let path = folder.join("report.md");
    std::fs::write(&path, format!("# Methods compared\n\n{settings}.\n\n{text}"))
        .with_context(|| format!("{} can not be written", path.display()))?;
    tell(&format!("actionrl: {}", path.display()));
    Ok(measurements)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::state::tests::{checkpoint, look};
    use super::*;

    #[test]
    fn stages_share_no_seed_and_the_last_no_repository() {
        let seeds: Vec<u64> = Stage::ALL.into_iter().flat_map(Stage::seeds).collect();
        assert_eq!(seeds.iter().collect::<BTreeSet<_>>().len(), 3 + 5 + 5);
        let parts = |stage: Stage| stage.repositories().taken;
        assert_eq!(parts(Stage::A1), parts(Stage::A2));
        assert!(parts(Stage::B).iter().all(|part| !parts(Stage::A1).contains(part)));
        let runs = |stage, arms: &[Arm]| keys(stage, arms, "as tried").len();
        assert_eq!(runs(Stage::A1, &Arm::ALL), 12 * 3);
        assert_eq!(runs(Stage::A2, &Arm::ALL[..BEST_OF_A1]), 6 * 3 * 2 * 5);
        assert_eq!(runs(Stage::B, &Arm::ALL[..BEST_OF_A2 + 2]), 6 * 5);
    }

    #[test]
    fn what_is_compared_with_is_always_there() {
        let sft_last: Vec<Arm> = Arm::ALL.into_iter().rev().collect();
        let best = best_of_a1(&sft_last, 6);
        assert_eq!(best.len(), 6);
        assert!(best.contains(&Arm::Sft) && best.contains(&Arm::ThresholdOnly) && !best.contains(&Arm::Dpop));
        assert_eq!(best_of_a1(&Arm::ALL, 6), Arm::ALL[..6]);
        let last = [Arm::RandomPoint, Arm::Kto, Arm::Sft, Arm::Truncate, Arm::Dpo, Arm::Detach];
        let arms = [Arm::Sft, Arm::Dpo, Arm::Kto, Arm::Truncate, Arm::Detach, Arm::RandomPoint];
        assert_eq!(arms_of_b(&last, 4), arms);
    }

    #[test]
    fn a_stage_waits_for_the_one_that_chooses_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path()).unwrap();
        let first = keys(Stage::A1, &arms(Stage::A1, &state, "as tried").unwrap(), "as tried");
        // The later an arm is named, the better it is.
        let mut work = |key: &Key| {
            let right = 0.2 + 0.05 * key.arm as usize as f64;
            let checkpoints = vec![checkpoint(1, 1.0, look(right, 0.8))];
            let (pairs, start) = (10, look(0.2, 0.5));
            Ok(Run { key: key.clone(), pairs, start, checkpoints, failed: None, seconds: 1.0, threads: 1 })
        };
        state.go_on(&first[..35], &|_| false, &mut work).unwrap();
        let waits = arms(Stage::A2, &state, "as tried").unwrap_err().to_string();
        assert_eq!(waits, "stage a2 is chosen by stage a1, of which 1 runs are missing");
        state.go_on(&first, &|_| false, &mut work).unwrap();
        let mut chosen = vec![Arm::Sft];
        chosen.extend(&Arm::ALL[7..]);
        assert_eq!(arms(Stage::A2, &state, "as tried").unwrap(), chosen);
        // Under other settings nothing is done.
        assert!(arms(Stage::A2, &state, "others").unwrap_err().to_string().contains("36 runs are missing"));
        state.go_on(&keys(Stage::A2, &chosen, "as tried"), &|_| false, &mut work).unwrap();
        let last = [Arm::Sft, Arm::Truncate, Arm::Detach, Arm::FirstToken, Arm::RandomPoint, Arm::ThresholdOnly];
        assert_eq!(arms(Stage::B, &state, "as tried").unwrap(), last);
    }
}
