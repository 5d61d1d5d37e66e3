//! Scenario 8: repositories with many tags, and many repositories.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::client::{Client, MANIFEST, digest, manifest};
use super::servers::Server;
use super::{Call, PEER, Pair, in_parallel};
use crate::bench::report::{Measurement, Promise};

const REPOSITORIES: usize = 10_000;
const PAGE: usize = 100;

pub(crate) fn scenarios(pair: &Pair) -> Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    for tags in [10_000, 100_000] {
        let repository = format!("bench/tags{tags}");
        tag_ours(&pair.ours, &repository, tags)?;
        tag_theirs(&pair.theirs, &repository, tags)?;
        measured.push(pair.by_turns(
            &format!("tags/list of {tags} tags, whole"),
            "ms",
            Promise::None,
            |call| whole(call, &repository, tags),
        )?);
        measured.push(pair.by_turns(
            &format!("tags/list of {tags} tags, a page of {PAGE} in the middle"),
            "ms",
            Promise::None,
            |call| {
                let target = format!("/v2/{repository}/tags/list?n={PAGE}&last=t{:06}", tags / 2);
                median_ms(call, &target)
            },
        )?);
    }
    fill_catalog(pair)?;
    measured.push(pair.by_turns(
        &format!("_catalog of {REPOSITORIES} repositories, a page of {PAGE}"),
        "ms",
        Promise::None,
        |call| median_ms(call, &format!("/v2/_catalog?n={PAGE}&last=many/r005000")),
    )?);
    let resident = [pair.ours.resident_mib()?, pair.theirs.resident_mib()?];
    measured.push(Measurement::beside(
        "memory after those listings (RSS)",
        PEER,
        "MiB",
        vec![resident[0]],
        vec![resident[1]],
        Promise::None,
    ));
    Ok(measured)
}

/// Milliseconds for all tags, following links as a client has to.
fn whole(call: &Call<'_>, repository: &str, tags: usize) -> Result<f64> {
    let mut client = Client::connect(call.server.address())?;
    let started = std::time::Instant::now();
    let mut last = String::new();
    let mut seen = 0;
    loop {
        let target = format!("/v2/{repository}/tags/list{last}");
        let reply: serde_json::Value = serde_json::from_str(&client.text(&target)?)?;
        let names = reply["tags"].as_array().context("no tags")?;
        seen += names.len();
        if seen >= tags || names.is_empty() {
            break;
        }
        let name = names.last().and_then(|name| name.as_str()).context("a name")?;
        last = format!("?last={name}");
    }
    ensure!(seen == tags, "{seen} tags of {tags}");
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

fn median_ms(call: &Call<'_>, target: &str) -> Result<f64> {
    let (_, times) = in_parallel(call.server, 1, 5, |client, _| client.text(target).map(drop))?;
    Ok(times[times.len() / 2] * 1000.0)
}

fn one_manifest(client: &mut Client, repository: &str) -> Result<String> {
    let config = b"{}";
    let config_digest = client.push_bytes(repository, config)?;
    Ok(manifest(&config_digest, config.len(), &[]))
}

/// Sixty-four tags to a PUT (distribution-spec end-7b).
fn tag_ours(server: &Server, repository: &str, tags: usize) -> Result<()> {
    let mut client = Client::connect(server.address())?;
    let text = one_manifest(&mut client, repository)?;
    let headers = format!("Content-Type: {MANIFEST}\r\n");
    for first in (0..tags).step_by(64) {
        let names: Vec<String> =
            (first..tags.min(first + 64)).map(|tag| format!("tag=t{tag:06}")).collect();
        let target =
            format!("/v2/{repository}/manifests/{}?{}", digest(text.as_bytes()), names.join("&"));
        let reply = client.send("PUT", &target, &headers, text.as_bytes())?;
        ensure!(reply.status == 201, "PUT {target}: {}", reply.status);
    }
    Ok(())
}

/// One push and then the files that a push of each tag would write: the peer takes one tag per
/// request, and a hundred thousand of them longer than the measurement is worth.
fn tag_theirs(server: &Server, repository: &str, tags: usize) -> Result<()> {
    let mut client = Client::connect(server.address())?;
    let text = one_manifest(&mut client, repository)?;
    client.put_manifest(repository, "t000000", &text)?;
    let directory = repositories(server).join(repository).join("_manifests/tags");
    let digest = digest(text.as_bytes());
    let hex = digest.strip_prefix("sha256:").context("sha256")?;
    for tag in 1..tags {
        let tag = directory.join(format!("t{tag:06}"));
        write_link(&tag.join("current"), &digest)?;
        write_link(&tag.join("index/sha256").join(hex), &digest)?;
    }
    Ok(())
}

fn repositories(server: &Server) -> std::path::PathBuf {
    server.directory().join("docker/registry/v2/repositories")
}

fn write_link(directory: &Path, digest: &str) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    Ok(std::fs::write(directory.join("link"), digest)?)
}

fn fill_catalog(pair: &Pair) -> Result<()> {
    in_parallel(&pair.ours, 16, REPOSITORIES, |client, index| {
        let repository = format!("many/r{index:06}");
        let text = one_manifest(client, &repository)?;
        client.put_manifest(&repository, "latest", &text)
    })?;
    let mut client = Client::connect(pair.theirs.address())?;
    let text = one_manifest(&mut client, "many/r000000")?;
    client.put_manifest("many/r000000", "latest", &text)?;
    let digest = digest(text.as_bytes());
    let hex = digest.strip_prefix("sha256:").context("sha256")?;
    for index in 1..REPOSITORIES {
        let repository = repositories(&pair.theirs).join(format!("many/r{index:06}"));
        write_link(&repository.join("_manifests/revisions/sha256").join(hex), &digest)?;
        write_link(&repository.join("_manifests/tags/latest/current"), &digest)?;
    }
    Ok(())
}
