//! Scenarios 1 and 2: manifests and blobs are read.

use anyhow::Result;

use super::client::{Client, Content, MANIFEST, digest};
use super::{Call, Pair, in_parallel, per_second};
use crate::bench::report::{Measurement, Promise};

const REPOSITORY: &str = "bench/read";

/// GETs of a manifest by tag per second, 16 clients.
pub(crate) fn manifests_by_tag(call: &Call<'_>) -> Result<f64> {
    read_image(call, 16, "GET", &format!("/v2/{REPOSITORY}/manifests/latest"))
}

fn read_image(call: &Call<'_>, clients: usize, method: &str, target: &str) -> Result<f64> {
    Client::connect(call.server.address())?.push_image(REPOSITORY, "latest", "read", 1)?;
    let accept = format!("Accept: {MANIFEST}\r\n");
    per_second(call.server, clients, |client| client.read(method, target, &accept).map(drop))
}

/// MiB per second of `count` blobs of `mebibytes` each, pulled by `clients`.
pub(crate) fn blobs(
    call: &Call<'_>,
    clients: usize,
    count: usize,
    mebibytes: usize,
) -> Result<f64> {
    let mut pusher = Client::connect(call.server.address())?;
    let kinds = count.min(16);
    let mut targets = Vec::new();
    for kind in 0..kinds {
        // The same in every round: the second time it is there already.
        let content = Content::new(1_000_000 + kind as u64, mebibytes);
        let digest = content.digest();
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        if pusher.send("HEAD", &target, "", b"")?.status != 200 {
            pusher.push_known(REPOSITORY, &content, &digest)?;
        }
        targets.push(target);
    }
    let (seconds, _) = in_parallel(call.server, clients, count, |client, index| {
        client.read("GET", &targets[index % kinds], "").map(drop)
    })?;
    Ok((count * mebibytes) as f64 / seconds)
}

/// Reads of 64 KiB from within a blob per second.
fn ranges(call: &Call<'_>, clients: usize) -> Result<f64> {
    let content = Content::new(2_000_000, 100);
    let digest = content.digest();
    let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
    let mut pusher = Client::connect(call.server.address())?;
    if pusher.send("HEAD", &target, "", b"")?.status != 200 {
        pusher.push_known(REPOSITORY, &content, &digest)?;
    }
    per_second(call.server, clients, |client| {
        client.read("GET", &target, "Range: bytes=40000000-40065535\r\n").map(drop)
    })
}

pub(crate) fn scenarios(pair: &Pair) -> Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    let config = "{\"seed\":\"read\"}";
    let layer = layer_of("read");
    let text = super::client::manifest(
        &digest(config.as_bytes()),
        config.len(),
        &[(digest(&layer), layer.len())],
    );
    let by_digest = format!("/v2/{REPOSITORY}/manifests/{}", digest(text.as_bytes()));
    let by_tag = format!("/v2/{REPOSITORY}/manifests/latest");
    for clients in [1, 16, 64, 256] {
        for (work, method, target) in [
            ("GET /v2/", "GET", "/v2/"),
            ("manifest HEAD by tag", "HEAD", by_tag.as_str()),
            ("manifest GET by digest", "GET", by_digest.as_str()),
        ] {
            measured.push(pair.by_turns(
                &format!("{work}, {clients} clients"),
                "1/s",
                Promise::None,
                |call| read_image(call, clients, method, target),
            )?);
        }
    }
    for (clients, count, mebibytes) in
        [(1, 500, 1), (16, 1000, 1), (1, 1, 1024), (8, 8, 1024), (32, 32, 1024)]
    {
        measured.push(pair.by_turns(
            &format!("blob pull, {mebibytes} MiB, {clients} clients"),
            "MiB/s",
            Promise::None,
            |call| blobs(call, clients, count, if mebibytes == 1024 { 1024 } else { 1 }),
        )?);
    }
    measured.push(
        pair.by_turns("Range of 64 KiB, 16 clients", "1/s", Promise::None, |call| {
            ranges(call, 16)
        })?,
    );
    Ok(measured)
}

fn layer_of(seed: &str) -> Vec<u8> {
    let text = format!("{seed} 0 ");
    let mut bytes = text.repeat(4096 / text.len() + 1).into_bytes();
    bytes.truncate(4096);
    bytes
}
