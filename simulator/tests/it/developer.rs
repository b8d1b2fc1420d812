use super::judge::{half_word, renames, task as task_by_hand};
use super::{plan, says_what_is_wanted};
use events::vocabulary::Origin;
use events::{ActionList, ByteRange, EditAction};
use proptest::prelude::*;
use simulator::random::Dice;
use simulator::{Behaviour, BehaviourKind, BehaviourRates, ClientActionKind, Developer, EditTask, TaskKind};
use std::sync::OnceLock;

fn tasks() -> &'static [EditTask] {
    static TASKS: OnceLock<Vec<EditTask>> = OnceLock::new();
    TASKS.get_or_init(|| {
        let plans = [plan(1), plan(2), plan(5), plan(9)];
        let tasks = plans.iter().flat_map(|plan| (0..36).map(|number| plan.task(number % 6, number / 6).unwrap().task));
        tasks.collect()
    })
}

/// What is reported, replayed on the document.
fn replay(task: &EditTask, behaviour: &Behaviour) -> String {
    let mut text = task.base_document.to_string();
    let mut last = 0;
    for action in &behaviour.actions {
        assert!(action.at_ms >= last, "time goes forward");
        last = action.at_ms;
        if let ClientActionKind::Edited { range: ByteRange { start, end }, old_text, new_text, .. } = &action.kind {
            assert_eq!(text.get(*start as usize..*end as usize), Some(old_text.as_str()));
            text.replace_range(*start as usize..*end as usize, new_text);
        }
    }
    text
}

/// A change of the first sign of the window, where nothing is wanted.
fn unwanted(task: &EditTask) -> EditAction {
    let window = &task.context.window;
    let column = window.text.find(|character: char| !character.is_whitespace()).unwrap();
    let start = window.start_byte + column as u64;
    let old_text = window.text[column..=column].to_owned();
    EditAction {
        path: task.context.path.clone(),
        range: ByteRange::new(start, start + 1),
        old_text,
        new_text: "unwanted".to_owned(),
    }
}

fn served(task: &EditTask, choice: u8) -> ActionList {
    let mut list = match choice % 5 {
        0 => task.wanted.clone(),
        1 => task.plain.clone(),
        2 => ActionList::no_edit(),
        3 => {
            let mut spaced = task.wanted.clone();
            for action in &mut spaced.actions {
                action.new_text.push(' ');
            }
            spaced
        }
        _ => {
            let mut wrong = task.plain.clone();
            for action in &mut wrong.actions {
                action.new_text.push_str("_wrong");
            }
            if wrong.actions.is_empty() {
                wrong.actions.push(unwanted(task));
            }
            wrong
        }
    };
    if choice >= 128 {
        list.actions.truncate(1);
    }
    list
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn reports_replay_to_the_document_and_looks_show_it(number in 0_usize..144, choice: u8, seed: u64) {
        let task = &tasks()[number];
        let developer = Developer::default();
        let served = served(task, choice);
        let behaviour = developer.decide(task, &served, &mut Dice::new(seed, "behaviour", &[]));
        prop_assert_eq!(&replay(task, &behaviour), &behaviour.document);
        prop_assert_eq!(&behaviour, &developer.decide(task, &served, &mut Dice::new(seed, "behaviour", &[])));
        let looks: Vec<_> = behaviour.actions.iter().filter_map(|action| match &action.kind {
            ClientActionKind::Look { delay_s, text } => Some((*delay_s, text)),
            _ => None,
        }).collect();
        prop_assert_eq!(looks.iter().map(|(delay, _)| *delay).collect::<Vec<_>>(), [30, 120, 300]);
        prop_assert!(looks.iter().all(|(_, text)| behaviour.document.contains(text.as_str())));
    }

    #[test]
    fn without_noise_what_is_wanted_stands_in_the_end(number in 0_usize..144, choice: u8, seed: u64) {
        let task = &tasks()[number];
        let developer = Developer::new(BehaviourRates::noiseless());
        let served = served(task, choice);
        let behaviour = developer.decide(task, &served, &mut Dice::new(seed, "behaviour", &[]));
        prop_assert!(says_what_is_wanted(task, &behaviour.document), "{:?}", behaviour.kind);
        let is_accept = |kind: &ClientActionKind| matches!(kind, ClientActionKind::Accepted { .. });
        let accepted = behaviour.actions.iter().filter(|action| is_accept(&action.kind)).count();
        if choice % 5 == 0 && task.kind != TaskKind::NoEdit {
            prop_assert_eq!(behaviour.kind, BehaviourKind::Accepted);
            prop_assert_eq!(accepted, served.actions.len());
        }
        if task.kind == TaskKind::NoEdit {
            prop_assert_eq!(accepted, 0);
        }
    }
}

#[test]
fn every_kind_of_behaviour_happens_and_formatters_change_only_space() {
    let developer = Developer::default();
    let mut kinds = std::collections::BTreeMap::new();
    let mut formatted = 0;
    for seed in 0..1500 {
        let task = &tasks()[seed % tasks().len()];
        let behaviour =
            developer.decide(task, &served(task, (seed / 3) as u8), &mut Dice::new(seed as u64, "behaviour", &[]));
        *kinds.entry(behaviour.kind).or_insert(0) += 1;
        for action in &behaviour.actions {
            if let ClientActionKind::Edited { origin: Origin::Formatter, old_text, new_text, .. } = &action.kind {
                formatted += 1;
                assert!(old_text.trim().is_empty() && new_text.trim().is_empty());
            }
        }
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    assert!(formatted > 40, "{formatted}");
}

#[test]
fn what_was_accepted_is_not_typed_again_however_it_was_put() {
    let developer = Developer::new(BehaviourRates::noiseless());
    let (task, wanted) = (task_by_hand(renames()), renames());
    for served in [vec![half_word()], vec![half_word(), wanted[1].clone()], vec![wanted[1].clone(), half_word()]] {
        let served = ActionList { actions: served, closed: true };
        let behaviour = developer.decide(&task, &served, &mut Dice::new(1, "behaviour", &[]));
        assert_eq!((behaviour.kind, &behaviour.document), (BehaviourKind::Accepted, &task.after_document()));
        assert_eq!(replay(&task, &behaviour), behaviour.document);
    }
}
