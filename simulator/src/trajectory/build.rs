//! From a corpus to trajectories: the same ones in the same order, whatever the number of threads.

use crate::error::{Result, SimulatorError};
use crate::trajectory::corpus::{CodeCorpus, CorpusFile, LeftOut};
use crate::trajectory::diagnostics::{FoundCompiler, Reported, reported};
use crate::trajectory::draft::{Change, Draft};
use crate::trajectory::language::Parsers;
use crate::trajectory::patterns::Search;
use crate::trajectory::report::TrajectoryReport;
use crate::trajectory::repository::{ParsedFile, Repository};
use crate::trajectory::{PATTERNS, Pattern, Trajectory};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSettings {
    /// Same seed, same trajectories.
    pub seed: u64,
    /// Which patterns; every one by default.
    pub patterns: Vec<Pattern>,
    /// Most trajectories of one pattern that begin in one file.
    pub per_file: usize,
    /// Most steps of a trajectory; what would have more is left out.
    pub most_steps: usize,
    /// How much of a repository is looked at together, in bytes. Its syntax trees need about twelve times as much
    /// memory.
    pub part_bytes: u64,
    /// Threads that parse and search.
    pub threads: usize,
    /// Compilers that are asked about slips ([`Pattern::DiagnosticFix`]), one a language; none by default: each answer
    /// is a process.
    pub compilers: Vec<FoundCompiler>,
}

impl Default for BuildSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            patterns: PATTERNS.to_vec(),
            per_file: 2,
            most_steps: 24,
            part_bytes: 32 << 20,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            compilers: Vec::new(),
        }
    }
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Source files that were read and parsed or left out.
    pub files: usize,
    /// Source files of the corpus.
    pub of: usize,
}

/// A trajectory and its files as the corpus has them, in the order of [`Trajectory::files`].
#[derive(Debug, Clone)]
pub struct Built {
    /// The trajectory.
    pub trajectory: Trajectory,
    /// What each of its files is.
    pub files: Vec<Arc<CorpusFile>>,
    /// Their texts: the trajectory's last state.
    pub texts: Vec<Arc<str>>,
}

type ReadFile = std::result::Result<ParsedFile, LeftOut>;

/// Makes all trajectories of `corpus`, each given to `sink` as soon as its part of the corpus is done.
///
/// # Errors
/// When a file can not be read, a grammar does not load, or `sink` fails; when no file of the corpus may be used.
pub fn build(
    corpus: &CodeCorpus,
    settings: &BuildSettings,
    progress: &(dyn Fn(Progress) + Sync),
    sink: &mut dyn FnMut(Built) -> Result<()>,
) -> Result<TrajectoryReport> {
    let mut report = TrajectoryReport::default();
    let read = AtomicUsize::new(0);
    for part in corpus.parts(settings.part_bytes) {
        let files = in_order(settings.threads, part.len(), |number, parsers| {
            let file = read_file(corpus, &part, number, parsers)?;
            progress(Progress { files: read.fetch_add(1, Ordering::Relaxed) + 1, of: corpus.len() });
            Ok(file)
        })?;
        let mut parsed = Vec::with_capacity(files.len());
        for file in files {
            match file {
                Ok(file) => {
                    report.add_file(&file.file, file.is_whole);
                    parsed.push(file);
                }
                Err(reason) => *report.left_out.entry(reason).or_default() += 1,
            }
        }
        let Some(name) = parsed.first().map(|file| Arc::<str>::from(file.file.repository.as_str())) else { continue };
        let repository = Repository::new(name, parsed);
        let built = in_order(settings.threads, repository.files.len(), |file, parsers| {
            trajectories(&repository, file, settings, parsers)
        })?;
        for one in built.into_iter().flatten() {
            report.add(&one);
            sink(one)?;
        }
    }
    if report.files == 0 {
        return Err(SimulatorError::NoUsableFile { found: corpus.len(), left_out: report.left_out_text() });
    }
    Ok(report)
}

fn read_file(corpus: &CodeCorpus, part: &Range<usize>, number: usize, parsers: &mut Parsers) -> Result<ReadFile> {
    match corpus.read(part.start + number)? {
        Ok((file, text)) => Ok(Ok(ParsedFile::new(Arc::new(file), text, parsers)?)),
        Err(reason) => Ok(Err(reason)),
    }
}

fn trajectories(
    repository: &Repository,
    file: usize,
    settings: &BuildSettings,
    parsers: &mut Parsers,
) -> Result<Vec<Built>> {
    let search = Search::new(repository, file, settings);
    let mut made = Vec::new();
    for draft in search.drafts(&settings.patterns) {
        let trajectory = draft.realize(repository, parsers)?;
        made.extend(trajectory.map(|trajectory| with_files(repository, trajectory, &draft.files())));
    }
    if settings.patterns.contains(&Pattern::DiagnosticFix) {
        for Reported { range, before, detail, diagnostic } in reported(&search, &settings.compilers)? {
            let changes = vec![Change { file, range, before, cause: None }];
            let draft = Draft { pattern: Pattern::DiagnosticFix, detail, changes };
            let Some(mut trajectory) = draft.realize(repository, parsers)? else { continue };
            if let Some(step) = trajectory.steps.first_mut() {
                step.diagnostic = Some(diagnostic);
            }
            made.push(with_files(repository, trajectory, &draft.files()));
        }
    }
    Ok(made)
}

fn with_files(repository: &Repository, trajectory: Trajectory, numbers: &[usize]) -> Built {
    let found = || numbers.iter().filter_map(|number| repository.files.get(*number));
    let files = found().map(|one| Arc::clone(&one.file)).collect();
    let texts = found().map(|one| Arc::clone(&one.text)).collect();
    Built { trajectory, files, texts }
}

/// What `work` makes of the numbers below `count`, in order. Each thread has its own parsers.
fn in_order<T: Send>(
    threads: usize,
    count: usize,
    work: impl Fn(usize, &mut Parsers) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<Vec<(usize, T)>> {
        let (mut parsers, mut done) = (Parsers::default(), Vec::new());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(done);
            }
            done.push((number, work(number, &mut parsers)?));
        }
    };
    let mut all: Vec<(usize, T)> = Vec::with_capacity(count);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(count)).map(|_| scope.spawn(run)).collect();
        let mut result: Result<Vec<(usize, T)>> = run();
        for other in others {
            let joined = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = match (result, joined) {
                (Ok(mut done), Ok(more)) => {
                    done.extend(more);
                    Ok(done)
                }
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
        }
        all.extend(result?);
        Ok::<(), SimulatorError>(())
    })?;
    all.sort_unstable_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}
