use super::{corpus, corpus_folder};
use serde::Deserialize;
use simulator::source::digest_hex;
use simulator::{BaseManifest, Corpus, SimulatorError, SymbolKind};
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Deserialize)]
struct Manifest {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    repository: String,
    package: String,
    version: String,
    sha256: String,
    licence: String,
    licence_file: String,
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    sha256: String,
}

fn manifest() -> Manifest {
    serde_json::from_str(&std::fs::read_to_string(corpus_folder().join("MANIFEST.json")).unwrap()).unwrap()
}

fn files_below(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, into) } else { into.push(path) }
    }
}

#[test]
fn the_manifest_tells_every_file_and_its_digest() {
    let manifest = manifest();
    let mut told = BTreeSet::from(["MANIFEST.json".to_owned()]);
    for package in &manifest.packages {
        assert!(package.files.iter().all(|file| file.path.starts_with(&format!("{}/", package.repository))));
        assert!(
            ["MIT", "Apache-2.0", "BSD-3-Clause", "ISC"].contains(&package.licence.as_str()),
            "{}",
            package.licence
        );
        assert!(!package.version.is_empty() && package.sha256.len() == 64);
        let licence = std::fs::read_to_string(corpus_folder().join(&package.licence_file)).unwrap();
        assert!(licence.contains("Copyright"), "{}", package.package);
        told.insert(package.licence_file.clone());
        for file in &package.files {
            assert_eq!(
                digest_hex(&std::fs::read(corpus_folder().join(&file.path)).unwrap()),
                file.sha256,
                "{}",
                file.path
            );
            told.insert(file.path.clone());
        }
    }
    let mut found = Vec::new();
    files_below(&corpus_folder(), &mut found);
    let found: BTreeSet<String> = found
        .iter()
        .map(|path| path.strip_prefix(corpus_folder()).unwrap().to_string_lossy().replace('\\', "/"))
        .collect();
    assert_eq!(found, told);
    let bytes: u64 = found.iter().map(|path| std::fs::metadata(corpus_folder().join(path)).unwrap().len()).sum();
    assert!(bytes <= 2_000_000, "{bytes}");
}

#[test]
fn the_demo_shares_no_package_with_the_base() {
    let base =
        BaseManifest::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base/sources.json")).unwrap();
    let names: BTreeSet<String> =
        base.packages.iter().map(|one| one.package.to_lowercase().replace('_', "-")).collect();
    let digests: BTreeSet<&str> = base.packages.iter().map(|one| one.sha256.as_str()).collect();
    assert!(base.packages.len() > 100 && digests.len() == base.packages.len());
    for package in manifest().packages {
        assert!(!names.contains(&package.package.to_lowercase().replace('_', "-")), "{}", package.package);
        assert!(!digests.contains(package.sha256.as_str()), "{}", package.package);
    }
}

#[test]
fn the_base_never_reads_a_file_of_the_demo() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("rust/copied-1.0.0");
    std::fs::create_dir_all(&folder).unwrap();
    let demo = corpus_folder().join(&manifest().packages[0].files[0].path);
    let text = std::fs::read_to_string(demo).unwrap();
    let extension = if manifest().packages[0].files[0].path.ends_with(".py") { "py" } else { "rs" };
    std::fs::write(folder.join(format!("copied.{extension}")), &text).unwrap();
    std::fs::write(folder.join(format!("altered.{extension}")), text + "\n").unwrap();
    std::fs::write(folder.join(".complete"), "").unwrap();
    let base: BaseManifest = serde_json::from_value(serde_json::json!({ "packages": [{
        "package": "copied", "ecosystem": "rust", "version": "1.0.0", "sha256": "", "licence": "MIT",
    }]}))
    .unwrap();
    let files = base.load(cache.path(), 1_000_000).unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.path.to_string()).collect();
    assert_eq!(paths, [format!("altered.{extension}")]);
}

#[test]
fn both_repositories_offer_every_kind_in_both_languages() {
    let corpus = corpus();
    assert!(!corpus.was_split);
    let names: Vec<&str> = corpus.repositories.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["document-press", "terminal-desk"]);
    for repository in &corpus.repositories {
        for language in ["rust", "python"] {
            let files: Vec<_> = repository.files.iter().filter(|file| file.source.language.id() == language).collect();
            let count = |is_function: bool| {
                files.iter().flat_map(|file| &file.symbols).filter(|one| one.kind.is_function() == is_function).count()
            };
            assert!(
                count(true) > 60 && count(false) > 60,
                "{} {language}: {} {}",
                repository.name,
                count(true),
                count(false)
            );
        }
    }
    assert!(
        corpus.census().iter().filter(|(kind, _)| *kind != SymbolKind::Constant).all(|(_, count)| *count > 20),
        "{:?}",
        corpus.census()
    );
}

#[test]
fn one_folder_is_split_in_two_and_nothing_usable_is_an_error() {
    let alone = Corpus::load(&corpus_folder().join("terminal-desk/cmd2")).unwrap();
    assert!(alone.was_split);
    assert_eq!(alone.repositories.len(), 2);
    for (half, repository) in alone.repositories.iter().enumerate() {
        let is_of_half = |path: &str| usize::from(digest_hex(path.as_bytes()).as_bytes()[0] >= b'8') == half;
        assert!(repository.files.iter().all(|file| is_of_half(&file.source.path)));
    }
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("notes.txt"), "nothing").unwrap();
    let error = Corpus::load(empty.path()).unwrap_err();
    assert!(matches!(error, SimulatorError::NoUsableCode { found: 0, .. }), "{error}");
    assert!(Corpus::load(&empty.path().join("absent")).is_err());
}

#[test]
fn parts_put_together_elsewhere_make_a_corpus() {
    let part = |name: &str| {
        (name.replace('/', "-"), simulator::source::read_folder("x", &corpus_folder().join(name)).unwrap())
    };
    let corpus = Corpus::from_files(vec![part("terminal-desk/cmd2"), part("document-press/pypdf")]).unwrap();
    let plan = simulator::DemoPlan::new(1, std::sync::Arc::new(corpus), super::settings()).unwrap();
    assert_eq!(plan.task(1, 0).unwrap().task.context.repository, "document-press-pypdf");
    assert!(Corpus::from_files(vec![part("terminal-desk/cmd2")]).is_err());
}

#[test]
fn neither_the_simulator_nor_the_labeler_depends_on_the_other() {
    let manifest = |room: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(room).join("Cargo.toml");
        std::fs::read_to_string(path).unwrap()
    };
    let names = |room: &str, other: &str| manifest(room).lines().any(|line| line.starts_with(other));
    assert!(names("simulator", "events"));
    assert!(!names("simulator", "labeler") && !names("labeler", "simulator"));
}
