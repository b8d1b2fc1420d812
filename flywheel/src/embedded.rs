//! What ships inside the binary: the demo's corpus and the base model.

use std::path::PathBuf;

use include_dir::{Dir, include_dir};

use crate::data_dir::DataDir;
use crate::failure::Failure;

static CORPUS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../simulator/corpus");
static BASE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../edit-model/base");

fn unpack(content: &Dir<'_>, target: PathBuf) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(&target)
        .and_then(|()| content.extract(&target))
        .map_err(|error| Failure::refused(format!("{} can not be written: {error}", target.display())))?;
    Ok(target)
}

/// The demo's corpus, unpacked.
pub(crate) fn corpus(data: &DataDir) -> Result<PathBuf, Failure> {
    unpack(&CORPUS, data.root().join("corpus"))
}

/// The base model with its replay tasks, unpacked.
pub(crate) fn base(data: &DataDir) -> Result<PathBuf, Failure> {
    unpack(&BASE, data.root().join("base"))
}
