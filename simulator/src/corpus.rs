//! The repositories that simulated developers work on.

use crate::base::index_files;
use crate::draft::LINE_MARKS_FUNCTION;
use crate::error::{Result, SimulatorError};
use crate::source::{SourceFile, digest_hex, read_folder};
use crate::syntax::{IndexedFile, Symbol, SymbolKind};
use crate::words::Words;
use std::path::Path;

/// A repository with enough code to work on.
#[derive(Debug)]
pub struct Repository {
    /// Its name, as the prompt shows it.
    pub name: String,
    /// Its usable files, sorted by path.
    pub files: Vec<IndexedFile>,
    /// Functions that have call sites: (file, symbol).
    pub(crate) functions: Vec<(usize, usize)>,
    /// Other definitions with uses.
    pub(crate) others: Vec<(usize, usize)>,
}

/// What developers work on.
#[derive(Debug)]
pub struct Corpus {
    /// At least two, sorted by name.
    pub repositories: Vec<Repository>,
    /// Whether the files were split into two repositories by path hash, because there were fewer than two.
    pub was_split: bool,
    /// The words of the corpus's names.
    pub(crate) words: Words,
}

/// Fewest functions and fewest other definitions that a repository must offer.
pub const LEAST_PLACES: usize = 12;
const SPLIT_NAMES: [&str; 2] = ["north-repository", "south-repository"];

/// Whether a symbol's definition line can be told from a function definition by a reader of that line.
fn is_plain_definition(file: &IndexedFile, symbol: &Symbol) -> bool {
    let line = file.line(symbol.definition.line);
    !symbol.kind.is_function() && !LINE_MARKS_FUNCTION.iter().any(|mark| line.contains(mark))
}

impl Repository {
    fn new(name: String, files: Vec<IndexedFile>) -> Self {
        let (mut functions, mut others) = (Vec::new(), Vec::new());
        for (file_number, file) in files.iter().enumerate() {
            for (symbol_number, symbol) in file.symbols.iter().enumerate() {
                if symbol.kind.is_function() {
                    functions.push((file_number, symbol_number));
                } else if is_plain_definition(file, symbol) {
                    others.push((file_number, symbol_number));
                }
            }
        }
        Self { name, files, functions, others }
    }

    fn is_usable(&self) -> bool {
        self.functions.len() >= LEAST_PLACES && self.others.len() >= LEAST_PLACES
    }

    /// How many definitions can be edited.
    #[must_use]
    pub fn places(&self) -> usize {
        self.functions.len() + self.others.len()
    }

    /// The symbol at a place.
    pub(crate) fn at(&self, place: (usize, usize)) -> Option<(&IndexedFile, &Symbol)> {
        let file = self.files.get(place.0)?;
        Some((file, file.symbols.get(place.1)?))
    }
}

impl Corpus {
    /// Reads `folder`: each top-level folder with enough usable files is a repository. With fewer than two, all files
    /// are split into two by the hash of their path.
    ///
    /// # Errors
    /// When the folder cannot be read, or offers too few places to edit.
    pub fn load(folder: &Path) -> Result<Self> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|source| SimulatorError::read(folder, source))? {
            let entry = entry.map_err(|source| SimulatorError::read(folder, source))?;
            let kind = entry.file_type().map_err(|source| SimulatorError::read(&entry.path(), source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
                names.push(name);
            }
        }
        names.sort();
        let mut repositories = Vec::new();
        for name in &names {
            let files = read_folder(name, &folder.join(name))?;
            let repository = Repository::new(name.clone(), index_files(files)?);
            if repository.is_usable() {
                repositories.push(repository);
            }
        }
        let was_split = repositories.len() < 2;
        if was_split {
            repositories = Self::split(folder)?;
        }
        Ok(Self::of(repositories, was_split))
    }

    /// A corpus of repositories that were put together elsewhere (named parts of the base sources, for benchmarks).
    ///
    /// # Errors
    /// When one of them offers too few places to edit, or there are fewer than two.
    pub fn from_files(parts: Vec<(String, Vec<SourceFile>)>) -> Result<Self> {
        let mut repositories = Vec::new();
        let count = parts.len();
        for (name, files) in parts {
            let found = files.len();
            let files = files.into_iter().map(|file| SourceFile { repository: name.as_str().into(), ..file }).collect();
            let repository = Repository::new(name.clone(), index_files(files)?);
            if !repository.is_usable() || count < 2 {
                let usable = repository.functions.len().min(repository.others.len());
                return Err(SimulatorError::NoUsableCode { path: name.into(), found, usable, needed: LEAST_PLACES });
            }
            repositories.push(repository);
        }
        Ok(Self::of(repositories, false))
    }

    fn of(repositories: Vec<Repository>, was_split: bool) -> Self {
        let names = repositories.iter().flat_map(|one| &one.files).flat_map(|file| &file.symbols);
        // One occurrence is enough: a small corpus has few names.
        let words = Words::from_names(names.map(|symbol| symbol.name.as_str()), 1);
        Self { repositories, was_split, words }
    }

    fn split(folder: &Path) -> Result<Vec<Repository>> {
        let files = read_folder("", folder)?;
        let found = files.len();
        let mut parts: [Vec<SourceFile>; 2] = [Vec::new(), Vec::new()];
        for file in files {
            let half =
                usize::from(digest_hex(file.path.as_bytes()).as_bytes().first().is_some_and(|digit| *digit >= b'8'));
            if let (Some(part), Some(name)) = (parts.get_mut(half), SPLIT_NAMES.get(half)) {
                part.push(SourceFile { repository: (*name).into(), ..file });
            }
        }
        let mut repositories = Vec::new();
        for (part, name) in parts.into_iter().zip(SPLIT_NAMES) {
            repositories.push(Repository::new(name.to_owned(), index_files(part)?));
        }
        if repositories.iter().any(|repository| !repository.is_usable()) {
            let usable =
                repositories.iter().map(|one| one.functions.len().min(one.others.len())).min().unwrap_or_default();
            return Err(SimulatorError::NoUsableCode {
                path: folder.to_path_buf(),
                found,
                usable,
                needed: LEAST_PLACES,
            });
        }
        Ok(repositories)
    }

    /// Kinds of definitions that can be edited, with how many there are: for reports.
    #[must_use]
    pub fn census(&self) -> Vec<(SymbolKind, usize)> {
        let symbols = || self.repositories.iter().flat_map(|one| &one.files).flat_map(|file| &file.symbols);
        crate::tasks::SYMBOL_KINDS
            .iter()
            .map(|kind| (*kind, symbols().filter(|symbol| symbol.kind == *kind).count()))
            .collect()
    }
}
