//! `flywheel replay` on repositories that git makes here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{LIMIT, Said, command, say};

/// Words that nothing in the base's tasks is about.
const NAMES: [&str; 6] = ["kettle", "lantern", "marble", "nutmeg", "orchid", "pebble"];

fn git(folder: &Path, number: usize, arguments: &[&str]) {
    let date = format!("2026-01-02T{:02}:{:02}:00Z", number / 60, number % 60);
    let output = Command::new("git")
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_DATE", date.as_str()), ("GIT_COMMITTER_DATE", date.as_str())])
        .args(["-c", "user.name=ada", "-c", "user.email=ada@example.org"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// A repository in which each of `commits` commits renames a function where it is defined and called.
fn repository(folder: &Path, commits: usize) -> PathBuf {
    let path = folder.join("pantry");
    std::fs::create_dir(&path).unwrap();
    git(&path, 0, &["init", "--quiet", "--initial-branch=main", "."]);
    let line = |number: usize, name: &str| {
        if number.is_multiple_of(10) {
            format!("fn {name}(value: u32) {{")
        } else {
            format!("    let value = {name}(value);")
        }
    };
    let name = |place: usize, step: usize| format!("{}_{place}_{step}", NAMES[(place + step) % NAMES.len()]);
    for commit in 0..=commits {
        let text: String = (0..120)
            .map(|number| {
                // Every commit is about one of six stretches of the file.
                let place = number / 20;
                let step = (commit + NAMES.len() - 1 - place) / NAMES.len();
                match number % 20 {
                    0 | 4 | 15 => line(number, &name(place, step)) + "\n",
                    _ => format!("    keep(value, {number});\n"),
                }
            })
            .collect();
        std::fs::write(path.join("lib.rs"), text).unwrap();
        git(&path, commit, &["add", "--all", "."]);
        git(&path, commit, &["commit", "--quiet", "--message", &format!("commit {commit}")]);
    }
    path
}

/// The base with few tasks: what it remembers is judged elsewhere.
fn base(folder: &Path) -> PathBuf {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base");
    let base = folder.join("base");
    std::fs::create_dir(&base).unwrap();
    for name in ["config.json", "manifest.json", "model.safetensors", "tokenizer.json", "sources.json"] {
        std::fs::copy(shipped.join(name), base.join(name)).unwrap();
    }
    for (name, count) in [("replay.jsonl", 40), ("old_skills.jsonl", 8)] {
        let text = std::fs::read_to_string(shipped.join(name)).unwrap();
        let few: String = text.split_inclusive('\n').take(count).collect();
        std::fs::write(base.join(name), few).unwrap();
    }
    base
}

fn arguments(folder: &Path, repository: &Path, more: &[&str]) -> Vec<String> {
    let (base, state) = (folder.join("base"), folder.join("state"));
    let mut arguments = vec!["replay".to_owned()];
    for (option, path) in [("--repo", repository), ("--base", base.as_path()), ("--state", state.as_path())] {
        arguments.extend([option.to_owned(), path.to_string_lossy().into_owned()]);
    }
    let sizes = ["--windows", "3", "--points", "40", "--steps", "4"];
    arguments.extend(sizes.iter().chain(more).map(|one| (*one).to_owned()));
    arguments
}

fn replay(folder: &Path, repository: &Path, more: &[&str]) -> Said {
    let arguments = arguments(folder, repository, more);
    say(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The folder of the only replay whose state lies in `folder`.
fn state(folder: &Path) -> Option<PathBuf> {
    Some(std::fs::read_dir(folder.join("state")).ok()?.next()?.unwrap().path())
}

/// Starts a replay, and kills it as soon as something is kept.
fn killed(folder: &Path, repository: &Path) {
    let arguments = arguments(folder, repository, &[]);
    let mut command = command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !state(folder).is_some_and(|state| state.join("answers-0-1.json").exists()) {
        assert!(begun.elapsed() < LIMIT && child.try_wait().unwrap().is_none(), "it kept nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// All but how long this call took.
fn timeless(mut report: Value) -> Value {
    report.as_object_mut().unwrap().remove("seconds");
    report
}

#[test]
fn a_history_is_replayed_and_an_interrupted_replay_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = repository(folder.path(), 24);
    base(folder.path());

    let stopped = replay(folder.path(), &path, &["--json", "--minutes", "0"]);
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert!(stopped.stderr.contains("goes on where this one ended"), "{stopped:?}");
    let unfinished: Value = serde_json::from_str(&stopped.stdout).unwrap();
    assert_eq!(
        (&unfinished["complete"], unfinished["claims"].as_array().map(Vec::len)),
        (&Value::from(false), Some(0))
    );

    killed(folder.path(), &path);
    let report = replay(folder.path(), &path, &["--json"]).json();
    assert_eq!(report["complete"], true);
    assert_eq!(
        (&report["source"]["repository"], &report["source"]["found"]),
        (&Value::from("pantry"), &Value::from(25))
    );
    let windows = report["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 3);
    assert!(windows.iter().all(|window| window["changes"] == 8 && window["points"].as_u64() <= Some(40)), "{report}");
    let versions = report["versions"].as_array().unwrap();
    let scored = |version: &Value| -> Vec<u64> {
        version["scores"].as_array().unwrap().iter().map(|score| score["window"].as_u64().unwrap()).collect()
    };
    let found: Vec<(&str, Vec<u64>)> =
        versions.iter().map(|version| (version["name"].as_str().unwrap(), scored(version))).collect();
    let expected = [
        ("repeat-last-substitution", vec![1, 2, 3]),
        ("n-gram-cache", vec![1, 2, 3]),
        ("base", vec![1, 2, 3]),
        ("served", vec![1, 2, 3]),
        ("version-1", vec![2, 3]),
        ("version-2", vec![3]),
    ];
    assert_eq!(found, expected, "{report}");
    for version in versions {
        for score in version["scores"].as_array().unwrap() {
            assert_eq!(score["points"].as_u64().unwrap(), 2 * score["edit_points"].as_u64().unwrap());
            let against = score["differences"].as_array().unwrap();
            let learns_nothing = version["kind"] == "baseline" || version["kind"] == "base";
            assert_eq!(against.len(), if learns_nothing { 2 } else { 3 });
            let is_trained = version["kind"] == "trained";
            assert_eq!(score["calibrated"].is_object(), is_trained, "{score}");
            // No threshold does better than the one that is best on the same points.
            if is_trained {
                let best = score["best"]["utility"].as_f64().unwrap();
                let others = [&score["utility"], &score["calibrated"]["utility"]];
                assert!(others.iter().all(|utility| utility.as_f64().unwrap() < best + 1e-9), "{score}");
            }
        }
        // Windows this small hold out too little to judge anything.
        if version["kind"] == "trained" {
            let gate = &version["gate"];
            assert_eq!(gate["verdict"], "insufficient", "{version}");
            assert!(gate["opportunities"].as_u64() > Some(0) && gate["opportunities"].as_u64() < Some(80), "{version}");
            assert_eq!(gate["opportunities"], version["thresholds"]["points"], "{version}");
            assert!(version["silent_pairs"].as_u64() < version["training_pairs"].as_u64(), "{version}");
        }
    }
    // So the base serves all of them, and what was served is no better than it.
    assert_eq!(report["served"]["versions"], serde_json::json!(["base", "base", "base"]));
    assert_eq!(scores_of(&report, "served", 1), scores_of(&report, "base", 1));
    let unchanged = &report["served"]["claims"][0];
    assert_eq!((&unchanged["against"], unchanged["estimate"].as_f64()), (&Value::from("base"), Some(0.0)), "{report}");
    // What was renamed a moment ago is renamed again: the first baseline finds some of it.
    assert!(
        versions[0]["scores"].as_array().unwrap().iter().any(|score| score["content"].as_f64() > Some(0.0)),
        "{report}"
    );
    // A version learned before every window but the first, none from the one that it is scored on.
    let later: u64 = windows[1..].iter().map(|window| window["changes_drawn"].as_u64().unwrap()).sum();
    for claims in [&report["claims"], &report["calibrated_claims"], &report["served"]["claims"]] {
        let claims = claims.as_array().unwrap();
        let against: Vec<&str> = claims.iter().map(|claim| claim["against"].as_str().unwrap()).collect();
        assert_eq!(against, ["base", "repeat-last-substitution", "n-gram-cache"]);
        assert!(claims.iter().all(|claim| claim["changes"].as_u64() == Some(later)), "{report}");
    }
    assert!(report["overlap"]["packages"].as_array().is_some());

    // Everything is there already; an answer that was lost is given again, and is the same.
    let state = state(folder.path()).unwrap();
    std::fs::remove_file(state.join("answers-1-3.json")).unwrap();
    let again = replay(folder.path(), &path, &["--json", "--minutes", "10"]).json();
    assert_eq!(timeless(again), timeless(report.clone()));
    assert!(state.join("answers-1-3.json").is_file());
    // Of what was said until it got late nothing is said again, and the rest is.
    let whole = std::fs::read(state.join("answers-1-3.json")).unwrap();
    let mut some: Vec<Value> = serde_json::from_slice(&whole).unwrap();
    some.truncate(some.len() / 2);
    std::fs::write(state.join("answers-1-3.json"), serde_json::to_vec(&some).unwrap()).unwrap();
    let again = replay(folder.path(), &path, &["--json"]).json();
    assert_eq!(timeless(again), timeless(report));
    assert!(std::fs::read(state.join("answers-1-3.json")).unwrap() == whole);

    for (name, starts, says) in [
        ("r.md", "# Replay of pantry", r"insufficient\_opportunities"),
        ("r.md", "# Replay of pantry", "The gate let no version through"),
        ("r.html", "<!DOCTYPE html>", "<svg"),
    ] {
        let file = folder.path().join(name);
        let said = replay(folder.path(), &path, &["--report", &file.to_string_lossy()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with(starts) && text.contains(says), "{text}");
    }

    // A version that the gate lets through serves from the next window on, and is the parent of the next one.
    let result = state.join("version-1/result.json");
    let mut first: Value = serde_json::from_slice(&std::fs::read(&result).unwrap()).unwrap();
    first["gate"]["verdict"] = Value::from("eligible");
    std::fs::write(&result, serde_json::to_vec(&first).unwrap()).unwrap();
    std::fs::remove_dir_all(state.join("version-2")).unwrap();
    for answers in ["3", "held-out"] {
        std::fs::remove_file(state.join(format!("answers-2-{answers}.json"))).unwrap();
    }
    let report = replay(folder.path(), &path, &["--json"]).json();
    assert_eq!(report["served"]["versions"], serde_json::json!(["base", "version-1", "version-1"]));
    assert_eq!(scores_of(&report, "served", 3), scores_of(&report, "version-1", 3));
    let second: Value = serde_json::from_slice(&std::fs::read(state.join("version-2/result.json")).unwrap()).unwrap();
    assert_eq!(second["parent_digest"], first["model_digest"]);
    assert_eq!(second["anchor_digest"], report["base_digest"]);
}

/// Figures of a version on a window.
fn scores_of(report: &Value, name: &str, window: u64) -> Vec<Value> {
    let versions = report["versions"].as_array().unwrap();
    let version = versions.iter().find(|version| version["name"] == name).unwrap();
    let score = version["scores"].as_array().unwrap().iter().find(|score| score["window"] == window).unwrap();
    ["points", "utility", "edits_shown", "place", "content", "silent"].map(|figure| score[figure].clone()).to_vec()
}

#[test]
fn what_can_not_be_replayed_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = repository(folder.path(), 3);
    base(folder.path());
    let few = replay(folder.path(), &path, &[]);
    assert!(
        few.sentence().contains("3 windows need 15") && few.sentence().contains("files that came or went"),
        "{few:?}"
    );
    let plain = folder.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    assert!(replay(folder.path(), &plain, &[]).sentence().contains("no git repository"));
    let method = replay(folder.path(), &path, &["--method", "magic"]);
    assert!(method.sentence().contains("--method magic"), "{method:?}");
    let report = folder.path().join("report.pdf").to_string_lossy().into_owned();
    assert!(replay(folder.path(), &path, &["--report", &report]).sentence().contains("FILE.json"));
    let neither = say(&["replay"]);
    assert!(neither.code == Some(2) && neither.stderr.contains("--repo"), "{neither:?}");
    let one = say(&["replay", "--releases", &path.to_string_lossy()]);
    assert!(one.sentence().contains("at least two releases"), "{one:?}");
}
