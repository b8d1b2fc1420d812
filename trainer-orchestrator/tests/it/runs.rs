//! Runs that go well, and when they begin.

use std::time::Duration;

use events::{ModelVersion, TenantId};
use model_registry::Alias;
use model_registry::lineage::{FIRST_FORMULA, FORMULA, Purpose};
use service::clock::Clock as _;
use service::repositories::RepositoryStore;
use trainer_orchestrator::OrchestratorConfig;
use trainer_orchestrator::freshness::oldest_unserved;
use trainer_orchestrator::store::{Run, RunState};

use crate::fixture::{
    CODE_VERSION, Fixture, PATIENCE, REPOSITORY, attempt, config, filters, model, pair_id, start_time, wait_for,
};

test_databases::on_both_databases! {
    a_request_becomes_one_version_that_can_be_traced,
    a_request_waits_for_the_end_of_a_rollout,
    a_data_set_is_one_that_the_release_before_can_read_until_the_upgrade_is_done,
}

async fn a_request_becomes_one_version_that_can_be_traced() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 200, "everyone").await;
    fixture.collect(200, 170, "everyone").await;
    let orchestrating = fixture.orchestrate(config(), "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.attempt, run.version), (RunState::Succeeded, 1, Some(2)), "{}", run.detail);
    // A model of one layer after twelve steps is no better than its base; what it is was judged on enough
    // opportunities: on as many as are configured, and exactly those are in the data set.
    assert_eq!((run.outcome.as_deref(), run.rollout_id.clone()), (Some("held"), None));

    let chain = fixture.client.get_lineage(&model(), ModelVersion(2)).await.unwrap();
    assert_eq!(chain.iter().map(|link| link.version.0).collect::<Vec<_>>(), [2, 1]);
    let snapshot = chain[0].snapshot.as_ref().unwrap();
    assert_eq!((snapshot.digest, snapshot.is_verified), (run.snapshot_digest, true));
    assert_eq!((snapshot.training_pairs, snapshot.gate_pairs, snapshot.persons), (70, 300, 20));
    assert_eq!(snapshot.parts.len(), 2);
    assert_eq!(chain[0].run_id, Some(run.run_id));
    assert_eq!((chain[0].code_version.as_str(), snapshot.code_version.as_str()), (CODE_VERSION, CODE_VERSION));
    let members = fixture.client.list_snapshot_pairs(run.snapshot_digest, None).await.unwrap();
    assert_eq!(members.iter().filter(|member| member.purpose == Purpose::Gate).count(), 300);
    let evaluation = &fixture.trained().await[0].evaluation;
    assert_eq!(evaluation["gate"]["opportunities"], 300);

    let told: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM outbox WHERE topic = 'flywheel.events.v1'")
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    let models = fixture.client.list_models().await.unwrap();
    assert_eq!(
        told,
        models[0].revision + 2,
        "one message a change of the model, one for the queued run and one for its end"
    );

    // Nothing of the data stays behind; the log and the result do.
    let files = |name: &str| attempt(&fixture, &run, 1).join(name).exists();
    assert!(!files("training.sealed") && !files("gate.sealed") && !files("model") && !files("model.checkpoint"));
    assert!(files("log") && files("result.json"));
    orchestrating.stop().await;
}

async fn a_data_set_is_one_that_the_release_before_can_read_until_the_upgrade_is_done() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let sources = fixture.sources();
    assert_eq!(sources.formula().await.unwrap(), FORMULA);
    // As on a platform that the release before made.
    sqlx::query("UPDATE schema_compatibility SET oldest_schema = 4").execute(&fixture.pool).await.unwrap();
    let orchestrating = fixture.orchestrate(config(), "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.version), (RunState::Succeeded, Some(2)), "{}", run.detail);
    let filters: String = sqlx::query_scalar("SELECT filters FROM snapshots").fetch_one(&fixture.pool).await.unwrap();
    let filters: serde_json::Value = serde_json::from_str(&filters).unwrap();
    assert_eq!((&filters["formula"], &filters["policy"]), (&FIRST_FORMULA.into(), &serde_json::Value::Null));
    let unreadable = "SELECT COUNT(*) FROM snapshot_pairs WHERE weight_millionths IS NOT NULL OR support_people <> 1 \
                      OR purpose NOT IN ('training', 'gate')";
    let unreadable: i64 = sqlx::query_scalar(unreadable).fetch_one(&fixture.pool).await.unwrap();
    assert_eq!(unreadable, 0);
    let chain = fixture.client.get_lineage(&model(), ModelVersion(2)).await.unwrap();
    let snapshot = chain[0].snapshot.as_ref().unwrap();
    assert!(snapshot.is_verified);
    assert_eq!((snapshot.training_pairs, snapshot.gate_pairs), (70, 300));
    orchestrating.stop().await;
    migrations::close_to_releases_before(&fixture.pool).await.unwrap();
    assert_eq!(sources.formula().await.unwrap(), FORMULA);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_data_set_takes_starts_no_run() {
    let fixture = Fixture::new().await;
    // Enough pairs to train on, of another audience; and of our own too few.
    fixture.collect(0, 400, "payments").await;
    fixture.collect(400, 340, "everyone").await;
    let eager = OrchestratorConfig {
        enabled: true,
        minimum_new_pairs: 345,
        minimum_pairs: 10,
        maximum_age_seconds: 1_000_000,
        ..config()
    };
    let orchestrating = fixture.orchestrate(eager, "first");
    looked(&orchestrating.handle).await;
    assert!(orchestrating.handle.store.runs(1).await.unwrap().is_empty());
    // Ten more are enough, and once they are in a data set they are new no longer.
    fixture.collect(740, 10, "everyone").await;
    looked(&orchestrating.handle).await;
    let run = orchestrating.ended().await;
    assert_eq!(run.state, RunState::Succeeded, "{}", run.detail);
    looked(&orchestrating.handle).await;
    assert_eq!(orchestrating.handle.store.runs(10).await.unwrap().len(), 1);
    orchestrating.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_a_rule_is_never_trained_on() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let rules = RepositoryStore::new(fixture.pool.clone());
    // The rule that held when the pairs were labeled is taken back.
    assert!(rules.remove(&TenantId::default(), REPOSITORY).await.unwrap());
    let orchestrating = fixture.orchestrate(config(), "first");
    orchestrating.handle.request();
    looked(&orchestrating.handle).await;
    assert!(orchestrating.handle.store.runs(1).await.unwrap().is_empty());
    // Another audience by now: what was learned for everyone would reach too many.
    fixture.allow(REPOSITORY, "payments").await;
    looked(&orchestrating.handle).await;
    assert!(orchestrating.handle.store.runs(1).await.unwrap().is_empty());
    // The request was answered; another one finds the rule that came back.
    fixture.allow(REPOSITORY, "everyone").await;
    orchestrating.handle.request();
    looked(&orchestrating.handle).await;
    assert_eq!(orchestrating.ended().await.state, RunState::Succeeded);
    orchestrating.stop().await;
}

/// What becomes of a run when `change` happens after its data set was chosen, before its second attempt opens the
/// pairs: the first attempt is made to fail.
async fn changed_between_attempts(fixture: &Fixture, change: impl AsyncFnOnce()) -> Run {
    fixture.collect(0, 400, "everyone").await;
    let (begun, changed) = (fixture.root.join("begun"), fixture.root.join("changed"));
    let script = fixture.script(
        "changed-first",
        &format!(
            "test -e {changed} && exec {program} \"$@\"\necho > {begun}\n\
             until test -e {changed}; do sleep 0.1; done\nexit 9",
            changed = changed.display(),
            begun = begun.display(),
            program = program(),
        ),
    );
    let orchestrating = fixture.orchestrate(OrchestratorConfig { program: Some(script), ..config() }, "first");
    orchestrating.handle.request();
    wait_for("the first attempt", async || begun.exists().then_some(())).await;
    change().await;
    std::fs::write(&changed, "").unwrap();
    let run = orchestrating.ended().await;
    orchestrating.stop().await;
    run
}

/// 100 of 400 train and 300 are held out, one in twenty of them is of the person who is gone: too few are left for a
/// judgement.
fn is_without_one_person(run: &Run) {
    assert_eq!((run.state, run.attempt), (RunState::Succeeded, 2), "{}", run.detail);
    let detail: serde_json::Value = serde_json::from_str(&run.detail).unwrap();
    assert_eq!((&detail["training_pairs"], &detail["gate"]["opportunities"]), (&95.into(), &285.into()));
    assert_eq!((run.outcome.as_deref(), &detail["reason"]), (Some("held"), &"insufficient_opportunities".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_of_an_erased_person_are_not_learned_from() {
    let fixture = Fixture::new().await;
    let run = changed_between_attempts(&fixture, async || erase(&fixture, "person 3").await).await;
    is_without_one_person(&run);
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_of_a_person_who_withdrew_are_not_learned_from() {
    let fixture = Fixture::new().await;
    let run = changed_between_attempts(&fixture, async || {
        let secret = fixture.keys.tenant_secret(&TenantId::default()).await.unwrap();
        let withdrawn = sqlx::query("UPDATE consents SET tier = 'usage' WHERE tenant = 'default' AND person = $1")
            .bind(secret.person_pseudonym("person 3").as_str().to_owned())
            .execute(&fixture.pool)
            .await
            .unwrap();
        assert_eq!(withdrawn.rows_affected(), 1);
    })
    .await;
    is_without_one_person(&run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_taken_back_ends_what_is_learned_from_its_repository() {
    let fixture = Fixture::new().await;
    let run = changed_between_attempts(&fixture, async || {
        let rules = RepositoryStore::new(fixture.pool.clone());
        assert!(rules.remove(&TenantId::default(), REPOSITORY).await.unwrap());
    })
    .await;
    assert_eq!((run.state, run.version), (RunState::Failed, None), "{}", run.detail);
    // Nothing else was wrong: there was nothing left to learn from.
    assert!(run.detail.contains("no usable training example"), "{}", run.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_whose_rows_were_altered_is_not_learned_from() {
    let fixture = Fixture::new().await;
    let run = changed_between_attempts(&fixture, async || {
        let heavier = "UPDATE snapshot_pairs SET weight_millionths = 9000000 WHERE purpose = 'training'";
        sqlx::query(heavier).execute(&fixture.pool).await.unwrap();
    })
    .await;
    assert_eq!((run.state, run.version), (RunState::Failed, None), "{}", run.detail);
    assert!(run.detail.contains("its rows are not what the digest names"), "{}", run.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_is_erased_before_a_data_set_is_made_is_counted_nowhere() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 400, "everyone").await;
    erase(&fixture, "person 0").await;
    let orchestrating = fixture.orchestrate(config(), "first");
    // The oldest pair of all is hers; the second one is the oldest that a version can still learn from.
    let oldest = oldest_unserved(&fixture.sources(), &filters(&config())).await.unwrap();
    assert_eq!(oldest, Some(start_time() + Duration::from_secs(1)));
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    let detail: serde_json::Value = serde_json::from_str(&run.detail).unwrap();
    assert_eq!((&detail["training_pairs"], &detail["gate"]["opportunities"]), (&80.into(), &300.into()), "{detail}");
    orchestrating.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_next_data_set_would_take_waits() {
    let fixture = Fixture::new().await;
    let at = |seconds| Some(start_time() + Duration::from_secs(seconds));
    let few = OrchestratorConfig { maximum_pairs: 360, ..config() };
    let oldest = async || oldest_unserved(&fixture.sources(), &filters(&few)).await.unwrap();
    // For others than those whom the repository is for by now.
    fixture.collect(0, 5, "payments").await;
    assert_eq!(oldest().await, None);
    fixture.collect(5, 395, "everyone").await;
    assert_eq!(oldest().await, at(5));
    // The rule is taken back, and given again.
    let rules = RepositoryStore::new(fixture.pool.clone());
    assert!(rules.remove(&TenantId::default(), REPOSITORY).await.unwrap());
    assert_eq!(oldest().await, None);
    fixture.allow(REPOSITORY, "everyone").await;
    assert_eq!(oldest().await, at(5));
    // The oldest 35 are more than a data set has room for.
    let orchestrating = fixture.orchestrate(few.clone(), "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.version), (RunState::Succeeded, Some(2)), "{}", run.detail);
    assert_eq!(oldest().await, at(5), "nobody is served by it yet");
    fixture.client.set_alias(&model(), Alias::Current, ModelVersion(2), Some(ModelVersion(1))).await.unwrap();
    assert_eq!(oldest().await, None);
    // What is labeled later than all that it saw waits, whenever it was made.
    assert!(fixture.clock.now() > start_time() + Duration::from_secs(500));
    fixture.collect(500, 1, "everyone").await;
    assert_eq!(oldest().await, at(500));
    // What was left out by name was decided about.
    sqlx::query(
        "INSERT INTO snapshot_left_out (snapshot_digest, pair_id, person, reason) VALUES ($1, $2, '', 'merged')",
    )
    .bind(run.snapshot_digest.to_string())
    .bind(pair_id(500).to_string())
    .execute(&fixture.pool)
    .await
    .unwrap();
    assert_eq!(oldest().await, None);
    orchestrating.stop().await;
}

async fn a_request_waits_for_the_end_of_a_rollout() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let orchestrating = fixture.orchestrate(config(), "first");
    orchestrating.handle.request();
    assert_eq!(orchestrating.ended().await.version, Some(2));
    let rollout = fixture.client.start_rollout(&model(), ModelVersion(2), None).await.unwrap();
    fixture.collect(370, 10, "everyone").await;
    orchestrating.handle.request();
    looked(&orchestrating.handle).await;
    let runs = async || orchestrating.handle.store.runs(10).await.unwrap().len();
    assert_eq!(runs().await, 1, "a run would learn from what the rollout is about to change");
    fixture.client.abort_rollout(rollout.rollout_id, "Ada Lovelace", "").await.unwrap();
    looked(&orchestrating.handle).await;
    assert_eq!(runs().await, 2, "the request was answered by a look that could decide nothing");
    orchestrating.stop().await;
}

/// Destroys the keys of a person.
async fn erase(fixture: &Fixture, person: &str) {
    let tenant = TenantId::default();
    let person = fixture.keys.tenant_secret(&tenant).await.unwrap().person_pseudonym(person);
    let mut transaction = migrations::begin_write(&fixture.pool).await.unwrap();
    let keys = fixture.keys.erase(&mut transaction, &tenant, &person, fixture.clock.now()).await.unwrap();
    transaction.commit().await.unwrap();
    fixture.keys.forget(&keys);
}

fn program() -> String {
    crate::fixture::program().display().to_string()
}

/// An activation that began after now has ended.
async fn looked(handle: &trainer_orchestrator::Handle) {
    let looked = async {
        while handle.look().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.unwrap();
}
