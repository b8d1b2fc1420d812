//! The platform on a PostgreSQL server: migrated by a job of its own, refused until then, and still there when the
//! server has been away.

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
