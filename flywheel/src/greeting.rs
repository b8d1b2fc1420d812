//! What `flywheel up` says when it is up: the doors, a key, and a line for each door that works when it is pasted into
//! a shell.

use std::path::Path;

use events::ModelName;
use serde_json::json;

use crate::shell::quoted;

/// Where the doors are, as clients write it.
pub(crate) struct DoorUrls {
    pub(crate) serving: String,
    pub(crate) ingest: String,
    pub(crate) registry: String,
    pub(crate) admin: String,
}

/// What the text tells.
pub(crate) struct Greeting<'a> {
    /// The binary that is running.
    pub(crate) program: &'a Path,
    /// With which options it finds this platform.
    pub(crate) options: &'a [String],
    pub(crate) doors: &'a DoorUrls,
    pub(crate) data: &'a Path,
    pub(crate) model: &'a ModelName,
    pub(crate) key: &'a str,
    pub(crate) is_new_key: bool,
    pub(crate) key_file: &'a Path,
    pub(crate) registry_key_file: &'a Path,
}

/// The text.
pub(crate) fn text(greeting: &Greeting<'_>) -> String {
    let Greeting { program, options, doors, data, model, key, is_new_key, key_file, registry_key_file } = greeting;
    let asked = json!({
        "person": "ada",
        "session_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
        "repository": "shop",
        "path": "src/cart.rs",
        "language": "rust",
        "document": { "text": "let sum = cart.total();\nprintln!(\"{sum}\");\n" },
        "cursor": 0,
        "recent_edits": [{
            "path": "src/cart.rs", "old_text": "fn total(&self) -> u64 {", "new_text": "fn grand_total(&self) -> u64 {",
        }],
    });
    let reported = json!({
        "person": "ada",
        "session_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
        "events": [{
            "sequence": 1, "monotonic_ms": 1200, "kind": "document_edited", "path": "src/cart.rs",
            "start": 15, "end": 20, "old_text": "total", "new_text": "grand_total", "origin": "typed",
        }],
    });
    let post = format!("-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d");
    let made = if *is_new_key { "made now, " } else { "" };
    let program = quoted(program);
    let options: Vec<String> = options.iter().map(quoted).collect();
    let options = options.join(" ");
    let administrator = format!("-H \"Authorization: Bearer $(cat {})\"", quoted(registry_key_file));
    let DoorUrls { serving, ingest, registry, admin } = doors;
    [
        format!("flywheel is up; data in {}\n", data.display()),
        format!("  suggestions  {serving}/v1/suggestions"),
        format!("  telemetry    {ingest}/v1/telemetry"),
        format!("  registry     {registry} (gRPC; reading also as JSON)"),
        format!("  admin        {admin} (/healthz, /readyz, /metrics)\n"),
        format!("API key for editors ({made}kept in {}):\n\n  {key}\n", key_file.display()),
        "Ask for a suggestion:\n".to_owned(),
        format!("  curl -sN {serving}/v1/suggestions {post} {}\n", quoted(asked.to_string())),
        "Report what the developer did:\n".to_owned(),
        format!("  curl -s {ingest}/v1/telemetry {post} {}\n", quoted(reported.to_string())),
        "Look at the model's versions:\n".to_owned(),
        format!("  curl -s {registry}/v1/models/{model}/versions {administrator}\n"),
        "Is everything ready:\n".to_owned(),
        format!("  curl -s {admin}/readyz\n"),
        "Nothing is learned until somebody agrees and a repository is allowed:\n".to_owned(),
        format!("  {program} consent ceiling code {options}"),
        format!("  {program} consent set ada code {options}"),
        format!("  {program} repositories allow shop {options}\n"),
        format!("See the wheel:\n\n  {program} status {options}\n"),
        "Stop with Ctrl-C; the next start goes on from here.".to_owned(),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_says_all_there_is_to_know() {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let text = text(&Greeting {
            program: Path::new("/opt/our tools/flywheel"),
            options: &["--data-dir", "/srv/ada's data", "--set", "tenant=ours"].map(str::to_owned),
            doors: &DoorUrls { serving: url(7802), ingest: url(7801), registry: url(7803), admin: url(7800) },
            data: Path::new("/srv/ada's data"),
            model: &"edit".parse().unwrap(),
            key: "fw_key",
            is_new_key: true,
            key_file: Path::new("/srv/ada's data/keys/client.key"),
            registry_key_file: Path::new("/srv/ada's data/keys/internal.key"),
        });
        insta::assert_snapshot!(text);
    }
}
