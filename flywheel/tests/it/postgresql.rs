//! The platform on a PostgreSQL server: migrated by a job of its own, refused until then, and still there when the
//! server has been away.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::harness::{Place, client, edits, finished, until};

/// Stands between the platform and the server, and can be cut.
struct Wire {
    port: u16,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            is_cut: Arc::new(AtomicBool::new(false)),
            open: Arc::new(Mutex::new(Vec::new())),
        };
        let (is_cut, open) = (Arc::clone(&wire.is_cut), Arc::clone(&wire.open));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                // A cut comes before or after, never in between.
                let mut open = open.lock();
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let far = TcpStream::connect(&server).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut bytes = [0; 16_384];
                        while let Ok(count) = from.read(&mut bytes) {
                            if count == 0 || to.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                        }
                        let _already = to.shutdown(Shutdown::Both);
                    });
                }
                open.extend([near, far]);
            }
        });
        wire
    }

    fn cut(&self) {
        let mut open = self.open.lock();
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in open.drain(..) {
            let _already = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

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
