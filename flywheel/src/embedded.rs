//! What ships inside the binary: the demo's corpus and the base model.

use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use crate::data_dir::{DataDir, write_whole};
use crate::failure::Failure;

static CORPUS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../simulator/corpus");
static BASE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../edit-model/base");

/// Writes what is absent or differs; a start that was killed while unpacking is completed by the next one.
fn unpack(content: &Dir<'_>, target: PathBuf) -> Result<PathBuf, Failure> {
    let make = |path: &Path| {
        std::fs::create_dir_all(path)
            .map_err(|error| Failure::refused(format!("{} can not be made: {error}", path.display())))
    };
    make(&target)?;
    let mut directories = vec![content];
    while let Some(directory) = directories.pop() {
        make(&target.join(directory.path()))?;
        for file in directory.files() {
            let path = target.join(file.path());
            if std::fs::read(&path).is_ok_and(|known| known == file.contents()) {
                continue;
            }
            write_whole(&path, file.contents(), 0o644)?;
        }
        directories.extend(directory.dirs());
    }
    Ok(target)
}

/// The demo's corpus, unpacked.
pub(crate) fn corpus(data: &DataDir) -> Result<PathBuf, Failure> {
    unpack(&CORPUS, data.root().join("corpus"))
}

/// The base model with its replay tasks, unpacked.
pub(crate) fn base(data: &DataDir) -> Result<PathBuf, Failure> {
    base_in(data.root())
}

/// The same below a folder that is no data directory.
pub(crate) fn base_in(folder: &Path) -> Result<PathBuf, Failure> {
    unpack(&BASE, folder.join("base"))
}

/// Writes the base model's replay tasks and those that judge what was forgotten into `target`: they are text, so that a
/// base with another tokenizer can replay them too.
pub(crate) fn base_tasks(target: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(target)
        .map_err(|error| Failure::refused(format!("{} can not be made: {error}", target.display())))?;
    for file in BASE.files().filter(|file| file.path().extension().is_some_and(|kind| kind == "jsonl")) {
        write_whole(&target.join(file.path()), file.contents(), 0o644)?;
    }
    Ok(())
}
