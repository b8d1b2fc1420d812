//! versitygw: S3 over a directory.

use std::fmt;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::server::{Plan, Running, directory, on_free_port, token};
use crate::{S3Bucket, unique_name};

pub(crate) const VARIABLE: &str = "TEST_SERVERS_S3";
const PROGRAM: &str = "TEST_SERVERS_VERSITYGW";
/// Where `test-servers/fetch` puts the program, below the cache. The version is pinned there.
const CACHED: &str = "flywheel/tools/versitygw-1.8.0/versitygw";
/// The region that the gateway signs for unless it is told otherwise.
const REGION: &str = "us-east-1";
const KEY: &str = "flywheel-test";
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to the question whether the gateway has started.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A gateway and its root user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Door {
    /// Host and port.
    address: String,
    key: String,
    secret: String,
}

impl fmt::Display for Door {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, key, secret } = self;
        write!(formatter, "http://{key}:{secret}@{address}")
    }
}

impl Door {
    fn parse(text: &str) -> Result<Self, String> {
        let parts = || {
            let (user, address) = text.strip_prefix("http://")?.trim_end_matches('/').rsplit_once('@')?;
            let (key, secret) = user.split_once(':')?;
            Some(Self { address: address.to_owned(), key: key.to_owned(), secret: secret.to_owned() })
        };
        parts().ok_or_else(|| format!("{VARIABLE}: expected http://KEY:SECRET@HOST:PORT"))
    }

    fn bucket(&self, bucket: String) -> S3Bucket {
        S3Bucket {
            endpoint: format!("http://{}", self.address),
            region: REGION.to_owned(),
            bucket,
            access_key_id: self.key.clone(),
            secret_access_key: self.secret.clone(),
        }
    }
}

/// A fresh bucket.
pub(crate) fn bucket() -> Result<S3Bucket, String> {
    let door = door()?;
    let name = unique_name('-');
    let answer = ask(&door, Request { method: "PUT", path: &format!("/{name}"), query: "", body: "" }, LIMIT)
        .map_err(|error| format!("the S3 gateway at {} does not answer: {error}", door.address))?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(door.bucket(name))
    } else {
        Err(format!("no bucket can be made at {}: {}", door.address, answer.replace("\r\n", "; ")))
    }
}

/// A bucket of a gateway that takes no writes.
pub(crate) fn read_only_bucket() -> Result<S3Bucket, String> {
    static SERVER: OnceLock<Result<(Running, Door), String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| on_free_port(|port| start_on(port, Access::ReadOnly("read-only"))));
    server.as_ref().map(|(_, door)| door.bucket("read-only".to_owned())).map_err(Clone::clone)
}

/// A bucket whose user may put, get and remove, and not ask which objects there are.
pub(crate) fn bucket_without_listing() -> Result<S3Bucket, String> {
    const USER: &str = "no-lister";
    static SERVER: OnceLock<Result<(Running, Door), String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| on_free_port(|port| start_on(port, Access::Users)));
    let (_, door) = server.as_ref().map_err(Clone::clone)?;
    let name = unique_name('-');
    let (user, secret) = (format!("{USER}-{name}"), format!("{}-{USER}", door.secret));
    let mut making = Command::new(program()?);
    making.args(["admin", "--access", &door.key, "--secret", &door.secret, "--region", REGION, "--endpoint-url"]);
    making.arg(format!("http://{}", door.address)).args(["create-user", "--access", &user, "--secret", &secret]);
    let made = making.args(["--role", "user"]).stdin(Stdio::null()).output();
    let made = made.map_err(|error| format!("versitygw can not be run: {error}"))?;
    if !made.status.success() {
        return Err(format!("no user can be made at {}: {}", door.address, String::from_utf8_lossy(&made.stderr)));
    }
    let actions = r#"["s3:GetObject","s3:PutObject","s3:DeleteObject","s3:AbortMultipartUpload"]"#;
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":["{user}"]}},"Action":{actions},"Resource":"arn:aws:s3:::{name}/*"}}]}}"#
    );
    for (query, body) in [("", ""), ("policy=", &policy)] {
        let answer = ask(door, Request { method: "PUT", path: &format!("/{name}"), query, body }, LIMIT);
        let answer = answer.map_err(|error| format!("the S3 gateway at {} does not answer: {error}", door.address))?;
        if !answer.starts_with("HTTP/1.1 20") {
            return Err(format!("no bucket can be made at {}: {}", door.address, answer.replace("\r\n", "; ")));
        }
    }
    Ok(S3Bucket { access_key_id: user, secret_access_key: secret, ..door.bucket(name) })
}

/// The gateway of this process: the one of the environment, or one of its own.
fn door() -> Result<Door, String> {
    static SERVER: OnceLock<Result<(Running, Door), String>> = OnceLock::new();
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => Door::parse(&text),
        _ => SERVER.get_or_init(start).as_ref().map(|(_, door)| door.clone()).map_err(Clone::clone),
    }
}

/// Starts a gateway of our own.
pub(crate) fn start() -> Result<(Running, Door), String> {
    on_free_port(|port| start_on(port, Access::All))
}

/// Who may do what at a gateway of our own.
#[derive(Debug, Clone, Copy)]
enum Access {
    /// Its root user everything.
    All,
    /// Nobody may write; a bucket of this name is there already.
    ReadOnly(&'static str),
    /// There are others than the root user.
    Users,
}

fn start_on(port: u16, access: Access) -> Result<(Running, Door), String> {
    match start_with(port, access, false) {
        // It keeps what belongs to an object in attributes of its file, which not every file system has.
        Err(sentence) if sentence.contains("xattr") => start_with(port, access, true),
        started => started,
    }
}

fn start_with(port: u16, access: Access, has_sidecar: bool) -> Result<(Running, Door), String> {
    let program = program()?;
    let directory = directory("the S3 gateway")?;
    let [data, sidecar, users] = ["data", "sidecar", "users"].map(|name| directory.join(name));
    // The gateway takes every directory of its data for a bucket.
    let bucket = if let Access::ReadOnly(bucket) = access { data.join(bucket) } else { data.clone() };
    for made in [&bucket, &sidecar, &users] {
        if let Err(error) = std::fs::create_dir_all(made) {
            let _gone = std::fs::remove_dir_all(&directory);
            return Err(format!("there is no place for the data of the S3 gateway: {error}"));
        }
    }
    // The secret is this gateway's alone: who takes it is no other one on this port.
    let door = Door { address: format!("127.0.0.1:{port}"), key: KEY.to_owned(), secret: token(&directory) };
    let mut command = vec![program.display().to_string()];
    // Without keep-alive it closes every connection after one answer.
    command.extend(["-q", "--keep-alive", "--port", &door.address].map(str::to_owned));
    match access {
        Access::All => {}
        Access::ReadOnly(_) => command.push("--readonly".to_owned()),
        Access::Users => command.extend(["--iam-dir".to_owned(), users.display().to_string()]),
    }
    command.push("posix".to_owned());
    if has_sidecar {
        command.extend(["--sidecar".to_owned(), sidecar.display().to_string()]);
    }
    command.push(data.display().to_string());
    let environment = vec![("ROOT_ACCESS_KEY_ID", door.key.clone()), ("ROOT_SECRET_ACCESS_KEY", door.secret.clone())];
    let plan = Plan { name: "the S3 gateway", directory, prepare: Vec::new(), command, environment, signal: "KILL" };
    let running = Running::start(plan, || {
        let list = Request { method: "GET", path: "/", query: "", body: "" };
        ask(&door, list, LOOK_LIMIT).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    })?;
    Ok((running, door))
}

/// Whether a gateway of our own can be started.
pub(crate) fn is_installed() -> bool {
    program().is_ok()
}

fn program() -> Result<PathBuf, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let program = variable(PROGRAM).or_else(|| Some(cache()?.join(CACHED))).unwrap_or_default();
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!(
            "the tests need the S3 gateway versitygw, which is not at {}; run `test-servers/fetch` (it needs Go), name \
             it in {PROGRAM} or a running gateway in {VARIABLE}, or run `./test --embedded`",
            program.display()
        ))
    }
}

#[derive(Debug, Clone, Copy)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    /// `name=value`, or nothing.
    query: &'a str,
    body: &'a str,
}

/// One signed request, on a connection of its own.
fn ask(door: &Door, request: Request<'_>, limit: Duration) -> std::io::Result<String> {
    let (headers, Request { method, path, query, body }) = (signed(door, request, SystemTime::now()), request);
    let (address, bytes) = (&door.address, body.len());
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let head = format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {bytes}\r\n");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(format!("{head}connection: close\r\n{headers}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The headers that sign a request (Amazon's signature, version 4): a few small ones do not need their SDK.
fn signed(door: &Door, request: Request<'_>, now: SystemTime) -> String {
    let (Door { address, key, secret }, Request { method, path, query, body }) = (door, request);
    let (date, time) = date_and_time(now);
    let stamp = format!("{date}T{time}Z");
    let content = hex::encode(Sha256::digest(body.as_bytes()));
    let names = "host;x-amz-content-sha256;x-amz-date";
    let request = format!(
        "{method}\n{path}\n{query}\nhost:{address}\nx-amz-content-sha256:{content}\nx-amz-date:{stamp}\n\n{names}\n\
         {content}"
    );
    let scope = format!("{date}/{REGION}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex::encode(Sha256::digest(request.as_bytes())));
    let mut signing = format!("AWS4{secret}").into_bytes();
    for part in [date.as_str(), REGION, "s3", "aws4_request"] {
        signing = mac(&signing, part);
    }
    let signature = hex::encode(mac(&signing, &text));
    let mut headers = String::new();
    let _to_memory = write!(
        headers,
        "x-amz-content-sha256: {content}\r\nx-amz-date: {stamp}\r\nauthorization: AWS4-HMAC-SHA256 \
         Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}\r\n"
    );
    headers
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A time as `20260131` and `235959`, in UTC.
fn date_and_time(now: SystemTime) -> (String, String) {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let date = format!("{year:04}{month:02}{:02}", days + 1);
    (date, format!("{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_read_as_they_are_written() {
        let door = Door { address: "127.0.0.1:7000".to_owned(), key: "k".to_owned(), secret: "s:@/".to_owned() };
        assert_eq!(Door::parse(&door.to_string()), Ok(door));
        assert!(Door::parse("127.0.0.1:7000").unwrap_err().contains("http://KEY:SECRET@HOST:PORT"));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds: u64| date_and_time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let expected = |date: &str, time: &str| (date.to_owned(), time.to_owned());
        assert_eq!(at(0), expected("19700101", "000000"));
        assert_eq!(at(951_782_399), expected("20000228", "235959"));
        assert_eq!(at(951_868_799), expected("20000229", "235959"));
        assert_eq!(at(1_798_761_599), expected("20261231", "235959"));
    }
}
