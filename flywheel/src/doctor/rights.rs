//! `flywheel doctor --print-acls`: the rights that a platform needs, ready to be given.

use std::process::ExitCode;

use crate::cli::{DoctorArgs, RightsPart};
use crate::failure::Failure;
use crate::settings::Settings;
use crate::table::{print as print_line, print_json};

/// The rights in one part: as a text that is ready to be run or to be put somewhere, and as data.
pub(super) type Rights = (RightsPart, String, serde_json::Value);

pub(super) fn print(settings: &Settings, part: RightsPart, arguments: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut rights = needed(settings, arguments)?;
    rights.retain(|(of, ..)| part == RightsPart::All || *of == part);
    if rights.is_empty() && part != RightsPart::All {
        return Err(Failure::refused(format!("{} is no part of the configured platform", name(part))));
    }
    if arguments.list.json {
        let all: serde_json::Map<String, serde_json::Value> =
            rights.into_iter().map(|(part, _, json)| (name(part).to_owned(), json)).collect();
        print_json(&all)?;
    } else if rights.is_empty() {
        print_line("# This platform runs on embedded parts: it needs no rights but to write in its data directory.")?;
    } else {
        let texts: Vec<&str> = rights.iter().map(|(_, text, _)| text.trim_end()).collect();
        print_line(&texts.join("\n\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

const fn name(part: RightsPart) -> &'static str {
    match part {
        RightsPart::All => "all",
        RightsPart::Kafka => "kafka",
        RightsPart::Postgresql => "postgresql",
        RightsPart::S3 => "s3",
    }
}

#[cfg(not(feature = "production"))]
fn needed(_: &Settings, _: &DoctorArgs) -> Result<Vec<Rights>, Failure> {
    Ok(Vec::new())
}

#[cfg(feature = "production")]
fn needed(settings: &Settings, arguments: &DoctorArgs) -> Result<Vec<Rights>, Failure> {
    use super::server_rights as servers;
    use crate::parts::{ArtifactsKind, BusKind};
    let mut rights = Vec::new();
    if settings.bus.kind == BusKind::Kafka {
        rights.push(servers::kafka(settings, arguments));
    }
    if let Some(url) = settings.database.url.as_ref().filter(|_| settings.database.kind.is_server()) {
        rights.push(servers::postgresql(url, arguments)?);
    }
    if settings.artifacts.kind == ArtifactsKind::S3 {
        rights.push(servers::s3(settings)?);
    }
    Ok(rights)
}
