//! The platform on a PostgreSQL server: migrated by a job of its own, refused until then, and still there when the
//! server has been away.

use sqlx::Executor as _;

use crate::doctor::{told, verdicts};
use crate::harness::{Place, client, edits, finished, until};
use crate::wire::Wire;

/// The URL of a fresh database, over a wire that can be cut; none when this run uses no servers.
async fn database() -> Option<(String, Wire)> {
    if !test_servers::servers_wanted() {
        return None;
    }
    let url = test_servers::postgresql_database().await;
    let (before, name) = url.rsplit_once('/').unwrap();
    let start = before.rfind(['@', '/']).unwrap() + 1;
    let wire = Wire::to(before[start..].to_owned());
    Some((format!("{}127.0.0.1:{}/{name}", &before[..start], wire.port), wire))
}

fn place_on(url: &str) -> Place {
    Place::new(&format!("[database]\nkind = \"postgresql\"\nurl = \"{url}\"\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn services_refuse_until_the_database_is_migrated() {
    let Some((url, wire)) = database().await else { return };
    let place = place_on(&url);
    let version = migrations::schema_version();
    let pending = format!("the database lacks {version} migration(s), first 1: run `flywheel migrate`");
    let key = place.path().join("master.key").display().to_string();
    assert_eq!(place.say(&["keys", "master", &key]).code, Some(0));
    let key = format!("keys.master_key_file={key}");
    for arguments in [&["up"][..], &["registry", "--set", &key], &["migrate", "--check"]] {
        assert_eq!(place.say(arguments).sentence(), pending);
    }
    // Several jobs at once: one works, the others find it done.
    let jobs: Vec<_> = (0..3)
        .map(|_| {
            let job = place.command(&["migrate", "--json"]);
            std::thread::spawn(move || finished(job))
        })
        .collect();
    let mut applied = 0;
    for job in jobs {
        let said = job.join().unwrap().json();
        assert_eq!(said["schema_version"], version);
        applied += said["applied"].as_array().unwrap().len();
    }
    assert_eq!(i64::try_from(applied).unwrap(), version);
    let said = place.say(&["migrate", "--check"]);
    assert_eq!((said.code, said.stdout), (Some(0), format!("the database is at schema version {version}\n")));
    // Made by this release, it has been closed to others all along; after an upgrade it takes a word.
    let pool = migrations::connect(&url, 1).await.unwrap();
    assert_eq!(migrations::oldest_schema(&pool).await.unwrap(), version);
    pool.execute("UPDATE schema_compatibility SET oldest_schema = 4").await.unwrap();
    assert_eq!(place.say(&["migrate", "--json"]).json()["oldest_schema"], 4);
    let closed = place.say(&["migrate", "--only-this-release"]);
    assert!(closed.stdout.ends_with("releases before this one may not use the database any more\n"), "{closed:?}");
    assert_eq!(migrations::oldest_schema(&pool).await.unwrap(), version);

    wire.cut();
    let away = place.say(&["migrate"]);
    assert!(away.sentence().starts_with("database postgres"), "{away:?}");
    assert!(!away.stderr.contains("postgres@"), "no user and no password: {away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_server_and_nothing_has_to_be_started_anew() {
    let Some((url, wire)) = database().await else { return };
    let place = place_on(&url);
    assert_eq!(place.say(&["migrate"]).code, Some(0));
    let running = place.up().await;
    let key = place.key();
    assert_eq!(place.report(&key, &edits([1])).await.status().as_u16(), 200);
    place.ask(&key, "fn total(&self) {}\n").await;

    wire.cut();
    let admin = |path: &str| format!("http://127.0.0.1:{}/{path}", place.ports.admin);
    until("the platform to be unready", || async {
        let answer = client().get(admin("readyz")).send().await.unwrap();
        (answer.status().as_u16() == 503 && answer.text().await.unwrap().contains("database")).then_some(())
    })
    .await;
    assert_eq!(client().get(admin("healthz")).send().await.unwrap().status().as_u16(), 200);
    // Completions outlive the database.
    place.ask(&key, "fn total(&self) {}\n\n").await;

    wire.mend();
    until("the platform to be ready again", || async {
        client().get(admin("readyz")).send().await.unwrap().status().is_success().then_some(())
    })
    .await;
    assert_eq!(place.report(&key, &edits([2])).await.status().as_u16(), 200);
    until("the ledger", || async {
        let status = place.say(&["status", "--json"]).json();
        (status["ledger"]["admitted"] == 2).then_some(())
    })
    .await;
    assert_eq!(running.stop().await, Some(0));
}

/// As the chart does it: one role migrates, and another one, which may do nothing else, serves from the first moment on.
#[tokio::test(flavor = "multi_thread")]
async fn a_platform_lives_on_what_the_run_that_migrates_gives_its_role() {
    let Some((url, _wire)) = database().await else { return };
    let place = place_on(&url);
    let role = format!("serves_{}", url.rsplit_once('/').unwrap().1);
    let grant = ["migrate", "--grant-to", &role];
    let unknown = place.say(&grant);
    assert_eq!(
        unknown.sentence(),
        format!("the server has no role {role}: create it, then run `flywheel migrate --grant-to` again")
    );
    let pool = migrations::connect(&url, 1).await.unwrap();
    let run = async |statements: String| {
        pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statements))).await.unwrap();
    };
    run(format!("CREATE ROLE \"{role}\" LOGIN")).await;
    let serving = place_on(&url.replacen("://postgres@", &format!("://{role}@"), 1));
    assert_eq!(place.say(&["migrate"]).code, Some(0));
    let refused = serving.say(&["up"]);
    assert!(refused.sentence().contains("may not see which migrations were applied"), "{refused:?}");
    let said = serving.say(&["doctor", "--json"]);
    assert!(told(&said, "database.schema").1.contains("`flywheel migrate --grant-to`"), "{said:?}");

    let version = migrations::schema_version();
    let granted = place.say(&grant);
    let expected = format!("the database is at schema version {version}\nthe role {role} may do what services do\n");
    assert_eq!((granted.code, granted.stdout), (Some(0), expected));
    let again = place.say(&[&grant[..], &["--json"]].concat()).json();
    assert_eq!((&again["granted_to"], &again["applied"]), (&role.clone().into(), &serde_json::json!([])));
    let said = serving.say(&["doctor", "--json"]);
    let of_database = verdicts(&said).into_iter().filter(|(check, _)| check.starts_with("database."));
    assert!(of_database.map(|(_, verdict)| verdict).all(|verdict| verdict == "ok"), "{said:?}");

    let running = serving.up().await;
    let key = serving.key();
    assert_eq!(serving.report(&key, &edits([1])).await.status().as_u16(), 200);
    serving.ask(&key, "fn total(&self) {}\n").await;
    serving.agree_in(&pool, ["ada".to_owned()]).await;
    until("the ledger", || async {
        let status = serving.say(&["status", "--json"]).json();
        (status["ledger"]["admitted"] == 1).then_some(())
    })
    .await;
    assert!(!running.stderr().contains("permission denied"), "{}", running.stderr());
    assert_eq!(running.stop().await, Some(0));
    run(format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
    pool.close().await;

    let file = Place::new("");
    let sentence = "`flywheel migrate --grant-to` is for a PostgreSQL server; a SQLite file knows no roles";
    assert_eq!(file.say(&grant).sentence(), sentence);
    assert!(!file.data().exists(), "what is refused makes nothing");
    let both = place.say(&[&grant[..], &["--check"]].concat());
    assert!(both.code == Some(2) && both.stderr.contains("cannot be used with"), "{both:?}");
}

/// Each machine has a data directory of its own; the database is all that they share.
#[tokio::test(flavor = "multi_thread")]
async fn machines_share_the_master_key_and_with_it_the_internal_one() {
    let Some((url, _wire)) = database().await else { return };
    let machines = [place_on(&url), place_on(&url)];
    let [one, other] = &machines;
    assert_eq!(one.say(&["migrate"]).code, Some(0));
    let refused = one.say(&["ingest"]);
    assert!(refused.sentence().contains("need `keys.master_key_file`"), "{refused:?}");

    let (file, wrong) = (one.path().join("master.key"), one.path().join("wrong.key"));
    let (file, wrong) = (file.to_str().unwrap(), wrong.to_str().unwrap());
    let with = |place: &Place, key: &str, arguments: &[&str]| {
        place.say(&[arguments, &["--set", &format!("keys.master_key_file={key}")]].concat())
    };
    let absent = with(one, file, &["keys", "list"]);
    assert!(absent.sentence().contains(&format!("make it once with `flywheel keys master {file}`")), "{absent:?}");
    assert!(!std::path::Path::new(file).exists(), "no service makes it");
    for key in [file, wrong] {
        assert!(one.say(&["keys", "master", key]).stdout.starts_with("made "));
    }
    let bytes = std::fs::read(file).unwrap();
    let again = one.say(&["keys", "master", file]);
    assert!(again.stdout.contains("is there already") && std::fs::read(file).unwrap() == bytes, "{again:?}");

    let names = |place: &Place| {
        let listed = with(place, file, &["keys", "list", "--json"]).json();
        listed.as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let internal = || machines.each_ref().map(|place| std::fs::read(place.data().join("keys/internal.key")).unwrap());
    assert_eq!((names(one), names(other)), (vec!["internal".to_owned()], vec!["internal".to_owned()]));
    let [first, same] = internal();
    assert_eq!(first, same);
    let refused = with(other, wrong, &["keys", "list"]);
    assert!(refused.sentence().contains("is not the one that this database was made with"), "{refused:?}");

    // One that was revoked is followed by the next, on every machine the same.
    let id = with(one, file, &["keys", "list", "--json"]).json()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(with(one, file, &["keys", "revoke", &id]).code, Some(0));
    assert_eq!((names(one).len(), names(other).len()), (2, 2));
    let [next, same] = internal();
    assert!(next == same && next != first);
}
