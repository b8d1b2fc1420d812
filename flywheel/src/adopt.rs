//! `flywheel adopt`: makes a base model of a checkpoint that others published.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use edit_model::{EditModel, ModelManifest};
use serde_json::json;

use crate::cli::{AdoptArgs, CODE_VERSION};
use crate::embedded;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::table::{print_fields, print_json};

/// Refuses to write where something is: what would be lost may be the checkpoint itself.
fn check_empty(output: &Path) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| Failure::refused(format!("{} can not be read: {error}", output.display()));
    match std::fs::read_dir(output) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(entry) => {
                entry.map_err(unreadable)?;
                Err(Failure::refused(format!("{} is not empty; name a directory that is", output.display())))
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unreadable(error)),
    }
}

/// Writes the model with the tasks that are replayed while it learns; its manifest, without which it is no model, last.
fn make(arguments: &AdoptArgs, bar: &Progress) -> Result<(EditModel, ModelManifest), Failure> {
    let AdoptArgs { model: brought, output, name, seed, .. } = arguments;
    bar.say(&format!("reading {}", brought.display()));
    let model = EditModel::adopt(brought, *seed)
        .map_err(|error| Failure::refused(format!("the model {} can not be used: {error}", brought.display())))?;
    bar.say(&format!("writing {}", output.display()));
    embedded::base_tasks(output)?;
    let name = name.clone().or_else(|| Some(brought.file_name()?.to_string_lossy().into_owned()));
    let mut manifest = ModelManifest::new(name.as_deref().unwrap_or("adopted"), "adopt", CODE_VERSION);
    manifest.details.insert("seed".to_owned(), json!(seed));
    let manifest = model.save(output, manifest).map_err(Failure::refuse)?;
    Ok((model, manifest))
}

/// Makes the base model and says what it is.
pub(crate) fn run(arguments: &AdoptArgs) -> Result<ExitCode, Failure> {
    check_empty(&arguments.output)?;
    let bar = Progress::spinning();
    let made = make(arguments, &bar);
    bar.finish();
    let (model, manifest) = made?;
    let config = model.network().config();
    let made = json!({
        "output": arguments.output.display().to_string(),
        "name": manifest.name,
        "digest": manifest.digest(),
        "family": config.model_type,
        "parameters": model.network().parameter_count(),
        "tokens": config.vocab_size,
        "longest_sequence": config.max_position_embeddings,
    });
    if arguments.list.json {
        print_json(&made)?
    } else {
        print_fields(&made)?
    }
    Ok(ExitCode::SUCCESS)
}
