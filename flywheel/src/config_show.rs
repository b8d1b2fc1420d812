//! `flywheel config show`: what is in force.

use std::process::ExitCode;

use crate::cli::{Common, ConfigCommand};
use crate::failure::Failure;
use crate::settings::Settings;
use crate::table::{print, print_json};

pub(crate) fn run(common: &Common, command: &ConfigCommand) -> Result<ExitCode, Failure> {
    let ConfigCommand::Show(list) = command;
    let shown = Settings::shown(common)?;
    if list.json {
        print_json(&shown)?;
    } else {
        print(shown.to_toml().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}
