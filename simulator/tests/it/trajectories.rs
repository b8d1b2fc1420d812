//! Trajectories of the repository's own corpus and of small repositories in every language.

use proptest::prelude::*;
use simulator::SimulatorError;
use simulator::trajectory::language::Parsers;
use simulator::trajectory::{
    BuildSettings, Built, CodeCorpus, CodeLanguage, CorpusSettings, ParseHealth, Pattern, TrajectoryReader,
    TrajectoryReport, TrajectoryWriter, build, diffs,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn own_corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

pub(crate) fn open(folder: &Path) -> CodeCorpus {
    let settings = CorpusSettings { file_bytes: 10..=400_000, ..CorpusSettings::default() };
    CodeCorpus::open(folder, settings).unwrap()
}

pub(crate) fn all(corpus: &CodeCorpus, settings: &BuildSettings) -> (TrajectoryReport, Vec<Built>) {
    let mut found = Vec::new();
    let report = build(corpus, settings, &|_| (), &mut |built| {
        found.push(built);
        Ok(())
    });
    (report.unwrap(), found)
}

/// Health of texts that are parsed afresh.
fn health(parsers: &mut Parsers, language: CodeLanguage, texts: &[String]) -> ParseHealth {
    texts.iter().fold(ParseHealth::default(), |sum, text| {
        sum.and(ParseHealth::of(&parsers.parse(language, text, None).unwrap()))
    })
}

/// Everything that holds of every trajectory.
pub(crate) fn verify(built: &Built, parsers: &mut Parsers) {
    let trajectory = &built.trajectory;
    assert_eq!(trajectory.files.len(), built.texts.len());
    let start = trajectory.start(&built.texts).unwrap();
    let mut states = vec![start.clone()];
    let last = trajectory.replay(start, |_, texts| states.push(texts.to_vec())).unwrap();
    for (text, real) in last.iter().zip(&built.texts) {
        assert!(**text == **real, "{}", trajectory.detail);
    }
    let told = std::iter::once(trajectory.start_health).chain(trajectory.steps.iter().map(|step| step.health));
    let languages: Vec<CodeLanguage> = built.files.iter().map(|file| file.language).collect();
    assert_eq!(told.clone().count(), states.len());
    for (told, texts) in told.zip(&states) {
        let mut fresh = ParseHealth::default();
        for (text, language) in texts.iter().zip(&languages) {
            fresh = fresh.and(health(parsers, *language, std::slice::from_ref(text)));
        }
        assert_eq!(told, fresh, "{}", trajectory.detail);
    }
    let is_fix = trajectory.pattern == Pattern::DiagnosticFix;
    assert_eq!(is_fix, trajectory.steps.iter().any(|step| step.diagnostic.is_some()));
    assert!(trajectory.steps.len() >= 2 - usize::from(is_fix) && trajectory.steps.last().unwrap().health.is_whole());
    for (number, step) in trajectory.steps.iter().enumerate() {
        assert_eq!(step.cause.is_none(), number == 0);
        assert!(step.cause.is_none_or(|cause| cause < number));
        assert_ne!(step.action.old_text, step.action.new_text);
    }
    assert!(diffs(trajectory, &built.texts).unwrap().contains(&trajectory.detail));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, ..ProptestConfig::default() })]

    #[test]
    fn every_trajectory_of_the_corpus_leads_to_its_files(seed: u64, per_file in 1_usize..=2) {
        let settings = BuildSettings { seed, per_file, threads: 2, ..BuildSettings::default() };
        let (report, found) = all(&open(&own_corpus()), &settings);
        let mut parsers = Parsers::default();
        for built in &found {
            verify(built, &mut parsers);
        }
        prop_assert_eq!(report.trajectories(), found.len() as u64);
        for pattern in [Pattern::SignatureChange, Pattern::RenameToConvention] {
            for language in [CodeLanguage::Rust, CodeLanguage::Python] {
                prop_assert!(report.count(pattern, language) > 0, "{pattern} {language}: {report:?}");
            }
        }
        prop_assert!(report.patterns.iter().any(|count| count.across_files > 0));
        // A file begins no more than it may, whatever the pattern.
        let mut begun = std::collections::BTreeMap::new();
        for built in &found {
            let trajectory = &built.trajectory;
            let key = (trajectory.pattern, trajectory.repository.clone(), trajectory.files[0].path.clone());
            *begun.entry(key).or_insert(0) += 1;
        }
        prop_assert!(begun.values().all(|count| *count <= per_file));
    }
}

#[test]
fn the_same_seed_makes_the_same_trajectories_on_any_number_of_threads() {
    let corpus = open(&own_corpus());
    let made = |seed, threads| {
        let settings = BuildSettings { seed, threads, ..BuildSettings::default() };
        let (report, found) = all(&corpus, &settings);
        (report, found.into_iter().map(|built| built.trajectory).collect::<Vec<_>>())
    };
    assert_eq!(made(3, 1), made(3, 4));
    assert_ne!(made(3, 2).1, made(4, 2).1);
}

/// A function of one parameter in `a`, and a second file that calls it.
const SMALL: &[(&str, &str, &str, &str)] = &[
    (
        "a.rs",
        "pub fn open_store(path: &str) -> u8 {\n    lookup(path)\n}\n\nfn first() -> u8 {\n    open_store(\"a\")\n}\n",
        "use crate::a::open_store;\n\nfn second() -> u8 {\n    open_store(\"b\")\n}\n",
        "open_store gets path: &str",
    ),
    (
        "a.py",
        "def open_store(path):\n    return lookup(path)\n\n\ndef first():\n    return open_store(\"a\")\n",
        "from a import open_store\n\n\ndef second():\n    return open_store(path=\"b\")\n",
        "open_store gets path",
    ),
    (
        "a.ts",
        "export function openStore(path: string): number {\n  return lookup(path);\n}\n\nconst first = () => openStore(\"a\");\n",
        "import { openStore } from \"./a\";\n\nexport const second = () => openStore(\"b\");\n",
        "openStore gets path: string",
    ),
    (
        "a.tsx",
        "export function openStore(path: string): number {\n  return lookup(path);\n}\n\nconst first = () => openStore(\"a\");\n",
        "import { openStore } from \"./a\";\n\nexport const second = () => <p>{openStore(\"b\")}</p>;\n",
        "openStore gets path: string",
    ),
    (
        "a.js",
        "export function openStore(path) {\n  return lookup(path);\n}\n\nconst first = () => openStore(\"a\");\n",
        "import { openStore } from \"./a\";\n\nexport const second = () => openStore(\"b\");\n",
        "openStore gets path",
    ),
    (
        "a.go",
        "package p\n\nfunc openStore(path string) int {\n\treturn lookup(path)\n}\n\nfunc first() int {\n\treturn openStore(\"a\")\n}\n",
        "package p\n\nfunc second() int {\n\treturn openStore(\"b\")\n}\n",
        "openStore gets path string",
    ),
    (
        "A.java",
        "class A {\n    int openStore(String path) {\n        return lookup(path);\n    }\n\n    int first() {\n        return openStore(\"a\");\n    }\n}\n",
        "class B extends A {\n    int second() {\n        return this.openStore(\"b\");\n    }\n}\n",
        "openStore gets String path",
    ),
];

pub(crate) fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

pub(crate) const MIT: (&str, &str) = ("MANIFEST.json", "{\"packages\": [{\"licence\": \"MIT\", \"folder\": \"r\"}]}");

#[test]
fn both_patterns_are_found_across_files_in_every_language() {
    for (name, defining, calling, detail) in SMALL {
        let folder = tempfile::tempdir().unwrap();
        let (stem, ending) = name.split_once('.').unwrap();
        let other = format!("r/{}.{ending}", if stem == "a" { "b" } else { "B" });
        let here = format!("r/{name}");
        write(folder.path(), &[MIT, (here.as_str(), *defining), (other.as_str(), *calling)]);
        let (_, found) = all(&open(folder.path()), &BuildSettings::default());
        let of = |pattern| found.iter().filter(move |built| built.trajectory.pattern == pattern).collect::<Vec<_>>();
        let mut parsers = Parsers::default();
        found.iter().for_each(|built| verify(built, &mut parsers));
        let signatures = of(Pattern::SignatureChange);
        assert_eq!(signatures.len(), 1, "{name}");
        let trajectory = &signatures[0].trajectory;
        assert_eq!((trajectory.detail.as_str(), trajectory.files.len()), (*detail, 2), "{name}");
        // The parameter, its place in the body, a call in each file.
        assert_eq!(trajectory.steps.len(), 4, "{name}");
        let start = trajectory.start(&signatures[0].texts).unwrap();
        assert!(start[0].contains("lookup(\"a\")") && !start[0].contains("path"), "{name}: {}", start[0]);
        assert!(!start[1].contains("\"b\""), "{name}: {}", start[1]);

        let renames = of(Pattern::RenameToConvention);
        assert_eq!(renames.len(), 1, "{name}");
        let trajectory = &renames[0].trajectory;
        let real = if defining.contains("openStore") { "openStore" } else { "open_store" };
        assert!(trajectory.detail.ends_with(&format!("becomes {real}")), "{name}: {}", trajectory.detail);
        let start = trajectory.start(&renames[0].texts).unwrap();
        assert!(start.iter().all(|text| !text.contains(real)), "{name}");
        assert!(trajectory.steps.iter().all(|step| step.health.is_whole()), "{name}");
    }
}

#[test]
fn a_name_that_may_mean_something_else_is_left_alone() {
    let defining = "pub fn open_store(path: &str) -> u8 {\n    lookup(path)\n}\n";
    let found = |calling: &str| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[MIT, ("r/a.rs", defining), ("r/b.rs", calling)]);
        let patterns = vec![Pattern::SignatureChange, Pattern::RenameToConvention];
        all(&open(folder.path()), &BuildSettings { patterns, ..BuildSettings::default() }).1.len()
    };
    assert_eq!(found("fn second() -> u8 {\n    open_store(\"b\")\n}\n"), 2);
    for calling in [
        // Spoken of.
        "/// Like open_store.\nfn second() -> u8 {\n    open_store(\"b\")\n}\n",
        // Defined again.
        "fn open_store() -> u8 {\n    open_store(\"b\")\n}\n",
        // In a file that is not understood.
        "fn second( -> u8 {\n    open_store(\"b\")\n}\n",
    ] {
        let renames_and_signatures = found(calling);
        assert!(renames_and_signatures <= usize::from(calling.starts_with("///")), "{calling}");
    }
    // Passed on: its signature is someone else's matter too.
    assert_eq!(found("fn second() -> u8 {\n    each(open_store) + open_store(\"b\")\n}\n"), 1);
}

#[test]
fn statements_that_only_a_parameter_is_for_come_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let code = "class Box:\n    def fill_with(self, items, label):\n        self.items = items\n        self.label = label\n\n\n\
                def make(box, rows):\n    box.fill_with(rows, box.title)\n";
    write(folder.path(), &[MIT, ("r/a.py", code)]);
    let (_, found) = all(&open(folder.path()), &BuildSettings::default());
    let signatures: Vec<&Built> =
        found.iter().filter(|built| built.trajectory.pattern == Pattern::SignatureChange).collect();
    assert_eq!(signatures.len(), 1);
    let trajectory = &signatures[0].trajectory;
    let start = trajectory.start(&signatures[0].texts).unwrap().remove(0);
    let (gone, stays) = if trajectory.detail.ends_with("label") { ("label", "items") } else { ("items", "label") };
    assert_eq!(trajectory.detail, format!("fill_with gets {gone}"));
    assert!(start.contains(&format!("def fill_with(self, {stays}):\n        self.{stays} = {stays}\n\n")), "{start}");
    assert_eq!(trajectory.steps.len(), 3);
    verify(signatures[0], &mut Parsers::default());
}

#[test]
fn nothing_is_used_without_an_allowed_licence() {
    let manifest = std::fs::read_to_string(own_corpus().join("MANIFEST.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copied = copy(&own_corpus(), folder.path());
    assert!(copied > 100);
    // Handlebars is under a licence that is not allowed, rustyline under none.
    let mut value: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    for package in value["packages"].as_array_mut().unwrap() {
        match package["package"].as_str().unwrap() {
            "handlebars" => package["licence"] = "GPL-3.0-only".into(),
            "rustyline" => package["licence"] = "see LICENSE".into(),
            _ => {}
        }
    }
    std::fs::write(folder.path().join("MANIFEST.json"), value.to_string()).unwrap();
    let (report, found) = all(&open(folder.path()), &BuildSettings::default());
    let languages: BTreeSet<CodeLanguage> = found.iter().map(|built| built.trajectory.language).collect();
    assert_eq!(languages, BTreeSet::from([CodeLanguage::Python]));
    let files: BTreeSet<&str> = found.iter().flat_map(|built| &built.files).map(|file| file.path.as_str()).collect();
    assert!(files.iter().all(|path| path.starts_with("pypdf/") || path.starts_with("cmd2/")), "{files:?}");
    assert!(report.licences.keys().all(|licence| licence == "MIT" || licence == "BSD-3-Clause"));

    std::fs::remove_file(folder.path().join("MANIFEST.json")).unwrap();
    let refused = build(&open(folder.path()), &BuildSettings::default(), &|_| (), &mut |_| Ok(()));
    assert!(matches!(refused, Err(SimulatorError::NoUsableFile { .. })), "{refused:?}");
}

fn copy(from: &Path, to: &Path) -> usize {
    let mut copied = 0;
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&place).unwrap();
            copied += copy(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).unwrap();
            copied += 1;
        }
    }
    copied
}

#[test]
fn what_is_stored_is_read_again_and_what_was_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("made/trajectories");
    let settings = BuildSettings { per_file: 1, ..BuildSettings::default() };
    let (report, found) = all(&open(&own_corpus()), &settings);

    // Given up: nothing is left.
    let mut writer = TrajectoryWriter::create(&output).unwrap();
    writer.add(&found[0]).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(output.parent().unwrap()).unwrap().count(), 0);

    let mut writer = TrajectoryWriter::create(&output).unwrap();
    found.iter().for_each(|built| writer.add(built).unwrap());
    let manifest = writer.finish("test", &["MIT".to_owned()], &settings, &report).unwrap();
    assert!(matches!(TrajectoryWriter::create(&output), Err(SimulatorError::Occupied { .. })));
    let reader = TrajectoryReader::open(&output).unwrap();
    assert_eq!(*reader.manifest(), manifest);
    let read: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(read.len(), found.len());
    for ((trajectory, texts), built) in read.iter().zip(&found) {
        assert_eq!((trajectory, texts), (&built.trajectory, &built.texts));
    }
    // Every file that a trajectory leads to stands in the manifest, with its licence.
    let used: BTreeSet<(&str, &str)> = found
        .iter()
        .flat_map(|built| &built.files)
        .map(|file| (file.repository.as_str(), file.path.as_str()))
        .collect();
    let named: BTreeSet<(&str, &str)> =
        manifest.files.iter().map(|file| (file.repository.as_str(), file.path.as_str())).collect();
    assert_eq!(used, named);

    let path = output.join("trajectories.jsonl.zst");
    let lines = zstd::stream::decode_all(std::fs::File::open(&path).unwrap()).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    let refuse = |lines: String| {
        std::fs::write(&path, zstd::stream::encode_all(lines.as_bytes(), 3).unwrap()).unwrap();
        TrajectoryReader::open(&output).unwrap().find_map(Result::err).unwrap()
    };
    let wrong_digest = lines.replacen("\"start_sha256\":\"", "\"start_sha256\":\"0", 1);
    assert!(matches!(refuse(wrong_digest), SimulatorError::Stored { line: 1, .. }));
    assert!(matches!(refuse("{}\n".to_owned()), SimulatorError::Stored { line: 1, .. }));
    std::fs::write(&path, b"not compressed").unwrap();
    assert!(TrajectoryReader::open(&output).unwrap().any(|one| one.is_err()));
}
