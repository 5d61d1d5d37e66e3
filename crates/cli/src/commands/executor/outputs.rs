//! The files kaniko writes about an image, to the byte.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use image_builder::{Cloud, ObjectLocation, Output, OutputTarget, redacted};
use oci_model::{Digest, Reference};

use registry_client::{Client, ClientOptions};

use super::flags::ExecutorArgs;
use crate::build::contexts::cloud_settings;
use crate::exit::Failure;

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
pub(super) async fn write(
    args: &ExecutorArgs,
    destinations: &[Reference],
    digest: &Digest,
    push: ClientOptions,
) -> anyhow::Result<()> {
    match &args.digest_file {
        Some(url) if url.starts_with("https://") || url.starts_with("http://") => {
            put(url, digest.to_string(), push).await?;
        }
        Some(path) => write_file(Path::new(path), &digest.to_string())?,
        None => {}
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

/// Sends a text to a server, as `--digest-file=https://…` asks.
async fn put(url: &str, text: String, options: ClientOptions) -> anyhow::Result<()> {
    let client = Client::new(options)?.http_client();
    let request = client.put(url).header("Content-Type", "text/plain").body(text);
    let url = redacted(url);
    let answer = request.send().await.map_err(|error| error.without_url());
    let answer = answer.with_context(|| format!("cannot send the digest to {url}"))?;
    let status = answer.status();
    anyhow::ensure!(status.is_success(), "cannot send the digest to {url}: status {status}");
    Ok(())
}

/// Times in nanoseconds where `BENCHMARK_FILE` says, a path or gs://.
pub(super) async fn write_benchmark(
    build: Duration,
    total: Duration,
    client: &Client,
) -> Result<(), Failure> {
    let Ok(target) = std::env::var("BENCHMARK_FILE") else { return Ok(()) };
    if target.is_empty() || target == "false" {
        return Ok(());
    }
    let text = serde_json::json!({
        "Total Build Time": u64::try_from(total.as_nanos()).unwrap_or(u64::MAX),
        "Steps": u64::try_from(build.as_nanos()).unwrap_or(u64::MAX),
    })
    .to_string();
    match target.strip_prefix("gs://") {
        None => write_file(Path::new(&target), &text)?,
        Some(path) => {
            let object = ObjectLocation::new(Cloud::Google, path, cloud_settings());
            let object = object.map_err(Failure::usage)?;
            object.put(&client.http_client(), text.into_bytes()).await?;
        }
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
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
