//! What of a history the base has learned from: its figures on such code would flatter it.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use simulator::history::points::EditPoint;
use simulator::source::digest_hex;
use simulator::{BaseManifest, default_source_cache};

use super::windows::Stretch;
use crate::pretrain::PACKAGE_BYTES;

/// Shorter lines stand everywhere.
const TELLING_BYTES: usize = 20;

/// How the history and the base's sources overlap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Overlap {
    /// Packages of the base that have the name of the repository, or of a folder in it; none when the base does not say
    /// what it was made of.
    pub(super) packages: Option<Vec<String>>,
    /// What of its text was read by the base; none when the sources are not here.
    pub(super) text: Option<TextOverlap>,
    /// Why something could not be compared.
    pub(super) not_checked: Option<String>,
}

/// How many points show text that the base has read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TextOverlap {
    /// Points with at least one line that tells something.
    pub(super) points: usize,
    /// Of them those of whose telling lines more than half stand in the base's sources.
    pub(super) points_known: usize,
    /// Digest of the sources that were read.
    pub(super) sources_digest: String,
}

/// Compares by names, and by lines where the sources are: in `sources`, or where `simulator/fetch-sources` puts them.
pub(super) fn overlap(repository: &str, stretches: &[Stretch], base: &Path, sources: Option<&Path>) -> Overlap {
    let manifest = match BaseManifest::read(&base.join("sources.json")) {
        Ok(manifest) => manifest,
        Err(error) => {
            return Overlap {
                packages: None,
                text: None,
                not_checked: Some(format!("the base names no sources: {error}")),
            };
        }
    };
    let points: Vec<&EditPoint> = stretches.iter().flat_map(Stretch::points).collect();
    let mut names: BTreeSet<String> = BTreeSet::from([normal(repository)]);
    for point in &points {
        let mut parts: Vec<&str> = point.context.path.split('/').collect();
        parts.pop();
        names.extend(parts.into_iter().map(normal));
    }
    let packages: Vec<String> = (manifest.packages.iter())
        .map(|package| package.package.clone())
        .filter(|package| names.contains(&normal(package)))
        .collect();
    let cache = sources.map(Path::to_owned).or_else(default_source_cache);
    let Some(cache) = cache.filter(|cache| sources.is_some() || cache.is_dir()) else {
        let not_checked =
            "the base's sources are not here (simulator/fetch-sources gets them), so text was not compared";
        return Overlap { packages: Some(packages), text: None, not_checked: Some(not_checked.to_owned()) };
    };
    match manifest.load(&cache, PACKAGE_BYTES) {
        Ok(files) => {
            let known: BTreeSet<u64> = files.iter().flat_map(|file| telling(&file.text)).collect();
            let digest =
                digest_hex(files.iter().map(|file| digest_hex(file.text.as_bytes())).collect::<String>().as_bytes());
            let text = Some(shared(&points, &known, digest));
            Overlap { packages: Some(packages), text, not_checked: None }
        }
        Err(error) => Overlap { packages: Some(packages), text: None, not_checked: Some(error.to_string()) },
    }
}

fn shared(points: &[&EditPoint], known: &BTreeSet<u64>, sources_digest: String) -> TextOverlap {
    let mut overlap = TextOverlap { points: 0, points_known: 0, sources_digest };
    for point in points {
        let lines: Vec<u64> = telling(&point.context.window.text).collect();
        let found = lines.iter().filter(|line| known.contains(*line)).count();
        overlap.points += usize::from(!lines.is_empty());
        overlap.points_known += usize::from(2 * found > lines.len());
    }
    overlap
}

fn normal(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

fn telling(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.lines().map(str::trim).filter(|line| line.len() >= TELLING_BYTES).map(|line| {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::super::windows::cut;
    use super::super::windows::tests::step;
    use super::*;

    #[test]
    fn names_and_lines_say_what_the_base_has_read() {
        let folder = tempfile::tempdir().unwrap();
        let long = "let something_long_enough = call();";
        let mut steps: Vec<_> = (0..10).map(step).collect();
        for point in &mut steps[0].points {
            point.context.window.text = format!("    {long}\n}}\n");
            point.context.path = "crates/known_one/src/a.rs".to_owned();
        }
        let stretches = cut(steps, 1, 100, 1, 1).unwrap();
        let nothing = overlap("r", &stretches, folder.path(), None);
        assert!(nothing.packages.is_none() && nothing.not_checked.is_some());

        let package = |name: &str| serde_json::json!({"package": name, "ecosystem": "rust", "version": "1.0.0", "sha256": "00", "licence": "MIT"});
        let manifest = serde_json::json!({"packages": [package("known-one"), package("other")]});
        std::fs::write(folder.path().join("sources.json"), manifest.to_string()).unwrap();
        let absent = overlap("Other", &stretches, folder.path(), Some(folder.path()));
        assert_eq!(absent.packages, Some(vec!["known-one".to_owned(), "other".to_owned()]));
        assert!(absent.text.is_none() && absent.not_checked.is_some_and(|why| why.contains("known-one")));

        for name in ["known-one", "other"] {
            let package = folder.path().join(format!("rust/{name}-1.0.0"));
            std::fs::create_dir_all(&package).unwrap();
            std::fs::write(package.join(".complete"), "").unwrap();
            let filler = "// a file has to be of some size before anybody looks at it\n".repeat(20);
            std::fs::write(package.join("a.rs"), format!("{filler}fn {name}() {{\n{long}\n}}\n")).unwrap();
        }
        let text = overlap("r", &stretches, folder.path(), Some(folder.path())).text.unwrap();
        assert_eq!((text.points, text.points_known), (2, 2), "short lines tell nothing");
    }
}
