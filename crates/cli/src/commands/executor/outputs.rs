//! The files kaniko writes about an image, to the byte.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image_builder::{Output, OutputTarget};
use oci_model::{Digest, Reference};

use super::flags::ExecutorArgs;

/// Paths of this machine that outputs go to.
pub(super) fn paths(args: &ExecutorArgs) -> Vec<PathBuf> {
    let texts = [
        &args.digest_file,
        &args.image_name_with_digest_file,
        &args.image_name_tag_with_digest_file,
    ];
    let files = texts.into_iter().flatten().filter(|text| !text.contains("://"));
    let mut paths: Vec<PathBuf> = files.map(PathBuf::from).collect();
    paths.extend(args.tar_path.iter().chain(&args.oci_layout_path).cloned());
    paths
}

/// Outputs besides registries.
pub(super) fn files(args: &ExecutorArgs) -> Vec<Output> {
    let archive = |path: &PathBuf| Output::DockerArchive(OutputTarget::File(path.clone()));
    let layout = |path: &PathBuf| Output::OciDirectory(path.clone());
    args.tar_path.iter().map(archive).chain(args.oci_layout_path.iter().map(layout)).collect()
}

/// Writes what was asked for.
pub(super) fn write(
    args: &ExecutorArgs,
    destinations: &[Reference],
    digest: &Digest,
) -> anyhow::Result<()> {
    if let Some(path) = &args.digest_file {
        write_file(Path::new(path), &digest.to_string())?;
    }
    let lines = |name: &dyn Fn(&Reference) -> String| {
        destinations.iter().map(|one| format!("{}@{digest}\n", name(one))).collect::<String>()
    };
    if let Some(path) = &args.image_name_with_digest_file {
        write_file(Path::new(path), &lines(&repository))?;
    }
    if let Some(path) = &args.image_name_tag_with_digest_file {
        let with_tag = |one: &Reference| match one.tag() {
            Some(tag) => format!("{}:{}", repository(one), tag.as_str()),
            None => repository(one),
        };
        write_file(Path::new(path), &lines(&with_tag))?;
    }
    if let Some(directory) = std::env::var_os("BUILDER_OUTPUT") {
        let line = |one: &Reference| {
            let document =
                serde_json::json!({"name": one.to_string(), "digest": digest.to_string()});
            format!("{document}\n")
        };
        let text: String = destinations.iter().map(line).collect();
        write_file(&PathBuf::from(directory).join("images"), &text)?;
    }
    Ok(())
}

/// `registry/repository` as kaniko's library spells it: Docker Hub is `index.docker.io`.
fn repository(reference: &Reference) -> String {
    match reference.registry() {
        "docker.io" => format!("index.docker.io/{}", reference.repository().as_str()),
        _ => reference.name(),
    }
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
