//! The files that trajectories may be made of, each with its licence.
//!
//! A file's licence is, in this order: the one that the file itself names (`SPDX-License-Identifier`); the one of the
//! package that lists it in `MANIFEST.json` at the corpus's root, whose digest it must have; the one that the nearest
//! `Cargo.toml`, `package.json` or `pyproject.toml` above it declares, unless a repository or package that declares
//! nothing lies between. Without any, or with one that is not allowed, the file is left out: nobody guesses from a
//! licence's text.

use crate::error::{Result, SimulatorError};
use crate::history::filter::{is_foreign, says_generated};
use crate::source::digest_hex;
use crate::trajectory::language::CodeLanguage;
use events::licence::{ALLOWED, Licence};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a file's licence was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LicenceSource {
    /// In the file.
    Header,
    /// In the corpus's manifest.
    Manifest,
    /// In the manifest of the package around it.
    Package,
}

/// A file that may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusFile {
    /// The repository that it belongs to: its top-level folder in the corpus, or the corpus itself; [`BESIDE`] for what
    /// stands beside such folders.
    pub repository: String,
    /// Path inside the repository, with `/`.
    pub path: String,
    /// Its language.
    pub language: CodeLanguage,
    /// Its licence.
    pub licence: Licence,
    /// Where the licence was found.
    pub licence_source: LicenceSource,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// Why a source file is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// Nothing says what its licence is, or what says so is no SPDX expression.
    LicenceUnknown,
    /// Its licence is not one of those that are allowed.
    LicenceNotAllowed,
    /// The manifest lists another content under its path.
    NotAsListed,
    /// Shorter or longer than the settings say.
    Size,
    /// Not UTF-8, or with a NUL.
    NotText,
    /// It says that it is generated, or has a line that nobody wrote.
    Generated,
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusSettings {
    /// Licences that may be used, as SPDX writes them.
    pub allowed: Vec<String>,
    /// Lengths of files, in bytes.
    pub file_bytes: RangeInclusive<u64>,
    /// A file with a longer line, in bytes, is taken for generated.
    pub line_bytes: usize,
}

impl Default for CorpusSettings {
    fn default() -> Self {
        Self {
            allowed: ALLOWED.iter().map(|id| (*id).to_owned()).collect(),
            file_bytes: 200..=400_000,
            line_bytes: 2_000,
        }
    }
}

/// A folder of repositories, or one repository. Texts are read when they are asked for.
#[derive(Debug)]
pub struct CodeCorpus {
    settings: CorpusSettings,
    listed: HashMap<PathBuf, Listed>,
    /// By repository and path: where it is, and what it is.
    files: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    place: PathBuf,
    repository: String,
    path: String,
    language: CodeLanguage,
    bytes: u64,
    package: Option<Arc<Licence>>,
}

#[derive(Debug, Clone)]
struct Listed {
    licence: Option<Arc<Licence>>,
    sha256: Option<String>,
}

/// `MANIFEST.json`: what its packages have and under which licence.
#[derive(Debug, Deserialize)]
struct Manifest {
    packages: Vec<ManifestPackage>,
}

#[derive(Debug, Deserialize)]
struct ManifestPackage {
    licence: String,
    /// All files below this folder.
    folder: Option<String>,
    #[serde(default)]
    files: Vec<ManifestFile>,
}

#[derive(Debug, Deserialize)]
struct ManifestFile {
    path: String,
    sha256: String,
}

/// The repository of files that stand beside folders of repositories. No folder has this name.
pub const BESIDE: &str = ".";
/// A folder with one of these is a repository of its own.
const ROOTS: &[&str] = &[".git", "Cargo.toml", "package.json", "pyproject.toml", "go.mod", "pom.xml"];
/// A folder with one of these is a repository or package of its own, and none of them names a licence that is read:
/// what is declared above says nothing of it.
const OWN: &[&str] = &[".git", "go.mod", "pom.xml", "setup.py", "setup.cfg", "build.gradle", "build.gradle.kts"];
/// How much of a file is looked through for its licence and for signs of a generator.
const HEAD_BYTES: usize = 2_000;
/// Longest manifest of a package; the licence of one with a longer one is not known.
const PACKAGE_BYTES: u64 = 1_000_000;
/// Longest manifest of a corpus.
const MANIFEST_BYTES: u64 = 64_000_000;

impl CodeCorpus {
    /// Finds the source files below `root`. Links and the folders that histories pass over as well ([`is_foreign`]) are
    /// passed over.
    ///
    /// # Errors
    /// When a folder or the corpus's manifest can not be read.
    pub fn open(root: &Path, settings: CorpusSettings) -> Result<Self> {
        let mut corpus = Self { settings, listed: HashMap::new(), files: Vec::new() };
        // What is no folder is refused by its own name.
        drop(std::fs::read_dir(root).map_err(|source| SimulatorError::read(root, source))?);
        let folders = corpus.read_manifest(root)?;
        let is_one = ROOTS.iter().any(|name| root.join(name).exists());
        let whole = root.canonicalize().map_err(|source| SimulatorError::read(root, source))?;
        let whole = whole.file_name().map_or_else(|| "corpus".to_owned(), |name| name.to_string_lossy().into_owned());
        let mut waiting = vec![(root.to_path_buf(), None::<Arc<Licence>>, false)];
        while let Some((folder, above, is_listed)) = waiting.pop() {
            let (package, is_listed) = match (folders.get(&folder), declared(&folder)) {
                (Some(listed), _) => (listed.clone(), true),
                (None, Some(told)) => (told, false),
                // What the corpus's manifest says of a folder holds for all below it that says nothing else.
                (None, None) if !is_listed && is_own(&folder) => (None, false),
                (None, None) => (above, is_listed),
            };
            let entries = std::fs::read_dir(&folder).map_err(|source| SimulatorError::read(&folder, source))?;
            for entry in entries {
                let entry = entry.map_err(|source| SimulatorError::read(&folder, source))?;
                let place = entry.path();
                let kind = entry.file_type().map_err(|source| SimulatorError::read(&place, source))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if kind.is_dir() && !is_foreign(&name) {
                    waiting.push((place, package.clone(), is_listed));
                } else if kind.is_file()
                    && let Some(language) = CodeLanguage::of_path(&place)
                {
                    let bytes = entry.metadata().map_err(|source| SimulatorError::read(&place, source))?.len();
                    let Ok(relative) = place.strip_prefix(root) else { continue };
                    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                    let (repository, path) = match parts.split_first() {
                        Some((first, rest)) if !is_one && !rest.is_empty() => (first.clone(), rest.join("/")),
                        _ if is_one => (whole.clone(), parts.join("/")),
                        _ => (BESIDE.to_owned(), parts.join("/")),
                    };
                    let package = package.clone();
                    corpus.files.push(Found { place, repository, path, language, bytes, package });
                }
            }
        }
        corpus.files.sort_by(|left, right| (&left.repository, &left.path).cmp(&(&right.repository, &right.path)));
        Ok(corpus)
    }

    /// Reads `MANIFEST.json`, if there is one: its files are kept, its folders returned.
    fn read_manifest(&mut self, root: &Path) -> Result<HashMap<PathBuf, Option<Arc<Licence>>>> {
        let path = root.join("MANIFEST.json");
        let mut folders = HashMap::new();
        let text = match short_text(&path, MANIFEST_BYTES) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(folders),
            other => other.map_err(|source| SimulatorError::read(&path, source))?,
        };
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|source| SimulatorError::Manifest { path, source })?;
        for package in manifest.packages {
            let licence = Licence::parse(&package.licence).ok().map(Arc::new);
            for file in package.files {
                let listed = Listed { licence: licence.clone(), sha256: Some(file.sha256) };
                self.listed.insert(root.join(file.path), listed);
            }
            if let Some(folder) = package.folder {
                folders.insert(root.join(folder), licence);
            }
        }
        Ok(folders)
    }

    /// How many source files were found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no source file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The numbers of the files of each part that is looked at together: a repository, or as much of one as has
    /// `part_bytes`. Names are followed inside a part only.
    #[must_use]
    pub fn parts(&self, part_bytes: u64) -> Vec<std::ops::Range<usize>> {
        let mut parts = Vec::new();
        let (mut first, mut bytes) = (0, 0);
        for (number, file) in self.files.iter().enumerate() {
            let same = self.files.get(first).is_some_and(|one| one.repository == file.repository);
            if number > first && (!same || bytes + file.bytes > part_bytes) {
                parts.push(first..number);
                (first, bytes) = (number, 0);
            }
            bytes += file.bytes;
        }
        if first < self.files.len() {
            parts.push(first..self.files.len());
        }
        parts
    }

    /// Reads a file, if it may be used.
    ///
    /// # Errors
    /// When it can not be read.
    pub fn read(&self, number: usize) -> Result<std::result::Result<(CorpusFile, Arc<str>), LeftOut>> {
        let Some(found) = self.files.get(number) else { return Ok(Err(LeftOut::NotText)) };
        if !self.settings.file_bytes.contains(&found.bytes) {
            return Ok(Err(LeftOut::Size));
        }
        let content = std::fs::read(&found.place).map_err(|source| SimulatorError::read(&found.place, source))?;
        Ok(self.judge(found, content))
    }

    fn judge(&self, found: &Found, content: Vec<u8>) -> std::result::Result<(CorpusFile, Arc<str>), LeftOut> {
        let bytes = content.len() as u64;
        let text = String::from_utf8(content).map_err(|_| LeftOut::NotText)?;
        if text.contains('\0') {
            return Err(LeftOut::NotText);
        }
        let head = text.get(..text.floor_char_boundary(HEAD_BYTES)).unwrap_or_default();
        let listed = self.listed.get(&found.place);
        let (licence, licence_source) = if let Some(licence) = Licence::named_in(head) {
            (licence.ok(), LicenceSource::Header)
        } else if let Some(listed) = listed {
            (listed.licence.as_deref().cloned(), LicenceSource::Manifest)
        } else {
            (found.package.as_deref().cloned(), LicenceSource::Package)
        };
        let licence = licence.ok_or(LeftOut::LicenceUnknown)?;
        if !licence.is_allowed(&self.settings.allowed) {
            return Err(LeftOut::LicenceNotAllowed);
        }
        let sha256 = digest_hex(text.as_bytes());
        if listed.and_then(|listed| listed.sha256.as_ref()).is_some_and(|expected| *expected != sha256) {
            return Err(LeftOut::NotAsListed);
        }
        let is_long = text.lines().any(|line| line.len() > self.settings.line_bytes);
        if is_long || head.lines().any(says_generated) {
            return Err(LeftOut::Generated);
        }
        let file = CorpusFile {
            repository: found.repository.clone(),
            path: found.path.clone(),
            language: found.language,
            licence,
            licence_source,
            bytes,
            sha256,
        };
        Ok((file, text.into()))
    }
}

/// What the package in this folder declares: none when it declares nothing and what is around it counts; `Some(None)`
/// when it is a package of its own whose licence is not known.
fn declared(folder: &Path) -> Option<Option<Arc<Licence>>> {
    let told = |name: &str, read: fn(&str) -> Declared| {
        let path = folder.join(name);
        if path.symlink_metadata().is_err() {
            return Declared::Nothing;
        }
        // What is there and can not be read may declare anything.
        short_text(&path, PACKAGE_BYTES).map_or(Declared::Unknown, |text| read(&text))
    };
    let licence = told("Cargo.toml", of_cargo)
        .or_else(|| told("pyproject.toml", of_pyproject))
        .or_else(|| told("package.json", of_package_json));
    match licence {
        Declared::Nothing => None,
        Declared::Unknown => Some(None),
        Declared::As(text) => Some(Licence::parse(&text).ok().map(Arc::new)),
    }
}

/// Whether a folder is a repository or package of its own.
fn is_own(folder: &Path) -> bool {
    OWN.iter().any(|name| folder.join(name).symlink_metadata().is_ok())
}

/// The text of a file that has at most `limit` bytes. Links and pipes are refused: nobody knows where they end.
fn short_text(path: &Path, limit: u64) -> std::io::Result<String> {
    if !path.symlink_metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(text)
}

/// What a manifest says of a licence.
enum Declared {
    /// Nothing: what is around it counts.
    Nothing,
    /// It is a package, and its licence is not told.
    Unknown,
    As(String),
}

impl Declared {
    fn or_else(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Nothing => other(),
            told => told,
        }
    }
}

fn of_cargo(text: &str) -> Declared {
    let Ok(table) = toml::from_str::<toml::Table>(text) else { return Declared::Unknown };
    // `MIT/Apache-2.0`, which old packages have, means `MIT OR Apache-2.0` to Cargo.
    let as_told = |licence: &str| Declared::As(licence.replace('/', " OR "));
    let of_workspace = || {
        let package = table.get("workspace")?.get("package")?;
        Some(as_told(package.get("license")?.as_str()?))
    };
    match table.get("package").map(|package| package.get("license")) {
        Some(Some(toml::Value::String(licence))) => as_told(licence),
        // `license.workspace = true`: the workspace is this one or one around it.
        Some(Some(toml::Value::Table(_))) | None => of_workspace().unwrap_or(Declared::Nothing),
        Some(_) => Declared::Unknown,
    }
}

fn of_pyproject(text: &str) -> Declared {
    let Ok(table) = toml::from_str::<toml::Table>(text) else { return Declared::Unknown };
    let poetry = table.get("tool").and_then(|tool| tool.get("poetry"));
    let packages = [table.get("project"), poetry];
    if packages.iter().all(Option::is_none) {
        return Declared::Nothing;
    }
    let licence = packages.into_iter().flatten().find_map(|package| package.get("license"));
    let told = licence.and_then(|licence| licence.as_str().or_else(|| licence.get("text")?.as_str()));
    told.map_or(Declared::Unknown, |licence| Declared::As(licence.to_owned()))
}

fn of_package_json(text: &str) -> Declared {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return Declared::Unknown };
    match value.get("license").and_then(serde_json::Value::as_str) {
        Some(licence) => Declared::As(licence.to_owned()),
        // Without a name it is no package: a note for a tool.
        None if value.get("name").is_none() && value.get("license").is_none() => Declared::Nothing,
        None => Declared::Unknown,
    }
}

/// How many files were left out, and why.
pub type LeftOutCounts = BTreeMap<LeftOut, u64>;

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "def one_function(first, second):\n    return first + second\n";

    fn corpus(files: &[(&str, String)]) -> (tempfile::TempDir, CodeCorpus) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let settings = CorpusSettings { file_bytes: 10..=10_000, ..CorpusSettings::default() };
        let corpus = CodeCorpus::open(folder.path(), settings).unwrap();
        (folder, corpus)
    }

    fn judged(files: &[(&str, String)]) -> Vec<std::result::Result<(String, LicenceSource), LeftOut>> {
        let (_folder, corpus) = corpus(files);
        (0..corpus.len())
            .map(|number| corpus.read(number).unwrap().map(|(file, _)| (file.licence.to_string(), file.licence_source)))
            .collect()
    }

    #[test]
    fn nothing_without_an_allowed_licence_is_used() {
        let code = || CODE.to_owned();
        assert_eq!(judged(&[("a/x.py", code())]), [Err(LeftOut::LicenceUnknown)]);
        let package = |licence: &str| format!("[package]\nname = \"a\"\nlicense = \"{licence}\"\n");
        let found = |licence: &str| judged(&[("a/Cargo.toml", package(licence)), ("a/src/x.py", code())]);
        assert_eq!(found("MIT OR GPL-3.0"), [Ok(("MIT OR GPL-3.0".to_owned(), LicenceSource::Package))]);
        assert_eq!(found("GPL-3.0"), [Err(LeftOut::LicenceNotAllowed)]);
        assert_eq!(found("MIT/GPL-3.0-only"), [Ok(("MIT OR GPL-3.0-only".to_owned(), LicenceSource::Package))]);
        assert_eq!(found("GPL-3.0-only/MIT"), [Ok(("GPL-3.0-only OR MIT".to_owned(), LicenceSource::Package))]);
        assert_eq!(found("see the file"), [Err(LeftOut::LicenceUnknown)]);
        // What the file says of itself counts.
        let own = |id: &str| format!("# SPDX-License-Identifier: {id}\n{CODE}");
        let both = |id: &str| judged(&[("a/Cargo.toml", package("MIT")), ("a/src/x.py", own(id))]);
        assert_eq!(both("GPL-3.0-only"), [Err(LeftOut::LicenceNotAllowed)]);
        assert_eq!(both("ours"), [Err(LeftOut::LicenceNotAllowed)]);
        assert_eq!(both("ISC"), [Ok(("ISC".to_owned(), LicenceSource::Header))]);
        // A package of another repository says nothing.
        assert_eq!(judged(&[("a/Cargo.toml", package("MIT")), ("b/x.py", code())]), [Err(LeftOut::LicenceUnknown)]);
        let json = |text: &str| judged(&[("a/package.json", text.to_owned()), ("a/x.py", code())]);
        assert_eq!(json("{\"license\": \"ISC\"}"), [Ok(("ISC".to_owned(), LicenceSource::Package))]);
        assert_eq!(json("{\"name\": \"x\"}"), [Err(LeftOut::LicenceUnknown)]);
        assert_eq!(json("{\"license\": \"MIT/GPL-3.0-only\"}"), [Err(LeftOut::LicenceUnknown)]);
        let project = "[project]\nlicense = { text = \"MIT\" }\n".to_owned();
        let found = judged(&[("a/pyproject.toml", project), ("a/x.py", code())]);
        assert_eq!(found, [Ok(("MIT".to_owned(), LicenceSource::Package))]);
    }

    #[test]
    fn a_package_inside_another_speaks_for_itself() {
        let outer = "[workspace.package]\nlicense = \"MIT\"\n".to_owned();
        let inside = |inner: &str| {
            let files = [
                ("a/Cargo.toml", outer.clone()),
                ("a/inner/Cargo.toml", inner.to_owned()),
                ("a/inner/x.py", CODE.to_owned()),
            ];
            judged(&files).remove(0)
        };
        let inherited = Ok(("MIT".to_owned(), LicenceSource::Package));
        assert_eq!(inside("[package]\nlicense.workspace = true\n"), inherited);
        assert_eq!(inside("[workspace]\n"), inherited);
        assert_eq!(inside("[package]\nname = \"inner\"\n"), Err(LeftOut::LicenceUnknown));
        assert_eq!(inside("[package]\nlicense = \"GPL-3.0-only\"\n"), Err(LeftOut::LicenceNotAllowed));
        assert_eq!(inside("not toml"), Err(LeftOut::LicenceUnknown));
        // Too long to be read, it may declare anything.
        assert_eq!(inside(&"# long\n".repeat(200_000)), Err(LeftOut::LicenceUnknown));

        let with = |path: &str, text: &str| {
            let path = format!("a/inner/{path}");
            let files = [
                ("a/Cargo.toml", outer.clone()),
                (path.as_str(), text.to_owned()),
                ("a/inner/deep/x.py", CODE.to_owned()),
            ];
            judged(&files).remove(0)
        };
        assert_eq!(with("notes.txt", ""), inherited);
        for path in
            [".git/HEAD", ".git", "go.mod", "pom.xml", "setup.py", "setup.cfg", "build.gradle", "build.gradle.kts"]
        {
            assert_eq!(with(path, ""), Err(LeftOut::LicenceUnknown), "{path}");
        }
        let poetry = |licence: &str| with("pyproject.toml", &format!("[tool.poetry]\nname = \"inner\"\n{licence}"));
        assert_eq!(poetry(""), Err(LeftOut::LicenceUnknown));
        assert_eq!(poetry("license = \"GPL-3.0-only\"\n"), Err(LeftOut::LicenceNotAllowed));
        assert_eq!(poetry("license = \"ISC\"\n"), Ok(("ISC".to_owned(), LicenceSource::Package)));
        assert_eq!(with("pyproject.toml", "[tool.black]\n"), inherited);
        // What the corpus's manifest says of a folder holds for the modules in it, which can not say it themselves.
        let manifest = "{\"packages\": [{\"licence\": \"ISC\", \"folder\": \"a\"}]}".to_owned();
        let listed = [
            ("MANIFEST.json", manifest),
            ("a/pom.xml", String::new()),
            ("a/inner/pom.xml", String::new()),
            ("a/inner/x.py", CODE.to_owned()),
        ];
        assert_eq!(judged(&listed), [Ok(("ISC".to_owned(), LicenceSource::Package))]);
    }

    #[test]
    fn the_manifest_covers_what_it_lists_as_it_was_listed() {
        let manifest = |sha256: &str| {
            format!(
                "{{\"packages\": [{{\"licence\": \"MIT\", \"files\": [{{\"path\": \"a/x.py\", \"sha256\": \"{sha256}\"}}]}}, \
                 {{\"licence\": \"ISC\", \"folder\": \"b\"}}]}}"
            )
        };
        let files = |sha256: &str| {
            [("MANIFEST.json", manifest(sha256)), ("a/x.py", CODE.to_owned()), ("b/c/y.py", CODE.to_owned())]
        };
        let listed = Ok(("MIT".to_owned(), LicenceSource::Manifest));
        let inside = Ok(("ISC".to_owned(), LicenceSource::Package));
        assert_eq!(judged(&files(&digest_hex(CODE.as_bytes()))), [listed, inside.clone()]);
        assert_eq!(judged(&files("00")), [Err(LeftOut::NotAsListed), inside]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("MANIFEST.json"), "{").unwrap();
        let refused = CodeCorpus::open(folder.path(), CorpusSettings::default());
        assert!(matches!(refused, Err(SimulatorError::Manifest { .. })));
    }

    #[test]
    fn files_beside_a_folder_of_the_corpus_name_are_of_no_repository_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a");
        std::fs::create_dir_all(root.join("a")).unwrap();
        let first = format!("# SPDX-License-Identifier: MIT\n{CODE}");
        std::fs::write(root.join("x.py"), &first).unwrap();
        std::fs::write(root.join("a/x.py"), first.replace("first", "other")).unwrap();
        let settings = CorpusSettings { file_bytes: 10..=10_000, ..CorpusSettings::default() };
        let corpus = CodeCorpus::open(&root, settings).unwrap();
        let found: Vec<(String, String, bool)> = (0..corpus.len())
            .map(|number| {
                let (file, text) = corpus.read(number).unwrap().unwrap();
                (file.repository, file.path, *text == *first)
            })
            .collect();
        let expected = [(".", "x.py", true), ("a", "x.py", false)];
        let expected = expected.map(|(one, path, is_first)| (one.to_owned(), path.to_owned(), is_first));
        assert_eq!(found, expected);
        assert_eq!(corpus.parts(10_000), [0..1, 1..2]);
    }

    #[test]
    fn a_manifest_is_a_file_of_the_corpus_and_not_endless() {
        let folder = tempfile::tempdir().unwrap();
        let (real, manifest) = (folder.path().join("real.json"), folder.path().join("c/MANIFEST.json"));
        std::fs::write(&real, "{\"packages\": []}").unwrap();
        std::fs::create_dir(folder.path().join("c")).unwrap();
        let open = || CodeCorpus::open(&folder.path().join("c"), CorpusSettings::default());
        std::fs::copy(&real, &manifest).unwrap();
        assert!(open().is_ok());
        std::fs::remove_file(&manifest).unwrap();
        std::os::unix::fs::symlink(&real, &manifest).unwrap();
        assert!(matches!(open(), Err(SimulatorError::Read { path, .. }) if path == manifest));
        std::fs::remove_file(&manifest).unwrap();
        let (length, limit) = (std::fs::metadata(&real).unwrap().len(), MANIFEST_BYTES);
        assert!(short_text(&real, length).is_ok() && short_text(&real, length - 1).is_err());
        std::fs::File::create(&manifest).unwrap().set_len(limit + 1).unwrap();
        assert!(matches!(open(), Err(SimulatorError::Read { path, .. }) if path == manifest));
        // What is no folder is named itself, and not a manifest in it.
        let refused = CodeCorpus::open(&real, CorpusSettings::default());
        assert!(matches!(refused, Err(SimulatorError::Read { path, .. }) if path == real));
    }

    #[test]
    fn what_nobody_wrote_is_left_out() {
        let package = ("a/Cargo.toml", "[package]\nlicense = \"MIT\"\n".to_owned());
        let judge = |text: String| judged(&[package.clone(), ("a/x.py", text)]).remove(0);
        assert!(judge(CODE.to_owned()).is_ok());
        for mark in ["@generated", "DO NOT EDIT", "Code generated by x", "Automatically Generated", "autogenerated"] {
            assert_eq!(judge(format!("# {mark}\n{CODE}")), Err(LeftOut::Generated), "{mark}");
        }
        for folder in ["vendor", "third-party", ".venv", "venv", "dist", "target"] {
            let path = format!("a/{folder}/x.py");
            assert!(judged(&[package.clone(), (path.as_str(), CODE.to_owned())]).is_empty(), "{folder}");
        }
        assert_eq!(judge(format!("x = \"{}\"\n", "y".repeat(3_000))), Err(LeftOut::Generated));
        assert_eq!(judge("x = 1\n".to_owned()), Err(LeftOut::Size));
        assert_eq!(judge(format!("x = 1\0\n{CODE}")), Err(LeftOut::NotText));
    }

    #[test]
    fn parts_are_repositories_or_pieces_of_them() {
        let text = |bytes: usize| "x".repeat(bytes);
        let (_folder, corpus) =
            corpus(&[("a/1.py", text(50)), ("a/2.py", text(60)), ("b/1.py", text(20)), ("b/2.py", text(20))]);
        assert_eq!(corpus.parts(1_000), [0..2, 2..4]);
        assert_eq!(corpus.parts(100), [0..1, 1..2, 2..4]);
        assert_eq!(corpus.parts(1), [0..1, 1..2, 2..3, 3..4]);
    }
}
