use super::{assert_window_is_of_its_document, corpus, corpus_folder, plan, settings};
use simulator::convention::RULES;
use simulator::plan::ROUND;
use simulator::source::read_folder;
use simulator::{Corpus, DemoPlan, PlannedTask, TaskKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn everything(plan: &DemoPlan) -> Vec<PlannedTask> {
    let settings = plan.settings();
    (0..settings.developers)
        .flat_map(|developer| (0..settings.opportunities).map(move |opportunity| (developer, opportunity)))
        .map(|(developer, opportunity)| plan.task(developer, opportunity).unwrap())
        .collect()
}

#[test]
fn tasks_of_one_seed_are_identical_twice() {
    let (first, second, other) = (plan(7), plan(7), plan(8));
    assert_eq!(first.conventions(), second.conventions());
    let tasks = everything(&first);
    assert_eq!(tasks, everything(&second));
    assert_eq!(first.probe().unwrap(), second.probe().unwrap());
    assert_ne!(tasks, everything(&other));
}

#[test]
fn every_six_opportunities_hold_two_of_each_kind() {
    let plan = plan(3);
    for developer in 0..6 {
        let mut orders = BTreeSet::new();
        for round in 0..4 {
            let mut counts = BTreeMap::new();
            let kinds: Vec<TaskKind> =
                (0..ROUND).map(|place| plan.task(developer, round * ROUND + place).unwrap().task.kind).collect();
            for kind in &kinds {
                *counts.entry(*kind).or_insert(0) += 1;
            }
            assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2, 2, 2], "{kinds:?}");
            orders.insert(kinds);
        }
        assert!(orders.len() > 1);
    }
}

#[test]
fn tasks_are_sound_and_kinds_can_be_told_from_the_edit() {
    for seed in 0..12 {
        let plan = DemoPlan::new(seed, corpus(), settings()).unwrap();
        for developer in 0..2 {
            for opportunity in 0..ROUND {
                let PlannedTask { task, .. } = plan.task(developer, opportunity).unwrap();
                let window = &task.context.window;
                assert_window_is_of_its_document(&task);
                assert_eq!(
                    task.base_document[..window.start_byte as usize].matches('\n').count() as u64,
                    window.first_line
                );
                assert_eq!(task.context.repository, plan.repository_of(developer));
                let edit = &task.context.recent_edits[0];
                assert!(task.base_document.lines().any(|line| line == edit.new_text), "the recent edit has happened");
                assert_ne!(task.after_document() == *task.base_document, task.kind != TaskKind::NoEdit);
                let of_function = edit.new_text.contains("fn ") || edit.new_text.contains("def ");
                match task.kind {
                    TaskKind::Convention => {
                        assert!(of_function && task.wanted != task.plain && task.convention.is_some());
                        assert_eq!(task.wanted.actions.len(), task.plain.actions.len());
                    }
                    TaskKind::Plain => assert!(!of_function && task.wanted == task.plain && task.convention.is_none()),
                    TaskKind::NoEdit => assert!(task.wanted.is_no_edit() && task.convention.is_none()),
                }
            }
        }
    }
}

#[test]
fn conventions_conflict_between_repositories_and_all_rules_have_tasks() {
    let mut rules = BTreeSet::new();
    for seed in 0..60 {
        let plan = DemoPlan::new(seed, corpus(), settings()).unwrap();
        let [left, right] = plan.conventions() else { panic!("two repositories") };
        assert_ne!(left.rule, right.rule);
        assert_eq!(left.rule.form().unwrap().class(), right.rule.form().unwrap().class());
        assert!(left.repository != right.repository && plan.all_conflict());
        rules.extend([left.rule, right.rule]);
    }
    assert!(rules.len() > RULES.len() / 2, "{}", rules.len());
}

#[test]
fn with_many_folders_any_exchange_of_repositories_conflicts() {
    let files = read_folder("", &corpus_folder().join("terminal-desk/rustyline")).unwrap();
    let part = |number: usize| (format!("folder-{number:02}"), files.clone());
    let corpus = Arc::new(Corpus::from_files((0..11).map(part).collect()).unwrap());
    for seed in 0..6 {
        let plan = DemoPlan::new(seed, corpus.clone(), settings()).unwrap();
        assert!(plan.all_conflict());
        let rules: BTreeSet<_> = plan.conventions().iter().map(|one| one.rule).collect();
        assert_eq!(rules.len(), 11);
        let opportunity = (0..ROUND).find(|place| plan.kind_at(9, *place) == TaskKind::Convention).unwrap();
        let task = plan.task(9, opportunity).unwrap().task;
        assert_eq!((task.convention, &*task.context.repository), (Some(plan.conventions()[9].rule), "folder-09"));
    }
}

#[test]
fn unseen_names_occur_in_no_other_task() {
    let plan = plan(21);
    let mut tasks = everything(&plan);
    tasks.extend(plan.probe().unwrap());
    tasks.extend(plan.gate().unwrap());
    let mut owners: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (number, planned) in tasks.iter().enumerate() {
        for name in &planned.task.identifiers {
            owners.entry(name.clone()).or_default().insert(number);
        }
    }
    let unseen: Vec<usize> = (0..tasks.len()).filter(|number| tasks[*number].is_unseen).collect();
    let streams = settings().developers * settings().opportunities;
    let in_streams = unseen.iter().filter(|number| **number < streams).count();
    assert!((streams / 5..=streams / 4 + 6).contains(&in_streams), "{in_streams} of {streams}");
    for number in unseen {
        for name in &tasks[number].task.identifiers {
            assert_eq!(owners[name].len(), 1, "{name}");
        }
    }
}
