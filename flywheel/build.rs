//! Names the code: the package's version and the digest of the workspace's sources. Snapshots, models and registered
//! versions carry it, so that a changed line is another code version, released or not.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What is code: sources, manifests, and the schemas that are compiled in.
const ENDINGS: [&str; 5] = ["rs", "toml", "sql", "avsc", "proto"];
/// Folders without code of ours: what is built, the corpus of the simulator, the base model.
const LEFT_OUT: [&str; 3] = ["target", "corpus", "base"];
/// Bytes of the digest that the version shows.
const SHOWN: usize = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent().ok_or("the package lies in no workspace")?;
    let mut files = vec![PathBuf::from("Cargo.lock"), PathBuf::from("Cargo.toml")];
    for file in &files {
        println!("cargo:rerun-if-changed={}", workspace.join(file).display());
    }
    for entry in fs::read_dir(workspace)? {
        let entry = entry?;
        let room = PathBuf::from(entry.file_name());
        if entry.file_type()?.is_dir() && workspace.join(&room).join("Cargo.toml").exists() {
            println!("cargo:rerun-if-changed={}", workspace.join(&room).display());
            collect(workspace, &room, &mut files)?;
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in &files {
        let content = fs::read(workspace.join(file))?;
        for part in [file.to_string_lossy().as_bytes(), content.as_slice()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    let digest: String = hash.finalize().iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    println!("cargo:rustc-env=CODE_VERSION={}+{digest}", std::env::var("CARGO_PKG_VERSION")?);
    Ok(())
}

/// Adds the sources below `folder`, which is relative to the workspace.
fn collect(workspace: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(workspace.join(folder))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let name = name.to_string_lossy();
            if !name.starts_with('.') && !LEFT_OUT.iter().any(|left| name == *left) {
                collect(workspace, &path, files)?;
            }
        } else if kind.is_file() && path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
        {
            files.push(path);
        }
    }
    Ok(())
}
