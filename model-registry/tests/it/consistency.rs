//! What is stored is consistent, and whatever is altered is found.

use std::sync::Arc;

use events::{ModelVersion, TenantId};
use model_registry::lineage::Purpose;
use model_registry::{Consistency, Registry, RegistryDeps, RolloutPolicy, RolloutState};
use service::ids::SeededIds;

use crate::fixture::{Fixture, policy, run_id, start_time};

test_databases::on_both_databases! {
    a_registry_with_a_history_is_consistent,
    what_was_altered_is_found,
    outcomes_that_came_late_are_told_apart,
}

async fn check(fixture: &Fixture) -> Consistency {
    let deps = RegistryDeps {
        pool: fixture.pool.clone(),
        clock: fixture.clock.shared(),
        ids: Arc::new(SeededIds::new(8, start_time())),
        artifacts: Arc::new(fixture.artifacts.clone()),
    };
    let registry = Registry::new(deps, RolloutPolicy::default()).unwrap();
    let (mut last, mut of) = (0, 0);
    let mut read = |done, all| (last, of) = (done, all);
    let checked = registry.check_consistency(&TenantId::default(), &mut read).await.unwrap();
    assert_eq!((last, of), (checked.artifacts.checked, checked.artifacts.checked));
    checked
}

/// Code and subject of everything that is wrong, by check.
async fn found(fixture: &Fixture) -> Vec<String> {
    let Consistency { artifacts, lineage, current, rollouts, evidence } = check(fixture).await;
    let all = [artifacts, lineage, current, rollouts, evidence];
    all.iter().flat_map(|checked| &checked.findings).map(|one| format!("{}: {}", one.subject, one.code)).collect()
}

async fn run_row(fixture: &Fixture, number: i64, snapshot: &str) {
    sqlx::query(
        "INSERT INTO training_runs (run_id, tenant, model, snapshot_digest, parent_version, anchor_version, method, seed, \
         state, detail, attempt, owner_epoch, last_signal_at, deadline_at, created_at, version) \
         VALUES ($1, 'default', 'edit', $2, 1, 1, 'sft', 1, 'succeeded', '{}', 1, 1, 1, 9000000000000000, 1, $3)",
    )
    .bind(run_id(number).to_string())
    .bind(snapshot)
    .bind(number)
    .execute(&fixture.pool)
    .await
    .unwrap();
}

/// Version 2 learned from a data set, was promoted by evidence and taken back; a rollout of version 3 runs.
async fn history() -> (Fixture, String, String) {
    let fixture = Fixture::with_versions(1).await;
    let snapshot = fixture.snapshot("everyone", &[("a", 1, Purpose::Training), ("b", 2, Purpose::Gate)]).await;
    run_row(&fixture, 2, &snapshot.to_string()).await;
    fixture.client.register_version(&fixture.learned(2, 1, snapshot).await).await.unwrap();
    fixture.client.register_version(&fixture.new_version("v3").await).await.unwrap();
    let first = fixture.begin(2, &policy()).await;
    while fixture.rollout(first).await.state == RolloutState::Canary {
        fixture.play_block(|version: ModelVersion| if version.0 == 2 { 4 } else { 2 }).await;
    }
    fixture.client.rollback_rollout(first, "Ada Lovelace", "complaints").await.unwrap();
    let second = fixture.begin(3, &policy()).await;
    fixture.play_block(|_| 3).await;
    (fixture, first.to_string(), second.to_string())
}

async fn a_registry_with_a_history_is_consistent() {
    let (fixture, ..) = history().await;
    let Consistency { artifacts, lineage, current, rollouts, evidence } = check(&fixture).await;
    for checked in [&artifacts, &lineage, &current, &rollouts, &evidence] {
        assert_eq!((&checked.findings, checked.not_covered), (&Vec::new(), 0), "{checked:?}");
    }
    assert_eq!((artifacts.checked, lineage.checked, current.checked, rollouts.checked), (3, 3, 1, 2));
    assert!(evidence.checked >= 60, "a tally a person: {}", evidence.checked);
    fixture.shut_down().await;
}

async fn what_was_altered_is_found() {
    let (fixture, first, second) = history().await;
    let alter = async |statement: String| {
        let altered = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&fixture.pool).await.unwrap();
        assert!(altered.rows_affected() > 0);
    };
    // Each is found, named, and gone when it is mended.
    let cases = [
        (
            "UPDATE model_versions SET evaluation = '{\"gate\":\"failed\"}' WHERE version = 3",
            "UPDATE model_versions SET evaluation = '{\"gate\":\"passed\"}' WHERE version = 3",
            "edit version 3: evaluation_corrupt".to_owned(),
        ),
        (
            "UPDATE model_versions SET anchor = 3 WHERE version = 2",
            "UPDATE model_versions SET anchor = 1 WHERE version = 2",
            "edit version 2: anchor_unknown".to_owned(),
        ),
        (
            "UPDATE snapshot_pairs SET purpose = 'gate' WHERE purpose = 'training'",
            "UPDATE snapshot_pairs SET purpose = 'training' WHERE person LIKE '%1'",
            "edit version 2: snapshot_corrupt".to_owned(),
        ),
        (
            "UPDATE training_runs SET version = 3",
            "UPDATE training_runs SET version = 2",
            "edit version 2: run_of_another_version".to_owned(),
        ),
        (
            "UPDATE models SET last_version = 4",
            "UPDATE models SET last_version = 3",
            "edit: version_numbers_have_a_hole".to_owned(),
        ),
        (
            "UPDATE models SET holdback_share = 0.3",
            "UPDATE models SET holdback_share = 0.2",
            "edit: routing_does_not_follow".to_owned(),
        ),
        (
            "UPDATE audit_log SET action = 'something' WHERE action = 'rollout_promoted'",
            "UPDATE audit_log SET action = 'rollout_promoted' WHERE action = 'something'",
            format!("{first}: history_contradicts_itself"),
        ),
        (
            "UPDATE audit_log SET revision = revision + 1000 WHERE action = 'alias_set' OR revision = 1",
            "UPDATE audit_log SET revision = revision - 1000 WHERE revision > 1000",
            "edit: change_log_has_a_hole".to_owned(),
        ),
        (
            "UPDATE rollouts SET state = 'awaiting_approval' WHERE state = 'canary'",
            "UPDATE rollouts SET state = 'canary' WHERE state = 'awaiting_approval'",
            format!("{second}: state_does_not_follow"),
        ),
        (
            "UPDATE rollouts SET evidence = REPLACE(evidence, '\"max_blocks\":4', '\"max_blocks\":5') \
             WHERE state = 'canary'",
            "UPDATE rollouts SET evidence = REPLACE(evidence, '\"max_blocks\":5', '\"max_blocks\":4') \
             WHERE state = 'canary'",
            format!("{second}: evidence_does_not_follow"),
        ),
    ];
    for (alteration, mend, expected) in cases {
        alter(alteration.to_owned()).await;
        let wrong = found(&fixture).await;
        assert!(wrong.contains(&expected), "{alteration}: {wrong:?}");
        alter(mend.to_owned()).await;
        assert_eq!(found(&fixture).await, Vec::<String>::new(), "{mend}");
    }

    // Outcomes that evidence was taken from are gone.
    alter("DELETE FROM opportunity_outcomes WHERE person LIKE '%7'".to_owned()).await;
    let wrong = found(&fixture).await;
    assert!(wrong.contains(&format!("{first}: tallies_without_outcomes")), "{wrong:?}");

    // What is stored of a model is not what it was.
    let version = fixture.client.get_version(&"edit".parse().unwrap(), ModelVersion(3)).await.unwrap();
    std::fs::write(fixture.object(version.artifact_digest), b"{}").unwrap();
    let wrong = found(&fixture).await;
    assert!(wrong.contains(&"edit version 3: artifact_corrupt".to_owned()), "{wrong:?}");
}

async fn outcomes_that_came_late_are_told_apart() {
    let (fixture, first, _) = history().await;
    // Of a block that was judged, one more.
    sqlx::query(
        "INSERT INTO opportunity_outcomes (tenant, opportunity_id, suggestion_id, person, model, model_version, \
         rollout_id, arm, block, decision, signal, utility, shown, accepted, kept_characters, censored, \
         exposure_missing, explored, repository, exposed_at, closed_at) SELECT tenant, 'late', suggestion_id, person, model, model_version, \
         rollout_id, arm, block, decision, signal, utility, shown, accepted, kept_characters, censored, \
         exposure_missing, explored, repository, exposed_at, closed_at FROM opportunity_outcomes \
         WHERE rollout_id = $1 AND block = 0 AND arm = 'canary' AND model_version = 2 ORDER BY opportunity_id LIMIT 1",
    )
    .bind(&first)
    .execute(&fixture.pool)
    .await
    .unwrap();
    let evidence = check(&fixture).await.evidence;
    assert_eq!((&evidence.findings, evidence.not_covered), (&Vec::new(), 1));
}
