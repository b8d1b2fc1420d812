//! DuckDB, Polars and `datasets`, which read parts of the pair lake. Only a full run has them.

use std::path::PathBuf;

use crate::cached;

/// The directory of the packages.
const PACKAGES: &str = "TEST_SERVERS_LAKE_READERS";
/// Names and versions, a line each.
const FILE: &str = include_str!("../lake-readers.txt");

/// The directory of the packages, where `test-servers/fetch --full` has put them or the environment says that they are.
pub(crate) fn packages() -> Result<PathBuf, String> {
    let directory = cached(PACKAGES, &format!("flywheel/tools/lake-readers-{}", versions()));
    if directory.is_dir() {
        Ok(directory)
    } else {
        Err(format!(
            "a full run needs DuckDB, Polars and datasets for Python, which are not in {}; run \
             `test-servers/fetch --full`, or name their directory in {PACKAGES}",
            directory.display()
        ))
    }
}

/// The versions, as the directory is called by.
fn versions() -> String {
    let pins = FILE.lines().filter(|line| !line.starts_with('#'));
    pins.filter_map(|line| line.split_once("==")).map(|(_, version)| version).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_is_pinned() {
        assert_eq!(versions().split('-').count(), 3, "{}", versions());
    }
}
