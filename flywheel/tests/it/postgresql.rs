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
    for arguments in [&["up"][..], &["registry"], &["migrate", "--check"]] {
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
