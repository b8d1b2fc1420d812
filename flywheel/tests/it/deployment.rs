//! The demo's story on a deployment: every service a process of its own, and twice, and nothing that the story could do
//! but knock at doors, read the database and wait.

use std::path::PathBuf;

use serde_json::Value;
use service::clock::real_now;

use crate::harness::{Place, Running, Said, finished};

/// How many times as fast as the machine's its clock runs.
const FACTOR: u32 = 60;

/// Processes that stop when the test says so.
struct Deployment {
    place: Place,
    processes: Vec<(String, Running)>,
    /// Whether each process has a data directory of its own, as on machines of their own.
    is_spread: bool,
    /// Where processes that start from now on find a registry; none: where the configuration says.
    registry: Option<String>,
}

/// The configuration of a deployment for tests, with what it stands on. `begins` is when a training run does.
fn configuration(parts: &str, begins: &str) -> String {
    format!(
        "[clock]\nkind = \"scaled\"\nallow_test_time = true\nstart_micros = {}\nfactor = {FACTOR}\n\
         [orchestrator]\n{begins}\ninterval_seconds = 1\nsteps = 24\n\
         [orchestrator.gate]\nleast_persons = 5\nleast_lower_bound = -0.05\nbits_per_byte_tolerance = 1.0\n\
         parse_error_tolerance = 1.0\ncalibration_tolerance = 1.0\n\
         [registry.rollout]\nblock_seconds = 1800\ncanary_share = 0.4\nholdback_share = 0.2\nmargin = 0.3\n\
         alpha = 0.2\nminimum_persons = 5\nmax_blocks = 4\npromotion = \"automatic\"\n\
         [serving]\nrouting_poll_ms = 200\n{parts}",
        real_now().as_micros()
    )
}

impl Deployment {
    fn new(place: Place, is_spread: bool) -> Self {
        Self { place, processes: Vec::new(), is_spread, registry: None }
    }

    /// The data directory of a process.
    fn data(&self, name: &str) -> PathBuf {
        if self.is_spread { self.place.path().join(format!("data of {name}")) } else { self.place.data() }
    }

    /// Starts a process and waits until it says where its admin port is.
    async fn start(&mut self, name: &str, arguments: &[&str]) {
        let mut all = arguments.to_vec();
        all.extend(["--set", "admin.listen=127.0.0.1:0"]);
        let registry = self.registry.as_ref().map(|url| format!("registry.address={url}"));
        all.extend(registry.iter().flat_map(|setting| ["--set", setting.as_str()]));
        let mut process = self.place.start_on(&self.data(name), &all);
        process.said("admin-").await;
        self.processes.push((name.to_owned(), process));
    }

    /// Starts another process beside the first of a service that has a door; returns where that door is.
    async fn second(&mut self, service: &str) -> String {
        let door = format!("{service}.http.listen=127.0.0.1:0");
        self.start(&format!("{service} 2"), &[service, "--set", &door]).await;
        let (_, process) = self.processes.last_mut().unwrap();
        // The admin port comes first.
        process.said(&format!("\n{service}: http://")).await;
        let (said, before) = (process.stdout(), format!("{service}: "));
        said.lines().find_map(|line| line.strip_prefix(&before)).unwrap().to_owned()
    }

    /// Starts another serving beside the first; returns where both are.
    #[cfg(feature = "production")]
    async fn second_serving(&mut self) -> [String; 2] {
        [format!("http://127.0.0.1:{}", self.place.ports.serving), self.second("serving").await]
    }

    /// Two of each but of serving. The registry comes first: the others ask it, half of them the one and half the
    /// other. Returns where both ingests are.
    async fn start_all(&mut self) -> [String; 2] {
        for service in ["registry", "ingest", "serving", "anonymizer", "labeler", "orchestrator"] {
            self.start(service, &[service]).await;
        }
        self.registry = Some(self.second("registry").await);
        for service in ["anonymizer", "labeler", "orchestrator"] {
            self.start(&format!("{service} 2"), &[service]).await;
        }
        [format!("http://127.0.0.1:{}", self.place.ports.ingest), self.second("ingest").await]
    }

    /// Plays the story to its end.
    async fn play(&self, arguments: &[&str]) -> (Said, Value) {
        let report = self.place.path().join("report.json");
        let configuration = self.place.configuration();
        let mut all = vec!["demo", "--on", configuration.to_str().unwrap(), "--report", report.to_str().unwrap()];
        all.extend(arguments);
        let mut command = self.place.command(&all);
        // A container may have no place for temporary files but the data directory.
        command.env("TMPDIR", self.place.path().join("absent"));
        let said = tokio::task::spawn_blocking(move || finished(command)).await.unwrap();
        if said.code != Some(0) {
            // Which stage stands still, and what each process told.
            let status = self.place.say(&["status"]);
            let told: Vec<String> =
                self.processes.iter().map(|(name, process)| format!("{name}: {}", process.stderr())).collect();
            panic!("{}\n{}{}\n{}", said.stderr, status.stdout, status.stderr, told.join("\n"));
        }
        (said, serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap())
    }

    /// Asks every process to end, and sees that each does so in order. What they leave stays as long as the answer.
    async fn stop(self) -> Place {
        for (name, process) in self.processes {
            let said = process.stderr();
            assert_eq!(process.stop().await, Some(0), "{name} ends in order: {said}");
        }
        self.place
    }
}

fn at(report: &Value, pointer: &str) -> Value {
    report.pointer(pointer).cloned().unwrap_or_default()
}

/// What every report from outside says, whatever came of the story.
fn the_deployment_is_in_order(deployment: &Deployment, report: &Value) {
    let ledger = at(report, "/ledger");
    assert_eq!(
        (at(&ledger, "/balanced"), at(&ledger, "/pending"), at(&ledger, "/dead_lettered"), at(&ledger, "/lost")),
        (true.into(), 0.into(), 0.into(), 0.into()),
        "{ledger}"
    );
    assert_eq!((at(report, "/played_on/deployment"), at(report, "/played_on/clock_factor")), (true.into(), 60.into()));
    let budget = at(report, "/compute_budget");
    assert!(budget.as_array().unwrap().iter().all(|line| line["planned_seconds"].is_null()), "{budget}");
    let status = deployment.place.say(&["status", "--json"]).json();
    assert_eq!(status["ledger"]["admitted"], at(&ledger, "/admitted"), "{status}");
    let behind: Vec<&Value> =
        status["backlog"].as_array().unwrap().iter().filter(|stage| stage["records_behind"] != 0).collect();
    assert!(behind.is_empty(), "{behind:?}");
    // The story leaves no key behind that opens a door.
    let keys = deployment.place.say(&["keys", "list", "--json"]).json();
    let ours: Vec<&Value> = keys.as_array().unwrap().iter().filter(|key| key["name"] == "demo").collect();
    assert!(!ours.is_empty() && ours.iter().all(|key| key["revoked_at"].is_number()), "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_story_from_outside_on_one_machine_says_when_there_is_nothing_to_learn_from() {
    // More pairs than a dozen developers make, and a time that passes without a judgement being possible.
    let place = Place::new(&configuration("", "minimum_new_pairs = 100000\nmaximum_age_seconds = 60"));
    let mut deployment = Deployment::new(place, false);
    let [ingest, second] = deployment.start_all().await;
    let doors = ["--ingest", &ingest, "--ingest", &second];
    let story = ["--developers", "10", "--blocks", "1", "--turns", "1"];
    let (said, report) = deployment.play(&[&story[..], &doors].concat()).await;
    the_deployment_is_in_order(&deployment, &report);
    assert_eq!(at(&report, "/turns/0/outcome"), "not_eligible", "{}", at(&report, "/turns"));
    let reason = at(&report, "/turns/0/reason");
    assert!(reason.as_str().unwrap().starts_with("no training run began by itself within"), "{reason}");
    assert_eq!(
        (at(&report, "/compared_version"), at(&report, "/claim_met"), at(&report, "/reference_version")),
        (Value::Null, false.into(), 1.into())
    );
    // Everybody met three rounds of six before the turn and three after it, and all of it was judged.
    assert_eq!(at(&report, "/versions/0/opportunities"), 360, "{}", at(&report, "/versions"));
    assert!(said.stdout.contains("Played on a deployment: log local, database sqlite, artifacts local"), "{said:?}");
    deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_not_there_or_not_meant_for_it_is_refused() {
    let place = Place::new("");
    let refused = |file: &str, more: &[&str]| {
        place.configure(file);
        let configuration = place.configuration().display().to_string();
        let mut all = vec!["demo", "--on", &configuration];
        all.extend(more);
        let said = finished(place.command(&all));
        // The demo tells what it does as it goes; the last but what it keeps is why it ends.
        assert_eq!(said.code, Some(2), "{said:?}");
        said.stderr.lines().last().unwrap_or_default().replace(&configuration, "FILE")
    };
    let sentence = refused("", &[]);
    assert!(sentence.starts_with("flywheel: FILE: this deployment runs on real time"), "{sentence}");
    assert!(sentence.ends_with("see docs/deployment-demo.md"), "{sentence}");
    let scaled = "[clock]\nkind = \"scaled\"\nallow_test_time = true\nstart_micros = 0\nfactor = 60\n";
    let simulated = refused("[clock]\nkind = \"simulated\"\nallow_test_time = true\n", &[]);
    assert!(simulated.contains("stands still in every process"), "{simulated}");
    let idle = refused(&format!("{scaled}[orchestrator]\nenabled = false\n"), &[]);
    assert!(idle.contains("no training run would begin"), "{idle}");
    let alike = refused(&format!("{scaled}[registry.rollout]\nholdback_share = 0.0\n"), &[]);
    assert!(alike.contains("nobody to compare with"), "{alike}");
    let absent = refused(scaled, &[]);
    assert!(absent.contains("holds no platform"), "{absent}");
    assert!(!place.data().exists(), "a refused demo makes nothing");
    let both = place.say(&["demo", "--on", "x.toml", "--steps", "3"]);
    assert!(both.code == Some(2) && both.stderr.contains("cannot be used with"), "{both:?}");
    let alone = place.say(&["demo", "--serving", "http://127.0.0.1:1"]);
    assert!(alone.code == Some(2) && alone.stderr.contains("--on"), "{alone:?}");
}

#[cfg(feature = "production")]
mod on_servers {
    use test_servers::{kafka, postgresql_database, s3_bucket, servers_wanted, unique_prefix};

    use super::*;
    use crate::{audit, s3};

    /// The great test of the parts together: signals become pairs, pairs a version, the version passes the gate, is
    /// rolled out in blocks and judged by evidence; and every process ends in order.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_wheel_of_separate_processes_makes_a_full_turn_on_kafka_postgresql_and_s3() {
        if !servers_wanted() {
            return;
        }
        let place = Place::new("");
        let (database, bucket, broker) = tokio::join!(postgresql_database(), s3_bucket(), kafka());
        let key = place.path().join("master.key").display().to_string();
        let parts = format!(
            "[bus]\nkind = \"kafka\"\nprefix = \"{}\"\n[bus.kafka]\nbootstrap_servers = \"{}\"\nreplication = 1\n\
             single_broker = true\n[database]\nkind = \"postgresql\"\nurl = \"{database}\"\nmax_connections = 4\n\
             [keys]\nmaster_key_file = \"{key}\"\n{}",
            unique_prefix(),
            broker.bootstrap,
            s3::section(&bucket, place.path())
        );
        place.configure(&configuration(&parts, "minimum_new_pairs = 400\nmaximum_age_seconds = 7200"));
        assert_eq!(place.say(&["keys", "master", &key]).code, Some(0));
        assert_eq!(place.say(&["migrate"]).code, Some(0));
        let mut deployment = Deployment::new(place, true);
        let ingest = deployment.start_all().await;
        let serving = deployment.second_serving().await;
        let doors =
            ["--ingest", &ingest[0], "--ingest", &ingest[1], "--serving", &serving[0], "--serving", &serving[1]];
        let story = ["--developers", "40", "--blocks", "6", "--turns", "1", "--seed", "2"];
        let (_, report) = deployment.play(&[&story[..], &doors].concat()).await;
        the_deployment_is_in_order(&deployment, &report);
        let parts = ["bus", "database", "artifacts"].map(|part| at(&report, &format!("/played_on/{part}")));
        assert_eq!(parts, ["kafka", "postgresql", "s3"]);

        // A version was trained on what developers did, and passed the gate.
        let turn = at(&report, "/turns/0");
        assert_eq!((at(&turn, "/version"), at(&turn, "/gate/opportunities")), (2.into(), 300.into()), "{turn}");
        assert!(at(&turn, "/training_pairs").as_u64().unwrap() > 0, "{turn}");
        assert!(at(&turn, "/turn_seconds").as_f64().unwrap() > 0.0, "the version was shown to somebody: {turn}");
        // It was on trial beside the version before, and evidence decided.
        let outcome = at(&turn, "/outcome");
        let outcome = outcome.as_str().unwrap();
        let verdict = at(&turn, "/evidence/verdict");
        let expected = match outcome {
            "promoted" => "promote",
            "held" => "hold",
            "rolled_back" => "rollback",
            other => panic!("no verdict, but {other}: {turn}"),
        };
        assert_eq!(verdict, expected, "{turn}");
        assert!(at(&turn, "/evidence/blocks_complete").as_i64().unwrap() >= 1, "{turn}");
        for arm in ["canary", "current"] {
            let persons = at(&turn, &format!("/evidence/{arm}/persons"));
            assert!(persons.as_i64().unwrap() >= 5, "{arm}: {turn}");
        }
        // Everything that was played came to a judgement: three rounds, a round a block, three rounds.
        let judged: u64 = report["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|version| version["opportunities"].as_u64().unwrap())
            .sum();
        assert!(judged >= 7 * 240, "{judged}: {}", at(&report, "/versions"));
        assert!(report["versions"].as_array().unwrap().iter().any(|version| version["version"] == 2));

        // Registry and serving say the same.
        let place = &deployment.place;
        let status = place.say(&["status", "--json"]).json();
        let serves = |version: i64| {
            let versions = status["versions"].as_array().unwrap();
            versions.iter().find(|line| line["version"] == version).unwrap()["serves"].as_str().unwrap().to_owned()
        };
        assert_eq!(serves(2).starts_with("current"), outcome == "promoted", "{status}");
        assert!(serves(1).contains("hold-back"), "{status}");
        let rollouts = place.say(&["rollout", "list", "--json"]).json();
        let ours = rollouts.as_array().unwrap().iter().find(|rollout| rollout["candidate"] == 2).unwrap();
        assert_eq!(ours["state"], outcome, "{rollouts}");
        // Nothing of it lies in a directory of a machine.
        let artifacts = std::fs::read_dir(place.data().join("artifacts")).unwrap().count();
        assert!(artifacts == 0 && !place.data().join("bus.sqlite").exists(), "the parts were not used");
        assert!(!place.data().join("flywheel.sqlite").exists());
        // What all of it came to is what a replay makes of it, and what the rollout was decided by is what people did.
        let place = deployment.stop().await;
        let audited = audit::consistent(&place);
        for name in ["registry: rollouts", "registry: evidence"] {
            assert!(audit::checks(&audited)[name]["checked"].as_u64() > Some(0), "{name}: {audited}");
        }
    }
}
