//! Rollouts from start to verdict.

use std::time::Duration;

use events::{ModelVersion, RolloutId, Sha256Digest, Timestamp};
use model_registry::lineage::Purpose;
use model_registry::reconciler::{ACTOR, LATE, RolloutReconciler, SERVED_NOBODY};
use model_registry::{Alias, RolloutPolicy, RolloutState, Verdict, assign};
use serde_json::json;
use service::clock::real_now;

use crate::fixture::{Fixture, code, model, person_of, policy, run_id};

test_databases::on_both_databases! {
    a_clearly_better_model_is_promoted_by_evidence,
    a_harmful_model_is_rolled_back_and_current_stays,
    approval_takes_a_named_person_and_evidence_first,
    without_a_verdict_it_is_held,
    a_placebo_is_observed_and_never_acted_on,
    of_two_starts_one_wins_and_the_same_start_is_the_same_rollout,
    a_candidate_that_rotted_never_serves,
    what_was_judged_stays_and_only_what_is_closed_counts,
    the_reconciler_catches_up_block_by_block_after_a_pause,
    reconcilers_that_race_judge_a_block_once,
    a_candidate_whose_turn_is_over_never_begins_to_serve,
    a_canary_that_served_nobody_ends_at_the_deadline_and_one_that_served_stays,
}

async fn a_clearly_better_model_is_promoted_by_evidence() {
    let fixture = Fixture::with_versions(2).await;
    let rollout = fixture.begin(2, &policy()).await;
    let table = fixture.client.get_routing(&model()).await.unwrap();
    assert_eq!(table.holdback_share, 0.2);
    assert_eq!(table.rollout.as_ref().unwrap().candidate.version, ModelVersion(2));

    let better = |version: ModelVersion| if version.0 == 2 { 4 } else { 2 };
    let mut blocks = 0;
    while fixture.rollout(rollout).await.state == RolloutState::Canary {
        blocks += 1;
        assert!(blocks <= 2, "a difference of a third should not take longer");
        fixture.play_block(better).await;
    }
    let (promoted, evidence) = fixture.client.get_rollout(rollout).await.unwrap();
    assert_eq!((promoted.state, promoted.reason.as_str()), (RolloutState::Promoted, "no_harm"));
    assert_eq!(evidence.verdict, Verdict::Promote);
    assert!(evidence.no_harm.reached && !evidence.harm.reached);
    assert!(evidence.canary.persons >= 10 && evidence.current.persons >= 10 && evidence.holdback.persons >= 5);
    let table = fixture.client.get_routing(&model()).await.unwrap();
    assert_eq!((table.current.version, table.rollout.is_none()), (ModelVersion(2), true));
    // The hold-back keeps the reference.
    assert_eq!((table.holdback_share, table.reference.unwrap().version), (0.2, ModelVersion(1)));
    let actions = fixture.assert_audit_is_complete().await;
    assert_eq!(
        actions[4..],
        ["rollout_started by key test", "rollout_began by reconciler", "rollout_promoted by reconciler"]
    );

    // A named person takes it back: the version before is current again.
    let back = fixture.client.rollback_rollout(rollout, "Ada Lovelace", "complaints").await.unwrap();
    assert_eq!((back.state, back.decided_by.as_deref()), (RolloutState::RolledBack, Some("Ada Lovelace")));
    let table = fixture.client.get_routing(&model()).await.unwrap();
    assert_eq!(table.versions().iter().map(|served| served.version.0).collect::<Vec<_>>(), [1]);
    assert_eq!(code(fixture.client.rollback_rollout(rollout, "Ada Lovelace", "").await), "illegal_transition");
    fixture.assert_audit_is_complete().await;
    fixture.shut_down().await;
}

async fn a_harmful_model_is_rolled_back_and_current_stays() {
    let fixture = Fixture::with_versions(2).await;
    let rollout = fixture.begin(2, &policy()).await;
    let worse = |version: ModelVersion| if version.0 == 2 { 1 } else { 4 };
    for _ in 0..4 {
        if fixture.rollout(rollout).await.state != RolloutState::Canary {
            break;
        }
        fixture.play_block(worse).await;
    }
    let ended = fixture.rollout(rollout).await;
    assert_eq!((ended.state, ended.reason.as_str()), (RolloutState::RolledBack, "harm"));
    let table = fixture.client.get_routing(&model()).await.unwrap();
    assert_eq!((table.current.version, table.rollout.is_none()), (ModelVersion(1), true));
    assert_eq!(fixture.assert_audit_is_complete().await.last().unwrap(), "rollout_rolled_back by reconciler");
}

async fn approval_takes_a_named_person_and_evidence_first() {
    let fixture = Fixture::with_versions(2).await;
    let approval = RolloutPolicy { promotion: model_registry::Promotion::Approval, ..policy() };
    let rollout = fixture.begin(2, &approval).await;
    // No evidence yet.
    assert_eq!(code(fixture.client.approve_rollout(rollout, "Grace Hopper", "").await), "illegal_transition");
    for _ in 0..3 {
        fixture.play_block(|version| if version.0 == 2 { 4 } else { 2 }).await;
    }
    assert_eq!(fixture.rollout(rollout).await.state, RolloutState::AwaitingApproval);
    // The candidate goes on serving its share while it waits, beyond the last block too.
    assert!(fixture.client.get_routing(&model()).await.unwrap().rollout.is_some());
    fixture.play_block(|_| 3).await;
    fixture.play_block(|_| 3).await;
    assert_eq!(fixture.rollout(rollout).await.state, RolloutState::AwaitingApproval);
    assert_eq!(code(fixture.client.approve_rollout(rollout, " ", "").await), "invalid_argument");
    let promoted = fixture.client.approve_rollout(rollout, "Grace Hopper", "looks good").await.unwrap();
    assert_eq!((promoted.state, promoted.reason.as_str()), (RolloutState::Promoted, "looks good"));
    assert_eq!(fixture.client.get_routing(&model()).await.unwrap().current.version, ModelVersion(2));
    assert_eq!(fixture.assert_audit_is_complete().await.last().unwrap(), "rollout_approved by Grace Hopper");
}

async fn without_a_verdict_it_is_held() {
    let fixture = Fixture::with_versions(2).await;
    let few = RolloutPolicy { minimum_persons: 1_000, ..policy() };
    let rollout = fixture.begin(2, &few).await;
    for _ in 0..4 {
        assert_eq!(fixture.rollout(rollout).await.state, RolloutState::Canary);
        fixture.play_block(|_| 3).await;
    }
    let held = fixture.rollout(rollout).await;
    assert_eq!((held.state, held.reason.as_str(), held.blocks_complete), (RolloutState::Held, "too_few_persons", 4));
    assert_eq!(fixture.client.get_routing(&model()).await.unwrap().current.version, ModelVersion(1));
}

async fn a_placebo_is_observed_and_never_acted_on() {
    let fixture = Fixture::with_versions(2).await;
    let observe = RolloutPolicy { observe_only: true, ..policy() };
    let rollout = fixture.begin(2, &observe).await;
    for _ in 0..6 {
        fixture.play_block(|version| if version.0 == 2 { 1 } else { 4 }).await;
    }
    let (observed, evidence) = fixture.client.get_rollout(rollout).await.unwrap();
    assert_eq!((observed.state, observed.blocks_complete), (RolloutState::Canary, 6));
    assert_eq!(evidence.verdict, Verdict::Rollback);
    assert!(fixture.client.get_routing(&model()).await.unwrap().rollout.is_some());
    let ended = fixture.client.abort_rollout(rollout, "Ada Lovelace", "over").await.unwrap();
    assert_eq!(ended.state, RolloutState::Aborted);
}

async fn of_two_starts_one_wins_and_the_same_start_is_the_same_rollout() {
    let fixture = Fixture::with_versions(6).await;
    let starts: Vec<_> = (2..=6)
        .map(|number| {
            let client = fixture.client.clone();
            tokio::spawn(async move { client.start_rollout(&model(), ModelVersion(number), Some(&policy())).await })
        })
        .collect();
    let (mut won, mut codes) = (Vec::new(), Vec::new());
    for start in starts {
        match start.await.unwrap() {
            Ok(rollout) => won.push(rollout),
            Err(error) => codes.push(error.code().unwrap().to_owned()),
        }
    }
    assert_eq!((won.len(), codes), (1, vec!["rollout_active".to_owned(); 4]));
    let again = fixture.client.start_rollout(&model(), won[0].candidate, Some(&policy())).await.unwrap();
    assert_eq!(again.rollout_id, won[0].rollout_id);

    // What it compares stays.
    let moved = fixture.client.set_alias(&model(), Alias::Current, ModelVersion(2), Some(ModelVersion(1))).await;
    assert_eq!(code(moved), "rollout_active");
    let bad = RolloutPolicy { canary_share: 0.9, ..policy() };
    assert_eq!(code(fixture.client.start_rollout(&model(), ModelVersion(2), Some(&bad)).await), "invalid_argument");
    fixture.client.abort_rollout(won[0].rollout_id, "Ada Lovelace", "").await.unwrap();
    let current = fixture.client.start_rollout(&model(), ModelVersion(1), Some(&policy())).await;
    assert_eq!(code(current), "already_current");
    assert_eq!(fixture.client.list_rollouts(Some(&model())).await.unwrap().len(), 1);
    fixture.assert_audit_is_complete().await;
}

async fn a_candidate_that_rotted_never_serves() {
    let fixture = Fixture::with_versions(2).await;
    let version = fixture.client.get_version(&model(), ModelVersion(2)).await.unwrap();
    let manifest = artifacts::get_manifest(&fixture.artifacts, &version.artifact_digest).await.unwrap();
    std::fs::write(fixture.object(manifest.file("model.safetensors").unwrap().sha256), "rotten").unwrap();
    let started = fixture.client.start_rollout(&model(), ModelVersion(2), Some(&policy())).await.unwrap();
    fixture.reconcile().await;
    let ended = fixture.rollout(started.rollout_id).await;
    assert_eq!((ended.state, ended.reason.as_str()), (RolloutState::Aborted, "artifact_corrupt"));
    assert!(fixture.client.get_routing(&model()).await.unwrap().rollout.is_none());
}

async fn what_was_judged_stays_and_only_what_is_closed_counts() {
    let fixture = Fixture::with_versions(2).await;
    let rollout = fixture.begin(2, &policy()).await;
    let table = fixture.client.get_routing(&model()).await.unwrap();
    let during = fixture.clock_now();
    fixture.outcomes(|_| 3).await;
    // The block has ended, but its last exposures are not closed and settled.
    fixture.clock.advance(Duration::from_secs(3_600 + 300 + 59));
    fixture.reconcile().await;
    assert_eq!(fixture.client.get_rollout(rollout).await.unwrap().1.blocks_complete, 0);
    fixture.clock.advance(Duration::from_secs(1));
    fixture.reconcile().await;
    let (_, before) = fixture.client.get_rollout(rollout).await.unwrap();
    assert_eq!((before.blocks_complete, before.canary.opportunities % 6), (1, 0));

    // Later outcomes of the judged block, and a canary answer that another version gave.
    let person = person_of(4);
    let mut given = assign(&table, &person, None, during).unwrap();
    fixture.outcome(&person, &given, during, true).await;
    given.version = ModelVersion(1);
    given.arm = events::Arm::Canary;
    given.block = Some(1);
    fixture.outcome(&person, &given, during, true).await;
    let (_, after) = fixture.client.get_rollout(rollout).await.unwrap();
    assert_eq!((after.canary, after.current, after.holdback), (before.canary, before.current, before.holdback));
    assert_eq!(after.no_harm, before.no_harm);
}

async fn the_reconciler_catches_up_block_by_block_after_a_pause() {
    // The same outcomes, judged after every block, or all at once after an outage: the same verdict in the same block.
    let mut verdicts = Vec::new();
    for pause in [false, true] {
        let fixture = Fixture::with_versions(2).await;
        let rollout = fixture.begin(2, &policy()).await;
        for _ in 0..4 {
            let running = fixture.rollout(rollout).await.state == RolloutState::Canary;
            if running {
                fixture.outcomes(|version| if version.0 == 2 { 3 } else { 2 }).await;
            }
            fixture.clock.advance(Duration::from_secs(3_600));
            if !pause {
                fixture.reconcile().await;
            }
        }
        fixture.clock.advance(Duration::from_secs(360));
        fixture.reconcile().await;
        let (ended, evidence) = fixture.client.get_rollout(rollout).await.unwrap();
        verdicts.push((ended.state, ended.blocks_complete, evidence.no_harm.by_block[0]));
    }
    assert_eq!(verdicts[0], verdicts[1]);
}

async fn reconcilers_that_race_judge_a_block_once() {
    let fixture = Fixture::with_versions(2).await;
    let rollout = fixture.begin(2, &policy()).await;
    for _ in 0..2 {
        fixture.outcomes(|_| 3).await;
        fixture.clock.advance(Duration::from_secs(3_960));
        let racing: Vec<_> = (0..4)
            .map(|_| {
                let reconciler = RolloutReconciler::new(fixture.running.registry.clone(), None);
                tokio::spawn(async move { reconciler.reconcile().await })
            })
            .collect();
        for one in racing {
            one.await.unwrap().unwrap();
        }
    }
    let (state, evidence) = fixture.client.get_rollout(rollout).await.unwrap();
    assert_eq!(state.blocks_complete, 2);
    // Each of 60 persons once a block.
    let persons = evidence.canary.person_blocks + evidence.current.person_blocks + evidence.holdback.person_blocks;
    assert_eq!(persons, 120);
    fixture.assert_audit_is_complete().await;
}

/// Registers what a run made, keeps the run in `state` with a deadline, and starts the version's rollout.
async fn start_turn(
    fixture: &Fixture,
    snapshot: Sha256Digest,
    number: i64,
    state: &str,
    deadline_at: i64,
) -> RolloutId {
    let new = fixture.learned(number, 1, snapshot).await;
    assert_eq!(fixture.client.register_version(&new).await.unwrap().version, ModelVersion(number));
    sqlx::query(
        "INSERT INTO training_runs (run_id, tenant, model, snapshot_digest, parent_version, anchor_version, method, \
         seed, state, detail, attempt, owner_epoch, last_signal_at, deadline_at, created_at) \
         VALUES ($1, 'default', 'edit', $2, 1, 1, 'sft', 1, $3, '{}', 1, 1, 0, $4, 0)",
    )
    .bind(run_id(number).to_string())
    .bind(snapshot.to_string())
    .bind(state)
    .bind(deadline_at)
    .execute(&fixture.pool)
    .await
    .unwrap();
    // Last: it begins as soon as it is there.
    fixture.client.start_rollout(&model(), ModelVersion(number), Some(&policy())).await.unwrap().rollout_id
}

/// A deadline that no test reaches.
const FAR: i64 = i64::MAX / 2;

/// A rollout binds to the deadline of the run that started it, and to no other.
async fn a_candidate_whose_turn_is_over_never_begins_to_serve() {
    let fixture = Fixture::with_versions(1).await;
    let snapshot = fixture.snapshot("everyone", &[("a", 1, Purpose::Training)]).await;
    // Too late while the run still says what came of it, in time, and a run that is long over.
    let turns = [
        (2, "running", 1, RolloutState::Aborted),
        (3, "running", FAR, RolloutState::Canary),
        (4, "succeeded", 1, RolloutState::Canary),
    ];
    for (number, state, deadline_at, expected) in turns {
        let rollout = start_turn(&fixture, snapshot, number, state, deadline_at).await;
        fixture.reconcile().await;
        let found = fixture.rollout(rollout).await;
        assert_eq!(found.state, expected, "version {number}");
        if expected == RolloutState::Aborted {
            assert_eq!(found.reason, LATE);
            assert!(fixture.client.get_routing(&model()).await.unwrap().rollout.is_none());
        } else {
            fixture.client.abort_rollout(rollout, "Ada Lovelace", "over").await.unwrap();
        }
        // One run at a time is active.
        sqlx::query("UPDATE training_runs SET state = 'succeeded'").execute(&fixture.pool).await.unwrap();
    }
    let audit = fixture.assert_audit_is_complete().await;
    assert!(audit.contains(&"rollout_aborted by reconciler".to_owned()), "{audit:?}");
}

/// The deadline binds until the candidate has shown somebody a suggestion, and then no longer.
async fn a_canary_that_served_nobody_ends_at_the_deadline_and_one_that_served_stays() {
    for serves in [false, true] {
        let fixture = Fixture::with_versions(1).await;
        let snapshot = fixture.snapshot("everyone", &[("a", 1, Purpose::Training)]).await;
        let rollout = start_turn(&fixture, snapshot, 2, "running", FAR).await;
        fixture.reconcile().await;
        sqlx::query("UPDATE training_runs SET state = 'succeeded', rollout_id = $1")
            .bind(rollout.to_string())
            .execute(&fixture.pool)
            .await
            .unwrap();
        let set_deadline = async |at: Timestamp| {
            let update = sqlx::query("UPDATE training_runs SET deadline_at = $1").bind(at.as_micros());
            update.execute(&fixture.pool).await.unwrap();
            fixture.reconcile().await;
            fixture.rollout(rollout).await
        };
        // The other arms show their suggestions; a candidate that only kept silent has served nobody.
        fixture.outcomes(|_| 3).await;
        if !serves {
            let kept_silent = "UPDATE opportunity_outcomes SET decision = 'silent', shown = 0 WHERE arm = 'canary'";
            let changed = sqlx::query(kept_silent).execute(&fixture.pool).await.unwrap();
            assert!(changed.rows_affected() > 0);
        }
        // The deadline is long past, but nothing that the candidate may have shown can have closed.
        let long_ago = Timestamp::from_seconds(1);
        assert_eq!(set_deadline(long_ago).await.state, RolloutState::Canary);
        // Here it can; what was shown just before the deadline can not.
        set_deadline(real_now()).await;
        fixture.clock.advance(Duration::from_secs(360));
        fixture.reconcile().await;
        assert_eq!(fixture.rollout(rollout).await.state, RolloutState::Canary);

        let found = set_deadline(long_ago).await;
        let is_routed = fixture.client.get_routing(&model()).await.unwrap().rollout.is_some();
        let entries = fixture.client.list_audit(&model(), 0).await.unwrap();
        let last = entries.last().unwrap();
        if serves {
            assert_eq!((found.state, is_routed), (RolloutState::Canary, true));
            assert_eq!(last.action, "rollout_began");
        } else {
            assert_eq!((found.state, found.reason.as_str()), (RolloutState::Aborted, SERVED_NOBODY));
            assert!(!is_routed);
            assert_eq!((last.action.as_str(), last.actor.as_str()), ("rollout_aborted", ACTOR));
            assert_eq!((&last.detail["from"], &last.detail["reason"]), (&json!("canary"), &json!(SERVED_NOBODY)));
        }
        fixture.assert_audit_is_complete().await;
    }
}
