//! What is told about a finished build: files for scripts, and a line for people.

use anyhow::Context as _;
use image_builder::BuildOutcome;
use oci_model::{Digest, Reference};
use serde_json::{Map, Value, json};

use super::BuildArgs;
use crate::build::progress::{JsonEvent, Progress, Summary, size};
use crate::exit::Failure;
use crate::output;

/// Writes the files that were asked for, and the line.
pub(super) fn write(
    args: &BuildArgs,
    outcome: &BuildOutcome,
    references: &[Reference],
    progress: &Progress,
) -> Result<(), Failure> {
    let summary = progress.summary();

    let names: Vec<String> = references.iter().map(Reference::familiar).collect();
    let id = image_id(outcome);
    if let Some(path) = &args.outputs.iidfile {
        std::fs::write(path, id.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.outputs.metadata_file {
        let document = metadata(outcome, &names, &summary);
        std::fs::write(path, serde_json::to_vec_pretty(&document)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.quiet {
        output::line(&id.to_string());
        return Ok(());
    }
    let what =
        if names.is_empty() { "an image without a name".to_owned() } else { names.join(", ") };
    let platforms = match outcome.images.len() {
        0 | 1 => String::new(),
        several => format!("{several} platforms, "),
    };
    progress.say(&JsonEvent::Summary(&summary));
    if !progress.is_for_people() {
        return Ok(());
    }
    output::error_line(&format!(
        "built {what}: {} in {:.1}s ({platforms}{} steps executed, {} cached, {} layers, {})",
        outcome.root.digest(),
        outcome.duration.as_secs_f64(),
        outcome.steps_executed,
        outcome.steps_cached,
        outcome.layer_count(),
        size(outcome.layer_bytes()),
    ));
    for line in summary.text() {
        output::error_line(&format!("  {line}"));
    }
    Ok(())
}

/// Docker's image ID; an index has no config, so that its digest stands for it, as in buildx.
fn image_id(outcome: &BuildOutcome) -> Digest {
    match &outcome.images[..] {
        [only] => only.config,
        _ => *outcome.root.digest(),
    }
}

/// The document of `--metadata-file`, with buildx's keys.
fn metadata(outcome: &BuildOutcome, names: &[String], summary: &Summary) -> Value {
    let mut document = Map::new();
    if let [only] = &outcome.images[..] {
        document.insert("containerimage.config.digest".into(), json!(only.config.to_string()));
    }
    let descriptor = outcome.root.descriptor();
    document.insert("containerimage.descriptor".into(), json!(descriptor));
    document.insert("containerimage.digest".into(), json!(descriptor.digest.to_string()));
    for (image, statements) in outcome.images.iter().zip(&outcome.statements) {
        let key = match outcome.images.len() {
            1 => "buildx.build.provenance".to_owned(),
            _ => format!("buildx.build.provenance/{}", image.platform),
        };
        document.insert(key, statements.provenance.clone());
    }
    if !names.is_empty() {
        document.insert("image.name".into(), json!(names.join(",")));
    }
    document.insert("shipway.summary".into(), json!(summary));
    Value::Object(document)
}
