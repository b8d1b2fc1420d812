//! What a disk is found with after the power was cut: what was synced, and of the rest nothing, or what it happened to
//! have written by then, in whatever order and in parts.
//!
//! A file is found under its name only when its directory was synced since it was made; one that was removed is there
//! again when it was not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A disk writes as much in one, or nothing of it.
const SECTOR: usize = 512;

/// What becomes of changes that were not synced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unsynced {
    /// None of them was made.
    Lost,
    /// Chance decides about each, from this seed.
    Chance(u64),
}

/// When the power is cut, and where it is written down what a directory is found with then.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Before the change of this number; syncs are counted too.
    pub(crate) change: u64,
    pub(crate) directory: PathBuf,
    pub(crate) found: PathBuf,
    pub(crate) unsynced: Unsynced,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn make(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => write(content, *at, bytes),
            Self::Length(length) => content.resize(*length, 0),
        }
    }

    fn make_by_chance(&self, content: &mut Vec<u8>, chance: &mut Chance) {
        match (self, chance.below(4)) {
            (_, 0 | 1) => {}
            (Self::Write { at, bytes }, 2) => {
                let end = (at + chance.below(bytes.len() + 1)) / SECTOR * SECTOR;
                write(content, *at, &bytes[..end.saturating_sub(*at)]);
            }
            _ => self.make(content),
        }
    }
}

fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

/// Numbers that look like chance and are the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        // Splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }
}

/// A file.
#[derive(Debug, Default)]
struct Content {
    synced: Vec<u8>,
    /// In order.
    since: Vec<Change>,
}

impl Content {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.since) {
            change.make(&mut self.synced);
        }
    }

    fn found(&self, unsynced: Unsynced) -> Vec<u8> {
        let mut found = self.synced.clone();
        if let Unsynced::Chance(seed) = unsynced {
            let mut chance = Chance(seed);
            for change in &self.since {
                change.make_by_chance(&mut found, &mut chance);
            }
        }
        found
    }
}

/// A name.
#[derive(Debug, Default)]
struct Name {
    /// The file that has it.
    file: Option<Content>,
    /// Whether the directory on the disk says so.
    is_entered: bool,
    /// What is found under the name as long as it does not.
    before: Option<Vec<u8>>,
}

/// A disk, of which this knows what it was told.
#[derive(Debug)]
pub(crate) struct Disk {
    names: BTreeMap<PathBuf, Name>,
    changes: u64,
    cut: Option<Cut>,
    is_lying: bool,
}

impl Disk {
    pub(super) const fn new() -> Self {
        Self { names: BTreeMap::new(), changes: 0, cut: None, is_lying: false }
    }

    /// The process ends then.
    pub(super) fn cut_at(&mut self, cut: Cut) {
        self.cut = Some(cut);
    }

    /// From now on it says that it has synced, and has not.
    pub(super) fn lie(&mut self) {
        self.is_lying = true;
    }

    /// What is found in a directory if the power is cut now, written to another one.
    pub(super) fn write_found(&self, directory: &Path, to: &Path, unsynced: Unsynced) {
        // SQLite resolves links.
        let directory = std::fs::canonicalize(directory).unwrap();
        std::fs::create_dir_all(to).unwrap();
        for (path, name) in &self.names {
            if path.parent() != Some(directory.as_path()) {
                continue;
            }
            let found = match (&name.file, name.is_entered) {
                (Some(file), true) => Some(file.found(unsynced)),
                _ => name.before.clone(),
            };
            if let Some(found) = found {
                std::fs::write(to.join(path.file_name().unwrap()), found).unwrap();
            }
        }
    }

    /// Something is about to change.
    pub(super) fn changes(&mut self) {
        self.changes += 1;
        if let Some(Cut { change, directory, found, unsynced }) = &self.cut
            && *change == self.changes
        {
            self.write_found(directory, found, *unsynced);
            std::process::abort();
        }
    }

    /// A file is about to be opened; what was there before anybody changed it here is on the disk.
    pub(super) fn opening(&mut self, path: &Path) {
        if !self.names.contains_key(path)
            && let Ok(synced) = std::fs::read(path)
        {
            let file = Some(Content { synced, since: Vec::new() });
            self.names.insert(path.to_owned(), Name { file, is_entered: true, before: None });
        }
    }

    /// It was opened, and made if it was not there.
    pub(super) fn opened(&mut self, path: &Path) {
        self.names.entry(path.to_owned()).or_default().file.get_or_insert_default();
    }

    fn file(&mut self, path: &Path) -> Option<&mut Content> {
        self.names.get_mut(path)?.file.as_mut()
    }

    pub(super) fn written(&mut self, path: &Path, at: usize, bytes: &[u8]) {
        if let Some(file) = self.file(path) {
            file.since.push(Change::Write { at, bytes: bytes.to_vec() });
        }
    }

    pub(super) fn resized(&mut self, path: &Path, length: usize) {
        if let Some(file) = self.file(path) {
            file.since.push(Change::Length(length));
        }
    }

    /// `with_directory`: the names in its directory too.
    pub(super) fn synced(&mut self, path: &Path, with_directory: bool) {
        if self.is_lying {
            return;
        }
        if let Some(file) = self.file(path) {
            file.sync();
        }
        if with_directory {
            self.enter_all(path);
        }
    }

    pub(super) fn removed(&mut self, path: &Path, with_directory: bool) {
        let Some(name) = self.names.get_mut(path) else { return };
        if let (Some(file), true) = (name.file.take(), name.is_entered) {
            name.before = Some(file.synced);
        }
        name.is_entered = false;
        if with_directory && !self.is_lying {
            self.enter_all(path);
        }
    }

    /// The directory of a file is synced: every name in it is as it is now.
    fn enter_all(&mut self, path: &Path) {
        for (other, name) in &mut self.names {
            if other.parent() == path.parent() {
                name.is_entered = name.file.is_some();
                name.before = None;
            }
        }
    }
}
