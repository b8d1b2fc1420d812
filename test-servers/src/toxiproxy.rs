//! Toxiproxy: a connection that is slow, cut, reset or a black hole, as a test wants it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::http::{self, Answer};
use crate::server::{Plan, Running, directory, on_free_port};
use crate::{ports, unique_name};

pub(crate) const VARIABLE: &str = "TEST_SERVERS_TOXIPROXY";
const PROGRAM: &str = "TEST_SERVERS_TOXIPROXY_SERVER";
/// Where `test-servers/fetch` puts the program, below the cache. The version is pinned there.
const CACHED: &str = "flywheel/tools/toxiproxy-2.5.0/toxiproxy";
const LIMIT: Duration = Duration::from_secs(20);

/// What is wrong with the connections of a proxy.
#[derive(Debug, Clone, Copy)]
pub enum Toxic {
    /// Everything arrives so much later.
    Latency(Duration),
    /// So many KiB a second get through.
    Bandwidth(u32),
    /// Nothing arrives any more, and the connection stays open. What is told of its end does not arrive either, when the
    /// stream is the one to the server.
    BlackHole,
    /// The connection is reset so long after it has begun.
    Reset(Duration),
    /// The connection is closed after so many bytes.
    CutAfter(u64),
}

/// Which way.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// What the client says.
    ToServer,
    /// What the server says.
    ToClient,
}

/// A program that holds proxies.
#[derive(Debug, Clone)]
pub struct Toxiproxy {
    /// Host and port where it is told what to do.
    api: String,
}

/// A port that stands for a server. Gone with this value.
#[derive(Debug)]
pub struct Proxy {
    api: String,
    name: String,
    address: String,
    toxics: Mutex<Vec<String>>,
}

impl Toxiproxy {
    /// A port that stands for the server at `upstream`, a host and a port, where one may listen only later.
    ///
    /// # Panics
    /// The program does not do it.
    #[must_use]
    pub fn before(&self, upstream: &str) -> Proxy {
        let port = ports::hold().unwrap_or_else(|sentence| panic!("{sentence}"));
        let proxy = Proxy {
            api: self.api.clone(),
            name: unique_name('-'),
            address: format!("127.0.0.1:{port}"),
            toxics: Mutex::default(),
        };
        let (name, address) = (&proxy.name, &proxy.address);
        let body = format!(r#"{{"name":"{name}","listen":"{address}","upstream":"{upstream}","enabled":true}}"#);
        proxy.tell("POST", "/proxies", &body);
        proxy
    }

    /// As [`Toxiproxy::before`], for the server of a URL. Returns the URL through the proxy too.
    ///
    /// # Panics
    /// The program does not do it.
    #[must_use]
    pub fn before_url(&self, url: &str) -> (Proxy, String) {
        let start = url.find("://").map_or(0, |place| place + 3);
        let end = url[start..].find(['/', '?']).map_or(url.len(), |place| start + place);
        let start = url[..end].rfind('@').map_or(start, |place| place + 1);
        let proxy = self.before(&url[start..end]);
        let through = format!("{}{}{}", &url[..start], proxy.address, &url[end..]);
        (proxy, through)
    }
}

impl Proxy {
    /// Where clients find the server: host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Closes every connection, and takes no new ones.
    ///
    /// # Panics
    /// The program does not do it.
    pub fn cut(&self) {
        self.tell("POST", &format!("/proxies/{}", self.name), r#"{"enabled":false}"#);
    }

    /// Takes connections again.
    ///
    /// # Panics
    /// The program does not do it.
    pub fn mend(&self) {
        self.tell("POST", &format!("/proxies/{}", self.name), r#"{"enabled":true}"#);
    }

    /// Spoils one way of all connections, open ones too, until [`Proxy::heal`].
    ///
    /// # Panics
    /// The program does not do it.
    pub fn spoil(&self, stream: Stream, toxic: Toxic) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (kind, attributes) = match toxic {
            Toxic::Latency(late) => ("latency", format!(r#""latency":{}"#, late.as_millis())),
            Toxic::Bandwidth(kibibytes) => ("bandwidth", format!(r#""rate":{kibibytes}"#)),
            Toxic::BlackHole => ("timeout", r#""timeout":0"#.to_owned()),
            Toxic::Reset(after) => ("reset_peer", format!(r#""timeout":{}"#, after.as_millis())),
            Toxic::CutAfter(bytes) => ("limit_data", format!(r#""bytes":{bytes}"#)),
        };
        let stream = match stream {
            Stream::ToServer => "upstream",
            Stream::ToClient => "downstream",
        };
        let name = format!("{kind}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let body = format!(r#"{{"name":"{name}","type":"{kind}","stream":"{stream}","attributes":{{{attributes}}}}}"#);
        self.tell("POST", &format!("/proxies/{}/toxics", self.name), &body);
        self.toxics.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }

    /// Takes back all that [`Proxy::spoil`] did. What a black hole has swallowed stays lost: its connections are closed.
    ///
    /// # Panics
    /// The program does not do it.
    pub fn heal(&self) {
        for toxic in std::mem::take(&mut *self.toxics.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.tell("DELETE", &format!("/proxies/{}/toxics/{toxic}", self.name), "");
        }
    }

    fn tell(&self, method: &str, path: &str, body: &str) {
        if let Err(sentence) = told(ask(&self.api, method, path, body)) {
            panic!("toxiproxy at {} does not {method} {path}: {sentence}", self.api);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The program may have ended first.
        let _gone = ask(&self.api, "DELETE", &format!("/proxies/{}", self.name), "");
    }
}

/// The program of this process: the one of the environment, or one of its own.
pub(crate) fn server() -> Result<Toxiproxy, String> {
    static SERVER: OnceLock<Result<(Running, String), String>> = OnceLock::new();
    match std::env::var(VARIABLE) {
        Ok(api) if !api.is_empty() => Ok(Toxiproxy { api }),
        _ => SERVER.get_or_init(start).as_ref().map(|(_, api)| Toxiproxy { api: api.clone() }).map_err(Clone::clone),
    }
}

/// Starts a program of our own. Returns where it is told what to do.
pub(crate) fn start() -> Result<(Running, String), String> {
    on_free_port(start_on)
}

fn start_on(port: u16) -> Result<(Running, String), String> {
    let program = program()?;
    let directory = directory("toxiproxy")?;
    let mut command = vec![program.display().to_string()];
    command.extend(["-host", "127.0.0.1", "-port", &port.to_string()].map(str::to_owned));
    let plan =
        Plan { name: "toxiproxy", directory, prepare: Vec::new(), command, environment: Vec::new(), signal: "KILL" };
    let api = format!("127.0.0.1:{port}");
    // The port is held, so nobody else of ours answers there.
    let running = Running::start(plan, || told(ask(&api, "GET", "/version", "")).is_ok())?;
    Ok((running, api))
}

fn program() -> Result<PathBuf, String> {
    crate::program("toxiproxy", (PROGRAM, CACHED), "test-servers/fetch", VARIABLE)
}

/// Whether one of our own can be started.
pub(crate) fn is_installed() -> bool {
    program().is_ok()
}

fn ask(api: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    http::ask(api, method, path, "content-type: application/json\r\n", body, LIMIT)
}

fn told(answer: io::Result<Answer>) -> Result<(), String> {
    match answer {
        Ok(Answer { status: 200..=299, .. }) => Ok(()),
        Ok(answer) => Err(answer.line()),
        Err(error) => Err(error.to_string()),
    }
}
