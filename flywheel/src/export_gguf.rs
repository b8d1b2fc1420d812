//! `flywheel export-gguf`: a model, or an adapter over it, as llama.cpp reads it.

use std::path::Path;
use std::process::ExitCode;

use edit_model::{EditModel, GgufWeights, Lora};
use serde_json::{Value, json};

use crate::cli::{ExportGgufArgs, GgufType};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::table::{print_fields, print_json};

/// The last part of a path, as a name.
fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Writes the file and says what it is.
fn make(arguments: &ExportGgufArgs, bar: &Progress) -> Result<Value, Failure> {
    let ExportGgufArgs { model: directory, output, adapter, name, weights, .. } = arguments;
    bar.say(&format!("reading {}", directory.display()));
    let (model, manifest) = EditModel::load_with_manifest(directory)
        .map_err(|error| Failure::refused(format!("the model {} can not be used: {error}", directory.display())))?;
    let output_name = output.display().to_string();
    let writing = format!("writing {output_name}");
    let Some(adapter) = adapter else {
        let weights = match weights {
            GgufType::Bf16 => GgufWeights::Bf16,
            GgufType::F32 => GgufWeights::F32,
        };
        bar.say(&writing);
        let name = name.as_deref().unwrap_or(&manifest.name);
        let made = model.export_gguf(output, name, weights).map_err(Failure::refuse)?;
        return Ok(json!({
            "output": output_name,
            "name": name,
            "model": manifest.digest(),
            "bytes": made.file.bytes,
            "tensors": made.file.tensors,
            "written_tokens": model.network().config().written(),
            "pre_tokenizer": made.pre_tokenizer,
            "splits_alike": made.splits_alike,
        }));
    };
    let (lora, values) = Lora::load(adapter, model.network())
        .map_err(|error| Failure::refused(format!("the adapter {} can not be used: {error}", adapter.display())))?;
    bar.say(&writing);
    let name = name.clone().unwrap_or_else(|| name_of(adapter));
    let made = lora.export_gguf(&values, model.network(), output, &name).map_err(Failure::refuse)?;
    Ok(json!({
        "output": output_name,
        "name": name,
        "model": manifest.digest(),
        "bytes": made.bytes,
        "tensors": made.tensors,
    }))
}

/// Writes what was asked for, where nothing is yet.
pub(crate) fn run(arguments: &ExportGgufArgs) -> Result<ExitCode, Failure> {
    let output = &arguments.output;
    if output.symlink_metadata().is_ok() {
        return Err(Failure::refused(format!("{} is there already; name a file that is not", output.display())));
    }
    let bar = Progress::spinning();
    let made = make(arguments, &bar);
    bar.finish();
    let made = made?;
    if arguments.list.json {
        print_json(&made)?
    } else {
        print_fields(&made)?
    }
    Ok(ExitCode::SUCCESS)
}
