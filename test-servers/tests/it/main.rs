//! Servers start, serve, and end with whoever started them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test may fail loudly"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use test_servers::{
    OwnServer, Stream, Toxic, is_running, kafka, own_servers_wanted, postgresql_database, s3_bucket, servers_wanted,
    toxiproxy, unique_prefix,
};

const LIMIT: Duration = Duration::from_secs(60);

/// The program, which starts servers of its own.
fn program(command: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_test-servers"));
    program.args(["run", "--"]).args(command);
    program.env_remove("TEST_SERVERS_POSTGRESQL").env_remove("TEST_SERVERS_S3");
    program.env_remove("TEST_SERVERS_KAFKA").env_remove("TEST_SERVERS_TOXIPROXY");
    program
}

/// Host and port of a URL with a user.
fn address(url: &str) -> &str {
    url.rsplit('@').next().unwrap().split('/').next().unwrap()
}

fn is_open(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn every_test_gets_a_database_a_bucket_and_names_of_its_own() {
    if !servers_wanted() {
        return;
    }
    let (one, other) = (postgresql_database().await, postgresql_database().await);
    assert_ne!(one, other);
    assert!(is_open(address(&one)), "{one}");
    let (one, other) = (s3_bucket().await, s3_bucket().await);
    assert_ne!(one.bucket, other.bucket);
    assert!(is_open(one.endpoint.trim_start_matches("http://")), "{}", one.endpoint);
    let (one, other) = (unique_prefix(), unique_prefix());
    assert_ne!(one, other);
    let broker = kafka().await;
    assert!(is_open(&broker.bootstrap), "{}", broker.bootstrap);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_again_with_what_it_had() {
    if !own_servers_wanted() {
        return;
    }
    let ((mut database, url), (mut gateway, bucket)) = tokio::join!(OwnServer::postgresql(), OwnServer::s3());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (number BIGINT); INSERT INTO kept VALUES (7)")
        .execute(&mut connection)
        .await
        .unwrap();
    let endpoint = bucket.endpoint.trim_start_matches("http://").to_owned();
    let addresses = [address(&url).to_owned(), endpoint];
    for _ in 0..2 {
        for server in [&database, &gateway] {
            server.kill();
        }
        until("nobody listens any more", || !addresses.iter().any(|address| is_open(address)));
        tokio::join!(database.start_again(), gateway.start_again());
        assert!(addresses.iter().all(|address| is_open(address)), "{addresses:?}");
    }
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT number FROM kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, 7);
    drop((database, gateway));
    until("they are gone with whoever started them", || !addresses.iter().any(|address| is_open(address)));
}

#[test]
fn a_command_ends_as_it_would_alone_and_its_servers_with_it() {
    if !own_servers_wanted() {
        return;
    }
    let script = "echo \"$TEST_SERVERS_POSTGRESQL $TEST_SERVERS_S3 ${TEST_SERVERS_KAFKA%%;*} \
                  $TEST_SERVERS_TOXIPROXY\"; exit 7";
    let ended = program(&["sh", "-c", script]).output().unwrap();
    assert_eq!(ended.status.code(), Some(7), "{}", String::from_utf8_lossy(&ended.stderr));
    let said = String::from_utf8(ended.stdout).unwrap();
    let urls: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(urls.len(), 4, "{said}");
    assert!(urls.iter().all(|url| !is_open(address(url))), "still there: {said}");
}

/// The first line that a process says.
fn first_line(process: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line
}

fn runs(process: &str) -> bool {
    is_running(process.parse().unwrap())
}

#[test]
fn a_killed_run_leaves_no_server_and_nothing_of_the_command() {
    if !own_servers_wanted() {
        return;
    }
    let script = "sleep 600 & echo \"$$ $! $TEST_SERVERS_POSTGRESQL $TEST_SERVERS_S3 ${TEST_SERVERS_KAFKA%%;*}\"; wait";
    let mut run = program(&["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let line = first_line(&mut run);
    let words: Vec<&str> = line.split_whitespace().collect();
    let [command, started, database, gateway, broker] = words[..] else { panic!("{line}") };
    let servers = [database, gateway, broker].map(address);
    assert!(servers.iter().all(|server| is_open(server)), "{line}");
    assert!(runs(command) && runs(started), "{line}");
    run.kill().unwrap();
    run.wait().unwrap();
    until("the servers are gone", || !servers.iter().any(|server| is_open(server)));
    until("the command and what it started are gone", || !runs(command) && !runs(started));
}

#[test]
fn a_command_and_what_it_started_end_with_whoever_started_the_run() {
    if !servers_wanted() {
        return;
    }
    // The shell in between is killed, as a run of `./test` may be; what it started is nobody's child then.
    let inner = "sleep 600 & echo \"$$ $!\"; wait";
    let mut outer = Command::new("sh");
    outer.args(["-c", "\"$0\" run --start-none -- sh -c \"$1\"; true", env!("CARGO_BIN_EXE_test-servers"), inner]);
    let mut outer = outer.stdout(Stdio::piped()).spawn().unwrap();
    let line = first_line(&mut outer);
    let processes: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(processes.len(), 2, "{line}");
    assert!(processes.iter().all(|process| runs(process)));
    outer.kill().unwrap();
    outer.wait().unwrap();
    until("the command and what it started are gone", || !processes.iter().any(|process| runs(process)));
}

#[tokio::test]
async fn databases_on_a_server_that_stays_go_with_the_run_that_made_them() {
    if !servers_wanted() {
        return;
    }
    // The server that everybody here uses is to the other run one that is given.
    let stays = postgresql_database().await;
    let mut run = Command::new(env!("CARGO_BIN_EXE_test-servers"));
    run.args(["run", "--start-none", "--"]).arg(std::env::current_exe().unwrap());
    run.args(["a_run_makes_a_database", "--exact", "--ignored", "--nocapture"]);
    let ended = run.env("TEST_SERVERS_POSTGRESQL", &stays).env("PGHOST", "nowhere").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}");
    let (_, made) = said.split_once("made: ").expect(&said);
    let (made, _) = made.split_once('\n').unwrap();
    let refused = PgConnection::connect(made).await.unwrap_err().to_string();
    assert!(refused.contains("does not exist"), "{refused}");
    PgConnection::connect(&stays).await.unwrap().close().await.unwrap();
}

#[tokio::test]
#[ignore = "it is the command of another test's run"]
async fn a_run_makes_a_database() {
    assert!(std::env::var_os("PGHOST").is_none(), "the variables of PostgreSQL's tools reach the tests");
    let url = postgresql_database().await;
    PgConnection::connect(&url).await.unwrap().close().await.unwrap();
    println!("made: {url}");
}

/// What the server at `address` says to a letter: it says it again.
fn echo(address: &str) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(b"a")?;
    let mut letter = [0];
    stream.read_exact(&mut letter)?;
    Ok(letter[0])
}

#[tokio::test]
async fn a_proxy_cuts_slows_resets_and_swallows_until_it_is_told_to_stop() {
    if !servers_wanted() {
        return;
    }
    let Some(toxiproxy) = toxiproxy().await else { return };
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut letter = [0];
                while stream.read_exact(&mut letter).is_ok() && stream.write_all(&letter).is_ok() {}
            });
        }
    });
    let (proxy, url) = toxiproxy.before_url(&format!("test://user:pass@word@{address}/path?query"));
    assert_eq!(url, format!("test://user:pass@word@{}/path?query", proxy.address()));
    let healthy = || assert_eq!(echo(proxy.address()).unwrap(), b'a');
    let fails = |kind: std::io::ErrorKind| assert_eq!(echo(proxy.address()).unwrap_err().kind(), kind);
    healthy();
    proxy.cut();
    fails(std::io::ErrorKind::ConnectionRefused);
    proxy.mend();
    healthy();
    for stream in [Stream::ToServer, Stream::ToClient] {
        proxy.spoil(stream, Toxic::BlackHole);
        fails(std::io::ErrorKind::WouldBlock);
        proxy.heal();
        healthy();
    }
    proxy.spoil(Stream::ToClient, Toxic::Reset(Duration::ZERO));
    assert!(echo(proxy.address()).is_err());
    proxy.heal();
    proxy.spoil(Stream::ToClient, Toxic::CutAfter(0));
    fails(std::io::ErrorKind::UnexpectedEof);
    proxy.heal();
    proxy.spoil(Stream::ToServer, Toxic::Latency(Duration::from_millis(200)));
    let begun = Instant::now();
    healthy();
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    let address = proxy.address().to_owned();
    drop(proxy);
    assert!(!is_open(&address));
}
