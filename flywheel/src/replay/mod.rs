//! `flywheel replay`: a real history of edits in its order, learned from window by window, and every version scored on
//! every later window beside the frozen base and two baselines that learn nothing (prequential evaluation: Dawid,
//! "Statistical Theory: The Prequential Approach", 1984). docs/replay.md says what the figures mean.
//!
//! Nothing of a window is known to who is scored on it: a version that learned through window t is scored on t + 1 and
//! later ones alone. The newest version serves each window, and what it says there becomes the pairs that the next one
//! learns from, as the labeler would make them. Every version trains from the base, by the job that the orchestrator runs.

mod answers;
mod overlap;
mod plan;
mod report;
mod state;
mod windows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edit_model::EditModel;
use simulator::baseline::{NgramCache, repeat_last_substitution};
use simulator::history::judgement::Judgement;
use simulator::history::points::EditPoint;
use simulator::history::{Census, Change, HistoryError, HistorySummary, git, releases};
use trainer::gate::GateLimits;
use trainer::job::{JobFile, JobProgress, JobResult, run_job};
use trainer::{TrainerError, TrainingPair};

use self::answers::{Answer, Difference, Figures, Paired, ask, asked, difference, judged, lessons, remembered};
use self::plan::Plan;
use self::report::{Kind, Report, SCHEMA, Score, Version};
use self::state::State;
use self::windows::{Step, Stretch, cut};
use crate::cli::{CODE_VERSION, Common, ReplayArgs};
use crate::embedded;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::report::{Format, check_writable, put};
use crate::table::{print, print_json};
use crate::visible::visible;

/// Names of who learns nothing.
const BASE: &str = "base";
const REPEAT_LAST: &str = "repeat-last-substitution";
const NGRAM_CACHE: &str = "n-gram-cache";

/// Directory of the embedded parts, below which states are unless a flag says otherwise.
const DATA_DIRECTORY: &str = "flywheel-data";

/// How the report is written.
enum Form {
    Json,
    Page(Format),
}

impl Form {
    fn of(path: &Path) -> Result<Self, Failure> {
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
            return Ok(Self::Json);
        }
        Format::of(path, "--report").map(Self::Page).map_err(|_| {
            let path = path.display();
            Failure::refused(format!("--report: expected FILE.md, FILE.html or FILE.json, not {path}"))
        })
    }
}

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
            let text = match form {
                Form::Json => serde_json::to_string_pretty(&found)? + "\n",
                Form::Page(format) => format.written(&found.page()),
            };
            put(path, &text)?;
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
        snapshot_digest: &digest,
        // What came before is done again by every call: it must leave each of them some time.
        deadline: SystemTime::now() + Duration::from_secs(60 * u64::from(arguments.minutes)),
        progress,
        trained: BTreeMap::new(),
        answers: BTreeMap::new(),
        not_done: Vec::new(),
    };
    game.forward()?;
    game.fill()?;
    let versions = game.versions();
    let claims = game.claims();
    Ok(Report {
        schema: SCHEMA,
        code_version: CODE_VERSION.to_owned(),
        complete: game.not_done.is_empty(),
        not_done: game.not_done,
        source,
        base_digest,
        overlap,
        windows: stretches.iter().map(|stretch| stretch.window.clone()).collect(),
        versions,
        claims,
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

struct Game<'a> {
    plan: &'a Plan,
    state: &'a State,
    stretches: &'a [Stretch],
    base: &'a EditModel,
    base_directory: &'a Path,
    snapshot_digest: &'a str,
    deadline: SystemTime,
    progress: &'a Progress,
    /// By the window that each learned through.
    trained: BTreeMap<usize, Outcome>,
    /// By version (0 is the base) and window.
    answers: BTreeMap<(usize, usize), Vec<Answer>>,
    not_done: Vec<String>,
}

impl Game<'_> {
    /// The newest version serves each window, and the next one learns from what it said.
    fn forward(&mut self) -> Result<(), Failure> {
        let mut learned: Vec<TrainingPair> = Vec::new();
        let count = self.stretches.len();
        for window in 1..=count {
            let serving = self.serving(window);
            if !self.answer(serving, window)? {
                return Ok(());
            }
            if window == count {
                break;
            }
            let points = self.stretches[window - 1].points();
            let said = self.answers.get(&(serving, window)).map(Vec::as_slice).unwrap_or_default();
            learned.extend(lessons(window, &points, said, &judged(&points, said)));
            if !self.train(window, &learned)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Every version answers every window after those that it learned from.
    fn fill(&mut self) -> Result<(), Failure> {
        let count = self.stretches.len();
        for version in 0..count {
            for window in version + 1..=count {
                if self.model(version).is_some() && !self.answer(version, window)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The newest version that learned from windows before `window`; 0 is the base.
    fn serving(&self, window: usize) -> usize {
        let is_made = |outcome: &Outcome| matches!(outcome, Outcome::Trained(..));
        self.trained
            .iter()
            .rev()
            .find(|(number, made)| **number < window && is_made(made))
            .map_or(0, |(number, _)| *number)
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
        let name = format!("answers-{version}-{window}.json");
        let points = self.stretches[window - 1].points();
        let kept = self.state.kept::<Vec<Answer>>(&name).filter(|kept| kept.len() <= points.len()).unwrap_or_default();
        if kept.len() == points.len() {
            self.answers.insert((version, window), kept);
            return Ok(true);
        }
        let Some(model) = self.model(version) else { return Ok(false) };
        let before = kept.len();
        self.progress.begin("answering a window", Some(points.len() as u64));
        self.progress.reached(before as u64);
        let ask = |some: &[&EditPoint]| {
            let said = ask(model, some, self.plan.training.threads)?;
            self.progress.advance(some.len() as u64);
            Ok::<_, TrainerError>(said)
        };
        let said = asked(kept, &points, || self.is_late(), ask)?;
        if said.len() > before {
            self.state.keep(&name, &said)?;
        }
        if said.len() < points.len() {
            self.not_done.push(format!("version {version} on window {window} and what follows"));
            return Ok(false);
        }
        self.answers.insert((version, window), said);
        Ok(true)
    }

    /// Whether the version that learns through `window` is there, or known to be none.
    fn train(&mut self, window: usize, pairs: &[TrainingPair]) -> Result<bool, Failure> {
        let folder = self.state.version(window)?;
        let (result_file, failed_file) = (folder.join("result.json"), format!("version-{window}/failed.json"));
        if let Some(reason) = self.state.kept::<String>(&failed_file) {
            self.trained.insert(window, Outcome::Failed(reason));
            return Ok(true);
        }
        let kept = || self.state.kept::<JobResult>(&format!("version-{window}/result.json"));
        let result = match kept() {
            Some(result) => Ok(result),
            None if self.is_late() => Err(TrainerError::Deadline { step: 0 }),
            // As a later call reads it, to the last digit.
            None => self.run(window, &folder, result_file, pairs).map(|result| kept().unwrap_or(result)),
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
            Err(error @ (TrainerError::NoExamples(_) | TrainerError::Unhealthy(_) | TrainerError::Diverged { .. })) => {
                let reason = error.to_string();
                self.state.keep(&failed_file, &reason)?;
                Outcome::Failed(reason)
            }
            Err(error) => return Err(error.into()),
        };
        self.trained.insert(window, outcome);
        Ok(true)
    }

    /// The orchestrator's job, with nothing held out: later windows judge.
    fn run(
        &self,
        window: usize,
        folder: &Path,
        result_file: PathBuf,
        pairs: &[TrainingPair],
    ) -> Result<JobResult, TrainerError> {
        let deadline = self.deadline.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let job = JobFile {
            run_id: format!("replay-{window}"),
            config: self.plan.training.clone(),
            training_file: folder.join("training"),
            gate_file: folder.join("gate"),
            general_file: None,
            anchor: self.base_directory.to_owned(),
            parent: self.base_directory.to_owned(),
            rivals: Vec::new(),
            replay_file: self.base_directory.join("replay.jsonl"),
            old_skills_file: self.base_directory.join("old_skills.jsonl"),
            output: folder.join("model"),
            progress_file: folder.join("progress.json"),
            steps_file: Some(folder.join("steps.jsonl")),
            heartbeat_file: folder.join("heartbeat"),
            result_file,
            deadline_micros: i64::try_from(deadline).unwrap_or(i64::MAX),
            snapshot_digest: self.snapshot_digest.to_owned(),
            code_version: CODE_VERSION.to_owned(),
            gate_opportunities: usize::MAX,
            general_opportunities: 0,
            gate: GateLimits::default(),
        };
        let mut training = Vec::new();
        for pair in pairs {
            serde_json::to_writer(&mut training, pair).map_err(|error| TrainerError::Job(error.to_string()))?;
            training.push(b'\n');
        }
        self.progress.begin("learning from windows", Some(self.plan.training.steps as u64));
        let mut watch = |progress: &JobProgress| self.progress.reached(progress.step as u64);
        run_job(&job, &training, &[], &[], &mut watch)
    }

    /// How each was judged on each window: of those who were asked there.
    fn judgements(&self) -> BTreeMap<(String, usize), Vec<Judgement>> {
        let mut all = BTreeMap::new();
        for ((version, window), said) in &self.answers {
            all.insert((name(*version), *window), judged(&self.stretches[window - 1].points(), said));
        }
        let mut cache = NgramCache::default();
        for (stretch, window) in self.stretches.iter().zip(1..) {
            let points = stretch.points();
            let repeated: Vec<Answer> =
                points.iter().map(|point| Answer::certain(repeat_last_substitution(&point.context))).collect();
            all.insert((REPEAT_LAST.to_owned(), window), judged(&points, &repeated));
            let remembered = remembered(&mut cache, &stretch.steps);
            all.insert((NGRAM_CACHE.to_owned(), window), judged(&points, &remembered));
        }
        all
    }

    fn versions(&self) -> Vec<Version> {
        let judgements = self.judgements();
        let plain = |name: &str, kind| Version {
            name: name.to_owned(),
            kind,
            trained_through: None,
            training_pairs: None,
            training_seconds: None,
            model_digest: None,
            old_skills: None,
            failed: None,
            scores: self.scores(name, &judgements),
        };
        let mut versions =
            vec![plain(REPEAT_LAST, Kind::Baseline), plain(NGRAM_CACHE, Kind::Baseline), plain(BASE, Kind::Base)];
        for (number, outcome) in &self.trained {
            let version = Version { trained_through: Some(*number), ..plain(&name(*number), Kind::Trained) };
            versions.push(match outcome {
                Outcome::Failed(reason) => Version { failed: Some(reason.clone()), ..version },
                Outcome::Trained(result, _) => Version {
                    training_pairs: Some(result.training_pairs),
                    training_seconds: Some(result.training_seconds),
                    model_digest: Some(result.model_digest.clone()),
                    old_skills: Some((result.old_skills_candidate.exact, result.old_skills_parent.exact)),
                    ..version
                },
            });
        }
        versions
    }

    fn scores(&self, name: &str, judgements: &BTreeMap<(String, usize), Vec<Judgement>>) -> Vec<Score> {
        let mut scores = Vec::new();
        for (stretch, window) in self.stretches.iter().zip(1..) {
            let Some(own) = judgements.get(&(name.to_owned(), window)) else { continue };
            let points = stretch.points();
            let differences: Vec<Difference> = [BASE, REPEAT_LAST, NGRAM_CACHE]
                .into_iter()
                .filter(|other| *other != name)
                .filter_map(|other| {
                    let others = judgements.get(&(other.to_owned(), window))?;
                    let paired: Vec<Paired<'_>> = (points.iter().zip(own.iter().zip(others)))
                        .map(|(point, (own, other))| (point.change.as_str(), *own, *other))
                        .collect();
                    Some(difference(other, &paired, self.plan.points.seed))
                })
                .collect();
            scores.push(Score { window, figures: Figures::of(&points, own), differences });
        }
        scores
    }

    /// The version that served each window against who learns nothing, over all windows that a trained one served.
    fn claims(&self) -> Vec<Difference> {
        let judgements = self.judgements();
        let all_points: Vec<_> = self.stretches.iter().map(Stretch::points).collect();
        [BASE, REPEAT_LAST, NGRAM_CACHE]
            .into_iter()
            .filter_map(|other| {
                let mut paired: Vec<Paired<'_>> = Vec::new();
                for (points, window) in all_points.iter().zip(1..) {
                    let serving = self.serving(window);
                    let own = judgements.get(&(name(serving), window)).filter(|_| serving > 0);
                    let Some((own, others)) = own.zip(judgements.get(&(other.to_owned(), window))) else { continue };
                    let both = own.iter().zip(others);
                    paired.extend(
                        points.iter().zip(both).map(|(point, (own, other))| (point.change.as_str(), *own, *other)),
                    );
                }
                (!paired.is_empty()).then(|| difference(other, &paired, self.plan.points.seed))
            })
            .collect()
    }
}

/// The name of the version that learned through a window; 0 is the base.
fn name(version: usize) -> String {
    if version == 0 { BASE.to_owned() } else { format!("version-{version}") }
}
