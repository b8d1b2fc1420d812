//! `flywheel up`: the platform that stays.

use std::process::ExitCode;

use crate::cli::{Common, UpArgs};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::greeting::{self, DoorUrls};
use crate::platform::{self, Platform};
use crate::services::{ADMIN_DOOR, INGEST, REGISTRY, SERVING};
use crate::settings::Settings;
use crate::table::print;
use crate::{embedded, failure, shell};

/// Runs every service until it is told to stop.
pub(crate) async fn run(common: &Common, arguments: &UpArgs) -> Result<ExitCode, Failure> {
    platform::start_tracing(common, None)?;
    let settings = Settings::load(common, &[])?;
    let data = DataDir::open(&settings.data_dir)?;
    let _claim = data.claim()?;
    data.take_temporary_files();
    failure::about_disk(&data, run_on(common, &settings, &data, arguments).await)
}

async fn run_on(common: &Common, settings: &Settings, data: &DataDir, arguments: &UpArgs) -> Result<ExitCode, Failure> {
    let base = match &arguments.base {
        Some(directory) => directory.clone(),
        None => embedded::base(data)?,
    };
    let platform = Platform::start(settings, data, &base).await?;
    platform.stop_on_signal()?;
    let doors = platform.doors;
    let named =
        [(SERVING, doors.serving), (INGEST, doors.ingest), (REGISTRY, doors.registry), (ADMIN_DOOR, doors.admin)];
    let _announced = data.announce(&named.map(|(name, address)| (name.to_owned(), address)))?;
    let urls = DoorUrls {
        serving: settings.url(SERVING, doors.serving),
        ingest: settings.url(INGEST, doors.ingest),
        registry: settings.url(REGISTRY, doors.registry),
        admin: settings.url(ADMIN_DOOR, doors.admin),
    };
    print(&greeting::text(&greeting::Greeting {
        program: &shell::program(),
        options: &options(common, data),
        doors: &urls,
        data: data.root(),
        model: &platform.model,
        key: &platform.client_key,
        is_new_key: platform.is_first_start,
        key_file: &data.client_key(),
        registry_key_file: &data.internal_key(),
    }))?;
    platform.wait().await
}

/// With which options another command finds this platform, and speaks for the same tenant, from any directory.
fn options(common: &Common, data: &DataDir) -> Vec<String> {
    let mut options = vec!["--data-dir".to_owned(), data.root().display().to_string()];
    if let Some(file) = &common.config {
        let file = file.canonicalize().unwrap_or_else(|_| file.clone());
        options.extend(["--config".to_owned(), file.display().to_string()]);
    }
    options.extend(common.set.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]));
    options
}
