use super::{assert_window_is_of_its_document, corpus_folder};
use events::apply_actions;
use simulator::convention::RULES;
use simulator::source::read_folder;
use simulator::words::{Pool, pool_of};
use simulator::{BaseCorpus, BaseTaskGenerator, EditTask, Limits, Split, SymbolKind, TaskKind};
use std::collections::BTreeMap;
use std::sync::Arc;

fn base_corpus() -> BaseCorpus {
    let mut files = Vec::new();
    for package in ["document-press/pypdf", "terminal-desk/rustyline", "terminal-desk/cmd2"] {
        files.extend(read_folder(package, &corpus_folder().join(package)).unwrap());
    }
    for file in &mut files {
        file.repository = "package-of-the-training-split".into();
    }
    let split = Split::of_package("package-of-the-training-split");
    BaseCorpus::index(files, split).unwrap()
}

fn check(task: &EditTask) {
    let window = &task.context.window;
    let limits = Limits::default();
    assert!(window.text.len() <= limits.window_bytes + 80 && window.text.lines().count() <= limits.window_lines);
    assert_eq!(task.context.recent_edits.len(), 1);
    let edit = &task.context.recent_edits[0];
    assert!(edit.old_text != edit.new_text && !edit.old_text.contains('\n') && edit.old_text.len() <= 100);
    assert_window_is_of_its_document(task);
    assert!((window.start_byte..=window.start_byte + window.text.len() as u64).contains(&task.context.cursor_byte));
    let after = apply_actions(window.start_byte, &window.text, &task.wanted.actions).unwrap();
    assert_eq!(task.wanted.is_no_edit(), task.kind == TaskKind::NoEdit);
    assert_eq!(after == window.text, task.wanted.is_no_edit());
    assert_eq!(apply_actions(0, &task.base_document, &task.wanted.actions).unwrap(), task.after_document());
    for action in &task.wanted.actions {
        let line_start = task.base_document[..action.range.start as usize].rfind('\n').map_or(0, |at| at + 1);
        let line = task.base_document[line_start..].lines().next().unwrap();
        assert_eq!(line.matches(&action.old_text).count(), 1, "{line:?} {action:?}");
        assert_eq!(action.path, task.context.path);
    }
}

#[test]
fn base_tasks_are_sound_varied_and_repeatable() {
    let corpus = Arc::new(base_corpus());
    let generator = BaseTaskGenerator::new(corpus.clone(), 11);
    let (mut kinds, mut windows) = (BTreeMap::new(), std::collections::BTreeSet::new());
    for index in 0..1500 {
        let task = generator.task_at(index).unwrap();
        check(&task);
        *kinds.entry(task.kind).or_insert(0) += 1;
        windows.insert(task.context.window.text.clone());
        for name in task.identifiers.iter().skip(1) {
            assert_eq!(pool_of(name), Pool::Open);
        }
        assert_eq!(task.plain, task.wanted);
    }
    assert!((380..520).contains(&kinds[&TaskKind::NoEdit]), "{kinds:?}");
    assert!(windows.len() > 1450, "{}", windows.len());
    let again: Vec<EditTask> = BaseTaskGenerator::new(corpus.clone(), 11).take(50).collect();
    assert_eq!(again, (0..50).map(|index| generator.task_at(index).unwrap()).collect::<Vec<_>>());
    assert_ne!(again, BaseTaskGenerator::new(corpus, 12).take(50).collect::<Vec<_>>());
}

#[test]
fn no_edit_windows_never_show_the_old_name_unless_it_is_another_one() {
    let generator = BaseTaskGenerator::new(Arc::new(base_corpus()), 5);
    let mut shown = 0;
    for task in generator.take(1500).filter(|task| task.kind == TaskKind::NoEdit) {
        assert!(task.wanted.closed && task.wanted.is_no_edit());
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        if task.context.window.text.split(|letter: char| !is_word(letter)).any(|word| word == task.identifiers[0]) {
            shown += 1;
            let is_comment = task.context.recent_edits[0].old_text.trim_start().starts_with(['/', '#']);
            let is_local = matches!(task.symbol, SymbolKind::Variable | SymbolKind::Parameter);
            assert!(is_comment || is_local, "{task:?}");
        }
    }
    assert!(shown > 3, "{shown}");
}

#[test]
fn half_of_the_tasks_have_a_habit_and_no_habit_is_a_rule() {
    let generator = BaseTaskGenerator::new(Arc::new(base_corpus()), 5);
    let mut habits = 0;
    for index in 0..600 {
        let Some(habit) = generator.habit_task_at(index).unwrap().habit else { continue };
        habits += 1;
        // A habit is spelled as a rule would be; the order of arguments alone has no words of its own.
        let spelled = (habit.before, habit.after);
        let rules = RULES.iter().filter(|form| form.affix().is_some());
        assert!(rules.clone().all(|form| form.spelled() != spelled), "{spelled:?}");
    }
    assert!((200..300).contains(&habits), "{habits}");
}

#[test]
fn packages_are_held_out_whole() {
    let held_out = (0..1000).filter(|number| Split::of_package(&format!("package-{number}")) == Split::HeldOut).count();
    assert!((70..130).contains(&held_out), "{held_out}");
}
