//! Endless tasks for pretraining and for judging old skills, from many packages.

use crate::draft::Extent;
use crate::error::Result;
use crate::habit::{self, HabitTask};
use crate::random::Dice;
use crate::source::{Language, SourceFile, digest_hex};
use crate::syntax::{IndexedFile, Indexer};
use crate::tasks::{EditTask, Limits, Mix, SYMBOL_KINDS, TaskKind, TaskMaker};
use crate::words::{Pool, Words};
use std::sync::Arc;

/// Which packages and names tasks are made of. The two never share a package, nor a new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// For evaluation: one package in ten, reserved names.
    HeldOut,
}

impl Split {
    /// The split that a package belongs to.
    #[must_use]
    pub fn of_package(package: &str) -> Self {
        let digest = digest_hex(package.as_bytes());
        let number = u64::from_str_radix(digest.get(..8).unwrap_or("0"), 16).unwrap_or(0);
        if number % 10 == 3 { Self::HeldOut } else { Self::Train }
    }

    /// The split of a repository that may be a package with its version: all versions are in one split.
    #[must_use]
    pub fn of_repository(repository: &str) -> Self {
        Self::of_package(package_of(repository))
    }
}

/// The name of a package, without the version that stands behind it in the names of folders: `toml` of
/// `toml-1.2.1+spec-1.1.0`.
#[must_use]
pub fn package_of(repository: &str) -> &str {
    let is_version = |text: &str| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && text.as_bytes().get(digits) == Some(&b'.')
    };
    let version = repository
        .match_indices('-')
        .map(|(place, _)| place)
        .find(|place| *place > 0 && repository.get(place + 1..).is_some_and(is_version));
    version.and_then(|place| repository.get(..place)).unwrap_or(repository)
}

#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    symbol: usize,
}

/// Indexed files of one split, with every place that a task can start from.
#[derive(Debug)]
pub struct BaseCorpus {
    files: Vec<IndexedFile>,
    /// By language, then by the order of [`SYMBOL_KINDS`].
    places: [[Vec<Place>; 7]; 2],
    words: Words,
    split: Split,
}

const LANGUAGES: [Language; 2] = [Language::Rust, Language::Python];

impl BaseCorpus {
    /// Parses the files of `split` on as many threads as the machine has cores.
    ///
    /// # Errors
    /// When a grammar does not load.
    pub fn index(files: Vec<SourceFile>, split: Split) -> Result<Self> {
        let files: Vec<SourceFile> =
            files.into_iter().filter(|file| Split::of_package(&file.repository) == split).collect();
        let files = index_files(files)?;
        let mut places: [[Vec<Place>; 7]; 2] = Default::default();
        for (file_number, file) in files.iter().enumerate() {
            for (symbol_number, symbol) in file.symbols.iter().enumerate() {
                let language = usize::from(file.source.language == Language::Python);
                let kind = SYMBOL_KINDS.iter().position(|kind| *kind == symbol.kind).unwrap_or_default();
                if let Some(list) = places.get_mut(language).and_then(|kinds| kinds.get_mut(kind)) {
                    list.push(Place { file: file_number, symbol: symbol_number });
                }
            }
        }
        let names = files.iter().flat_map(|file| &file.symbols).map(|symbol| symbol.name.as_str());
        let words = Words::from_names(names, 3);
        Ok(Self { files, places, words, split })
    }

    /// The indexed files.
    #[must_use]
    pub fn files(&self) -> &[IndexedFile] {
        &self.files
    }

    /// The words that new names are made of.
    #[must_use]
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// How many definitions tasks can start from.
    #[must_use]
    pub fn place_count(&self) -> usize {
        self.places.iter().flatten().map(Vec::len).sum()
    }
}

/// Parses files in parallel; files that do not parse are left out. The order is kept.
///
/// # Errors
/// When a grammar does not load.
pub fn index_files(files: Vec<SourceFile>) -> Result<Vec<IndexedFile>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = files.len().div_ceil(threads).max(1);
    let indexed: Vec<Result<Vec<IndexedFile>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (files.chunks(share))
            .map(|chunk| {
                scope.spawn(move || {
                    let mut indexer = Indexer::new()?;
                    Ok(chunk.iter().filter_map(|file| indexer.index(file.clone())).collect())
                })
            })
            .collect();
        // A panic of a parser thread is passed on, it is not swallowed.
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut all = Vec::with_capacity(files.len());
    for part in indexed {
        all.append(&mut part?);
    }
    Ok(all)
}

/// Makes tasks from a [`BaseCorpus`]. Task `n` is a pure function of the corpus, the seed and `n`, so that training can
/// be resumed at any step and divided among threads.
#[derive(Debug, Clone)]
pub struct BaseTaskGenerator {
    corpus: Arc<BaseCorpus>,
    seed: u64,
    limits: Limits,
    mix: Mix,
    next: u64,
}

/// Share of tasks for which a habit is drawn.
const HABIT_SHARE: f64 = 0.5;
/// Share of names that are rendered as the anonymizer renders them.
pub(crate) const SCRAMBLED_SHARE: f64 = 0.5;
/// Attempts for one task; one in a few succeeds, so that running out means that the corpus has no usable place.
const ATTEMPTS: u64 = 4000;

impl BaseTaskGenerator {
    /// Tasks of `corpus` under `seed`, with the default limits and mix.
    #[must_use]
    pub fn new(corpus: Arc<BaseCorpus>, seed: u64) -> Self {
        Self { corpus, seed, limits: Limits::default(), mix: Mix::default(), next: 0 }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same with another mix.
    #[must_use]
    pub fn with_mix(self, mix: Mix) -> Self {
        Self { mix, ..self }
    }

    /// Task number `index`; `None` only when the corpus has no usable place.
    #[must_use]
    pub fn task_at(&self, index: u64) -> Option<EditTask> {
        Some(self.make(index, 0.0, 0.0)?.task)
    }

    /// Task number `index`, half of the time with an invented habit, and half of the time with names of repository and
    /// path as the anonymizer renders them: random letters of the same shape.
    #[must_use]
    pub fn habit_task_at(&self, index: u64) -> Option<HabitTask> {
        self.make(index, HABIT_SHARE, SCRAMBLED_SHARE)
    }

    fn make(&self, index: u64, habits: f64, scrambled: f64) -> Option<HabitTask> {
        let mut dice = Dice::new(self.seed, "base task", &[index]);
        let wants_edit = !dice.chance(self.mix.no_edit);
        let mut made = (0..ATTEMPTS).find_map(|_| self.attempt(wants_edit, habits, &mut dice))?;
        if dice.chance(scrambled) {
            scramble_path(&mut made.task, &mut dice);
        }
        if dice.chance(scrambled) {
            made.task.context.repository = scramble(&made.task.context.repository, &mut dice);
        }
        Some(made)
    }

    fn attempt(&self, wants_edit: bool, habits: f64, dice: &mut Dice) -> Option<HabitTask> {
        let corpus = &self.corpus;
        let kinds = corpus.places.get(dice.below(LANGUAGES.len()))?;
        let kind = dice.weighted(&self.mix.symbols);
        let place = dice.pick(kinds.get(kind)?)?;
        let file = corpus.files.get(place.file)?;
        let symbol = file.symbols.get(place.symbol)?;
        let pool = if corpus.split == Split::Train { Pool::Open } else { Pool::Reserved };
        let maker = TaskMaker { words: &corpus.words, limits: &self.limits, extent: Extent::Window, pool };
        let mut draft = maker.draft(file, symbol, true, self.mix.signature, dice)?;
        let replace_others = dice.chance(self.mix.replace_others);
        let (task, sites) = if wants_edit {
            maker.follow(&mut draft, replace_others, dice)?
        } else {
            (maker.leave(&mut draft, replace_others, dice)?, Vec::new())
        };
        debug_assert_eq!(task.kind == TaskKind::NoEdit, !wants_edit);
        let HabitTask { mut task, habit } = if dice.chance(habits) {
            habit::give(task, &draft.edit, &sites, file.source.language, &corpus.words, dice)
        } else {
            HabitTask { task, habit: None }
        };
        // Which team or file it is must teach nothing here: only a team's own pairs may.
        task.context.repository = corpus.words.repository(dice);
        let path = short_path(&task.context.path);
        move_to(&mut task, path);
        Some(HabitTask { task, habit })
    }
}

impl Iterator for BaseTaskGenerator {
    type Item = EditTask;

    fn next(&mut self) -> Option<EditTask> {
        let task = self.task_at(self.next);
        self.next += 1;
        task
    }
}

/// The same task in a file of another name.
fn move_to(task: &mut EditTask, path: String) {
    for edit in &mut task.context.recent_edits {
        edit.path.clone_from(&path);
    }
    for action in task.wanted.actions.iter_mut().chain(&mut task.plain.actions) {
        action.path.clone_from(&path);
    }
    task.context.path = path;
}

/// Random letters in the shape of `name`.
pub(crate) fn scramble(name: &str, dice: &mut Dice) -> String {
    let mut letter = |first: u8| char::from(first + u8::try_from(dice.below(26)).unwrap_or(0));
    name.chars()
        .map(|character| match character {
            'a'..='z' => letter(b'a'),
            'A'..='Z' => letter(b'A'),
            other => other,
        })
        .collect()
}

fn scramble_path(task: &mut EditTask, dice: &mut Dice) {
    let moved = scrambled_path(&task.context.path, dice);
    move_to(task, moved);
}

/// Random letters in the shape of `path`, which keeps its ending.
pub(crate) fn scrambled_path(path: &str, dice: &mut Dice) -> String {
    let stem_end = path.rfind('.').unwrap_or(path.len());
    let (stem, extension) = path.split_at(stem_end);
    scramble(stem, dice) + extension
}

/// The last two parts of a path.
pub(crate) fn short_path(path: &str) -> String {
    let mut parts: Vec<&str> = path.rsplitn(3, '/').take(2).collect();
    parts.reverse();
    parts.join("/")
}
