//! A registry of schemas with Confluent's REST: Apicurio. Only a full run has it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::cached;
use crate::server::{Plan, Running, directory, on_free_port};

/// The directory with the program and its jars.
const PROGRAM: &str = "TEST_SERVERS_APICURIO";
/// Where `test-servers/fetch` puts it, below the cache. The version is pinned there.
const CACHED: &str = "flywheel/tools/apicurio-2.6.13.Final";
const JAR: &str = "apicurio-registry-app-2.6.13.Final-runner.jar";
/// Where Confluent's REST begins.
const BASE: &str = "/apis/ccompat/v7";

/// A registry of a test's own, which forgets everything when it ends. It ends with this value.
#[derive(Debug)]
pub struct SchemaRegistry {
    _running: Running,
    pid: String,
    /// Where it is, with its path.
    pub url: String,
}

impl SchemaRegistry {
    /// It answers nobody until [`Self::resume`], and forgets nothing.
    ///
    /// # Panics
    /// It has ended.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// It answers again.
    ///
    /// # Panics
    /// It has ended.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid]).status().expect("kill runs");
        assert!(sent.success(), "the registry has ended");
    }
}

/// Starts one.
pub(crate) fn start() -> Result<SchemaRegistry, String> {
    on_free_port(start_on)
}

fn start_on(port: u16) -> Result<SchemaRegistry, String> {
    let program = program()?;
    let directory = directory("Apicurio")?;
    let mut command = vec!["java".to_owned(), "-Xmx512m".to_owned(), "-XX:TieredStopAtLevel=1".to_owned()];
    command.extend(["-Dquarkus.http.host=127.0.0.1".to_owned(), format!("-Dquarkus.http.port={port}")]);
    command.extend(["-jar".to_owned(), program.join(JAR).display().to_string()]);
    let pid = directory.join("pid");
    let plan =
        Plan { name: "Apicurio", directory, prepare: Vec::new(), command, environment: Vec::new(), signal: "KILL" };
    let running = Running::start(plan, || answers(port))?;
    let pid = std::fs::read_to_string(pid).map_err(|error| format!("Apicurio has ended: {error}"))?;
    let url = format!("http://127.0.0.1:{port}{BASE}");
    Ok(SchemaRegistry { _running: running, pid: pid.trim().to_owned(), url })
}

fn answers(port: u16) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {BASE}/subjects HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn program() -> Result<PathBuf, String> {
    let program = cached(PROGRAM, CACHED);
    if program.join(JAR).is_file() {
        Ok(program)
    } else {
        Err(format!(
            "a full run needs Apicurio, which is not at {}; run `test-servers/fetch --full` (it needs Maven and \
             Java 17), or name its directory in {PROGRAM}",
            program.display()
        ))
    }
}
