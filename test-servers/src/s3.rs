//! versitygw: S3 over a directory.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::own::Ready;
use crate::s3_door::{Door, LIMIT, REGION, Request};
use crate::server::{Plan, Running, directory, on_free_port, token};
use crate::{S3Bucket, unique_name};

pub(crate) const VARIABLE: &str = "TEST_SERVERS_S3";
const PROGRAM: &str = "TEST_SERVERS_VERSITYGW";
/// Where `test-servers/fetch` puts the program, below the cache. The version is pinned there.
const CACHED: &str = "flywheel/tools/versitygw-1.8.0/versitygw";
const KEY: &str = "flywheel-test";

/// A fresh bucket.
pub(crate) fn bucket() -> Result<S3Bucket, String> {
    door()?.fresh_bucket()
}

/// Starts a gateway that may be killed, with a fresh bucket, and what tells whether it has come again.
pub(crate) fn start_to_be_killed() -> Result<(Running, S3Bucket, Ready), String> {
    let (running, door) = start()?;
    let bucket = door.fresh_bucket()?;
    Ok((running, bucket, Box::new(move |_| door.answers())))
}

/// A bucket of a gateway that takes no writes.
pub(crate) fn read_only_bucket() -> Result<S3Bucket, String> {
    static SERVER: OnceLock<Result<(Running, Door), String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| on_free_port(|port| start_on(port, Access::ReadOnly("read-only"))));
    server.as_ref().map(|(_, door)| door.place("read-only".to_owned())).map_err(Clone::clone)
}

/// A bucket whose user may put, get and remove, and not ask which objects there are.
pub(crate) fn bucket_without_listing() -> Result<S3Bucket, String> {
    let actions = r#""s3:GetObject","s3:PutObject","s3:DeleteObject","s3:AbortMultipartUpload""#;
    bucket_of_user("no-lister", &[(actions, "/*")]).map(|[_, bucket]| bucket)
}

/// A bucket as its owner has it, and as a user has it who may only read and list.
pub(crate) fn bucket_with_reader() -> Result<[S3Bucket; 2], String> {
    bucket_of_user("reader", &[(r#""s3:GetObject""#, "/*"), (r#""s3:ListBucket""#, "")])
}

/// A bucket as its owner has it, and as a new user has it who may take these actions: on its objects (`/*`), or on the
/// bucket itself.
fn bucket_of_user(role: &str, allowed: &[(&str, &str)]) -> Result<[S3Bucket; 2], String> {
    static SERVER: OnceLock<Result<(Running, Door), String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| on_free_port(|port| start_on(port, Access::Users)));
    let (_, door) = server.as_ref().map_err(Clone::clone)?;
    let name = unique_name('-');
    let (user, secret) = (format!("{role}-{name}"), format!("{}-{role}", door.secret));
    let mut making = Command::new(program()?);
    making.args(["admin", "--access", &door.key, "--secret", &door.secret, "--region", REGION, "--endpoint-url"]);
    making.arg(format!("http://{}", door.address)).args(["create-user", "--access", &user, "--secret", &secret]);
    let made = making.args(["--role", "user"]).stdin(Stdio::null()).output();
    let made = made.map_err(|error| format!("versitygw can not be run: {error}"))?;
    if !made.status.success() {
        return Err(format!("no user can be made at {}: {}", door.address, String::from_utf8_lossy(&made.stderr)));
    }
    let statement = |(actions, of): &(&str, &str)| {
        format!(
            r#"{{"Effect":"Allow","Principal":{{"AWS":["{user}"]}},"Action":[{actions}],"Resource":"arn:aws:s3:::{name}{of}"}}"#
        )
    };
    let statements: Vec<String> = allowed.iter().map(statement).collect();
    let policy = format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","));
    for (query, body) in [("", ""), ("policy=", &policy)] {
        let answer = door.ask(Request { method: "PUT", path: &format!("/{name}"), query, body }, LIMIT);
        let answer = answer.map_err(|error| format!("the S3 gateway at {} does not answer: {error}", door.address))?;
        if !matches!(answer.status, 200..=299) {
            return Err(format!("no bucket can be made at {}: {}", door.address, answer.line()));
        }
    }
    let owner = door.place(name);
    Ok([owner.clone(), S3Bucket { access_key_id: user, secret_access_key: secret, ..owner }])
}

/// The gateway of this process: the one of the environment, or one of its own.
fn door() -> Result<Door, String> {
    static SERVER: OnceLock<Result<(Running, Door), String>> = OnceLock::new();
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => Door::parse(VARIABLE, &text),
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
    let running = Running::start(plan, || door.answers())?;
    Ok((running, door))
}

/// Whether a gateway of our own can be started.
pub(crate) fn is_installed() -> bool {
    program().is_ok()
}

fn program() -> Result<PathBuf, String> {
    crate::program("the S3 gateway versitygw", (PROGRAM, CACHED), "test-servers/fetch", VARIABLE)
}
