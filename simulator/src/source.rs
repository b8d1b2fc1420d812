//! Source files that tasks are made from: what they are, where they come from, what is left out.

use crate::error::{Result, SimulatorError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A language that tasks can be made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Rust.
    Rust,
    /// Python.
    Python,
}

impl Language {
    /// The language of a file name, if it is one that tasks can be made in.
    #[must_use]
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "rs" => Some(Self::Rust),
            "py" => Some(Self::Python),
            _ => None,
        }
    }

    /// Language id as in LSP.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
        }
    }

    /// The language of an LSP language id.
    #[must_use]
    pub fn of_id(id: &str) -> Option<Self> {
        match id {
            "rust" => Some(Self::Rust),
            "python" => Some(Self::Python),
            _ => None,
        }
    }
}

/// One file of real code.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The repository or package that it belongs to.
    pub repository: Arc<str>,
    /// Path inside the repository, with `/`.
    pub path: Arc<str>,
    /// Its language.
    pub language: Language,
    /// Its text.
    pub text: Arc<str>,
}

/// Lower-case hexadecimal SHA-256.
#[must_use]
pub fn digest_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Files below this size have no code worth a task; files above it are mostly tables.
const FILE_BYTES: std::ops::RangeInclusive<u64> = 800..=120_000;

/// All usable source files below `root`, sorted by path. Hidden folders, `target` and `node_modules` are left out, and
/// links are not followed.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn read_folder(repository: &str, root: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|source| SimulatorError::read(&folder, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| SimulatorError::read(&folder, source))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|source| SimulatorError::read(&path, source))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') || name == "target" || name == "node_modules" {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.extend(read_file(repository, root, &path)?);
            }
        }
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(files)
}

fn read_file(repository: &str, root: &Path, path: &Path) -> Result<Option<SourceFile>> {
    let Some(language) = Language::of_path(path) else { return Ok(None) };
    let bytes = std::fs::metadata(path).map_err(|source| SimulatorError::read(path, source))?.len();
    if !FILE_BYTES.contains(&bytes) {
        return Ok(None);
    }
    let content = std::fs::read(path).map_err(|source| SimulatorError::read(path, source))?;
    let Ok(text) = String::from_utf8(content) else { return Ok(None) };
    // Line arithmetic assumes plain line feeds; a NUL means that this is not text.
    if text.contains(['\r', '\0']) {
        return Ok(None);
    }
    let Ok(relative) = path.strip_prefix(root) else { return Ok(None) };
    let relative = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    Ok(Some(SourceFile { repository: repository.into(), path: relative.into(), language, text: text.into() }))
}

/// One package that the base model learned from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasePackage {
    /// Name in its ecosystem.
    pub package: String,
    /// Where it comes from.
    pub ecosystem: Language,
    /// Exact version.
    pub version: String,
    /// SHA-256 of the archive, lower-case hexadecimal.
    pub sha256: String,
    /// Licence expression.
    pub licence: String,
}

/// The packages that the base model learned from: `edit-model/base/sources.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseManifest {
    /// Sorted by ecosystem and name.
    pub packages: Vec<BasePackage>,
}

impl BaseManifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// When the file cannot be read or is not a manifest.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| SimulatorError::read(path, source))?;
        serde_json::from_str(&text).map_err(|source| SimulatorError::Manifest { path: path.to_path_buf(), source })
    }

    /// Reads the files of every package below `cache`, as `simulator/fetch-sources` left them there: at most
    /// `bytes_per_package` of each, the files in the order of their digests, so that no package dominates and the
    /// choice is the same everywhere. The repository of a file is its package. A file that the demo's corpus holds too
    /// is left out: what the base has learned from may not be what it is tried on.
    ///
    /// # Errors
    /// When a package is not there or cannot be read.
    pub fn load(&self, cache: &Path, bytes_per_package: usize) -> Result<Vec<SourceFile>> {
        let of_the_demo = demo_digests()?;
        let mut chosen = Vec::new();
        for package in &self.packages {
            let folder = cache.join(package.ecosystem.id()).join(format!("{}-{}", package.package, package.version));
            if !folder.join(".complete").is_file() {
                return Err(SimulatorError::MissingPackage(package.package.clone()));
            }
            let mut files = read_folder(&package.package, &folder)?;
            files.sort_by_cached_key(|file| digest_hex(file.text.as_bytes()));
            files.retain(|file| !of_the_demo.contains(&digest_hex(file.text.as_bytes())));
            let mut total = 0_usize;
            files.retain(|file| {
                total += file.text.len();
                total <= bytes_per_package
            });
            chosen.append(&mut files);
        }
        Ok(chosen)
    }
}

/// Digests of all files of the corpus inside.
pub(crate) fn demo_digests() -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Demo {
        packages: Vec<DemoPackage>,
    }
    #[derive(Deserialize)]
    struct DemoPackage {
        files: Vec<DemoFile>,
    }
    #[derive(Deserialize)]
    struct DemoFile {
        sha256: String,
    }
    let demo: Demo = serde_json::from_str(include_str!("../corpus/MANIFEST.json"))
        .map_err(|source| SimulatorError::Manifest { path: "simulator/corpus/MANIFEST.json".into(), source })?;
    Ok(demo.packages.into_iter().flat_map(|package| package.files).map(|file| file.sha256).collect())
}

/// Where `simulator/fetch-sources` keeps what it fetched.
#[must_use]
pub fn default_source_cache() -> Option<PathBuf> {
    let filled = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = filled("XDG_CACHE_HOME").or_else(|| Some(filled("HOME")?.join(".cache")))?;
    Some(cache.join("flywheel").join("sources"))
}
