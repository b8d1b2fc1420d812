//! Python packages that only a full run has: DuckDB, Polars and `datasets`, which read parts of the pair lake, and
//! llama.cpp, which serves what we export.

use std::path::PathBuf;

use crate::cached;

/// Packages that are in one directory.
pub(crate) struct Packages {
    /// Names that directory, where it is not the one below.
    variable: &'static str,
    /// How `test-servers/fetch` calls it, before the versions.
    name: &'static str,
    /// Names and versions, a line each.
    pins: &'static str,
    /// What they are, for people.
    what: &'static str,
}

pub(crate) const LAKE_READERS: Packages = Packages {
    variable: "TEST_SERVERS_LAKE_READERS",
    name: "lake-readers",
    pins: include_str!("../lake-readers.txt"),
    what: "DuckDB, Polars and datasets for Python",
};

pub(crate) const LLAMA_CPP: Packages = Packages {
    variable: "TEST_SERVERS_LLAMA_CPP",
    name: "llama-cpp",
    pins: include_str!("../llama-cpp.txt"),
    what: "llama.cpp for Python",
};

impl Packages {
    /// Their directory, where `test-servers/fetch --full` has put them or the environment says that they are.
    pub(crate) fn directory(&self) -> Result<PathBuf, String> {
        let Self { variable, name, what, .. } = self;
        let directory = cached(variable, &format!("flywheel/tools/{name}-{}", self.versions()));
        if directory.is_dir() {
            Ok(directory)
        } else {
            Err(format!(
                "a full run needs {what}, not found in {}; run `test-servers/fetch --full`, or name their directory in \
                 {variable}",
                directory.display()
            ))
        }
    }

    /// The versions, as the directory is called by.
    fn versions(&self) -> String {
        let pins = self.pins.lines().filter(|line| !line.starts_with('#'));
        pins.filter_map(|line| line.split_once("==")).map(|(_, version)| version).collect::<Vec<_>>().join("-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_pinned() {
        for (packages, count) in [(LAKE_READERS, 3), (LLAMA_CPP, 1)] {
            assert_eq!(packages.versions().split('-').count(), count, "{}", packages.versions());
        }
    }
}
