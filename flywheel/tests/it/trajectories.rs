//! `flywheel trajectories` on the demo's corpus, and what it refuses.

use std::path::{Path, PathBuf};

use simulator::trajectory::{PATTERNS, Pattern, TrajectoryReader};

use crate::harness::say;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus")
}

#[test]
fn trajectories_are_counted_shown_reported_and_stored() {
    let directory = tempfile::tempdir().unwrap();
    let (output, report) = (directory.path().join("made"), directory.path().join("report.md"));
    let corpus = corpus();
    let (corpus, made, file) = (corpus.to_str().unwrap(), output.to_str().unwrap(), report.to_str().unwrap());
    let arguments =
        ["trajectories", "build", "--corpus", corpus, "--output", made, "--report", file, "--show", "--json"];
    let said = say(&arguments);
    assert_eq!(said.code, Some(0), "{said:?}");
    let told = said.json();
    let stored = TrajectoryReader::open(&output).unwrap();
    assert_eq!(told["report"], serde_json::to_value(&stored.manifest().report).unwrap());
    assert_eq!(u64::try_from(stored.map(Result::unwrap).count()).unwrap(), {
        let patterns = told["report"]["patterns"].as_array().unwrap();
        patterns.iter().map(|count| count["trajectories"].as_u64().unwrap()).sum::<u64>()
    });
    // A sample of each pattern and language, also for people.
    let samples = told["samples"].as_array().unwrap();
    assert_eq!(samples.len(), told["report"]["patterns"].as_array().unwrap().len());
    let written = std::fs::read_to_string(&report).unwrap();
    assert!(samples.iter().all(|sample| written.contains(sample.as_str().unwrap())));
    assert!(written.contains("rename-to-convention") && written.contains("BSD-3-Clause"), "{written}");
    let shown = say(&["trajectories", "build", "--corpus", corpus, "--show", "2", "--pattern", "rename-to-convention"]);
    assert!(shown.code == Some(0) && shown.stdout.contains("step 2 (follows from step 1)"), "{shown:?}");
}

#[test]
fn what_trajectories_can_not_be_made_of_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let unlicensed = directory.path().join("unlicensed");
    std::fs::create_dir_all(&unlicensed).unwrap();
    std::fs::write(unlicensed.join("a.py"), "def one():\n    return 1\n".repeat(20)).unwrap();
    let (empty, corpus) = (unlicensed.to_str().unwrap(), corpus());
    let corpus = corpus.to_str().unwrap();
    let refused = |arguments: &[&str], expected: &str| {
        let said = say(&[&["trajectories", "build"][..], arguments].concat());
        assert!(said.code == Some(2) && said.stderr.contains(expected), "{said:?}");
    };
    refused(&["--corpus", empty], "none of 1 source files may be used (1 without a known licence)");
    refused(&["--corpus", "/no/such/corpus"], "/no/such/corpus can not be read");
    refused(&["--corpus", corpus, "--output", empty], "is there already and not empty");
    let names = PATTERNS.map(Pattern::name);
    let no_pattern = format!("there is no pattern \"wishful\"; there are {}", names.join(", "));
    refused(&["--corpus", corpus, "--pattern", "wishful"], &no_pattern);
    let help = say(&["trajectories", "build", "--help"]).stdout;
    assert!(names.iter().all(|name| help.contains(name)), "{help}");
    refused(&["--corpus", corpus, "--allow-licence", "see LICENSE"], "is no SPDX licence expression");
    refused(&["--corpus", corpus, "--allow-licence", "MPL-2.0 OR ISC"], "names several licences");
    refused(&["--corpus", corpus, "--pattern", "diagnostic-fix"], "needs a compiler to ask");
    // A report that has no place is told before anything is made, and none takes the place of code.
    let (made, report) = (directory.path().join("made"), directory.path().join("absent").join("report.md"));
    let (made, report) = (made.to_str().unwrap(), report.to_str().unwrap());
    refused(&["--corpus", corpus, "--output", made, "--report", report], report);
    let (code, link) = (unlicensed.join("a.py"), directory.path().join("link.md"));
    let text = std::fs::read_to_string(&code).unwrap();
    std::os::unix::fs::symlink(&code, &link).unwrap();
    for report in [&code, &link, &unlicensed.join("new.md")] {
        refused(&["--corpus", empty, "--report", report.to_str().unwrap()], "which is only read");
    }
    assert_eq!(std::fs::read_to_string(&code).unwrap(), text);
    assert!(!Path::new(made).exists() && !unlicensed.join("new.md").exists());
}

#[test]
fn pretraining_refuses_what_it_may_not_learn_from() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (sources, made, output) = (place("sources"), place("made"), place("output"));
    let corpus = corpus();
    let built =
        say(&["trajectories", "build", "--corpus", corpus.to_str().unwrap(), "--output", &made, "--per-file", "1"]);
    assert_eq!(built.code, Some(0), "{built:?}");
    let refused = |arguments: &[&str], expected: &str| {
        let pretrain = ["pretrain", "--sources", &sources, "--output", &output];
        let said = say(&[&pretrain[..], arguments].concat());
        assert!(said.code == Some(2) && said.stderr.contains(expected), "{said:?}");
    };
    // The demo is tried on these files.
    refused(&["--trajectories", &made], "nothing in them may be learned from");
    refused(&["--trajectories", "/no/such/folder"], "/no/such/folder/manifest.json can not be read");
    refused(&["--trajectories", &made, "--hold-out", "nobody"], "--hold-out nobody");
    refused(&["--trajectories", &made, "--share", "2"], "not from 0 to 1");
    refused(&["--share", "0.2"], "--trajectories");
    // Without the option nothing but the sources is asked for.
    refused(&["--hold-out", "flask"], "are not there; run simulator/fetch-sources");
}
