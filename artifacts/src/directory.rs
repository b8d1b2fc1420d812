//! Directories as artifacts: a manifest names every file by path, size and digest, and is itself an object.
//!
//! The manifest's bytes are canonical (sorted paths, no spaces), so that the same files always give the same digest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use events::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::local::{blocking, remove_abandoned, sync_directory};
use crate::{ArtifactError, ArtifactStore};

/// Marks manifests and their format.
const FORMAT: &str = "flywheel.directory.v1";

/// Directories that are being fetched, next to their target.
const STAGING_PREFIX: &str = ".incoming-";

/// One file of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Relative, with `/` between its parts.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its content.
    pub sha256: Sha256Digest,
}

/// All files of a directory, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryManifest {
    format: String,
    files: Vec<ManifestFile>,
}

impl DirectoryManifest {
    fn new(mut files: Vec<ManifestFile>) -> Self {
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Self { format: FORMAT.to_owned(), files }
    }

    /// The files, sorted by path.
    #[must_use]
    pub fn files(&self) -> &[ManifestFile] {
        &self.files
    }

    /// The file at `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Length of all files together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The bytes whose digest names the directory.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers only: this cannot fail, and an empty manifest would be refused by every reader.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The digest that names the directory.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.to_bytes())
    }

    /// Reads a manifest whose name is `digest`.
    ///
    /// # Errors
    /// The bytes are no manifest, or one with paths that lead out of the directory.
    pub fn from_bytes(digest: Sha256Digest, bytes: &[u8]) -> Result<Self, ArtifactError> {
        let bad = |reason: String| ArtifactError::BadManifest { digest, reason };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(bad(format!("unknown format {:?}", manifest.format)));
        }
        let mut seen = BTreeSet::new();
        for file in &manifest.files {
            if !is_safe(&file.path) {
                return Err(bad(format!("path {:?} is not allowed", file.path)));
            }
            if !seen.insert(file.path.as_str()) {
                return Err(bad(format!("path {:?} appears twice", file.path)));
            }
        }
        Ok(manifest)
    }
}

/// Whether a path stays inside the directory on every system.
fn is_safe(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Lists a directory and digests its files. Symbolic links and special files are refused: they would mean something
/// else elsewhere.
///
/// # Errors
/// A file that cannot be read or stored, or an empty directory.
pub async fn manifest_of(directory: &Path) -> Result<DirectoryManifest, ArtifactError> {
    let directory = directory.to_path_buf();
    blocking(move || {
        let mut files = Vec::new();
        for (path, name) in list(&directory)? {
            let (sha256, bytes) = digest::of_file(&path)?;
            files.push(ManifestFile { path: name, bytes, sha256 });
        }
        Ok(DirectoryManifest::new(files))
    })
    .await
}

fn list(root: &Path) -> Result<Vec<(PathBuf, String)>, ArtifactError> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(ArtifactError::io("read", &directory))? {
            let entry = entry.map_err(ArtifactError::io("read", &directory))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(ArtifactError::io("read", &path))?;
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let name = relative_name(root, &path)
                    .ok_or(ArtifactError::Unsupported { path: path.clone(), reason: "its name is not portable" })?;
                files.push((path, name));
            } else {
                return Err(ArtifactError::Unsupported { path, reason: "it is neither a file nor a directory" });
            }
        }
    }
    if files.is_empty() {
        return Err(ArtifactError::Unsupported { path: root.to_path_buf(), reason: "it holds no file" });
    }
    files.sort();
    Ok(files)
}

fn relative_name(root: &Path, path: &Path) -> Option<String> {
    let mut name = String::new();
    for component in path.strip_prefix(root).ok()?.components() {
        let Component::Normal(part) = component else { return None };
        if !name.is_empty() {
            name.push('/');
        }
        name.push_str(part.to_str()?);
    }
    is_safe(&name).then_some(name)
}

/// Stores every file of `directory` and its manifest, the manifest last. Returns the manifest; its digest names the
/// directory.
///
/// # Errors
/// A file that cannot be read or stored, or a store that fails.
pub async fn put_directory(store: &dyn ArtifactStore, directory: &Path) -> Result<DirectoryManifest, ArtifactError> {
    let root = directory.to_path_buf();
    let listed = blocking(move || list(&root)).await?;
    let mut files = Vec::with_capacity(listed.len());
    for (path, name) in listed {
        let stored = store.put_file(&path).await?;
        files.push(ManifestFile { path: name, bytes: stored.bytes, sha256: stored.digest });
    }
    let manifest = DirectoryManifest::new(files);
    store.put(manifest.to_bytes().into()).await?;
    Ok(manifest)
}

/// The manifest that `digest` names.
///
/// # Errors
/// It does not exist, is corrupt or no manifest, or the store failed.
pub async fn get_manifest(
    store: &dyn ArtifactStore,
    digest: &Sha256Digest,
) -> Result<DirectoryManifest, ArtifactError> {
    DirectoryManifest::from_bytes(*digest, &store.get(digest).await?)
}

/// Makes `target` the directory that `digest` names: afterwards it holds exactly the files of the manifest, all
/// verified. It appears as a whole: files are fetched into a neighbour, which is then renamed. When `target` is already
/// right, nothing is fetched; when it is not, it is replaced.
///
/// # Errors
/// An object that is missing or corrupt, or a file system that fails; `target` is then as it was.
pub async fn get_directory(
    store: &dyn ArtifactStore,
    digest: &Sha256Digest,
    target: &Path,
) -> Result<DirectoryManifest, ArtifactError> {
    let manifest = get_manifest(store, digest).await?;
    if verify_directory(target, &manifest).await.is_ok() {
        return Ok(manifest);
    }
    let parent =
        target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
    let staging = blocking({
        let parent = parent.clone();
        move || {
            fs::create_dir_all(&parent).map_err(ArtifactError::io("create", &parent))?;
            remove_abandoned(&parent, STAGING_PREFIX);
            tempfile::Builder::new()
                .prefix(STAGING_PREFIX)
                .tempdir_in(&parent)
                .map_err(ArtifactError::io("create", &parent))
        }
    })
    .await?;
    let fresh = staging.path().join("fresh");
    for file in &manifest.files {
        let path = fresh.join(&file.path);
        blocking({
            let directory = path.parent().unwrap_or(&fresh).to_path_buf();
            move || fs::create_dir_all(&directory).map_err(ArtifactError::io("create", directory))
        })
        .await?;
        let bytes = store.get_to_file(&file.sha256, &path).await?;
        if bytes != file.bytes {
            return Err(ArtifactError::CorruptFile { digest: *digest, path: file.path.clone() });
        }
    }
    let target = target.to_path_buf();
    blocking(move || {
        // The old directory moves away first; a crash between the two renames leaves no target, and the next call
        // makes one. A reader that has the old one open keeps its files.
        let aside = staging.path().join("replaced");
        match fs::rename(&target, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ArtifactError::io("replace", target)(error)),
        }
        match fs::rename(&fresh, &target) {
            Ok(()) => {}
            // Another process was faster; what it made is as good.
            Err(_) if target.is_dir() => {}
            Err(error) => {
                let _ = fs::rename(&aside, &target);
                return Err(ArtifactError::io("create", target)(error));
            }
        }
        sync_directory(&parent)
    })
    .await?;
    Ok(manifest)
}

/// Whether `directory` holds exactly the files of `manifest`, byte for byte.
///
/// # Errors
/// The first file that is missing, different or too many.
pub async fn verify_directory(directory: &Path, manifest: &DirectoryManifest) -> Result<(), ArtifactError> {
    let (directory, manifest) = (directory.to_path_buf(), manifest.clone());
    blocking(move || {
        let corrupt = |path: &str| ArtifactError::CorruptFile { digest: manifest.digest(), path: path.to_owned() };
        for file in &manifest.files {
            match digest::of_file(&directory.join(&file.path)) {
                Ok((sha256, bytes)) if sha256 == file.sha256 && bytes == file.bytes => {}
                _ => return Err(corrupt(&file.path)),
            }
        }
        let known: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        match list(&directory)?.iter().find(|(_, name)| !known.contains(name.as_str())) {
            Some((_, name)) => Err(corrupt(name)),
            None => Ok(()),
        }
    })
    .await
}
