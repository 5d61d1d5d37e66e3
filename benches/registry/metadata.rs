//! Scenarios 5 to 7: many small things.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};

use super::client::{Client, digest, manifest};
use super::{Call, Pair, in_parallel, quantile};
use crate::bench::report::{Measurement, Promise};

const LAYERS: usize = 50;
const REPOSITORIES: usize = 1000;
const MOUNTS: usize = 20;
const WRITERS: usize = 64;
const TAGS: usize = 2000;

pub(crate) fn scenarios(pair: &Pair) -> Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    for clients in [1, 16] {
        measured.push(pair.by_turns(
            &format!("push of an image of {LAYERS} layers of 4 KiB, {clients} clients, p50"),
            "ms",
            Promise::None,
            |call| many_layers(call, clients),
        )?);
    }
    measured.push(pair.by_turns(
        &format!("mounts into {REPOSITORIES} repositories, {MOUNTS} each, 16 clients"),
        "1/s",
        Promise::None,
        mounts,
    )?);
    measured.push(pair.by_turns(
        "push of an image that is there, p50",
        "ms",
        Promise::None,
        again,
    )?);
    for (work, one) in [("a tag each", false), ("one tag", true)] {
        measured.push(pair.by_turns(
            &format!("{TAGS} manifests by {WRITERS} writers to {work} of one repository"),
            "1/s",
            Promise::None,
            |call| tags(call, one),
        )?);
    }
    Ok(measured)
}

fn many_layers(call: &Call<'_>, clients: usize) -> Result<f64> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let (_, times) = in_parallel(call.server, clients, clients.max(4), |client, _| {
        let seed = format!("layers {} ", NEXT.fetch_add(1, Ordering::Relaxed));
        client.push_image("bench/layers", "latest", &seed, LAYERS)
    })?;
    Ok(quantile(&times, 0.5) * 1000.0)
}

fn mounts(call: &Call<'_>) -> Result<f64> {
    let mut client = Client::connect(call.server.address())?;
    let mut digests = Vec::new();
    for blob in 0..MOUNTS {
        digests.push(client.push_bytes("bench/source", format!("mounted {blob}").as_bytes())?);
    }
    let round = call.round;
    let (seconds, _) = in_parallel(call.server, 16, REPOSITORIES * MOUNTS, |client, index| {
        let digest = &digests[index % MOUNTS];
        let repository = format!("bench/round{round}/{}", index / MOUNTS);
        let target = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from=bench/source");
        let reply = client.send("POST", &target, "", b"")?;
        ensure!(reply.status == 201, "mount: {}", reply.status);
        Ok(())
    })?;
    Ok((REPOSITORIES * MOUNTS) as f64 / seconds)
}

/// What a client sends for an image that the registry has: HEADs and the manifest.
fn again(call: &Call<'_>) -> Result<f64> {
    let mut client = Client::connect(call.server.address())?;
    let config = b"{}";
    let mut layers = Vec::new();
    for layer in 0..5 {
        let bytes = format!("again {layer}").into_bytes();
        layers.push((client.push_bytes("bench/again", &bytes)?, bytes.len()));
    }
    let config_digest = client.push_bytes("bench/again", config)?;
    let text = manifest(&config_digest, config.len(), &layers);
    let (_, times) = in_parallel(call.server, 1, 60, |client, _| {
        for digest in layers.iter().map(|(digest, _)| digest).chain([&config_digest]) {
            client.read("HEAD", &format!("/v2/bench/again/blobs/{digest}"), "")?;
        }
        client.put_manifest("bench/again", "latest", &text)
    })?;
    Ok(quantile(&times, 0.5) * 1000.0)
}

fn tags(call: &Call<'_>, one: bool) -> Result<f64> {
    let mut client = Client::connect(call.server.address())?;
    let config = b"{}";
    client.push_bytes("bench/tags", config)?;
    let config_digest = digest(config);
    let round = call.round;
    let (seconds, _) = in_parallel(call.server, WRITERS, TAGS, |client, index| {
        let layers = [(config_digest.clone(), config.len())];
        let text = manifest(&config_digest, config.len(), &layers).replacen(
            '{',
            &format!("{{\"annotations\":{{\"n\":\"{round}-{index}\"}},"),
            1,
        );
        let tag = if one { "latest".to_owned() } else { format!("r{round}-{index}") };
        client.put_manifest("bench/tags", &tag, &text)
    })?;
    Ok(TAGS as f64 / seconds)
}
