//! Opportunities in trajectories: what they show, what they want, and which of them a base may learn from.

use crate::trajectories::{MIT, all, open, write};
use events::{ActionList, apply_actions};
use simulator::base::package_of;
use simulator::history::judgement::{Judgement, judge};
use simulator::random::Dice;
use simulator::trajectory::opportunities::Quiet;
use simulator::trajectory::{
    BuildSettings, PlayedTrajectory, TrajectorySplit, TrajectoryTask, TrajectoryTasks, TrajectoryWriter,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn of_corpus() -> Vec<PlayedTrajectory> {
    let corpus = open(&crate::corpus_folder());
    let settings = BuildSettings { per_file: 1, threads: 2, ..BuildSettings::default() };
    all(&corpus, &settings).1.into_iter().map(PlayedTrajectory::from).collect()
}

/// The file that step `step` changes, before it and after it.
fn around(played: &PlayedTrajectory, step: usize) -> (String, String) {
    let trajectory = &played.trajectory;
    let path = &trajectory.steps[step].action.path;
    let place = trajectory.files.iter().position(|file| file.path == *path).unwrap();
    let at = |step| trajectory.before(&played.texts, step).unwrap().swap_remove(place);
    (at(step), at(step + 1))
}

fn check_context(task: &TrajectoryTask, made: usize) {
    let context = &task.point.context;
    let window = &context.window;
    assert!((window.start_byte..=window.start_byte + window.text.len() as u64).contains(&context.cursor_byte));
    assert!(window.text.lines().count() <= 13 && context.recent_edits.len() <= made.min(8));
    assert!(context.recent_edits.iter().all(|edit| edit.old_text != edit.new_text));
    assert_eq!(context.language, task.language.id());
}

#[test]
fn the_next_step_is_wanted_and_every_step_in_sight_is_right() {
    let (mut asked, mut found, mut closed) = (0, 0, 0);
    for (number, played) in of_corpus().iter().enumerate() {
        for step in played.steps() {
            asked += 1;
            let mut dice = Dice::new(5, "test", &[number as u64, step as u64]);
            let Some(task) = played.edit_task(step, &mut dice) else { continue };
            found += 1;
            check_context(&task, step);
            let (before, after) = around(played, step);
            let window = &task.point.context.window;
            let start = usize::try_from(window.start_byte).unwrap();
            assert_eq!(&before[start..start + window.text.len()], window.text);
            let made = apply_actions(0, &before, &task.point.remaining[0]).unwrap();
            assert_eq!(made, after, "{}", played.trajectory.detail);
            for parts in &task.point.remaining {
                assert!(parts.iter().all(|part| part.path == task.point.context.path));
                let said = ActionList { actions: parts.clone(), closed: false };
                assert_eq!(judge(&task.point, &said), Judgement { shown: true, place: true, content: true });
            }
            // The answer is the step, or the step and the one behind it; the end is told of where it is seen alone.
            let written = apply_actions(0, &before, &task.wanted.actions).unwrap();
            let is_last = step + 1 == played.trajectory.steps.len();
            if written == after {
                assert_eq!(task.wanted.closed, is_last);
            } else {
                assert!(!is_last && written == around(played, step + 1).1);
                assert_eq!(task.wanted.closed, step + 2 == played.trajectory.steps.len());
            }
            closed += usize::from(task.wanted.closed);
        }
    }
    assert!(found * 2 > asked, "{found} of {asked}");
    assert!(closed > 0 && closed < found, "{closed} of {found}");
}

#[test]
fn nothing_is_wanted_where_no_step_is_to_come() {
    let mut found = [0; 3];
    for (number, played) in of_corpus().iter().enumerate() {
        for (kind, why) in [Quiet::Done, Quiet::Away, Quiet::Before].into_iter().enumerate() {
            let mut dice = Dice::new(6, "test", &[number as u64, kind as u64]);
            let Some(task) = played.quiet_task(why, 1, &mut dice) else { continue };
            found[kind] += 1;
            let made = [played.trajectory.steps.len(), 1, 0][kind];
            check_context(&task, made);
            assert!(task.wanted.is_no_edit() && task.wanted.closed && !task.point.wants_edit());
            // What is shown stands there now and in the end: no step to come touches it.
            let shown = task.point.context.window.text.as_str();
            let now = played.trajectory.before(&played.texts, made).unwrap();
            assert!(now.iter().zip(&played.texts).any(|(now, last)| now.contains(shown) && last.contains(shown)));
        }
    }
    assert!(found.iter().all(|count| *count > 20), "{found:?}");
}

#[test]
fn tasks_are_a_function_of_their_number() {
    let played = of_corpus();
    let tasks = TrajectoryTasks::new(played.clone(), 3);
    let drawn: Vec<TrajectoryTask> = (0..400).map(|index| tasks.task_at(index, &|_| true).unwrap()).collect();
    // Another reader, another order: the same tasks, so that a run goes on where it was stopped.
    let again = TrajectoryTasks::new(played.clone(), 3);
    for index in (0..400).rev().step_by(7) {
        assert_eq!(again.task_at(index, &|_| true).as_ref(), drawn.get(usize::try_from(index).unwrap()));
    }
    assert_ne!(TrajectoryTasks::new(played, 4).task_at(0, &|_| true).as_ref(), drawn.first());
    let quiet = drawn.iter().filter(|task| task.wanted.is_no_edit()).count();
    assert!((80..160).contains(&quiet), "{quiet}");
    assert!(drawn.iter().all(TrajectoryTask::is_in_sight));
    let mut guessed = drawn.iter().find(|task| !task.wanted.is_no_edit()).unwrap().clone();
    guessed.wanted.actions[0].new_text.push_str(" never_written");
    assert!(!guessed.is_in_sight());
    // What does not fit is drawn again, and wants an edit as often as before.
    let short = |task: &TrajectoryTask| task.point.context.window.text.len() < 400;
    for index in 0..100 {
        let task = tasks.task_at(index, &short).unwrap();
        assert!(short(&task));
        assert_eq!(task.wanted.is_no_edit(), drawn[usize::try_from(index).unwrap()].wanted.is_no_edit());
    }
    assert!(TrajectoryTasks::new(Vec::new(), 1).is_empty());
}

const CODE: &str =
    "pub fn open_store(path: &str) -> u8 {\n    lookup(path)\n}\n\nfn first() -> u8 {\n    open_store(\"a\")\n}\n";

fn stored(folder: &Path, files: &[(&str, &str)]) -> PathBuf {
    let corpus = folder.join("corpus");
    let listed = files.iter().map(|(path, _)| path.split('/').next().unwrap()).collect::<BTreeSet<_>>();
    let packages: Vec<_> =
        listed.iter().map(|name| format!("{{\"licence\": \"MIT\", \"folder\": \"{name}\"}}")).collect();
    write(&corpus, &[(MIT.0, format!("{{\"packages\": [{}]}}", packages.join(", ")).as_str())]);
    write(&corpus, files);
    let output = folder.join("stored");
    let mut writer = TrajectoryWriter::create(&output).unwrap();
    let settings = BuildSettings::default();
    let (report, built) = all(&open(&corpus), &settings);
    built.iter().for_each(|one| writer.add(one).unwrap());
    writer.finish("test", &[], &settings, &report).unwrap();
    output
}

#[test]
fn a_version_is_no_part_of_a_name() {
    for (repository, package) in [
        ("http-1.2.0", "http"),
        ("toml-1.2.1+spec-1.1.0", "toml"),
        ("sha-1-0.10.1", "sha-1"),
        ("aho-corasick", "aho-corasick"),
        ("left-press", "left-press"),
        ("-1.0", "-1.0"),
    ] {
        assert_eq!(package_of(repository), package);
    }
}

#[test]
fn held_out_repositories_are_never_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    // The hash of `http` holds it out, whatever its version; the others are learned from unless they are named.
    let other = CODE.replace("open_store", "read_store");
    let third = CODE.replace("open_store", "find_store");
    let output = stored(
        folder.path(),
        &[
            ("http-1.2.0/a.rs", CODE),
            ("serde_json-1.0.1/a.rs", other.as_str()),
            // The text of a file that is held out, in another place.
            ("copied-0.1/b.rs", CODE),
            ("named-2.0/a.rs", third.as_str()),
        ],
    );
    let read = |names: &[&str]| {
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        TrajectorySplit::read(std::slice::from_ref(&output), &names).unwrap()
    };
    let repositories = |played: &[PlayedTrajectory]| -> BTreeSet<String> {
        played.iter().map(|one| one.trajectory.repository.clone()).collect()
    };
    let plain = read(&[]);
    assert_eq!(repositories(&plain.held_out), BTreeSet::from(["http-1.2.0".to_owned()]));
    assert_eq!(repositories(&plain.train), BTreeSet::from(["serde_json-1.0.1".to_owned(), "named-2.0".to_owned()]));
    let copied = &plain.sources.repositories["copied-0.1"];
    assert!(copied.trajectories == 0 && copied.left_out > 0, "{copied:?}");
    assert!(plain.sources.repositories.values().all(|source| source.licences.contains("MIT")));
    let named = read(&["named"]);
    assert_eq!(repositories(&named.train), BTreeSet::from(["serde_json-1.0.1".to_owned()]));
    assert!(repositories(&named.held_out).contains("named-2.0"));
    assert_ne!(named.sources, plain.sources);
    assert_eq!(read(&["named"]).sources, named.sources);
}

#[test]
fn the_demo_s_files_are_never_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("stored");
    let mut writer = TrajectoryWriter::create(&output).unwrap();
    let settings = BuildSettings { per_file: 1, ..BuildSettings::default() };
    let (report, built) = all(&open(&crate::corpus_folder()), &settings);
    built.iter().for_each(|one| writer.add(one).unwrap());
    writer.finish("test", &[], &settings, &report).unwrap();
    let split = TrajectorySplit::read(&[output], &BTreeSet::new()).unwrap();
    assert!(split.train.is_empty(), "{}", split.train.len());
}
