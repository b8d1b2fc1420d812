//! Every row of the label table, and the measures beside it.

use bytes::Bytes;
use events::{Decision, EditAction, Origin, PairReason, Signal};
use labeler::policy_record::{CONTROL_KIND, SUBJECT, canonical};
use labeler::{LABEL_POLICY_VERSION, LabelPolicy};

use crate::kit::{Editor, World, label, label_with, telling};

fn news(actions: &[EditAction]) -> Vec<&str> {
    actions.iter().map(|action| action.new_text.as_str()).collect()
}

async fn editor(seed: u8) -> (World, Editor) {
    let world = World::new().await;
    let person = world.person("someone").await;
    let editor = Editor::new(&person, seed);
    (world, editor)
}

#[tokio::test]
async fn tab_and_still_there_is_a_positive() {
    let (world, mut editor) = editor(1).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.wait(300).shown(&served, 1).wait(900).accepted(&served, 0, None).looks(&served, opened + 300);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs.len(), 1);
    assert_eq!((pairs[0].reason, pairs[0].weight, pairs[0].action_index), (PairReason::AcceptedKept, 1.0, 0));
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.chosen.as_ref().unwrap().actions), ["fetch_name"]);
    assert!(!text.chosen.unwrap().closed, "chosen lists are open-ended");
    assert_eq!(text.rejected, None);
    assert_eq!(outcomes.len(), 1);
    let outcome = &outcomes[0];
    assert_eq!((outcome.signal, outcome.utility, outcome.kept_characters), (Signal::Accepted, 0.75, 10));
    assert!(outcome.shown && outcome.accepted && !outcome.censored && !outcome.exposure_missing);
}

#[tokio::test]
async fn a_formatter_is_no_correction() {
    let (world, mut editor) = editor(2).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(3_000);
    editor.replace("    let a = fetch_name(user);", 0, "    let a =\n        fetch_name(user);", Origin::Formatter);
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs[0].reason, PairReason::AcceptedKept);
    assert_eq!(outcomes[0].utility, 0.75);
}

#[tokio::test]
async fn tab_and_parts_modified_is_a_correction() {
    let (world, mut editor) = editor(3).await;
    let action = editor.action("get_name(user)", 0, "fetch_name(user, tenant)");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000).types("tenant", 0, "owner");
    editor.wait(11_000).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs.len(), 1);
    assert_eq!(pairs[0].reason, PairReason::AcceptedThenModified);
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.shared), ["fetch_name"], "what stayed is shared");
    assert_eq!(news(&text.chosen.unwrap().actions), [", owner"]);
    assert_eq!(news(&text.rejected.unwrap().actions), [", tenant"]);
    let point = pairs[0].divergence.unwrap();
    assert_eq!((point.action_index, point.byte), (1, 2));
    assert_eq!((outcomes[0].signal, outcomes[0].utility), (Signal::PartiallyEdited, 0.75));
}

#[tokio::test]
async fn tab_and_undone_is_a_rejection() {
    let (world, mut editor) = editor(4).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000);
    editor.replace("fetch_name", 0, "get_name", Origin::Undo).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs[0].reason, PairReason::AcceptedThenUndone);
    let text = world.text(&pairs[0]).await;
    assert!(text.chosen.unwrap().is_no_edit());
    assert_eq!(news(&text.rejected.unwrap().actions), ["fetch_name"]);
    assert_eq!((outcomes[0].signal, outcomes[0].utility, outcomes[0].kept_characters), (Signal::Accepted, -0.25, 0));
}

#[tokio::test]
async fn what_the_hand_took_away_after_tab_is_a_rejection_however_it_did() {
    for origin in [Origin::Undo, Origin::Typed] {
        let (world, mut editor) = editor(4).await;
        let action = editor.action("get_name(user)", 0, "get_name(user, now)");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000);
        editor.replace(", now", 0, "", origin).looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::AcceptedThenUndone), "{origin}");
        let text = world.text(&pairs[0]).await;
        assert!(text.shared.is_empty() && text.chosen.unwrap().is_no_edit(), "{origin}");
        assert_eq!(outcomes[0].utility, -0.25, "{origin}");
    }
}

#[tokio::test]
async fn what_another_hand_took_away_after_tab_says_nothing_about_the_suggestion() {
    use Origin::{External, Formatter, Paste, Redo, Suggestion, Unknown};
    for origin in [External, Paste, Formatter, Suggestion, Redo, Unknown] {
        // As it was before, as a checkout does, and something else.
        for instead in ["get_name", "load_name"] {
            let (world, mut editor) = editor(4).await;
            let action = editor.action("get_name", 0, "fetch_name");
            let served = editor.ask(Decision::Shown, vec![action]);
            let opened = editor.now_ms;
            editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000);
            editor.replace("fetch_name", 0, instead, origin).looks(&served, opened);
            let (pairs, outcomes) = label(&world, &editor).await;
            assert_eq!((pairs.len(), outcomes.len()), (0, 1), "{origin}: {instead}");
            assert_eq!(outcomes[0].utility, -0.25, "{origin}: {instead}: measures ask only what stands");
        }
    }
}

#[tokio::test]
async fn tab_undone_and_something_else_typed_is_a_correction() {
    let (world, mut editor) = editor(5).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000).types("fetch_name", 0, "load_name");
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs[0].reason, PairReason::AcceptedThenUndone);
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.chosen.unwrap().actions), ["load_name"]);
    assert_eq!(news(&text.rejected.unwrap().actions), ["fetch_name"]);
    assert_eq!(outcomes[0].utility, -0.25);
}

#[tokio::test]
async fn partial_accept_shares_its_prefix() {
    let (world, mut editor) = editor(6).await;
    let action = editor.action("get_name(user)", 0, "fetch(user).title()");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, Some("fetch(user)".len())).wait(500);
    let place = editor.document.find("fetch(user)").unwrap() + "fetch(user)".len();
    editor.edit(place, place, ".name()", Origin::Typed, None).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs[0].reason, PairReason::AcceptedPartially);
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.shared), ["fetch"]);
    assert_eq!(news(&text.chosen.unwrap().actions), [".name()"]);
    assert_eq!(news(&text.rejected.unwrap().actions), [".title()"]);
    assert_eq!(outcomes[0].utility, 0.75);
    assert!(outcomes[0].accepted);
}

#[tokio::test]
async fn esc_and_something_else_typed_is_a_correction() {
    let (world, mut editor) = editor(8).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000).types("get_name", 0, "load_name");
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs[0].reason, pairs[0].weight), (PairReason::DismissedThenTyped, 1.0));
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.chosen.unwrap().actions), ["load_name"]);
    assert_eq!(news(&text.rejected.unwrap().actions), ["fetch_name"]);
    assert_eq!(pairs[0].divergence.unwrap().byte, 0);
    assert!(pairs[0].labeled_at < outcomes[0].closed_at, "corrections are emitted when they settle");
    assert_eq!((outcomes[0].signal, outcomes[0].utility), (Signal::Rejected, -0.25));
}

#[tokio::test]
async fn typed_against_weighs_half() {
    let (world, mut editor) = editor(9).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(1_200).hidden(&served, 1_200).types("get_name", 0, "load_name");
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs[0].reason, pairs[0].weight), (PairReason::TypedAgainst, 0.5));
    assert_eq!((outcomes[0].signal, outcomes[0].utility), (Signal::Ignored, -0.25));
}

#[tokio::test]
async fn the_same_typed_by_hand_is_no_acceptance() {
    let (world, mut editor) = editor(10).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000).types("get_name", 0, "fetch_name");
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs[0].reason, pairs[0].weight), (PairReason::TypedThrough, 0.5));
    let text = world.text(&pairs[0]).await;
    assert_eq!((news(&text.chosen.unwrap().actions), text.rejected), (vec!["fetch_name"], None));
    assert!(!outcomes[0].accepted);
    assert_eq!(outcomes[0].utility, -0.25);
}

#[tokio::test]
async fn esc_and_nothing_is_a_rejection_and_by_policy_no_edit() {
    let (world, mut editor) = editor(11).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).looks(&served, opened);
    let (pairs, _) = label(&world, &editor).await;
    assert_eq!(pairs[0].reason, PairReason::Dismissed);
    let text = world.text(&pairs[0]).await;
    assert!(text.chosen.unwrap().is_no_edit());
    assert_eq!(news(&text.rejected.unwrap().actions), ["fetch_name"]);
    let policy = LabelPolicy { no_edit_for_dismissed: false, ..LabelPolicy::default() };
    let (pairs, _) = label_with(&world, &editor, telling(policy)).await;
    let text = world.text(&pairs[0]).await;
    assert_eq!(text.chosen, None);
    assert_eq!(pairs[0].divergence, None);
}

#[tokio::test]
async fn esc_and_an_edit_elsewhere_in_the_window_never_teaches_no_edit() {
    let (world, mut editor) = editor(12).await;
    let action = editor.action("main", 0, "start");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(2_000).types("send(a, b)", 0, "send(b)");
    editor.looks(&served, opened);
    let (pairs, _) = label(&world, &editor).await;
    assert_eq!(pairs[0].reason, PairReason::Dismissed);
    assert_eq!(world.text(&pairs[0]).await.chosen, None);
}

#[tokio::test]
async fn silent_and_an_edit_there_is_missed() {
    for decision in [Decision::Silent, Decision::Withheld] {
        let (world, mut editor) = editor(13).await;
        let actions = if decision == Decision::Withheld { vec![editor.action("user", 0, "owner")] } else { vec![] };
        let served = editor.ask(decision, actions);
        let opened = editor.now_ms;
        editor.wait(3_000).types("get_name", 0, "load_name").wait(500).types("get_name", 0, "load_name");
        editor.looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!(pairs.len(), 1);
        assert_eq!((pairs[0].reason, pairs[0].action_index, pairs[0].suggestion_id), (PairReason::Missed, -1, None));
        let text = world.text(&pairs[0]).await;
        assert_eq!(news(&text.chosen.unwrap().actions), ["load_name", "load_name"]);
        assert!(text.rejected.unwrap().is_no_edit());
        assert_eq!((outcomes[0].signal, outcomes[0].utility, outcomes[0].shown), (Signal::NotShown, 0.0, false));
        assert_eq!(outcomes[0].decision, decision);
    }
}

#[tokio::test]
async fn silence_confirmed_is_calibration_data_and_no_pair() {
    let (world, mut editor) = editor(14).await;
    let served = editor.ask(Decision::Silent, vec![]);
    let opened = editor.now_ms;
    editor.looks(&served, opened);
    let (records, outcomes) = label(&world, &editor).await;
    assert_eq!((records.len(), outcomes.len()), (1, 1));
    let record = &records[0];
    assert_eq!((record.reason, record.weight, record.action_index), (PairReason::SilenceConfirmed, 0.0, -1));
    assert_eq!((record.suggestion_id, record.divergence), (None, None));
    let text = world.text(record).await;
    assert!(text.chosen.unwrap().is_no_edit() && text.rejected.is_none() && text.shared.is_empty());
}

#[tokio::test]
async fn silence_that_nobody_looked_at_or_that_was_broken_otherwise_is_not_confirmed() {
    let (world, mut editor) = editor(14).await;
    editor.ask(Decision::Silent, vec![]);
    editor.wait(5_000).end();
    let (records, outcomes) = label(&world, &editor).await;
    assert_eq!((records.len(), outcomes.len()), (0, 1));
    for origin in [Origin::Paste, Origin::External, Origin::Formatter, Origin::Suggestion] {
        let (world, mut editor) = self::editor(14).await;
        let served = editor.ask(Decision::Silent, vec![]);
        let opened = editor.now_ms;
        editor.wait(2_000).replace("get_name", 0, "load_name", origin).looks(&served, opened);
        let (records, outcomes) = label(&world, &editor).await;
        assert_eq!((records.len(), outcomes.len()), (0, 1), "{origin}");
    }
}

#[tokio::test]
async fn a_formatter_breaks_no_silence() {
    let (world, mut editor) = editor(14).await;
    let served = editor.ask(Decision::Silent, vec![]);
    let opened = editor.now_ms;
    editor.wait(2_000).replace("send(a, b);", 0, "send( a, b );  ", Origin::Formatter).looks(&served, opened);
    let (records, _) = label(&world, &editor).await;
    assert_eq!((records.len(), records[0].reason), (1, PairReason::SilenceConfirmed));
}

#[tokio::test]
async fn what_was_not_delivered_can_be_neither_taken_nor_refused() {
    for accepts in [true, false] {
        let (world, mut editor) = editor(14).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Withheld, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900);
        if accepts {
            editor.accepted(&served, 0, None);
        } else {
            editor.dismissed(&served, 0);
        }
        editor.looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert!(pairs.iter().all(|pair| pair.weight == 0.0), "{pairs:?}");
        let outcome = &outcomes[0];
        assert_eq!((outcome.signal, outcome.utility), (Signal::NotShown, 0.0));
        assert!(!outcome.shown && !outcome.accepted);
    }
}

#[tokio::test]
async fn superseded_is_not_shown_and_teaches_nothing() {
    let (world, mut editor) = editor(15).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(200).hidden(&served, 200).types("get_name", 0, "load_name").looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs.len(), 0);
    assert_eq!((outcomes[0].signal, outcomes[0].shown, outcomes[0].utility), (Signal::Superseded, false, 0.0));
}

#[tokio::test]
async fn pasted_text_is_never_chosen() {
    for origin in [Origin::Paste, Origin::Redo, Origin::External, Origin::Unknown, Origin::Suggestion] {
        let (world, mut editor) = editor(16).await;
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000);
        editor.replace("get_name", 0, "load_name", origin).looks(&served, opened);
        let (pairs, outcomes) = label(&world, &editor).await;
        assert_eq!(pairs.len(), 0, "{origin}");
        assert_eq!(outcomes.len(), 1);
    }
}

#[tokio::test]
async fn stop_is_chosen_on_evidence() {
    let (world, mut editor) = editor(17).await;
    let actions = vec![editor.action("get_name", 0, "fetch_name"), editor.action("get_name", 1, "fetch_name")];
    let served = editor.ask(Decision::Shown, actions);
    let opened = editor.now_ms;
    editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(500).dismissed(&served, 1);
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs[0].reason, PairReason::AcceptedThenModified);
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.shared), ["fetch_name"]);
    let chosen = text.chosen.unwrap();
    assert!(chosen.actions.is_empty() && chosen.closed);
    assert_eq!(text.rejected.unwrap().actions.len(), 1);
    assert_eq!((outcomes[0].signal, outcomes[0].utility), (Signal::PartiallyEdited, 0.75));
}

/// Two steps are visible and the first is accepted; what follows decides whether STOP is known.
async fn after_the_first_of_two(seed: u8, work: impl FnOnce(&mut Editor)) -> (PairReason, events::ActionList, usize) {
    let (world, mut editor) = editor(seed).await;
    let actions = vec![editor.action("get_name", 0, "fetch_name"), editor.action("get_name", 1, "fetch_name")];
    let served = editor.ask(Decision::Shown, actions);
    let opened = editor.now_ms;
    editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(500);
    work(&mut editor);
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), outcomes[0].utility), (1, 0.75));
    let text = world.text(&pairs[0]).await;
    let rejected = text.rejected.map_or(0, |rejected| rejected.actions.len());
    (pairs[0].reason, text.chosen.unwrap(), rejected)
}

#[tokio::test]
async fn stop_is_chosen_when_the_next_place_was_visited_and_is_unchanged_at_close() {
    let (reason, chosen, rejected) = after_the_first_of_two(26, |editor| {
        editor.types("get_name", 0, "load").wait(400).replace("load", 0, "get_name", Origin::Undo);
    })
    .await;
    assert_eq!((reason, rejected), (PairReason::AcceptedThenModified, 1));
    assert!(chosen.actions.is_empty() && chosen.closed);
}

#[tokio::test]
async fn stop_is_chosen_whatever_else_the_window_went_through() {
    let elsewhere = |editor: &mut Editor| {
        editor.types("send", 0, "post");
    };
    let formatter = |editor: &mut Editor| {
        editor.replace("fn start() {", 0, "fn start() {  ", Origin::Formatter);
    };
    let disturbances: [fn(&mut Editor); 2] = [elsewhere, formatter];
    for disturb in disturbances {
        let (world, mut editor) = editor(26).await;
        let actions = vec![editor.action("main", 0, "start"), editor.action("get_name", 0, "fetch_name")];
        let served = editor.ask(Decision::Shown, actions);
        let opened = editor.now_ms;
        editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(500).dismissed(&served, 1).wait(500);
        disturb(&mut editor);
        editor.looks(&served, opened);
        let (pairs, _) = label(&world, &editor).await;
        assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::AcceptedThenModified));
        let text = world.text(&pairs[0]).await;
        assert_eq!(news(&text.shared), ["start"]);
        let chosen = text.chosen.unwrap();
        assert!(chosen.actions.is_empty() && chosen.closed);
    }
}

#[tokio::test]
async fn what_a_formatter_changed_is_no_chosen_text() {
    let (world, mut editor) = editor(8).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000);
    editor.replace("get_name(other);", 0, "get_name(other);  ", Origin::Formatter).wait(500);
    editor.types("get_name", 0, "load_name").looks(&served, opened);
    let (pairs, _) = label(&world, &editor).await;
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.chosen.unwrap().actions), ["load_name"]);
}

#[tokio::test]
async fn without_evidence_the_list_stays_open() {
    let (reason, chosen, rejected) = after_the_first_of_two(27, |_| ()).await;
    assert_eq!((reason, rejected, news(&chosen.actions)), (PairReason::AcceptedKept, 0, vec!["fetch_name"]));
    assert!(!chosen.closed);
    // Work at another place of the window is no visit.
    let (reason, chosen, _) = after_the_first_of_two(28, |editor| {
        editor.types("send", 0, "post").wait(400).replace("post", 0, "send", Origin::Undo);
    })
    .await;
    assert_eq!(reason, PairReason::AcceptedKept);
    assert!(!chosen.closed);
}

#[tokio::test]
async fn a_later_step_taken_back_is_stop() {
    let (world, mut editor) = editor(29).await;
    let actions = vec![editor.action("get_name", 0, "fetch_name"), editor.action("get_name", 1, "fetch_the_long_name")];
    let served = editor.ask(Decision::Shown, actions);
    let opened = editor.now_ms;
    editor.shown(&served, 2).wait(900).accepted(&served, 0, None).wait(300);
    // The first step has made the document two bytes longer.
    let place = editor.document.rfind("get_name").unwrap();
    let mut second = served.clone();
    second.actions[1].range = events::ByteRange::new(place as u64, (place + "get_name".len()) as u64);
    editor.accepted(&second, 1, None).wait(700).replace("fetch_the_long_name", 0, "get_name", Origin::Undo);
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::AcceptedThenModified));
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.shared), ["fetch_name"]);
    let chosen = text.chosen.unwrap();
    assert!(chosen.actions.is_empty() && chosen.closed);
    assert_eq!(news(&text.rejected.unwrap().actions), ["fetch_the_long_name"]);
    assert_eq!(outcomes[0].utility, 0.75, "measures judge the first action");
}

#[tokio::test]
async fn a_deleted_part_is_a_correction_without_more_to_come() {
    let (world, mut editor) = editor(30).await;
    let action = editor.action("get_name(user)", 0, "fetch_name(user, now)");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000);
    editor.replace(", now", 0, "", Origin::Typed).wait(11_000).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), pairs[0].reason), (1, PairReason::AcceptedThenModified));
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.shared), ["fetch_name"]);
    assert!(text.chosen.unwrap().actions.is_empty());
    assert_eq!(news(&text.rejected.unwrap().actions), [", now"]);
    assert_eq!((outcomes[0].signal, outcomes[0].utility), (Signal::PartiallyEdited, 0.75));
}

#[tokio::test]
async fn half_of_the_accepted_characters_decides_the_utility() {
    // Four of eight characters stand, and three of seven.
    for (written, standing, utility) in [("abc + efgh", "abc + zzzz", 0.75), ("ab + efgh", "ab + zzzz", -0.25)] {
        let (world, mut editor) = editor(31).await;
        let action = editor.action("user", 0, written);
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(2_000);
        editor.replace(written, 0, standing, Origin::Typed).looks(&served, opened);
        let (_, outcomes) = label(&world, &editor).await;
        assert_eq!(outcomes[0].utility, utility, "{written} became {standing}");
        assert!(outcomes[0].accepted);
    }
}

#[tokio::test]
async fn a_partial_accept_and_nothing_more_is_an_acceptance_without_a_pair() {
    let (world, mut editor) = editor(32).await;
    let action = editor.action("get_name(user)", 0, "fetch(user).title()");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, Some("fetch(user)".len())).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs.len(), 0);
    assert_eq!((outcomes[0].signal, outcomes[0].utility, outcomes[0].accepted), (Signal::Accepted, 0.75, true));
}

#[tokio::test]
async fn ignored_and_the_same_typed_by_hand_is_typed_through_too() {
    let (world, mut editor) = editor(33).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(1_500).hidden(&served, 1_500).types("get_name", 0, "fetch_name");
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs[0].reason, pairs[0].weight), (PairReason::TypedThrough, 0.5));
    assert_eq!((outcomes[0].signal, outcomes[0].accepted, outcomes[0].utility), (Signal::Ignored, false, -0.25));
}

#[tokio::test]
async fn visible_and_no_edit_there_is_no_label() {
    let (world, mut editor) = editor(34).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(4_000).hidden(&served, 4_000).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs.len(), 0);
    assert_eq!((outcomes[0].signal, outcomes[0].utility, outcomes[0].shown), (Signal::Ignored, -0.25, true));
}

#[tokio::test]
async fn chosen_text_is_bounded_in_length_and_in_time() {
    // Longer than allowed: an action is never cut, so nothing is learned.
    let (world, mut editor) = editor(35).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    let policy = LabelPolicy::default();
    let limit = policy.length_floor_bytes * policy.length_factor;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000);
    editor.replace("get_name", 0, &"x".repeat(limit + 1), Origin::Typed).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), outcomes[0].utility), (0, -0.25));
    // Longer than 30 s: what was complete by then counts.
    let (world, mut editor) = self::editor(36).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000).types("get_name", 0, "load_name");
    for turn in 0..4 {
        editor.wait(9_000).types("other", 0, if turn % 2 == 0 { "one" } else { "two" });
        editor.replace(if turn % 2 == 0 { "one" } else { "two" }, 0, "other", Origin::Typed);
    }
    editor.types("user", 0, "owner").looks(&served, opened);
    let (pairs, _) = label(&world, &editor).await;
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.chosen.unwrap().actions), ["load_name"], "the rest came after 30 s of editing");
}

#[tokio::test]
async fn a_session_that_ends_early_is_censored() {
    let (world, mut editor) = editor(18).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(20_000).end();
    let (_, outcomes) = label(&world, &editor).await;
    assert!(outcomes[0].censored);
    let (world, mut editor) = self::editor(19).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).wait(30_000).look(&served, 30).wait(5_000).end();
    let (pairs, outcomes) = label(&world, &editor).await;
    assert!(!outcomes[0].censored);
    assert_eq!((outcomes[0].utility, pairs[0].reason), (0.75, PairReason::AcceptedKept));
}

#[tokio::test]
async fn the_last_answer_of_an_opportunity_counts() {
    let (world, mut editor) = editor(20).await;
    let first = editor.action("get_name", 0, "fetch_title");
    let second = editor.action("get_name", 0, "fetch_name");
    let earlier = editor.ask(Decision::Shown, vec![first]);
    editor.shown(&earlier, 1).wait(2_000).hidden(&earlier, 2_000);
    let served = editor.ask_again(earlier.opportunity, Decision::Shown, vec![second]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), outcomes.len()), (1, 1));
    assert_eq!(outcomes[0].suggestion_id, served.receipt.suggestion_id);
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.chosen.unwrap().actions), ["fetch_name"]);
    assert_eq!(news(&text.rejected.unwrap().actions), ["fetch_title"], "the sibling that was shown and not taken");
}

#[tokio::test]
async fn an_exposure_without_a_signal_counts_at_close_and_a_signal_without_an_exposure_too() {
    let (world, mut editor) = editor(21).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let (_, outcomes) = label(&world, &editor).await;
    assert_eq!((outcomes[0].signal, outcomes[0].utility), (Signal::Ignored, -0.25));
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).looks(&served, opened);
    editor.events.remove(0);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), outcomes.len()), (0, 1));
    assert!(outcomes[0].exposure_missing && outcomes[0].accepted);
    assert_eq!((outcomes[0].utility, outcomes[0].kept_characters), (0.75, 10));
}

#[tokio::test]
async fn a_signal_without_a_valid_receipt_is_not_used() {
    let (world, mut editor) = editor(22).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0);
    let last = editor.events.len() - 1;
    editor.events[last].header.receipt_state = events::ReceiptState::Invalid;
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!(pairs.len(), 0);
    assert_eq!(outcomes[0].signal, Signal::Ignored);
}

#[tokio::test]
async fn a_repository_without_a_rule_is_never_trained_on() {
    let (world, mut editor) = editor(23).await;
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).looks(&served, opened);
    // Rules on top of the one for this very repository: what is said, and who may be served what is learned.
    let own = crate::kit::REPOSITORY;
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
    let cases: [Case<'_>; 7] = [
        (&[], Some("repository:a")),
        (&[(own, "")], None),
        (&[(own, ""), ("*", "tenant")], Some("tenant")),
        (&[(own, ""), ("*", "tenant"), ("repo-*", "group:b")], Some("group:b")),
        (&[(own, ""), ("rep*", "group:b"), ("other*", "tenant"), ("repo-a*", "group:c")], Some("group:c")),
        (&[(own, ""), ("repo-ab", "tenant"), ("repo", "tenant")], None),
        (&[(own, "no audience at all"), ("*", "tenant")], None),
    ];
    for (rules, audience) in cases {
        let mut labeling = world.step(1);
        for (repository, value) in rules {
            let subject = labeler::audience::subject(&events::TenantId::default(), repository);
            let value = bytes::Bytes::copy_from_slice(value.as_bytes());
            labeling.step.publish_control(labeler::audience::CONTROL_KIND, &subject, value);
        }
        for event in &editor.events {
            labeling.publish(event, &world.secret);
        }
        labeling.finish().await;
        let found: Vec<String> = labeling.pairs().iter().map(|pair| pair.audience.to_string()).collect();
        assert_eq!(found, audience.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{rules:?}");
        assert_eq!(labeling.outcomes().len(), 1, "measures do not need a rule");
    }
}

#[tokio::test]
async fn edits_above_move_the_window_and_edits_before_the_decision_do_not_count() {
    let (world, mut editor) = editor(24).await;
    editor.types("let b", 0, "let c").wait(300);
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(400);
    let above = "use b::😀;\n";
    editor.edit(0, 0, above, Origin::Typed, None).wait(700).types("get_name", 0, "load_name");
    let end = editor.document.len();
    editor.wait(500).edit(end, end, "// below\n", Origin::Typed, None).looks(&served, opened);
    let (pairs, _) = label(&world, &editor).await;
    assert_eq!(pairs.len(), 1);
    let text = world.text(&pairs[0]).await;
    assert_eq!(news(&text.chosen.unwrap().actions), ["load_name"]);
}

#[tokio::test]
async fn state_of_a_session_goes_when_nothing_of_it_can_come_any_more() {
    let (world, mut editor) = editor(25).await;
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
    assert!(!labeling.step.state(&key).is_empty());
    labeling.finish().await;
    assert_eq!(labeling.step.state(&key).len(), 0);
    assert_eq!(labeling.step.timers(&key).len(), 0);
}

#[tokio::test]
async fn another_policy_is_in_force_from_its_position_in_the_log_on_whatever_is_configured() {
    let world = World::new().await;
    let mut sessions = Vec::new();
    for (name, seed) in [("someone", 60), ("someone else", 61)] {
        let mut editor = Editor::new(&world.person(name).await, seed);
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900).dismissed(&served, 0).looks(&served, opened);
        sessions.push(editor);
    }
    let other = LabelPolicy { no_edit_for_dismissed: false, ..LabelPolicy::default() };
    let said = |policy: &LabelPolicy| Bytes::from(canonical(&telling(policy.clone())).unwrap());
    let (mut default_pairs, _) = label(&world, &sessions[0]).await;
    default_pairs.extend(label(&world, &sessions[1]).await.0);
    assert_eq!(default_pairs.len(), 2);

    // The log begins with the default policy, which is not the configured one, and changes between the sessions.
    let mut labeling = world.step_with(2, telling(other.clone()));
    labeling.step.publish_control(CONTROL_KIND, SUBJECT, said(&LabelPolicy::default()));
    for event in &sessions[0].events {
        labeling.publish(event, &world.secret);
    }
    labeling.run().await;
    labeling.step.publish_control(CONTROL_KIND, SUBJECT, said(&other));
    for event in &sessions[1].events {
        labeling.publish(event, &world.secret);
    }
    labeling.finish().await;
    let pairs = labeling.pairs();
    assert_eq!(pairs.len(), 2);
    let of = |editor: &Editor| {
        let session = editor.events[0].header.session_id;
        pairs.iter().find(|pair| pair.session_id == session).unwrap().clone()
    };
    let (before, after) = (of(&sessions[0]), of(&sessions[1]));
    assert_eq!((before.label_policy_version, after.label_policy_version), (LABEL_POLICY_VERSION, other.version()));
    assert_ne!(other.version(), LABEL_POLICY_VERSION);
    assert!(default_pairs.iter().any(|pair| pair.pair_id == before.pair_id));
    assert!(default_pairs.iter().all(|pair| pair.pair_id != after.pair_id));
    assert!(world.text(&before).await.chosen.unwrap().is_no_edit());
    assert_eq!(world.text(&after).await.chosen, None);
}

#[tokio::test]
async fn a_policy_of_a_newer_release_is_waited_for() {
    let (world, mut editor) = editor(62).await;
    editor.types("user", 0, "owner");
    let mut labeling = world.step_with(2, telling(LabelPolicy::default()));
    labeling.publish(&editor.events[0], &world.secret);
    labeling.run().await;
    labeling.step.publish_control(CONTROL_KIND, SUBJECT, Bytes::from_static(b"{\"version\": 7, \"newer\": true}"));
    labeling.publish(&editor.events[0], &world.secret);
    let paused = labeling.step.run();
    assert_eq!(paused.len(), 1);
    assert_eq!(paused[0].dependencies, ["label-policy"]);
    assert_eq!(labeling.step.dead_letters(), []);
}
