//! `flywheel dataset`: data sets made, shown, compared and reported. Ids, digests, counts and rates; never text, never a
//! person.

mod report;
mod text;

use std::process::ExitCode;

use events::Sha256Digest;
use model_registry::lineage::SnapshotFilters;
use serde_json::json;
use trainer_orchestrator::OrchestratorError;
use trainer_orchestrator::data_set::manifest::{DataSetError, Manifest};
use trainer_orchestrator::data_set::sources::Sources;
use trainer_orchestrator::data_set::stored::{self, SnapshotSummary};

use crate::cli::{Common, DatasetCommand, ListArgs};
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::operations::open;
use crate::progress::Progress;
use crate::table::{print, print_json};

pub(crate) async fn run(common: &Common, command: &DatasetCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    match command {
        DatasetCommand::Build { dry_run, list } => build(&foundation, *dry_run, list).await?,
        DatasetCommand::Show { digest: None, limit, list } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            let mut newest = newest(&foundation, limit.saturating_add(1)).await?;
            let has_older = newest.len() > limit;
            newest.truncate(limit);
            if list.json {
                print_json(&newest)?;
            } else {
                print(&text::list(&newest, has_older))?;
            }
        }
        DatasetCommand::Show { digest: Some(digest), list, .. } => {
            let manifest = manifest(&foundation, digest).await?;
            if list.json {
                print_json(&text::told_whole(&manifest)?)?;
            } else {
                print(&text::manifest(&manifest))?;
            }
        }
        DatasetCommand::Diff { from, to, list } => {
            let (from, to) = (manifest(&foundation, from).await?, manifest(&foundation, to).await?);
            let diff = from.diff(&to);
            if list.json {
                print_json(&diff)?;
            } else {
                print(&text::diff(&diff))?;
            }
        }
        DatasetCommand::Report { digest, output } => {
            report::run(&foundation, digest.as_deref(), output.as_deref()).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is asked for and can not be is for the caller to mend; a platform that fails is not.
pub(crate) fn refused(error: OrchestratorError) -> Failure {
    match error {
        OrchestratorError::DataSet(error) => Failure::refuse(error),
        error => Failure::from(error),
    }
}

/// What leaves nothing to train on is said with where to look.
fn unmade(error: OrchestratorError) -> Failure {
    match error {
        OrchestratorError::DataSet(DataSetError::Empty { left_out }) if left_out.is_empty() => Failure::refused(
            "data set: no pair is left to train on, and none was left out: the lake holds none that teaches; `flywheel \
             pairs stats` counts what it holds",
        ),
        OrchestratorError::DataSet(error @ DataSetError::Empty { .. }) => {
            Failure::refused(format!("{error}; docs/data-sets.md says what each of these means"))
        }
        error => refused(error),
    }
}

async fn build(foundation: &Foundation, dry_run: bool, list: &ListArgs) -> Result<(), Failure> {
    let settings = &foundation.settings;
    let filters = settings.filters().map_err(Failure::refuse)?;
    let lake = foundation.lake.clone();
    let progress = Progress::new();
    let sources = Sources::new(&foundation.pool, settings.tenant.clone(), lake, foundation.keys.clone())
        .watched_by(progress.clone());
    let filters = SnapshotFilters { formula: sources.formula().await.map_err(refused)?, ..filters };
    let rules = sources.rules().await.map_err(refused)?;
    let sharing = sources.sharing().await.map_err(refused)?;
    let policy = &settings.orchestrator.data_set;
    let planned = sources.plan(filters, policy, &rules, &sharing).await;
    progress.finish();
    let (plan, parts) = planned.map_err(unmade)?;
    if !dry_run {
        let now = foundation.clock.now();
        stored::keep_alone(&foundation.pool, &plan, &parts, now).await.map_err(refused)?;
    }
    let can_be_judged = plan.can_be_judged(policy);
    if list.json {
        return print_json(&json!({
            "digest": plan.digest, "stored": !dry_run, "can_be_judged": can_be_judged, "filters": plan.filters,
            "composition": text::told(&plan.composition)?,
        }));
    }
    print(&text::manifest(&plan.manifest()))?;
    let gate = if can_be_judged { "enough is held out for a verdict" } else { "too little is held out for a verdict" };
    print(&format!("\n{gate}; {}", if dry_run { "nothing was stored" } else { "the data set is stored" }))
}

async fn newest(foundation: &Foundation, limit: usize) -> Result<Vec<SnapshotSummary>, Failure> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    stored::list(&foundation.pool, &foundation.settings.tenant, limit).await.map_err(refused)
}

/// The digest that is, or begins with, `digits`.
pub(crate) async fn named(foundation: &Foundation, digits: &str) -> Result<Sha256Digest, Failure> {
    if let Ok(digest) = digits.parse() {
        return Ok(digest);
    }
    let found = stored::beginning_with(&foundation.pool, &foundation.settings.tenant, digits).await;
    the_only_one(digits, &found.map_err(refused)?)
}

/// The data set whose digest is, or begins with, `digits`.
async fn manifest(foundation: &Foundation, digits: &str) -> Result<Manifest, Failure> {
    let digest = named(foundation, digits).await?;
    stored::manifest(&foundation.pool, &foundation.settings.tenant, digest).await.map_err(refused)
}

fn the_only_one(digits: &str, found: &[Sha256Digest]) -> Result<Sha256Digest, Failure> {
    match found {
        _ if digits.is_empty() => Err(Failure::refused("a digest has at least one digit")),
        [digest] => Ok(*digest),
        [] => Err(Failure::refused(format!(
            "no data set has a digest that begins with {digits}; `flywheel dataset show` lists them"
        ))),
        _ => Err(Failure::refused(format!("several data sets begin with {digits}; give more digits"))),
    }
}

#[cfg(test)]
mod tests {
    use trainer_orchestrator::data_set::composition::Reason;

    use super::*;

    #[test]
    fn without_anything_to_train_on_it_is_said_where_to_look() {
        let sentence = |left_out| match unmade(OrchestratorError::DataSet(DataSetError::Empty { left_out })) {
            Failure::Refused(sentence) => sentence,
            Failure::Broke(error) => panic!("{error}"),
        };
        assert!(sentence(Vec::new()).contains("`flywheel pairs stats`"));
        let left_out = sentence(vec![(Reason::WithoutConsent, 4)]);
        assert!(left_out.contains("left out: 4 without_consent; docs/data-sets.md"), "{left_out}");
    }

    #[test]
    fn digits_name_a_data_set_as_long_as_there_is_one() {
        let found = [Sha256Digest::of(b"one"), Sha256Digest::of(b"two")];
        assert_eq!(the_only_one("ab", &found[..1]).unwrap(), found[0]);
        let sentence = |digits, found| match the_only_one(digits, found) {
            Err(Failure::Refused(sentence)) => sentence,
            other => panic!("{other:?}"),
        };
        assert!(sentence("a", &found).contains("several data sets begin with a"));
        assert!(sentence("b", &[]).contains("no data set"));
        assert!(sentence("", &found[..1]).contains("at least one digit"));
    }
}
