//! Labels under the mess of real telemetry: several actions in one episode, formats, clocks, sessions that end in the
//! middle of a word, and reports that cannot be true.

use std::time::Duration;

use events::{CleanEvent, Decision, EditAction, EventKind, Origin, PairReason, PairText, Signal, apply_actions};

use crate::kit::{DOCUMENT, Editor, START, Served, World, label};

fn news(actions: &[EditAction]) -> Vec<&str> {
    actions.iter().map(|action| action.new_text.as_str()).collect()
}

async fn editor(seed: u8) -> (World, Editor) {
    let world = World::new().await;
    let person = world.person("someone").await;
    let editor = Editor::new(&person, seed);
    (world, editor)
}

/// Tab on an action whose old text stands at `place` of the document now.
fn accept_at(editor: &mut Editor, served: &Served, index: usize, place: usize, length: Option<usize>) {
    let mut moved = served.clone();
    let action = &mut moved.actions[index];
    action.range = events::ByteRange::new(place as u64, (place + action.old_text.len()) as u64);
    editor.accepted(&moved, index, length);
}

fn last_event(editor: &mut Editor, back: usize) -> &mut CleanEvent {
    let place = editor.events.len() - 1 - back;
    &mut editor.events[place]
}

#[tokio::test]
async fn tab_through_three_of_four_and_the_fourth_rewritten_is_one_episode() {
    let (world, mut editor) = editor(70).await;
    let actions = vec![
        editor.action("get_name", 0, "fetch_name"),
        editor.action("get_name", 1, "fetch_name"),
        editor.action("send", 0, "post"),
        editor.action("main", 0, "start"),
    ];
    let served = editor.ask(Decision::Shown, actions);
    let opened = editor.now_ms;
    editor.shown(&served, 4).wait(900).accepted(&served, 0, None).wait(300);
    let place = editor.document.find("get_name").unwrap();
    accept_at(&mut editor, &served, 1, place, None);
    let place = editor.wait(300).document.find("send").unwrap();
    accept_at(&mut editor, &served, 2, place, None);
    editor.wait(300).types("main", 0, "begin").looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), outcomes.len()), (1, 1));
    assert_eq!((pairs[0].reason, pairs[0].action_index), (PairReason::AcceptedThenModified, 3));
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.shared), ["fetch_name", "fetch_name", "post"]);
    assert_eq!(news(&text.chosen.unwrap().actions), ["begin"]);
    assert_eq!(news(&text.rejected.unwrap().actions), ["start"]);
    let outcome = &outcomes[0];
    assert_eq!((outcome.signal, outcome.utility, outcome.kept_characters), (Signal::PartiallyEdited, 0.75, 10));
}

#[tokio::test]
async fn what_is_corrected_between_two_tabs_is_a_correction() {
    let (world, mut editor) = editor(71).await;
    let actions =
        vec![editor.action("get_name(user)", 0, "fetch_name(user, tenant)"), editor.action("send", 0, "post")];
    let served = editor.ask(Decision::Shown, actions);
    let opened = editor.now_ms;
    editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(2_000).types("tenant", 0, "owner").wait(500);
    let place = editor.document.find("send").unwrap();
    accept_at(&mut editor, &served, 1, place, None);
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::AcceptedThenModified));
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.shared), ["fetch_name"]);
    assert_eq!(news(&text.chosen.unwrap().actions), [", owner"]);
    assert_eq!(news(&text.rejected.unwrap().actions), [", tenant", "post"]);
    assert_eq!((outcomes[0].signal, outcomes[0].utility), (Signal::PartiallyEdited, 0.75));
}

/// Takes the last report of a kind out of what was reported, as if it had been lost on the way.
fn lose(editor: &mut Editor, is_it: impl Fn(&events::EventHeader) -> bool) {
    let place = editor.events.iter().rposition(|event| is_it(&event.header)).unwrap();
    editor.events.remove(place);
}

#[tokio::test]
async fn text_of_a_suggestion_whose_tab_was_lost_is_not_held_against_it() {
    for (refuses_next, seed) in [(false, 86), (true, 87)] {
        let (world, mut editor) = editor(seed).await;
        let actions = vec![editor.action("get_name", 0, "fetch_name"), editor.action("send", 0, "post")];
        let served = editor.ask(Decision::Shown, actions);
        let opened = editor.now_ms;
        editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(2_000);
        lose(&mut editor, |header| header.kind == EventKind::SuggestionAccepted);
        if refuses_next {
            editor.dismissed(&served, 1).wait(500).types("send", 0, "deliver");
        } else {
            editor.types("fetch_name", 0, "load_name");
        }
        editor.looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (0, 1), "{refuses_next}");
    }
}

#[tokio::test]
async fn an_earlier_answer_whose_tab_was_lost_was_not_turned_down() {
    for is_taken in [true, false] {
        let (world, mut editor) = editor(88).await;
        let first = editor.action("get_name", 0, "fetch_title");
        let second = editor.action("get_name", 0, "fetch_name");
        let earlier = editor.ask(Decision::Shown, vec![first]);
        editor.shown(&earlier, 1).wait(2_000);
        if is_taken {
            editor.accepted(&earlier, 0, None);
            lose(&mut editor, |header| header.kind == EventKind::SuggestionAccepted);
            editor.wait(1_000).replace("fetch_title", 0, "get_name", Origin::Undo);
        } else {
            editor.hidden(&earlier, 2_000);
        }
        let served = editor.wait(1_000).ask_again(earlier.opportunity, Decision::Shown, vec![second]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).accepted(&served, 0, None).looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (1, 1), "{is_taken}");
        let text = world.text(&pairs[0]).await;
        assert_eq!(news(&text.chosen.unwrap().actions), ["fetch_name"], "{is_taken}");
        assert_eq!(text.rejected.is_some(), !is_taken);
    }
}

/// An edit behind the window that is lost on the way.
fn lose_an_edit_below(editor: &mut Editor) {
    let end = editor.document.len();
    editor.edit(end, end, "// below\n", Origin::Typed, None);
    lose(editor, |header| header.kind == EventKind::DocumentEdited);
}

/// Long enough after the last edit something happens above the window, so that what was typed is judged.
fn settle(editor: &mut Editor) {
    editor.wait(12_000).edit(0, 0, "// above\n", Origin::Typed, None);
}

#[tokio::test]
async fn behind_a_missing_report_only_a_look_makes_typed_text_clear() {
    for loses_a_letter in [true, false] {
        let (world, mut editor) = editor(91).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000);
        if loses_a_letter {
            // The rest of the word still fits somewhere.
            editor.types("get_name", 0, "lo");
            lose(&mut editor, |header| header.kind == EventKind::DocumentEdited);
            let end = editor.document.find("lo(user)").unwrap() + "lo".len();
            editor.wait(100).edit(end, end, "ad_name", Origin::Typed, None);
        } else {
            lose_an_edit_below(&mut editor);
            editor.types("get_name", 0, "load_name");
        }
        settle(&mut editor);
        editor.looks(&served, opened);
        let (pairs, _) = label(&world, &editor).await;
        assert_eq!(pairs.len(), usize::from(!loses_a_letter));
        for pair in &pairs {
            assert_eq!(pair.reason, PairReason::DismissedThenTyped);
            assert!(pair.labeled_at >= START + Duration::from_secs(30), "the look said that nothing is missing");
            assert_eq!(news(&world.text(pair).await.chosen.unwrap().actions), ["load_name"]);
        }
    }
}

#[tokio::test]
async fn behind_a_missing_report_nothing_is_kept_that_nobody_looked_at() {
    for (looks, pastes) in [(false, false), (false, true), (true, false), (true, true)] {
        let (world, mut editor) = editor(92).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(1_000);
        if pastes {
            // At the border of the region.
            let place = editor.document.find("    send").unwrap();
            editor.edit(place, place, "    log(a);\n", Origin::Paste, None).wait(1_000);
        }
        lose_an_edit_below(&mut editor);
        editor.wait(29_000);
        if looks {
            editor.look(&served, 30);
        }
        editor.wait(5_000).end();
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (usize::from(looks), 1), "looks: {looks}, pastes: {pastes}");
        assert_eq!(outcomes[0].utility, 0.75);
    }
}

#[tokio::test]
async fn what_was_filtered_or_erased_on_its_way_is_a_missing_report() {
    for ends_as in [CleanEvent::filtered, CleanEvent::erased] {
        let (world, mut editor) = editor(96).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000).types("get_name", 0, "lo");
        let letter = last_event(&mut editor, 0);
        *letter = ends_as(letter.header.clone(), "late");
        // The rest of the word still fits somewhere.
        let end = editor.document.find("lo(user)").unwrap() + "lo".len();
        editor.wait(100).edit(end, end, "ad_name", Origin::Typed, None).wait(12_000).end();
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (0, 1));
    }
}

#[tokio::test]
async fn what_a_newer_client_reports_beside_is_no_missing_report() {
    for is_lost in [false, true] {
        let (world, mut editor) = editor(95).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000).reports_something_new();
        if is_lost {
            lose(&mut editor, |header| header.kind == EventKind::Unknown);
        }
        editor.types("get_name", 0, "load_name").wait(12_000).end();
        let (pairs, _) = label(&world, &editor).await;
        assert_eq!(pairs.len(), usize::from(!is_lost));
        assert!(pairs.iter().all(|pair| pair.reason == PairReason::DismissedThenTyped));
    }
}

#[tokio::test]
async fn what_is_unclear_stays_so_behind_further_missing_reports() {
    // Of so many losses a session does not remember every one.
    for later_losses in [1, 70] {
        let (world, mut editor) = editor(94).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000);
        lose_an_edit_below(&mut editor);
        editor.types("get_name", 0, "load_name").wait(12_000).types("user", 0, "owner").wait(100);
        for _ in 0..later_losses {
            lose_an_edit_below(&mut editor);
            editor.wait(100).edit(0, 0, "// above\n", Origin::Typed, None);
        }
        editor.wait(12_000).end();
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (0, 1), "{later_losses}");
    }
}

#[tokio::test]
async fn what_was_typed_is_against_a_suggestion_only_if_no_esc_is_missing() {
    for (is_hidden, expected) in [(true, 1), (false, 0)] {
        let (world, mut editor) = editor(93).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).dismissed(&served, 0);
        lose(&mut editor, |header| header.kind == EventKind::SuggestionDismissed);
        if is_hidden {
            editor.hidden(&served, 900);
        }
        editor.wait(1_000).types("get_name", 0, "load_name").looks(&served, opened);
        let (pairs, _) = label(&world, &editor).await;
        assert_eq!(pairs.len(), expected, "{is_hidden}");
        assert!(pairs.iter().all(|pair| pair.reason == PairReason::TypedAgainst));
    }
}

#[tokio::test]
async fn no_esc_can_be_missing_once_a_letter_was_typed() {
    let (world, mut editor) = editor(93).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).types("get_name", 0, "load");
    lose_an_edit_below(&mut editor);
    let end = editor.document.find("load(user)").unwrap() + "load".len();
    editor.wait(100).edit(end, end, "_name", Origin::Typed, None).looks(&served, opened);
    let (pairs, _) = label(&world, &editor).await;
    assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::TypedAgainst));
    assert_eq!(news(&world.text(&pairs[0]).await.chosen.unwrap().actions), ["load_name"]);
}

#[tokio::test]
async fn a_step_that_was_changed_is_not_kept_although_what_tab_wrote_there_was_lost() {
    for is_changed in [true, false] {
        let (world, mut editor) = editor(88).await;
        let actions =
            vec![editor.action("get_name", 0, "fetch_name"), editor.action("send(a, b)", 0, "post(a, tenant)")];
        let served = editor.ask(Decision::Shown, actions);
        let opened = editor.now_ms;
        editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(300);
        let place = editor.document.find("send(a, b)").unwrap();
        accept_at(&mut editor, &served, 1, place, None);
        lose(&mut editor, |header| header.origin == Some(Origin::Suggestion));
        if is_changed {
            editor.wait(2_000).types("tenant", 0, "owner");
        }
        editor.looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (usize::from(!is_changed), 1));
        assert!(pairs.iter().all(|pair| pair.reason == PairReason::AcceptedKept));
    }
}

#[tokio::test]
async fn what_the_suggestion_left_as_it_was_is_a_part_of_it_too() {
    let change = async |is_lost: bool| {
        let (world, mut editor) = editor(89).await;
        let action = editor.action("get_name(user)", 0, "fetch_name(user, now)");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000);
        editor.replace("user", 0, "owner", Origin::Typed);
        if is_lost {
            lose(&mut editor, |header| header.kind == EventKind::DocumentEdited);
        }
        editor.looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        (world, pairs, outcomes)
    };
    let (_, pairs, outcomes) = change(true).await;
    assert_eq!((pairs.len(), outcomes.len()), (0, 1), "a look shows that it was changed");
    let (world, pairs, outcomes) = change(false).await;
    assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::AcceptedThenModified));
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.chosen.unwrap().actions), ["fetch_name(owner, now"]);
    assert_eq!(news(&text.rejected.unwrap().actions), ["fetch_name(user, now"]);
    assert_eq!((outcomes[0].signal, outcomes[0].utility), (Signal::PartiallyEdited, 0.75));
}

#[tokio::test]
async fn work_beside_an_accepted_step_changes_neither_it_nor_a_later_one() {
    let (world, mut editor) = editor(90).await;
    let actions = vec![editor.action("get_name", 0, "fetch_name"), editor.action("send", 0, "post")];
    let served = editor.ask(Decision::Shown, actions);
    let opened = editor.now_ms;
    editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(2_000).types("user", 0, "owner");
    editor.looks(&served, opened);
    let (pairs, _) = label(&world, &editor).await;
    assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::AcceptedKept));
    assert_eq!(news(&world.text(&pairs[0]).await.chosen.unwrap().actions), ["fetch_name"]);
}

#[tokio::test]
async fn a_part_of_a_later_action_is_not_the_whole_of_it() {
    for types_on in [true, false] {
        let (world, mut editor) = editor(72).await;
        let actions =
            vec![editor.action("get_name", 0, "fetch_name"), editor.action("send(a, b)", 0, "post(a).and(b)")];
        let served = editor.ask(Decision::Shown, actions);
        let opened = editor.now_ms;
        editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(300);
        let place = editor.document.find("send(a, b)").unwrap();
        accept_at(&mut editor, &served, 1, place, Some("post(a)".len()));
        if types_on {
            let end = editor.document.find("post(a)").unwrap() + "post(a)".len();
            editor.wait(500).edit(end, end, ".then(b)", Origin::Typed, None);
        }
        editor.looks(&served, opened);
        let (pairs, _) = label(&world, &editor).await;
        assert_eq!(pairs.len(), 1);
        let text = world.text(&pairs[0]).await;
        let chosen = text.chosen.unwrap();
        if types_on {
            assert_eq!(pairs[0].reason, PairReason::AcceptedThenModified);
            assert!(chosen.actions[0].new_text.contains("then"));
            assert!(text.rejected.unwrap().actions[0].new_text.contains("and"));
        } else {
            assert_eq!((pairs[0].reason, news(&chosen.actions)), (PairReason::AcceptedKept, vec!["fetch_name"]));
        }
    }
}

#[tokio::test]
async fn a_session_that_ends_in_the_middle_of_a_word_teaches_no_half_word() {
    for (quiet_ms, expected) in [(200, 0), (3_000, 1)] {
        let (world, mut editor) = editor(73).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000).types("get_name", 0, "load");
        editor.wait(quiet_ms).end();
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (expected, 1), "{quiet_ms} ms");
    }
}

#[tokio::test]
async fn a_session_that_ends_in_the_middle_of_rewriting_tab_rejects_only_what_is_put_back() {
    for (instead, expected) in [("get_name", 1), ("lo", 0)] {
        let (world, mut editor) = editor(85).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000);
        editor.replace("fetch_name", 0, instead, Origin::Undo).wait(200).end();
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (expected, 1), "{instead}");
        assert!(pairs.iter().all(|pair| pair.reason == PairReason::AcceptedThenUndone), "{instead}");
    }
}

#[tokio::test]
async fn the_same_in_another_format_is_the_same_whatever_else_was_typed() {
    let (world, mut editor) = editor(74).await;
    let action = editor.action("get_name(user)", 0, "fetch_name(user, now)");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000);
    editor.types("get_name(user)", 0, "fetch_name( user, now )").types("other", 0, "another");
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::TypedThrough));
    assert!(!outcomes[0].accepted);
}

#[tokio::test]
async fn typed_through_takes_as_long_as_it_takes() {
    let (world, mut editor) = editor(75).await;
    let action = editor.action("get_name", 0, "fetch_the_name_of_the_user");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000).types("get_name", 0, "fetch_the");
    for more in ["_name", "_of", "_the", "_user"] {
        // Each pause is short enough to go on and long enough to be the boundary of an action.
        let start = editor.wait(9_000).document.find("fetch_the").unwrap();
        let length = editor.document[start..].find('(').unwrap();
        editor.edit(start + length, start + length, more, Origin::Typed, None);
    }
    editor.looks(&served, opened);
    let (pairs, _) = label(&world, &editor).await;
    assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::TypedThrough));
}

#[tokio::test]
async fn a_change_of_nothing_but_space_was_not_missed() {
    let (world, mut editor) = editor(76).await;
    let served = editor.ask(Decision::Silent, vec![]);
    let opened = editor.now_ms;
    editor.wait(3_000).replace("send(a, b)", 0, "send( a,\n        b )", Origin::Typed).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), outcomes.len()), (0, 1));
}

#[tokio::test]
async fn reports_that_cannot_be_true_teach_nothing_and_stop_nothing() {
    let tampers: [fn(&mut CleanEvent); 4] = [
        // The text begins with two characters of two UTF-16 units (and four bytes) each.
        |event| event.header.accepted_length = Some(1),
        |event| event.header.accepted_length = Some(99),
        |event| event.header.accepted_length = Some(0),
        |event| event.header.action_index = Some(7),
    ];
    for (seed, tamper) in (80..).zip(tampers) {
        let (world, mut editor) = editor(seed).await;
        let action = editor.action("user", 0, "\u{1f600}\u{1f600}.owner()");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).accepted(&served, 0, Some(8));
        tamper(last_event(&mut editor, 1));
        let end = editor.document.rfind('\u{1f600}').unwrap() + 4;
        editor.wait(500).edit(end, end, ".name()", Origin::Typed, None).looks(&served, opened);
        let action = editor.action("other", 0, "another");
        let next = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&next, 1).wait(900).accepted(&next, 0, None).looks(&next, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), outcomes.len()), (1, 2), "{seed}");
        assert_eq!((pairs[0].opportunity_id, pairs[0].reason), (next.opportunity, PairReason::AcceptedKept));
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_costs_one_episode_and_not_the_session() {
    let (world, mut editor) = editor(77).await;
    editor.wait(1_000_000);
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(-500_000).types("get_name", 0, "load_name");
    let action = editor.action("other", 0, "another");
    let next = editor.wait(30_000).ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&next, 1).wait(900).accepted(&next, 0, None).looks(&next, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), outcomes.len()), (1, 2));
    assert_eq!((pairs[0].opportunity_id, pairs[0].reason), (next.opportunity, PairReason::AcceptedKept));
}

#[tokio::test]
async fn exposures_alone_keep_to_the_bounds_and_the_oldest_close_first() {
    let (world, mut editor) = editor(78).await;
    let mut asked = Vec::new();
    for _ in 0..40 {
        let action = editor.wait(1_000).action("get_name", 0, "fetch_name");
        asked.push(editor.ask(Decision::Shown, vec![action]).opportunity);
    }
    let mut labeling = world.step(1);
    for event in &editor.events {
        labeling.publish(event, &world.secret);
    }
    labeling.run().await;
    let closed: Vec<_> = labeling.outcomes().iter().map(|outcome| outcome.opportunity_id).collect();
    assert_eq!(closed, asked[..8], "32 stay open");
    labeling.finish().await;
    assert_eq!(labeling.outcomes().len(), 40);
}

#[tokio::test]
async fn what_was_reported_is_written_once_and_only_little_again() {
    let world = World::new().await;
    let person = world.person("someone").await;
    let lines = "    let more = fill(some, thing);\n".repeat(300);
    let document = DOCUMENT.replace("fn main() {\n", &format!("fn main() {{\n{lines}"));
    let mut editor = Editor::over(&person, 80, &document);
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    editor.shown(&served, 1).wait(900).types("get_name", 0, "load_the_name");
    let key = crate::kit::record_of(&editor.events[0], &world.secret).key;
    let mut labeling = world.step(1);
    let (mut before, mut largest) = (labeling.step.state(&key), 0);
    for event in &editor.events {
        labeling.publish(event, &world.secret);
        labeling.run().await;
        let state = labeling.step.state(&key);
        for (name, value) in state.iter().filter(|(name, value)| before.get(*name).is_some_and(|old| old != *value)) {
            assert_eq!(name, "session");
            largest = largest.max(value.len());
        }
        before = state;
    }
    assert!(before.values().any(|value| value.len() > 8 << 10), "the context is there");
    assert!(largest > 0 && largest < 1 << 10, "{largest} bytes are written for each event");
}

#[tokio::test]
async fn what_is_kept_of_a_closed_opportunity_goes_before_its_session() {
    let (world, mut editor) = editor(79).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).looks(&served, opened);
    let mut labeling = world.step(1);
    for event in &editor.events {
        labeling.publish(event, &world.secret);
    }
    labeling.run().await;
    let key = crate::kit::record_of(&editor.events[0], &world.secret).key;
    let marks = |labeling: &crate::kit::Labeling| {
        labeling.step.state(&key).keys().filter(|name| name.starts_with("c/")).count()
    };
    assert_eq!((labeling.outcomes().len(), marks(&labeling)), (1, 1));
    labeling.advance(START + Duration::from_secs(30 * 60)).await;
    assert_eq!(marks(&labeling), 0);
    assert!(!labeling.step.state(&key).is_empty(), "the session is not forgotten yet");
    // Repeated after all that time it opens nothing.
    labeling.publish(&editor.events[0], &world.secret);
    labeling.finish().await;
    assert_eq!(labeling.outcomes().len(), 1);
}

#[tokio::test]
async fn a_document_written_anew_hides_nothing_that_was_typed_where_it_is_as_it_was() {
    // An even seed counts in UTF-16, an odd one in UTF-8.
    for (seed, origin) in [(90, Origin::Formatter), (91, Origin::External), (92, Origin::Suggestion)] {
        let (world, mut editor) = editor(seed).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(300).types("get_name", 0, "load_name").wait(400);
        let written = editor.document.replace("use é", "use  é").replace("send(a, b)", "send( a, b )");
        let written = written.replace("after() {}", "after() { }");
        editor.rewrites(&written, origin).looks(&served, opened);
        let (pairs, _) = label(&world, &editor).await;
        assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::DismissedThenTyped), "{origin}");
        let text = world.text(&pairs[0]).await;
        assert_eq!(news(&text.chosen.unwrap().actions), ["load_name"], "{origin}");
    }
}

#[tokio::test]
async fn a_formatter_that_writes_the_whole_document_breaks_no_silence() {
    let (world, mut editor) = editor(93).await;
    let served = editor.ask(Decision::Silent, vec![]);
    let opened = editor.now_ms;
    let written = editor.document.replace("use é", "use  é").replace("send(a, b)", "send( a, b )");
    editor.wait(2_000).rewrites(&written, Origin::Formatter).looks(&served, opened);
    let (records, _) = label(&world, &editor).await;
    assert_eq!((records.len(), records[0].reason), (1, PairReason::SilenceConfirmed));
}

/// An editor over a document of tabs and Windows' line breaks. An even seed counts in UTF-16, an odd one in UTF-8.
async fn editor_on_windows(seed: u8) -> (World, Editor, String) {
    let world = World::new().await;
    let person = world.person("someone").await;
    let document = DOCUMENT.replace("    ", "\t").replace('\n', "\r\n");
    let editor = Editor::over(&person, seed, &document);
    let window = document[document.find("fn main").unwrap()..document.find("\r\nfn after").unwrap()].to_owned();
    (world, editor, window)
}

/// The window as the chosen side makes it.
fn made_by_chosen(text: &PairText) -> Option<String> {
    let chosen = text.chosen.as_ref()?;
    let actions: Vec<EditAction> = text.shared.iter().chain(&chosen.actions).cloned().collect();
    apply_actions(text.context.window.start_byte, &text.context.window.text, &actions)
}

#[tokio::test]
async fn tabs_line_breaks_and_characters_of_several_units_are_exact() {
    for seed in [94, 95] {
        // Tab, and a formatter that writes the line break otherwise.
        let (world, mut editor, window) = editor_on_windows(seed).await;
        let written = "fetch_name(user, \"é😀\");\r\n\tlog(a)";
        let served = editor.ask(Decision::Shown, vec![editor.action("get_name(user)", 0, written)]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000);
        editor.replace("\r\n\tlog(a)", 0, "\n    log(a)", Origin::Formatter).looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), pairs[0].reason, outcomes[0].utility), (1, PairReason::AcceptedKept, 0.75));
        let text = world.text(&pairs[0]).await;
        assert_eq!(text.context.window.text, window);
        assert_eq!(made_by_chosen(&text), Some(window.replace("get_name(user)", written)));

        // Up to a character of two units, then something typed.
        let (world, mut editor, window) = editor_on_windows(seed).await;
        let (taken, rest) = ("fetch_name(\"é😀\"", ",\r\n\t\tuser)");
        let served = editor.ask(Decision::Shown, vec![editor.action("get_name(user)", 0, &format!("{taken}{rest}"))]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).accepted(&served, 0, Some(taken.len())).wait(500);
        let place = editor.document.find(taken).unwrap() + taken.len();
        editor.edit(place, place, ",\r\n\t\towner)", Origin::Typed, None).looks(&served, opened);
        let (pairs, _) = label(&world, &editor).await;
        assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::AcceptedPartially));
        let wanted = window.replace("get_name(user)", &format!("{taken},\r\n\t\towner)"));
        assert_eq!(made_by_chosen(&world.text(&pairs[0]).await), Some(wanted));

        // Esc, and characters of two units typed one by one.
        let (world, mut editor, window) = editor_on_windows(seed).await;
        let served = editor.ask(Decision::Shown, vec![editor.action("get_name", 0, "fetch_name")]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(300).types("user", 0, "\"😀é\",\r\n\t\tuser");
        editor.looks(&served, opened);
        let (pairs, _) = label(&world, &editor).await;
        assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::DismissedThenTyped));
        let wanted = window.replace("(user)", "(\"😀é\",\r\n\t\tuser)");
        assert_eq!(made_by_chosen(&world.text(&pairs[0]).await), Some(wanted));
    }
}

#[tokio::test]
async fn what_one_person_does_in_one_editor_says_nothing_about_the_other() {
    let world = World::new().await;
    let person = world.person("someone").await;
    let (mut one, mut other) = (Editor::new(&person, 96), Editor::new(&person, 97));
    for editor in [&mut one, &mut other] {
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900);
        if editor.events[0].header.session_id == crate::kit::session(97) {
            editor.dismissed(&served, 0).wait(300).types("get_name", 0, "load_name");
        }
        editor.looks(&served, opened);
    }
    let mut labeling = world.step(1);
    let mut events: Vec<&CleanEvent> = one.events.iter().chain(&other.events).collect();
    events.sort_by_key(|event| event.header.received_at);
    for event in events {
        labeling.publish(event, &world.secret);
    }
    labeling.finish().await;
    let (pairs, outcomes) = (labeling.pairs(), labeling.outcomes());
    let told: Vec<_> = pairs.iter().map(|pair| (pair.session_id, pair.reason)).collect();
    assert_eq!(told, [(crate::kit::session(97), PairReason::DismissedThenTyped)]);
    let mut signals: Vec<Signal> = outcomes.iter().map(|outcome| outcome.signal).collect();
    signals.sort();
    assert_eq!(signals, [Signal::Rejected, Signal::Ignored]);
}
