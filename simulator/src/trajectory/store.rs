//! Trajectories on disk: a folder with
//!
//! - `manifest.json`: what was built of what, every file with its licence and digest ([`TrajectoryManifest`]);
//! - `files.jsonl.zst`: the text of every file, once ([`StoredFile`] a line);
//! - `trajectories.jsonl.zst`: [`Trajectory`] a line. Its texts are the files' and what follows from them by taking
//!   steps back, so that a file costs its length once however many trajectories lead to it.
//!
//! Lines are JSON, compressed as Zstandard. The folder appears under its name when all of it is written.

use crate::error::{Result, SimulatorError};
use crate::trajectory::build::{BuildSettings, Built};
use crate::trajectory::corpus::CorpusFile;
use crate::trajectory::report::TrajectoryReport;
use crate::trajectory::{Pattern, Trajectory};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// The layout that this release writes and reads.
pub const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const FILES: &str = "files.jsonl.zst";
const TRAJECTORIES: &str = "trajectories.jsonl.zst";
/// Zstandard's own default.
const LEVEL: i32 = 3;

/// What was built of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrajectoryManifest {
    /// The layout: [`FORMAT`].
    pub format: u32,
    /// What built it.
    pub code_version: String,
    /// Same seed and corpus, same trajectories.
    pub seed: u64,
    /// Which patterns were looked for.
    pub patterns: Vec<Pattern>,
    /// Most trajectories of one pattern that begin in one file.
    pub per_file: usize,
    /// Most steps of a trajectory.
    pub most_steps: usize,
    /// The compilers that were asked, as they name themselves.
    pub compilers: Vec<String>,
    /// Licences that were allowed.
    pub allowed: Vec<String>,
    /// What was found.
    pub report: TrajectoryReport,
    /// The files that trajectories lead to, by repository and path: all that is stored of the corpus.
    pub files: Vec<CorpusFile>,
}

/// A file that trajectories lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// What it is.
    #[serde(flatten)]
    pub file: CorpusFile,
    /// Its text.
    pub text: Arc<str>,
}

type Lines = zstd::stream::write::Encoder<'static, BufWriter<File>>;

/// Writes a folder of trajectories.
pub struct TrajectoryWriter {
    output: PathBuf,
    folder: TempDir,
    files: Lines,
    trajectories: Lines,
    known: BTreeMap<(String, String), Arc<CorpusFile>>,
}

impl std::fmt::Debug for TrajectoryWriter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TrajectoryWriter").field("output", &self.output).finish_non_exhaustive()
    }
}

fn lines(path: &Path) -> Result<Lines> {
    let failed = |source| SimulatorError::write(path, source);
    let file = File::create(path).map_err(failed)?;
    zstd::stream::write::Encoder::new(BufWriter::new(file), LEVEL).map_err(failed)
}

fn add(lines: &mut Lines, path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |source| SimulatorError::write(path, source);
    let mut line = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    lines.write_all(&line).map_err(failed)
}

fn finish(lines: Lines, path: &Path) -> Result<()> {
    let failed = |source| SimulatorError::write(path, source);
    let file = lines.finish().map_err(failed)?.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

impl TrajectoryWriter {
    /// Begins the folder `output`, which must not hold anything yet. It is written beside its place, under another
    /// name, and removed again unless [`Self::finish`] is reached.
    ///
    /// # Errors
    /// When `output` holds something, or nothing can be written beside it.
    pub fn create(output: &Path) -> Result<Self> {
        if let Ok(mut entries) = std::fs::read_dir(output) {
            if entries.next().is_some() {
                return Err(SimulatorError::Occupied { path: output.to_path_buf() });
            }
        } else if output.exists() {
            return Err(SimulatorError::Occupied { path: output.to_path_buf() });
        }
        let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |source| SimulatorError::write(parent, source);
        std::fs::create_dir_all(parent).map_err(failed)?;
        let folder = tempfile::Builder::new().prefix(".trajectories-").tempdir_in(parent).map_err(failed)?;
        let files = lines(&folder.path().join(FILES))?;
        let trajectories = lines(&folder.path().join(TRAJECTORIES))?;
        Ok(Self { output: output.to_path_buf(), folder, files, trajectories, known: BTreeMap::new() })
    }

    /// Adds a trajectory, and those of its files that are not there yet.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn add(&mut self, built: &Built) -> Result<()> {
        for (file, text) in built.files.iter().zip(&built.texts) {
            let key = (file.repository.clone(), file.path.clone());
            if !self.known.contains_key(&key) {
                let stored = StoredFile { file: (**file).clone(), text: Arc::clone(text) };
                add(&mut self.files, &self.output.join(FILES), &stored)?;
                self.known.insert(key, Arc::clone(file));
            }
        }
        add(&mut self.trajectories, &self.output.join(TRAJECTORIES), &built.trajectory)
    }

    /// Writes the manifest, and gives the folder its name.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn finish(
        self,
        code_version: &str,
        allowed: &[String],
        settings: &BuildSettings,
        report: &TrajectoryReport,
    ) -> Result<TrajectoryManifest> {
        let manifest = TrajectoryManifest {
            format: FORMAT,
            code_version: code_version.to_owned(),
            seed: settings.seed,
            patterns: settings.patterns.clone(),
            per_file: settings.per_file,
            most_steps: settings.most_steps,
            compilers: settings.compilers.iter().map(|one| one.version().to_owned()).collect(),
            allowed: allowed.to_vec(),
            report: report.clone(),
            files: self.known.values().map(|file| (**file).clone()).collect(),
        };
        let path = self.folder.path().join(MANIFEST);
        let failed = |source| SimulatorError::write(&self.output, source);
        let mut text = serde_json::to_vec_pretty(&manifest).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let mut file = File::create(&path).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        finish(self.files, &self.output.join(FILES))?;
        finish(self.trajectories, &self.output.join(TRAJECTORIES))?;
        // An empty folder may be there: renaming takes its place.
        let folder = self.folder.keep();
        if let Err(source) = readable(&folder).and_then(|()| std::fs::rename(&folder, &self.output)) {
            let _ = std::fs::remove_dir_all(&folder);
            return Err(SimulatorError::write(&self.output, source));
        }
        Ok(manifest)
    }
}

/// Temporary folders are their owner's alone; what was made is as readable as other folders.
fn readable(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

/// Reads a folder of trajectories. Every trajectory is verified: its files are the stored ones, and its start state is
/// the one that was built.
pub struct TrajectoryReader {
    manifest: TrajectoryManifest,
    manifest_sha256: String,
    texts: HashMap<(String, String), Arc<str>>,
    trajectories: JsonLines,
}

impl std::fmt::Debug for TrajectoryReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TrajectoryReader").field("files", &self.texts.len()).finish_non_exhaustive()
    }
}

struct JsonLines {
    path: PathBuf,
    reader: BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>,
    line: u64,
}

impl JsonLines {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|source| SimulatorError::read(&path, source))?;
        let decoder = zstd::stream::read::Decoder::new(file).map_err(|source| SimulatorError::read(&path, source))?;
        Ok(Self { path, reader: BufReader::new(decoder), line: 0 })
    }

    fn wrong(&self, why: String) -> SimulatorError {
        SimulatorError::Stored { path: self.path.clone(), line: self.line, why }
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = Vec::new();
        let length =
            self.reader.read_until(b'\n', &mut line).map_err(|source| SimulatorError::read(&self.path, source))?;
        if length == 0 {
            return Ok(None);
        }
        self.line += 1;
        serde_json::from_slice(&line).map(Some).map_err(|error| self.wrong(error.to_string()))
    }
}

impl TrajectoryReader {
    /// Opens a folder; the texts of its files are held in memory.
    ///
    /// # Errors
    /// When it is not there, of another format, or not what was written.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|source| SimulatorError::read(&path, source))?;
        let manifest: TrajectoryManifest =
            serde_json::from_slice(&text).map_err(|source| SimulatorError::Manifest { path: path.clone(), source })?;
        if manifest.format != FORMAT {
            let why = format!("format {} is read by another release; this one reads {FORMAT}", manifest.format);
            return Err(SimulatorError::Stored { path, line: 1, why });
        }
        let mut files = JsonLines::open(folder.join(FILES))?;
        let mut texts = HashMap::new();
        while let Some(stored) = files.next::<StoredFile>()? {
            if crate::source::digest_hex(stored.text.as_bytes()) != stored.file.sha256 {
                return Err(files.wrong(format!("the text of {} is another one", stored.file.path)));
            }
            texts.insert((stored.file.repository, stored.file.path), stored.text);
        }
        let manifest_sha256 = crate::source::digest_hex(&text);
        Ok(Self { manifest, manifest_sha256, texts, trajectories: JsonLines::open(folder.join(TRAJECTORIES))? })
    }

    /// What was built of what.
    #[must_use]
    pub fn manifest(&self) -> &TrajectoryManifest {
        &self.manifest
    }

    /// SHA-256 of the manifest's file, lower-case hexadecimal.
    #[must_use]
    pub fn manifest_sha256(&self) -> &str {
        &self.manifest_sha256
    }

    fn read(&mut self) -> Result<Option<(Trajectory, Vec<Arc<str>>)>> {
        let Some(trajectory) = self.trajectories.next::<Trajectory>()? else { return Ok(None) };
        let mut texts = Vec::with_capacity(trajectory.files.len());
        for file in &trajectory.files {
            let text = self.texts.get(&(trajectory.repository.clone(), file.path.clone()));
            texts
                .push(Arc::clone(text.ok_or_else(|| self.trajectories.wrong(format!("{} is not stored", file.path)))?));
        }
        let verified = trajectory.start(&texts).and_then(|start| trajectory.replay(start, |_, _| ()));
        verified.map_err(|error| self.trajectories.wrong(error.to_string()))?;
        Ok(Some((trajectory, texts)))
    }
}

impl Iterator for TrajectoryReader {
    /// A trajectory and its files' last states.
    type Item = Result<(Trajectory, Vec<Arc<str>>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
