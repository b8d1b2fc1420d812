//! Jobs and orchestrators that are killed, stopped or too late.

use std::time::Duration;

use events::{RunId, TenantId};
use service::lease::LeaseStore;
use trainer_orchestrator::OrchestratorConfig;
use trainer_orchestrator::store::{RunState, Store};

use crate::fixture::{
    Address, Fixture, Platform, attempt, config, is_alive, kill, model, program, start_time, wait_for, wait_for_file,
};

test_databases::on_both_databases! {
    after_a_killed_orchestrator_its_job_ends_and_the_run_becomes_one_version,
    a_former_leader_changes_no_run,
    owners_that_race_leave_the_run_to_the_newest,
}

/// Enough steps for a checkpoint (every tenth) long before the end.
fn long() -> OrchestratorConfig {
    OrchestratorConfig { steps: 400, maximum_attempts: 3, ..config() }
}

/// A program that says its process id, then becomes the training job.
fn with_pid(fixture: &Fixture) -> std::path::PathBuf {
    fixture.script("with-pid", &format!("echo $$ > \"$DIRECTORY/pid\"\nexec {} \"$@\"", program().display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_job_goes_on_from_its_checkpoint_to_the_same_model() {
    let mut digests = Vec::new();
    for killed in [false, true] {
        let fixture = Fixture::new().await;
        fixture.collect(0, 370, "everyone").await;
        let config = OrchestratorConfig { program: Some(with_pid(&fixture)), ..long() };
        let orchestrating = fixture.orchestrate(config, "first");
        orchestrating.handle.request();
        if killed {
            let run = wait_for("the run", async || orchestrating.handle.store.runs(1).await.unwrap().pop()).await;
            let first = attempt(&fixture, &run, 1);
            wait_for_file(&first.join("model.checkpoint")).await;
            kill(&std::fs::read_to_string(first.join("pid")).unwrap());
        }
        let run = orchestrating.ended().await;
        assert_eq!(run.state, RunState::Succeeded, "{}", run.detail);
        assert_eq!(run.attempt, if killed { 2 } else { 1 });
        assert_eq!(fixture.trained().await.len(), 1);
        let detail: serde_json::Value = serde_json::from_str(&run.detail).unwrap();
        digests.push((detail["model_digest"].clone(), detail["training_tokens"].as_u64().unwrap()));
        orchestrating.stop().await;
    }
    assert_eq!(digests[0].0, digests[1].0);
    assert!(digests[1].1 < digests[0].1, "the second attempt began anew: {digests:?}");
}

async fn after_a_killed_orchestrator_its_job_ends_and_the_run_becomes_one_version() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let mut other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crashes::orchestrator_process", "--ignored", "--nocapture"])
        .env("FLYWHEEL_TEST_ROOT", &fixture.address.root)
        .env("FLYWHEEL_TEST_DATABASE", &fixture.address.database)
        .env("FLYWHEEL_TEST_REGISTRY", &fixture.address.registry)
        .env("FLYWHEEL_TEST_SECRET", &fixture.address.secret)
        .env("FLYWHEEL_TEST_PROGRAM", with_pid(&fixture))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let store = Store::new(fixture.pool.clone(), TenantId::default(), model());
    let run = wait_for("the run", async || store.runs(1).await.unwrap().pop()).await;
    let first = attempt(&fixture, &run, 1);
    wait_for_file(&first.join("model.checkpoint")).await;
    let job = std::fs::read_to_string(first.join("pid")).unwrap();
    assert!(is_alive(&job));
    other.kill().unwrap();
    other.wait().unwrap();
    // Nobody is left to end it: it sees that nobody waits.
    wait_for("the end of the job", async || (!is_alive(&job)).then_some(())).await;

    let orchestrating = fixture.orchestrate(long(), "second");
    let ended = orchestrating.ended().await;
    assert_eq!((ended.run_id, ended.state), (run.run_id, RunState::Succeeded), "{}", ended.detail);
    // A crash of the orchestrator is no failure of the job.
    assert_eq!(ended.attempt, 2);
    assert_eq!(fixture.trained().await.iter().map(|version| version.run_id).collect::<Vec<_>>(), [Some(run.run_id)]);
    orchestrating.stop().await;
}

/// Not a test: the process that the test above kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn orchestrator_process() {
    let variable = |name: &str| std::env::var(format!("FLYWHEEL_TEST_{name}"));
    let Ok(root) = variable("ROOT") else { return };
    let address = Address {
        root: root.into(),
        database: variable("DATABASE").unwrap(),
        registry: variable("REGISTRY").unwrap(),
        secret: variable("SECRET").unwrap(),
    };
    let platform = Platform::open(&address).await;
    let config = OrchestratorConfig { program: Some(variable("PROGRAM").unwrap().into()), ..long() };
    let orchestrating = platform.orchestrate(config, "first");
    orchestrating.handle.request();
    orchestrating.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_was_not_written_down_is_adopted_and_not_computed_again() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let orchestrating = fixture.orchestrate(config(), "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    orchestrating.stop().await;
    // As if the process had died after the registration, before the run's row was written.
    fixture.forget_the_end().await;
    let orchestrating = fixture.orchestrate(config(), "second");
    let again = orchestrating.ended().await;
    assert_eq!((again.run_id, again.version, again.attempt), (run.run_id, run.version, 1));
    assert_eq!(fixture.trained().await.len(), 1);
    orchestrating.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_and_starts_uses_up_no_attempts() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let config = || OrchestratorConfig { maximum_attempts: 1, program: Some(with_pid(&fixture)), ..long() };
    let store = Store::new(fixture.pool.clone(), TenantId::default(), model());
    for start in 1..=3_i64 {
        let orchestrating = fixture.orchestrate(config(), "the same");
        if start == 1 {
            orchestrating.handle.request();
        }
        let run = wait_for("the run", async || store.runs(1).await.unwrap().pop()).await;
        wait_for_file(&attempt(&fixture, &run, start).join("pid")).await;
        orchestrating.stop().await;
    }
    let orchestrating = fixture.orchestrate(config(), "the same");
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.attempt), (RunState::Succeeded, 4), "{}", run.detail);
    orchestrating.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_ends_the_run_as_such() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let slow = fixture.script("slow", "exec sleep 600");
    let config = OrchestratorConfig { program: Some(slow), deadline_seconds: 3, ..config() };
    let orchestrating = fixture.orchestrate(config.clone(), "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.outcome.as_deref(), run.version), (RunState::Failed, Some("deadline"), None));
    assert!(run.detail.contains("the job was still running"), "{}", run.detail);
    orchestrating.stop().await;

    // It passed while nobody was there: queueing counts. A finished job would come too late as well.
    fixture.forget_the_end().await;
    sqlx::query("UPDATE training_runs SET state = 'queued', attempt = 0, detail = '{}'")
        .execute(&fixture.pool)
        .await
        .unwrap();
    let orchestrating = fixture.orchestrate(config, "first");
    let run = orchestrating.ended().await;
    assert_eq!((run.outcome.as_deref(), run.attempt), (Some("deadline"), 0));
    assert!(fixture.trained().await.is_empty());
    orchestrating.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_hangs_is_ended_and_tried_again() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let once = fixture.script(
        "hangs-once",
        &format!("case \"$DIRECTORY\" in */1) exec sleep 600;; esac\nexec {} \"$@\"", program().display()),
    );
    let config = OrchestratorConfig { program: Some(once), heartbeat_seconds: 10, ..config() };
    let orchestrating = fixture.orchestrate(config, "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.attempt), (RunState::Succeeded, 2), "{}", run.detail);
    orchestrating.stop().await;
}

async fn a_former_leader_changes_no_run() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let slow = fixture.script("slow", "exec sleep 600");
    let orchestrating = fixture.orchestrate(OrchestratorConfig { program: Some(slow), ..config() }, "first");
    orchestrating.handle.request();
    let store = &orchestrating.handle.store;
    let run =
        wait_for("a running attempt", async || store.runs(1).await.unwrap().pop().filter(|run| run.attempt == 1)).await;
    let leases = LeaseStore::new(fixture.pool.clone());
    // The lease goes to another in a later epoch, as after a long pause of this process.
    sqlx::query("UPDATE leases SET expires_at = 0").execute(&fixture.pool).await.unwrap();
    let name = format!("orchestrator/default/{}", model());
    let fence = leases.acquire(&name, "second", Duration::from_secs(60)).await.unwrap().unwrap();
    assert!(store.own(run.run_id, fence.epoch()).await.unwrap());
    // The old epoch can do nothing any more, and its job is ended.
    let old = fence.epoch() - 1;
    assert!(!store.own(run.run_id, old).await.unwrap() && !store.owns(run.run_id, old).await.unwrap());
    assert_eq!(store.begin_attempt(run.run_id, old, start_time()).await.unwrap(), None);
    let unknown: RunId = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d".parse().unwrap();
    assert!(!store.own(unknown, fence.epoch()).await.unwrap());
    wait_for("the end of the former leader's work", async || {
        matches!(orchestrating.handle.look().await, Err(service::reconciler::RequestError::NotLeader { .. }))
            .then_some(())
    })
    .await;
    let after = store.runs(1).await.unwrap().pop().unwrap();
    assert_eq!((after.state, after.attempt), (RunState::Running, 1));
    orchestrating.stop().await;
}

async fn owners_that_race_leave_the_run_to_the_newest() {
    const OWNERS: i64 = 8;
    let fixture = Fixture::new().await;
    for statement in [
        "INSERT INTO snapshots VALUES ('digest', 'default', 'edit', 'everyone', 1, '0.1.0', '{}', 1, 1, 1, 1, 1, 1)",
        "INSERT INTO training_runs (run_id, tenant, model, snapshot_digest, parent_version, anchor_version, method, \
         seed, state, detail, attempt, owner_epoch, last_signal_at, deadline_at, created_at) \
         VALUES ('0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d', 'default', 'edit', 'digest', 1, 1, 'sft', 1, 'queued', '{}', \
         0, 0, 1, 1, 1)",
    ] {
        sqlx::query(statement).execute(&fixture.pool).await.unwrap();
    }
    let run: RunId = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d".parse().unwrap();
    let store = Store::new(fixture.pool.clone(), TenantId::default(), model());
    let racing: Vec<_> = (1..=OWNERS)
        .map(|epoch| {
            let store = store.clone();
            tokio::spawn(async move {
                store.own(run, epoch).await.unwrap();
                store.begin_attempt(run, epoch, start_time()).await.unwrap()
            })
        })
        .collect();
    let mut attempts = Vec::new();
    for one in racing {
        attempts.extend(one.await.unwrap());
    }
    attempts.sort_unstable();
    let count = i64::try_from(attempts.len()).unwrap();
    assert!(count >= 1);
    assert_eq!(attempts, (1..=count).collect::<Vec<_>>(), "each attempt has a number of its own");
    assert!(store.owns(run, OWNERS).await.unwrap());
    for former in 1..OWNERS {
        assert_eq!(store.begin_attempt(run, former, start_time()).await.unwrap(), None);
    }
}
