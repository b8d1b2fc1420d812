//! Every row of the label table, and the measures beside it.

use events::{Decision, EditAction, Origin, PairReason, Signal};
use labeler::LabelPolicy;

use crate::kit::{Editor, World, label, label_with};

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
    let (pairs, _) = label_with(&world, &editor, policy).await;
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
async fn silence_confirmed_is_no_pair() {
    let (world, mut editor) = editor(14).await;
    let served = editor.ask(Decision::Silent, vec![]);
    let opened = editor.now_ms;
    editor.looks(&served, opened);
    let (pairs, outcomes) = label(&world, &editor).await;
    assert_eq!((pairs.len(), outcomes.len()), (0, 1));
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
    let mut labeling = world.step(1);
    let rule = labeler::audience::subject(&events::TenantId::default(), crate::kit::REPOSITORY);
    labeling.step.publish_control(labeler::audience::CONTROL_KIND, &rule, bytes::Bytes::new());
    for event in &editor.events {
        labeling.publish(event, &world.secret);
    }
    labeling.finish().await;
    assert_eq!((labeling.pairs().len(), labeling.outcomes().len()), (0, 1));
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
