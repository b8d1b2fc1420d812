//! A repository in memory: parsed files, and where each name that it defines stands.

use crate::error::Result;
use crate::trajectory::corpus::CorpusFile;
use crate::trajectory::language::{CodeLanguage, Parsers};
use crate::trajectory::outline::{Defined, Occurrence, Outline, Role, is_plain_name};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use tree_sitter::{Node, Tree};

/// A file with its tree.
#[derive(Debug)]
pub(crate) struct ParsedFile {
    pub(crate) file: Arc<CorpusFile>,
    pub(crate) text: Arc<str>,
    pub(crate) tree: Tree,
    pub(crate) outline: Outline,
    /// Whether its grammar understands all of it: only then anything is concluded from it.
    pub(crate) is_whole: bool,
}

impl ParsedFile {
    pub(crate) fn new(file: Arc<CorpusFile>, text: Arc<str>, parsers: &mut Parsers) -> Result<Self> {
        let tree = parsers.parse(file.language, &text, None)?;
        let outline = Outline::of(&tree, &text);
        let is_whole = !tree.root_node().has_error();
        Ok(Self { file, text, tree, outline, is_whole })
    }

    pub(crate) fn language(&self) -> CodeLanguage {
        self.file.language
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }

    /// The node of a name.
    pub(crate) fn node(&self, name: Occurrence) -> Option<Node<'_>> {
        let range = name.range();
        let node = self.tree.root_node().descendant_for_byte_range(range.start, range.end)?;
        (node.byte_range() == range).then_some(node)
    }

    /// The names whose places lie inside `range`.
    pub(crate) fn names_in(&self, range: &Range<usize>) -> &[Occurrence] {
        let names = &self.outline.names;
        let first = names.partition_point(|name| (name.start as usize) < range.start);
        let last = names.partition_point(|name| (name.start as usize) < range.end);
        names.get(first..last).unwrap_or_default()
    }
}

/// A place of a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Number of the file.
    pub(crate) file: usize,
    pub(crate) name: Occurrence,
}

/// Everything known of a name that the repository defines.
#[derive(Debug, Default)]
pub(crate) struct Name {
    /// All its places but the definitions, by file and position.
    pub(crate) places: Vec<Place>,
    /// Where it is defined, in the same order.
    pub(crate) definitions: Vec<(Place, Defined)>,
    /// Whether a comment or string has the word.
    pub(crate) is_spoken_of: bool,
    /// Whether a file has the word that its grammar does not understand: not all places may be known.
    pub(crate) is_unclear: bool,
}

impl Name {
    /// The definition; none when there are several.
    pub(crate) fn definition(&self) -> Option<Place> {
        match self.definitions.as_slice() {
            [(place, _)] => Some(*place),
            _ => None,
        }
    }
}

/// Files of one repository and what they define.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) name: Arc<str>,
    /// Sorted by path.
    pub(crate) files: Vec<ParsedFile>,
    names: HashMap<String, Name>,
    /// Hashes of all names and of all words of comments and strings.
    words: HashSet<u64>,
}

/// The same in every process.
fn hash(word: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    word.hash(&mut hasher);
    hasher.finish()
}

impl Repository {
    pub(crate) fn new(name: Arc<str>, files: Vec<ParsedFile>) -> Self {
        let mut names: HashMap<String, Name> = HashMap::new();
        for file in &files {
            for occurrence in &file.outline.names {
                let text = file.slice(occurrence.range());
                if let Role::Defined(defined) = occurrence.role
                    && defined != Defined::Other
                    && is_plain_name(text)
                    && !names.contains_key(text)
                {
                    names.insert(text.to_owned(), Name::default());
                }
            }
        }
        let mut words = HashSet::new();
        for (number, file) in files.iter().enumerate() {
            for occurrence in &file.outline.names {
                let text = file.slice(occurrence.range());
                words.insert(hash(text));
                let Some(name) = names.get_mut(text) else { continue };
                let place = Place { file: number, name: *occurrence };
                name.is_unclear |= !file.is_whole;
                match occurrence.role {
                    Role::Defined(defined) => name.definitions.push((place, defined)),
                    _ => name.places.push(place),
                }
            }
            for word in file.outline.spoken_words(&file.text) {
                words.insert(hash(word));
                if let Some(name) = names.get_mut(word) {
                    name.is_spoken_of = true;
                    name.is_unclear |= !file.is_whole;
                }
            }
        }
        Self { name, files, names, words }
    }

    /// What is known of a name; none when the repository does not define it.
    pub(crate) fn known(&self, name: &str) -> Option<&Name> {
        self.names.get(name)
    }

    /// Whether all places of a name are in files whose languages call each other by name.
    pub(crate) fn is_of_one_language(&self, name: &Name, language: CodeLanguage) -> bool {
        let fits = |other: CodeLanguage| other == language || (other.is_script() && language.is_script());
        name.places.iter().all(|place| self.files.get(place.file).is_some_and(|file| fits(file.language())))
    }

    /// Whether a word stands anywhere, as a name or in a text. Two words in 2^64 are taken for each other.
    pub(crate) fn has_word(&self, word: &str) -> bool {
        self.words.contains(&hash(word))
    }

    /// The definitions of a file, in order.
    pub(crate) fn definitions(&self, file: usize) -> impl Iterator<Item = (Occurrence, Defined)> {
        self.files.get(file).into_iter().flat_map(|file| &file.outline.names).filter_map(|name| match name.role {
            Role::Defined(defined) if defined != Defined::Other => Some((*name, defined)),
            _ => None,
        })
    }
}
