//! A story on a deployment: separate processes on this machine or others, of which the story reaches the doors, the
//! registry, and (by the deployment's own configuration) the database, the log, the artifacts and the keys.
//!
//! Nothing there can be told to hurry. Time goes on by itself, and is only allowed to do so faster than the machine's
//! (`clock.kind = "scaled"`); the orchestrator begins a run when its trigger says so, the registry judges a block when
//! it is over, serving asks for its routing now and then. So everything is waited for, each with a bound, and whoever
//! waits in vain is told what for.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use events::{ModelVersion, OpportunityId, RolloutId, RunId, Timestamp};
use parking_lot::Mutex;
use service::api_keys::Scope;
use service::clock::ClockKind;
use service::config::Secret;
use service::http::HttpConfig;
use simulator::driver::{DoorSettings, Doors};
use trainer_orchestrator::store::Run;

use super::progress::Progress;
use super::stage::{Ground, NextRun, STUCK, Stage};
use crate::cli::DemoArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::services::{INGEST, SERVING, registry_elsewhere};
use crate::settings::Settings;
use crate::sinks;

/// Pause between looks at a condition.
const LOOK: Duration = Duration::from_millis(250);
/// How long the deployment may take to answer at all.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a base model may take to become the first version: a deployment may have started a moment ago.
const FIRST_VERSION: Duration = Duration::from_secs(120);
/// How long the orchestrators may take to agree who of them begins a run: a lease that its holder left has to expire.
const TAKE_OVER: Duration = Duration::from_secs(20);
/// Waits that are longer are announced.
const LONG: Duration = Duration::from_secs(10);
/// Where the settings are that a deployment needs for this.
const PAGE: &str = "docs/deployment-demo.md";

/// A deployment, and a key that opens its doors as long as the story is told.
pub(super) struct Elsewhere<'a> {
    ground: Ground<'a>,
    doors: Vec<(String, String)>,
    ca_file: Option<PathBuf>,
    key_id: String,
    key: Secret,
    /// How many times as fast as the machine's its clock runs.
    factor: u32,
    progress: Progress,
    /// The newest routing of which serving has had the time to hear.
    followed: Mutex<Option<i64>>,
}

/// Refuses a deployment on which the story can not be played, before anything of it is touched.
pub(super) fn check(settings: &Settings, file: &Path) -> Result<(), Failure> {
    let refused = |what: &str| Err(Failure::refused(format!("{}: {what}; see {PAGE}", file.display())));
    match settings.clock.kind {
        ClockKind::Scaled => {}
        ClockKind::Real => {
            return refused(
                "this deployment runs on real time, in which the story takes days and its invented developers would be \
                 among real ones; it needs clock.kind = \"scaled\" and clock.allow_test_time = true",
            );
        }
        ClockKind::Simulated => {
            return refused(
                "a simulated clock stands still in every process but the one that moves it; a deployment needs \
                 clock.kind = \"scaled\"",
            );
        }
    }
    if !settings.orchestrator.enabled {
        return refused("orchestrator.enabled is false, so that no training run would begin by itself");
    }
    if settings.registry.rollout.holdback_share <= 0.0 {
        return refused("registry.rollout.holdback_share is 0, so that there would be nobody to compare with");
    }
    Ok(())
}

/// What a look found.
enum Look<T> {
    There(T),
    /// Not yet: what is missing.
    NotYet(String),
}

/// Looks until it is there. What fails now may be there at the next look: a deployment's parts come and go.
async fn until<T, F, Fut>(limit: Duration, mut look: F) -> Result<T, Failure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Look<T>, Failure>>,
{
    let begun = Instant::now();
    loop {
        let missing = match look().await {
            Ok(Look::There(value)) => return Ok(value),
            Ok(Look::NotYet(missing)) => missing,
            Err(failure) => format!("{:#}", failure.into_error()),
        };
        if begun.elapsed() > limit {
            return Err(Failure::refused(format!("waited {} s: {missing}", limit.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl<'a> Elsewhere<'a> {
    /// Waits until every door answers and a version serves, and makes a key for the story.
    pub(super) async fn enter(
        foundation: &'a Foundation,
        arguments: &DemoArgs,
        progress: &Progress,
        models: PathBuf,
    ) -> Result<Self, Failure> {
        let settings = &foundation.settings;
        let serving = addresses(foundation, SERVING, &settings.serving.http, &arguments.serving)?;
        let ingest = addresses(foundation, INGEST, &settings.ingest.http, &arguments.ingest)?;
        let doors = spread(&serving, &ingest);
        let ca_file = arguments.ca_file.clone().or_else(|| settings.registry.ca_file.clone());
        progress.say(&format!(
            "the deployment's doors: suggestions {}, telemetry {}",
            serving.join(" "),
            ingest.join(" ")
        ));
        for (serving, ingest) in &doors {
            let settings = DoorSettings { ca_file: ca_file.clone(), ..DoorSettings::new(serving, ingest, "") };
            let client = Doors::new(settings).map_err(Failure::refuse)?;
            until(ANSWER, || async {
                Ok(match client.knock().await {
                    Ok(()) => Look::There(()),
                    Err(error) => Look::NotYet(format!("{:#} (at {serving} and {ingest})", anyhow::Error::new(error))),
                })
            })
            .await?;
        }
        let registry = registry_elsewhere(foundation).await?;
        until(FIRST_VERSION, || async {
            Ok(match registry.get_routing(&settings.model).await {
                Ok(_) => Look::There(()),
                Err(error) => Look::NotYet(format!(
                    "no version of {} serves ({error}); a `flywheel orchestrator` registers the first one",
                    settings.model
                )),
            })
        })
        .await?;
        let factor = settings.clock.factor.unwrap_or(1).max(1);
        let block = u64::try_from(settings.registry.rollout.block_seconds).unwrap_or(0);
        progress.say(&format!(
            "its time runs {factor} times as fast as the machine's: a block of a rollout, {block} s, takes {:.0} s",
            block as f64 / f64::from(factor)
        ));
        let scopes = [Scope::Telemetry, Scope::Suggest];
        let (key, secret) = foundation.api_keys.create(&settings.tenant, "demo", &scopes).await?;
        Ok(Self {
            ground: Ground::new(foundation, registry, models),
            doors,
            ca_file,
            key_id: key.id,
            key: secret,
            factor,
            progress: progress.clone(),
            followed: Mutex::new(None),
        })
    }

    /// Takes the key back.
    pub(super) async fn leave(self) -> Result<(), Failure> {
        let foundation = self.ground.foundation;
        foundation.api_keys.revoke(&foundation.settings.tenant, &self.key_id).await?;
        Ok(())
    }

    fn settings(&self) -> &Settings {
        &self.ground.foundation.settings
    }

    /// So much of the deployment's time, on the machine's clock.
    fn real(&self, duration: Duration) -> Duration {
        duration / self.factor
    }

    /// The oldest run that is not among the known ones.
    async fn unknown_run(&self, known: &BTreeSet<RunId>) -> Result<Option<Run>, Failure> {
        let runs = self.ground.store.runs(100).await?;
        Ok(runs.into_iter().rev().find(|run| !known.contains(&run.run_id)))
    }

    /// How long the trigger may take to begin a run, once enough was labeled.
    fn begins_within(&self) -> Duration {
        let orchestrator = &self.settings().orchestrator;
        let looks = Duration::from_secs(orchestrator.interval_seconds.max(1)) * 4;
        self.real(Duration::from_secs(orchestrator.maximum_age_seconds)) + looks + TAKE_OVER
    }
}

/// Where a door is: as the command line says, or where its configuration lets it listen.
fn addresses(foundation: &Foundation, door: &str, http: &HttpConfig, named: &[String]) -> Result<Vec<String>, Failure> {
    if !named.is_empty() {
        return Ok(named.iter().map(|address| address.trim_end_matches('/').to_owned()).collect());
    }
    let announced = foundation.data.announced(door).filter(|_| http.listen.ends_with(":0"));
    let listens = announced.or_else(|| http.listen.parse().ok().filter(|address: &SocketAddr| address.port() > 0));
    let address = listens.map(reachable).ok_or_else(|| {
        Failure::refused(format!(
            "{door}.http.listen = \"{}\" does not say where the door is; name it with --{door} URL",
            http.listen
        ))
    })?;
    Ok(vec![foundation.settings.url(door, address)])
}

/// Whoever listens everywhere listens on loopback too.
fn reachable(address: SocketAddr) -> SocketAddr {
    let loopback = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(loopback, address.port())
}

/// Pairs of doors such that each of both kinds is in one.
fn spread(serving: &[String], ingest: &[String]) -> Vec<(String, String)> {
    let most = serving.len().max(ingest.len());
    serving.iter().cloned().cycle().zip(ingest.iter().cloned().cycle()).take(most).collect()
}

#[async_trait]
impl Stage for Elsewhere<'_> {
    fn ground(&self) -> &Ground<'_> {
        &self.ground
    }

    fn doors(&self) -> Vec<DoorSettings> {
        let settings = |(serving, ingest): &(String, String)| DoorSettings {
            ca_file: self.ca_file.clone(),
            ..DoorSettings::new(serving, ingest, self.key.expose_secret())
        };
        self.doors.iter().map(settings).collect()
    }

    fn time_runs(&self) -> bool {
        true
    }

    fn shares_the_machine(&self) -> bool {
        false
    }

    async fn tell(&self) -> Result<(), Failure> {
        until(ANSWER, || async {
            let waiting: i64 = sqlx::query_scalar("SELECT CAST(COUNT(*) AS BIGINT) FROM outbox")
                .fetch_one(&self.ground.foundation.pool)
                .await?;
            Ok(match waiting {
                0 => Look::There(()),
                waiting => Look::NotYet(format!(
                    "{waiting} consents and rules wait to be told to the log; a `flywheel registry` tells them"
                )),
            })
        })
        .await
    }

    /// Which routing a replica follows can not be seen from outside. Each asks for it at an interval of its own, after
    /// two of which a model was asked for and, most likely, loaded; who is slower serves the version before, which
    /// harms no comparison: what counts for a version is what it has answered.
    async fn await_serving(&self) -> Result<(), Failure> {
        let revision = until(ANSWER, || async {
            Ok(match self.ground.registry.get_routing(&self.ground.model).await {
                Ok(table) => Look::There(table.revision),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
        .await?;
        if self.followed.lock().replace(revision) != Some(revision) {
            tokio::time::sleep(Duration::from_millis(self.settings().serving.routing_poll_ms) * 2).await;
        }
        Ok(())
    }

    /// What they lead to is waited for by [`Stage::conclude`].
    async fn await_exposures(&self) {}

    async fn go_to(&self, time: Timestamp) -> Result<(), Failure> {
        let clock = &self.ground.foundation.clock;
        let wait = self.real(time.since(clock.now()));
        if wait >= LONG {
            self.progress.say(&format!("waiting {} s until it is {time} there", wait.as_secs()));
        }
        clock.sleep_until(time).await;
        Ok(())
    }

    async fn conclude(&self, played: &BTreeSet<OpportunityId>) -> Result<(), Failure> {
        let foundation = self.ground.foundation;
        let windows = self.settings().labeler.policy.close_by_timer_after() * 2;
        until(self.real(windows) + STUCK, || async {
            let (closed, pending) = self.ground.concluded(played).await?;
            if closed < played.len() || pending > 0 {
                return Ok(Look::NotYet(format!(
                    "{closed} of {} opportunities are closed, {pending} events are undecided; serving, ingest, \
                     anonymizer and labeler must all run, and publish to one log",
                    played.len()
                )));
            }
            Ok(match sinks::behind(foundation.bus.as_ref(), &foundation.pool).await? {
                0 => Look::There(()),
                behind => Look::NotYet(format!("the labeler's sinks are {behind} records behind")),
            })
        })
        .await
    }

    async fn next_run(&self, known: &BTreeSet<RunId>, progress: &Progress) -> Result<NextRun, Failure> {
        let orchestrator = &self.settings().orchestrator;
        let wanted = format!(
            "{} new pairs, or {} of which the oldest has waited for {} s of the deployment's time",
            orchestrator.minimum_new_pairs, orchestrator.minimum_pairs, orchestrator.maximum_age_seconds
        );
        let begun = Instant::now();
        let mut is_told = false;
        let run = loop {
            match self.unknown_run(known).await {
                Ok(Some(run)) => break run,
                Ok(None) => {}
                Err(failure) => tracing::warn!("the runs can not be read now: {:#}", failure.into_error()),
            }
            if begun.elapsed() > self.begins_within() {
                return Ok(NextRun::Nothing(format!(
                    "no training run began by itself within {} s: the orchestrator wants {wanted}, enough of them to \
                     judge a version by, and no rollout under way",
                    self.begins_within().as_secs()
                )));
            }
            if !std::mem::replace(&mut is_told, true) {
                progress.say(&format!("waiting for a training run, which begins with {wanted}"));
            }
            tokio::time::sleep(LOOK).await;
        };
        let known_run = run.run_id;
        progress.say(&format!("training run {known_run} has begun"));
        let limit = Duration::from_secs(orchestrator.deadline_seconds) + STUCK;
        let run = until(limit, || async {
            let run = self.ground.store.runs(100).await?.into_iter().find(|run| run.run_id == known_run);
            Ok(match run {
                Some(run) if run.finished_at.is_some() => Look::There(run),
                Some(run) => Look::NotYet(format!(
                    "training run {known_run} is {} (attempt {}) after its deadline; a `flywheel orchestrator` ends it",
                    run.state.as_str(),
                    run.attempt
                )),
                None => Look::NotYet(format!("training run {known_run} is gone from the database")),
            })
        })
        .await?;
        Ok(NextRun::Ended(Box::new(run)))
    }

    async fn await_candidate(&self, rollout: RolloutId, version: ModelVersion) -> Result<(), Failure> {
        let registry = &self.ground.registry;
        until(STUCK, || async {
            let (found, _) = registry.get_rollout(rollout).await?;
            let table = registry.get_routing(&self.ground.model).await?;
            let is_routed = table.rollout.is_some_and(|active| active.candidate.version == version);
            Ok(if is_routed || !found.state.is_active() {
                Look::There(())
            } else {
                Look::NotYet(format!(
                    "rollout {rollout} is {}, and version {version} serves nobody yet; a `flywheel registry` begins it",
                    found.state
                ))
            })
        })
        .await?;
        self.await_serving().await
    }

    async fn judge(&self, rollout: RolloutId, block: u64) -> Result<(), Failure> {
        let looks = Duration::from_millis(self.settings().registry.reconcile_ms) * 4;
        until(STUCK + looks, || async {
            let (found, _) = self.ground.registry.get_rollout(rollout).await?;
            let judged = u64::try_from(found.blocks_complete).unwrap_or(0);
            Ok(if judged > block || !found.state.is_active() {
                Look::There(())
            } else {
                Look::NotYet(format!(
                    "block {} of rollout {rollout} is over and not judged; a `flywheel registry` judges it",
                    block + 1
                ))
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page's configuration, as one would copy it.
    #[cfg(feature = "production")]
    #[test]
    fn the_documented_configuration_can_be_used() {
        let page = include_str!("../../../docs/deployment-demo.md");
        let block = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let secret = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let file = directory.path().join("flywheel.toml");
        let text = block
            .replace("/etc/flywheel/database-url", &secret("database-url", "postgres://me:secret@db/flywheel"))
            .replace("/etc/flywheel/s3-key-id", &secret("key-id", "id"))
            .replace("/etc/flywheel/s3-secret", &secret("key-secret", "secret"));
        std::fs::write(&file, text).unwrap();
        let common = crate::cli::Common { config: Some(file.clone()), data_dir: None, set: Vec::new(), log: None };
        let settings = Settings::load(&common, &[]).map_err(Failure::into_error).unwrap();
        check(&settings, &file).map_err(Failure::into_error).unwrap();
        assert_eq!(settings.bus.kafka.replication, 3);
    }

    #[test]
    fn developers_are_spread_over_all_doors() {
        let urls = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let pairs = spread(&urls(&["s1", "s2", "s3"]), &urls(&["i1", "i2"]));
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(serving, ingest)| (serving.as_str(), ingest.as_str())).collect();
        assert_eq!(pairs, [("s1", "i1"), ("s2", "i2"), ("s3", "i1")]);
    }

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        let reached = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:7802"), "127.0.0.1:7802");
        assert_eq!(reached("[::]:7802"), "[::1]:7802");
        assert_eq!(reached("10.0.0.7:7802"), "10.0.0.7:7802");
    }
}
