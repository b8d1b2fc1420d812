//! `flywheel pairs`: what the labeler concluded, for people to look at and for other trainers to learn from.
//!
//! What a pair is about (ids, reasons, numbers, names as models see them) is for whoever administers the platform. Its
//! text is code of somebody who agreed that it is learned from: only the holder of a key with the scope `pairs:read` is
//! given any, it is written down before ([`rights::Reader`]), and what may be done with it is asked as of now
//! ([`rights::Rights`]), not as of the day on which the label was made.

mod diff;
mod explain;
mod export;
#[cfg(test)]
mod fixture;
mod lake;
mod list;
mod rights;
mod show;
mod stats;
mod table;

use std::process::ExitCode;

use crate::cli::{Common, PairsCommand};
use crate::failure::Failure;
use crate::operations::open;

pub(crate) use self::list::Place;

pub(crate) async fn run(common: &Common, command: &PairsCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    match command {
        PairsCommand::List(arguments) => list::run(&foundation, arguments).await?,
        PairsCommand::Show { id, key, list } => show::run(&foundation, id, key, list).await?,
        PairsCommand::Stats(arguments) => stats::run(&foundation, arguments).await?,
        PairsCommand::Explain { id, list } => explain::run(&foundation, id, list).await?,
        PairsCommand::Export(arguments) => export::run(&foundation, arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}
