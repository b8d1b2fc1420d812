//! Outcomes that say what the text of an opportunity was about, and how much of it stood at each look.

use bytes::Bytes;
use events::{Decision, EditPattern, OpportunityOutcome, OutcomeDetail};
use labeler::LabelPolicy;
use labeler::policy_record::{CONTROL_KIND, SUBJECT, VersionedPolicy, canonical};

use crate::kit::{Editor, FIRST_ACTION_MS, Served, World, label_with};

fn policy(tells_details: bool) -> VersionedPolicy {
    VersionedPolicy::of(LabelPolicy::default(), tells_details)
}

/// What the only outcome tells beside all that it says without details.
async fn detail_of(world: &World, editor: &Editor) -> OutcomeDetail {
    let (pairs, outcomes) = label_with(world, editor, policy(true)).await;
    let (same_pairs, plain) = label_with(world, editor, policy(false)).await;
    let ids = |pairs: &[events::PreferencePair]| pairs.iter().map(|pair| pair.pair_id).collect::<Vec<_>>();
    assert_eq!(ids(&pairs), ids(&same_pairs));
    assert_eq!(plain.len(), 1);
    assert_eq!(OpportunityOutcome { detail: None, ..outcomes[0].clone() }, plain[0]);
    outcomes[0].detail.clone().unwrap()
}

#[tokio::test]
async fn looks_say_how_much_of_what_was_accepted_stood() {
    let world = World::new().await;
    let mut editor = Editor::new(&world.person("someone").await, 80);
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None);
    editor.now_ms = opened + 30_000;
    editor.look(&served, 30).wait(20_000).types("fetch_name", 0, "load");
    for delay in [120, 300] {
        editor.now_ms = opened + i64::from(delay) * 1000;
        editor.look(&served, delay);
    }
    let expected = OutcomeDetail {
        language: "rust".to_owned(),
        pattern: Some(EditPattern::Replace),
        first_action_ms: Some(i64::from(FIRST_ACTION_MS)),
        standing_30_s_permille: Some(1000),
        standing_120_s_permille: Some(0),
        standing_300_s_permille: Some(0),
    };
    assert_eq!(detail_of(&world, &editor).await, expected);
}

#[tokio::test]
async fn a_look_before_tab_says_nothing_of_it() {
    let world = World::new().await;
    let mut editor = Editor::new(&world.person("someone").await, 81);
    let action = editor.action("user", 0, "user, now");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1);
    editor.now_ms = opened + 30_000;
    editor.look(&served, 30).wait(1_000).accepted(&served, 0, None);
    for delay in [120, 300] {
        editor.now_ms = opened + i64::from(delay) * 1000;
        editor.look(&served, delay);
    }
    let detail = detail_of(&world, &editor).await;
    assert_eq!(detail.pattern, Some(EditPattern::Insert));
    let standing = [detail.standing_30_s_permille, detail.standing_120_s_permille, detail.standing_300_s_permille];
    assert_eq!(standing, [None, Some(1000), Some(1000)]);
}

/// A session in which nothing was proposed, and that was looked at to its end.
async fn silent(world: &World, seed: u8) -> (Editor, Served) {
    let mut editor = Editor::new(&world.person("someone").await, seed);
    let served = editor.ask(Decision::Silent, Vec::new());
    let opened = editor.now_ms;
    editor.looks(&served, opened);
    (editor, served)
}

#[tokio::test]
async fn silence_has_a_language_and_nothing_that_was_proposed() {
    let world = World::new().await;
    let (editor, _) = silent(&world, 82).await;
    let detail = detail_of(&world, &editor).await;
    assert_eq!((detail.language.as_str(), detail.pattern, detail.first_action_ms), ("rust", None, None));
    assert_eq!(detail.standing_300_s_permille, None);
}

#[tokio::test]
async fn the_log_says_from_where_on_details_are_told_whatever_is_known_at_the_start() {
    let world = World::new().await;
    // The log of a platform that was upgraded, as it was written, and as it is replayed afterwards.
    for known_at_start in [false, true] {
        let mut labeling = world.step_with(2, policy(known_at_start));
        let mut expected = Vec::new();
        for (seed, tells_details) in [(83, false), (84, true)] {
            let told = Bytes::from(canonical(&policy(tells_details)).unwrap());
            labeling.step.publish_control(CONTROL_KIND, SUBJECT, told);
            let (editor, served) = silent(&world, seed).await;
            for event in &editor.events {
                labeling.publish(event, &world.secret);
            }
            labeling.run().await;
            expected.push((served.opportunity, tells_details));
        }
        labeling.finish().await;
        let outcomes = labeling.outcomes();
        let found = outcomes.iter().map(|outcome| (outcome.opportunity_id, outcome.detail.is_some()));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}
