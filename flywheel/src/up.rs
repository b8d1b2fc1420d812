//! `flywheel up`: the platform that stays.

use std::process::ExitCode;

use crate::cli::{Common, UpArgs};
use crate::data_dir::DataDir;
use crate::embedded;
use crate::failure::Failure;
use crate::platform::{self, Platform};
use crate::settings::Settings;
use crate::table::print;

/// Runs every service until it is told to stop.
pub(crate) async fn run(common: &Common, arguments: &UpArgs) -> Result<ExitCode, Failure> {
    platform::start_tracing(common, None)?;
    let settings = Settings::load(common, &[])?;
    let data = DataDir::open(&settings.data_dir)?;
    let _claim = data.claim()?;
    let base = match &arguments.base {
        Some(directory) => directory.clone(),
        None => embedded::base(&data)?,
    };
    let platform = Platform::start(&settings, &data, &base).await?;
    std::fs::write(data.doors(), serde_json::to_string_pretty(&platform.doors)?)?;
    greet(&platform, &data)?;
    let code = platform.wait().await;
    // Whoever asks for the doors next finds none.
    let _removed = std::fs::remove_file(data.doors());
    code
}

fn greet(platform: &Platform, data: &DataDir) -> Result<(), Failure> {
    let doors = &platform.doors;
    let key = &platform.client_key;
    print(&format!("flywheel is up; data in {}\n", data.root().display()))?;
    print(&format!("  suggestions  http://{}/v1/suggestions", doors.serving))?;
    print(&format!("  telemetry    http://{}/v1/telemetry", doors.ingest))?;
    print(&format!("  registry     http://{} (gRPC)", doors.registry))?;
    print(&format!("  admin        http://{}/readyz and /metrics\n", doors.admin))?;
    let made = if platform.is_first_start { "made now; " } else { "" };
    print(&format!("API key for editors ({made}also in {}):\n  {key}\n", data.client_key().display()))?;
    print("Ask for a suggestion:\n")?;
    let request = serde_json::json!({
        "person": "ada",
        "session_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
        "repository": "shop",
        "path": "src/cart.rs",
        "language": "rust",
        "document": { "text": "let sum = cart.total();\nprintln!(\"{sum}\");\n" },
        "cursor": 0,
        "recent_edits": [{ "path": "src/cart.rs", "old_text": "fn total(&self) -> u64 {", "new_text": "fn grand_total(&self) -> u64 {" }],
    });
    print(&format!(
        "  curl -sN http://{}/v1/suggestions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{}'\n",
        doors.serving,
        request.to_string().replace('\'', "'\\''")
    ))?;
    print("Report what the developer did:\n")?;
    let batch = serde_json::json!({
        "person": "ada",
        "session_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
        "events": [{
            "sequence": 1, "monotonic_ms": 1200, "kind": "document_edited", "path": "src/cart.rs",
            "start": 15, "end": 20, "old_text": "total", "new_text": "grand_total", "origin": "typed",
        }],
    });
    print(&format!(
        "  curl -s http://{}/v1/telemetry -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{batch}'\n",
        doors.ingest
    ))?;
    print(&format!("Is it ready:\n\n  curl -s http://{}/readyz\n", doors.admin))?;
    print("Nothing is learned until somebody agrees and a repository is allowed:\n")?;
    let directory = data.root().display();
    print(&format!("  flywheel --data-dir {directory} consent ceiling code"))?;
    print(&format!("  flywheel --data-dir {directory} consent set ada code"))?;
    print(&format!("  flywheel --data-dir {directory} repositories allow shop\n"))?;
    print(&format!("See the wheel: flywheel --data-dir {directory} status. Stop with Ctrl-C."))
}
