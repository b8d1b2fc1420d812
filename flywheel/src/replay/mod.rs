//! `flywheel replay`: a real history of edits in its order, learned from window by window, and every version scored on
//! every later window beside the frozen base and two baselines that learn nothing (prequential evaluation: Dawid,
//! "Statistical Theory: The Prequential Approach", 1984). docs/replay.md says what the figures mean.
//!
//! Nothing of a window is known to who is scored on it: a version that learned through window t is scored on t + 1 and
//! later ones alone. The newest version that the gate let through serves each window, and what it says there becomes the
//! pairs that the next one learns from, as the labeler would make them. Of all pairs so far the orchestrator's data set
//! is made, and its job trains from the base and judges by what was held out.

mod answers;
mod lessons;
mod overlap;
mod plan;
mod report;
mod standings;
mod state;
mod windows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edit_model::EditModel;
use simulator::history::points::EditPoint;
use simulator::history::{Census, Change, HistoryError, HistorySummary, git, releases};
use trainer::job::{JobFile, JobProgress, JobResult, run_job};
use trainer::{TrainerError, TrainingPair};
use trainer_orchestrator::data_set::manifest::DataSetError;

use self::answers::{Answer, ask, asked, judged};
use self::lessons::{DataSet, Lessons, Place, Served};
use self::plan::Plan;
use self::report::{Report, SCHEMA};
use self::state::State;
use self::windows::{Step, Stretch, cut};
use crate::cli::{CODE_VERSION, Common, ReplayArgs};
use crate::embedded;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::report::{Form, Format, check_writable, put};
use crate::table::{print, print_json};
use crate::visible::visible;

/// Names of who learns nothing.
const BASE: &str = "base";
/// Name of whoever the gate let through last.
const SERVED: &str = "served";
const REPEAT_LAST: &str = "repeat-last-substitution";
const NGRAM_CACHE: &str = "n-gram-cache";

/// Directory of the embedded parts, below which states are unless a flag says otherwise.
const DATA_DIRECTORY: &str = "flywheel-data";

/// Replays a history and reports it.
pub(crate) fn run(common: &Common, arguments: &ReplayArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let report = match &arguments.report {
        Some(path) => {
            check_writable(path)?;
            Some((path, Form::of(path)?))
        }
        None => None,
    };
    let plan = Plan::of(arguments)?;
    let progress = Progress::new();
    let played = play(common, arguments, plan, &progress, started);
    progress.finish();
    let found = played?;
    match report {
        Some((path, form)) => {
            put(path, &form.written(&found.page(), &found)?)?;
            if !arguments.json {
                print(&format!("the report is in {}", visible(&path.display().to_string())))?;
            }
        }
        None if !arguments.json => print(Format::Markdown.written(&found.page()).trim_end())?,
        None => {}
    }
    if arguments.json {
        print_json(&found)?;
    }
    if found.complete {
        return Ok(ExitCode::SUCCESS);
    }
    let left = found.not_done.join("; ");
    Err(Failure::Broke(anyhow::anyhow!(
        "--minutes {} were not enough for everything ({left}); the same command goes on where this one ended",
        arguments.minutes
    )))
}

fn play(
    common: &Common,
    arguments: &ReplayArgs,
    plan: Plan,
    progress: &Progress,
    started: Instant,
) -> Result<Report, Failure> {
    let (steps, source) = read(arguments, &plan, progress)?;
    let stretches = windows_of(steps, &source, &plan)?;
    let root = match &arguments.state {
        Some(folder) => folder.clone(),
        None => common.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIRECTORY)).join("replay"),
    };
    let base_directory = match &arguments.base {
        Some(folder) => folder.clone(),
        None => embedded::base_in(&root)?,
    };
    let (base, manifest) = EditModel::load_with_manifest(&base_directory).map_err(Failure::refuse)?;
    let base_digest = manifest.digest();
    let digest = plan.digest(&source, &base_digest)?;
    let state = State::open(&root.join(digest.chars().take(16).collect::<String>()))?;
    progress.begin("overlap with the base", None);
    let sources = arguments.sources.as_deref();
    let overlap = overlap::overlap(&source.repository, &stretches, &base_directory, sources);

    let mut game = Game {
        plan: &plan,
        state: &state,
        stretches: &stretches,
        base: &base,
        base_directory: &base_directory,
        // What came before is done again by every call: it must leave each of them some time.
        deadline: SystemTime::now() + Duration::from_secs(60 * u64::from(arguments.minutes)),
        progress,
        trained: BTreeMap::new(),
        judges: BTreeMap::new(),
        answers: BTreeMap::new(),
        held_out_answers: BTreeMap::new(),
        not_done: Vec::new(),
    };
    game.forward()?;
    game.fill()?;
    let standings = game.standings();
    Ok(Report {
        schema: SCHEMA,
        code_version: CODE_VERSION.to_owned(),
        complete: game.not_done.is_empty(),
        not_done: game.not_done,
        source,
        base_digest,
        overlap,
        windows: stretches.iter().map(|stretch| stretch.window.clone()).collect(),
        versions: standings.versions,
        served: standings.served,
        claims: standings.claims,
        calibrated_claims: standings.calibrated_claims,
        seconds: started.elapsed().as_secs_f64(),
        plan: plan.clone(),
    })
}

/// Reads the history; its text is let go as soon as its points are drawn.
fn read(arguments: &ReplayArgs, plan: &Plan, progress: &Progress) -> Result<(Vec<Step>, HistorySummary), Failure> {
    progress.begin("reading the history", None);
    let opened = arguments.repo.as_deref().map(git::open).transpose().map_err(unreadable)?;
    let repository = match (&arguments.name, &opened) {
        (Some(name), _) => name.clone(),
        (None, Some(opened)) => opened.name().to_owned(),
        (None, None) => arguments.releases.first().map(|folder| releases::project(folder)).unwrap_or_default(),
    };
    let mut steps = Vec::new();
    let mut take = |change: Change, census: &mut Census| {
        steps.push(Step::of(&repository, &change, &plan.points, census));
        progress.advance(1);
    };
    let mut source = match &opened {
        Some(opened) => opened.read(&plan.limits, &mut take),
        None => releases::read(&arguments.releases, &plan.limits, &mut take),
    }
    .map_err(unreadable)?;
    source.repository = repository;
    Ok((steps, source))
}

fn unreadable(error: HistoryError) -> Failure {
    match error {
        HistoryError::Git { .. } => Failure::Broke(anyhow::Error::new(error)),
        error => Failure::refuse(error),
    }
}

fn windows_of(steps: Vec<Step>, source: &HistorySummary, plan: &Plan) -> Result<Vec<Stretch>, Failure> {
    let usable = steps.iter().filter(|step| !step.points.is_empty()).count();
    let needed = plan.windows * plan.least_changes;
    cut(steps, plan.windows, plan.points_per_window, plan.least_changes, plan.points.seed).ok_or_else(|| {
        let left_out: Vec<String> =
            source.left_out.counts().map(|(reason, count)| format!("{count} {}", reason.words())).collect();
        Failure::refused(format!(
            "{} has {usable} changes of Rust or Python code that a suggestion could have made, and {} windows need \
             {needed}; left out: {}",
            source.repository,
            plan.windows,
            if left_out.is_empty() { "nothing".to_owned() } else { left_out.join(", ") }
        ))
    })
}

/// What training made of a window.
enum Outcome {
    Trained(Box<JobResult>, EditModel),
    Failed(String),
}

/// What a data set leaves behind.
struct Judges {
    /// The points that are held out.
    held_out: Vec<Place>,
    /// Pairs that train and want silence.
    silences: usize,
}

struct Game<'a> {
    plan: &'a Plan,
    state: &'a State,
    stretches: &'a [Stretch],
    base: &'a EditModel,
    base_directory: &'a Path,
    deadline: SystemTime,
    progress: &'a Progress,
    /// By the window that each learned through.
    trained: BTreeMap<usize, Outcome>,
    /// What each is judged by, by version.
    judges: BTreeMap<usize, Judges>,
    /// By version (0 is the base) and window.
    answers: BTreeMap<(usize, usize), Vec<Answer>>,
    /// What each version says at the points that judge it.
    held_out_answers: BTreeMap<usize, Vec<Answer>>,
    not_done: Vec<String>,
}

impl<'a> Game<'a> {
    /// The newest version that the gate let through serves each window, and the next one learns from what it said.
    fn forward(&mut self) -> Result<(), Failure> {
        let mut lessons = Lessons::new(self.plan)?;
        let (count, threshold) = (self.stretches.len(), self.plan.threshold);
        for window in 1..=count {
            let version = self.serving(window);
            if !self.answer(version, window)? {
                return Ok(());
            }
            if window == count {
                break;
            }
            let points = self.stretches[window - 1].points();
            let said = self.answers.get(&(version, window)).map(Vec::as_slice).unwrap_or_default();
            let judgements = judged(&points, said, threshold);
            lessons.add(Served { window, version, threshold }, &points, said, &judgements)?;
            match lessons.data_set() {
                Ok(set) => {
                    if !self.train(window, version, &set)? {
                        return Ok(());
                    }
                    let silences = set.silences();
                    self.judges.insert(window, Judges { held_out: set.held_out, silences });
                }
                Err(error @ DataSetError::Empty { .. }) => {
                    self.trained.insert(window, Outcome::Failed(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Every version answers every window after those that it learned from, and what judges it.
    fn fill(&mut self) -> Result<(), Failure> {
        let count = self.stretches.len();
        for version in 0..count {
            for window in version + 1..=count {
                if self.model(version).is_some() && !self.answer(version, window)? {
                    return Ok(());
                }
            }
            if self.model(version).is_some() && !self.answer_held_out(version)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The newest version that learned from windows before `window` and that `is_taken` takes; 0 is the base.
    fn newest(&self, window: usize, is_taken: impl Fn(&JobResult) -> bool) -> usize {
        let taken = |(number, outcome): (&usize, &Outcome)| match outcome {
            Outcome::Trained(result, _) if is_taken(result) => Some(*number),
            _ => None,
        };
        self.trained.range(..window).rev().find_map(taken).unwrap_or(0)
    }

    /// Who serves `window`. A version that the gate lets through is taken to be promoted before the next window: rollouts
    /// are not played.
    fn serving(&self, window: usize) -> usize {
        self.newest(window, |result| result.gate.is_eligible())
    }

    /// Whether it is known who serves `window`.
    fn is_decided(&self, window: usize) -> bool {
        (1..window).all(|version| self.trained.contains_key(&version))
    }

    /// The folder of a model; 0 is the base.
    fn directory(&self, version: usize) -> Result<PathBuf, Failure> {
        if version == 0 { Ok(self.base_directory.to_owned()) } else { Ok(self.state.version(version)?.join("model")) }
    }

    fn model(&self, version: usize) -> Option<&EditModel> {
        match (version, self.trained.get(&version)) {
            (0, _) => Some(self.base),
            (_, Some(Outcome::Trained(_, model))) => Some(model),
            _ => None,
        }
    }

    fn is_late(&self) -> bool {
        SystemTime::now() >= self.deadline
    }

    /// Whether the answers of `version` to `window` are there, made now if there is time.
    fn answer(&mut self, version: usize, window: usize) -> Result<bool, Failure> {
        if self.answers.contains_key(&(version, window)) {
            return Ok(true);
        }
        let stretches = self.stretches;
        let points = stretches[window - 1].points();
        let said = self.said(version, &window.to_string(), &points)?;
        Ok(said.map(|said| self.answers.insert((version, window), said)).is_some())
    }

    /// Whether the answers of `version` to what judges it are there, made now if there is time.
    fn answer_held_out(&mut self, version: usize) -> Result<bool, Failure> {
        let Some(judges) = self.judges.get(&version) else { return Ok(true) };
        let points = self.points(&judges.held_out);
        let said = self.said(version, "held-out", &points)?;
        Ok(said.map(|said| self.held_out_answers.insert(version, said)).is_some())
    }

    fn points(&self, places: &[Place]) -> Vec<&'a EditPoint> {
        let all: Vec<Vec<&'a EditPoint>> = self.stretches.iter().map(Stretch::points).collect();
        places.iter().filter_map(|(window, number)| all.get(window - 1)?.get(*number).copied()).collect()
    }

    /// What `version` says at `points`, kept by the name `of`, made now as far as there is time; none if not at all of
    /// them.
    fn said(&mut self, version: usize, of: &str, points: &[&EditPoint]) -> Result<Option<Vec<Answer>>, Failure> {
        let file = format!("answers-{version}-{of}.json");
        let kept = self.state.kept::<Vec<Answer>>(&file).filter(|kept| kept.len() <= points.len()).unwrap_or_default();
        if kept.len() == points.len() {
            return Ok(Some(kept));
        }
        let Some(model) = self.model(version) else { return Ok(None) };
        let before = kept.len();
        self.progress.begin("answering a window", Some(points.len() as u64));
        self.progress.reached(before as u64);
        let ask = |some: &[&EditPoint]| {
            let said = ask(model, some, self.plan.training.threads)?;
            self.progress.advance(some.len() as u64);
            Ok::<_, TrainerError>(said)
        };
        let said = asked(kept, points, || self.is_late(), ask)?;
        if said.len() > before {
            self.state.keep(&file, &said)?;
        }
        if said.len() < points.len() {
            self.not_done.push(format!("version {version} on window {of} and what follows"));
            return Ok(None);
        }
        Ok(Some(said))
    }

    /// Whether the version that learns through `window` is there, or known to be none.
    fn train(&mut self, window: usize, serving: usize, set: &DataSet) -> Result<bool, Failure> {
        let (folder, parent) = (self.state.version(window)?, self.directory(serving)?);
        let failed_file = format!("version-{window}/failed.json");
        if let Some(reason) = self.state.kept::<String>(&failed_file) {
            self.trained.insert(window, Outcome::Failed(reason));
            return Ok(true);
        }
        let kept = || self.state.kept::<JobResult>(&format!("version-{window}/result.json"));
        let result = match kept() {
            Some(result) => Ok(result),
            None if self.is_late() => Err(TrainerError::Deadline { step: 0 }),
            // As a later call reads it, to the last digit.
            None => self.run(window, &folder, parent, set).map(|result| kept().unwrap_or(result)),
        };
        let outcome = match result {
            Ok(result) => {
                let (model, _) = EditModel::load_with_manifest(&folder.join("model"))?;
                Outcome::Trained(Box::new(result), model)
            }
            Err(TrainerError::Deadline { .. }) => {
                self.not_done.push(format!("training through window {window} and what follows"));
                return Ok(false);
            }
            Err(
                error @ (TrainerError::NoExamples(_)
                | TrainerError::OneClass { .. }
                | TrainerError::Unhealthy(_)
                | TrainerError::Diverged { .. }),
            ) => {
                let reason = error.to_string();
                self.state.keep(&failed_file, &reason)?;
                Outcome::Failed(reason)
            }
            Err(error) => return Err(error.into()),
        };
        self.trained.insert(window, outcome);
        Ok(true)
    }

    /// The orchestrator's job. No other version is a rival of a candidate: each that was let through gained on the one
    /// that served before it, so that the parent stands highest, and the anchor is always one.
    fn run(&self, window: usize, folder: &Path, parent: PathBuf, set: &DataSet) -> Result<JobResult, TrainerError> {
        let deadline = self.deadline.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let job = JobFile {
            run_id: format!("replay-{window}"),
            config: self.plan.training.clone(),
            training_file: folder.join("training"),
            gate_file: folder.join("gate"),
            general_file: None,
            anchor: self.base_directory.to_owned(),
            parent,
            rivals: Vec::new(),
            replay_file: self.base_directory.join("replay.jsonl"),
            old_skills_file: self.base_directory.join("old_skills.jsonl"),
            output: folder.join("model"),
            progress_file: folder.join("progress.json"),
            steps_file: Some(folder.join("steps.jsonl")),
            heartbeat_file: folder.join("heartbeat"),
            result_file: folder.join("result.json"),
            deadline_micros: i64::try_from(deadline).unwrap_or(i64::MAX),
            snapshot_digest: set.digest.to_string(),
            code_version: CODE_VERSION.to_owned(),
            gate_opportunities: self.plan.gate_opportunities,
            general_opportunities: self.plan.data_set.general_opportunities,
            gate: self.plan.gate.clone(),
            person_pairs: 0,
        };
        let (training, gate) = (json_lines(&set.training)?, json_lines(&set.gate)?);
        self.progress.begin("learning from windows", Some(self.plan.training.steps as u64));
        let mut watch = |progress: &JobProgress| self.progress.reached(progress.step as u64);
        run_job(&job, &training, &gate, &[], &mut watch)
    }
}

fn json_lines(pairs: &[TrainingPair]) -> Result<Vec<u8>, TrainerError> {
    let mut lines = Vec::new();
    for pair in pairs {
        serde_json::to_writer(&mut lines, pair).map_err(|error| TrainerError::Job(error.to_string()))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The name of the version that learned through a window; 0 is the base.
fn name(version: usize) -> String {
    if version == 0 { BASE.to_owned() } else { format!("version-{version}") }
}
