//! MinIO: S3 by somebody else, for a second opinion.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::S3Bucket;
use crate::s3_door::Door;
use crate::server::{Plan, Running, directory, on_free_port, token};

pub(crate) const VARIABLE: &str = "TEST_SERVERS_MINIO";
const PROGRAM: &str = "TEST_SERVERS_MINIO_SERVER";
/// Where `test-servers/fetch --full` puts the program, below the cache. The version is pinned there.
const CACHED: &str = "flywheel/tools/minio-20260212/minio";
const KEY: &str = "flywheel-test";

/// A fresh bucket.
pub(crate) fn bucket() -> Result<S3Bucket, String> {
    static SERVER: OnceLock<Result<(Running, Door), String>> = OnceLock::new();
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => Door::parse(VARIABLE, &text)?.fresh_bucket(),
        _ => SERVER.get_or_init(|| on_free_port(start_on)).as_ref().map_err(Clone::clone)?.1.fresh_bucket(),
    }
}

fn start_on(port: u16) -> Result<(Running, Door), String> {
    let program = program()?;
    let directory = directory("MinIO")?;
    // The secret is this server's alone: who takes it is no other one on this port.
    let door = Door { address: format!("127.0.0.1:{port}"), key: KEY.to_owned(), secret: token(&directory) };
    let mut command = vec![program.display().to_string()];
    command.extend(["server", "--quiet", "--address", &door.address].map(str::to_owned));
    command.push(directory.join("data").display().to_string());
    // It looks for news of itself and opens a console otherwise.
    let settings = [("MINIO_UPDATE", "off"), ("MINIO_BROWSER", "off"), ("MINIO_CI_CD", "on")];
    let mut environment = vec![("MINIO_ROOT_USER", door.key.clone()), ("MINIO_ROOT_PASSWORD", door.secret.clone())];
    environment.push(("MINIO_CONFIG_DIR", directory.join("config").display().to_string()));
    environment.extend(settings.map(|(name, value)| (name, value.to_owned())));
    let plan = Plan { name: "MinIO", directory, prepare: Vec::new(), command, environment, signal: "KILL" };
    let running = Running::start(plan, || door.answers())?;
    Ok((running, door))
}

fn program() -> Result<PathBuf, String> {
    crate::program("MinIO", (PROGRAM, CACHED), "test-servers/fetch --full", VARIABLE)
}
