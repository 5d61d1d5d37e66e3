//! Scenarios 3 and 4: blobs are pushed; and memory while many large ones are.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::client::{Client, Content};
use super::servers::Server;
use super::{Call, Pair, in_parallel, quantile};
use crate::bench::report::{Measurement, Promise};
use crate::bench::stage::{self, Stage};

const REPOSITORY: &str = "bench/push";

/// Images pushed to find the median.
const SMALL_PUSHES: usize = 60;

/// No two blobs of a run are the same.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Milliseconds of the median push of a config, a layer of 4 KiB and a manifest.
pub(crate) fn small_image(call: &Call<'_>) -> Result<f64> {
    let (_, times) = in_parallel(call.server, 1, SMALL_PUSHES, |client, index| {
        client.push_image(REPOSITORY, &format!("t{index}"), &format!("{:09}", fresh()), 1)
    })?;
    Ok(quantile(&times, 0.5) * 1000.0)
}

type Push = fn(&mut Client, &str, &Content, &str) -> Result<()>;

fn throughput(
    call: &Call<'_>,
    clients: usize,
    count: usize,
    mebibytes: usize,
    push: Push,
) -> Result<f64> {
    // Hashing is the client's work and is done before.
    let blobs: Vec<(Content, String)> = (0..count)
        .map(|_| {
            let content = Content::new(fresh(), mebibytes);
            let digest = content.digest();
            (content, digest)
        })
        .collect();
    let (seconds, _) = in_parallel(call.server, clients, count, |client, index| {
        let (content, digest) = &blobs[index];
        push(client, REPOSITORY, content, digest)
    })?;
    Ok((count * mebibytes) as f64 / seconds)
}

/// MiB per second with POST and PUT.
pub(crate) fn monolithic(
    call: &Call<'_>,
    clients: usize,
    count: usize,
    mebibytes: usize,
) -> Result<f64> {
    throughput(call, clients, count, mebibytes, Client::push_known)
}

/// MiB per second with POST, one PATCH and PUT.
pub(crate) fn streamed(
    call: &Call<'_>,
    clients: usize,
    count: usize,
    mebibytes: usize,
) -> Result<f64> {
    throughput(call, clients, count, mebibytes, Client::push_streamed)
}

pub(crate) fn scenarios(pair: &Pair) -> Result<Vec<Measurement>> {
    let ways: [(&str, Push); 3] = [
        ("POST+PUT", Client::push_known),
        ("POST+PATCH+PUT", Client::push_streamed),
        ("chunks of 5 MiB", Client::push_chunked),
    ];
    let mut measured = Vec::new();
    for (way, push) in ways {
        for (clients, count, mebibytes) in [
            (1, 16, 1),
            (16, 64, 1),
            (64, 64, 1),
            (1, 4, 10),
            (16, 16, 10),
            (64, 64, 10),
            (1, 1, 100),
            (16, 16, 100),
            (1, 1, 1024),
        ] {
            measured.push(pair.by_turns(
                &format!("blob push, {way}, {mebibytes} MiB, {clients} clients"),
                "MiB/s",
                Promise::None,
                |call| throughput(call, clients, count, mebibytes, push),
            )?);
        }
    }
    Ok(measured)
}

/// The most memory that our registry ever held while 64 clients push 1 GiB each, beside what it
/// holds while four do.
pub(crate) fn memory(stage: &Stage) -> Result<Vec<Measurement>> {
    const MEBIBYTES: usize = 1024;
    let mut peaks = Vec::new();
    for clients in [4, 64] {
        let directory = stage::directory()?;
        let server = Server::ours(stage, directory.path())?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            // What is pushed goes at once, so that the disk need not hold 64 GiB.
            scope.spawn(|| remove_as_they_come(&server, &done));
            let pushed = in_parallel(&server, clients, clients, |client, _| {
                let content = Content::new(fresh(), MEBIBYTES);
                client.push_known(REPOSITORY, &content, &content.digest())
            });
            done.store(true, Ordering::Relaxed);
            pushed.map(drop)
        })?;
        peaks.push(server.peak_mib()?);
    }
    Ok(vec![
        Measurement::alone(
            "registry: peak memory while 4 clients push 1 GiB each",
            "MiB",
            vec![peaks[0]],
            Promise::AtMost(256.0),
        ),
        Measurement::alone(
            "registry: peak memory while 64 clients push 1 GiB each",
            "MiB",
            vec![peaks[1]],
            Promise::AtMost(256.0),
        ),
    ])
}

/// Truncates finished blobs in the store behind the registry's back: their memory was used, their
/// space is needed.
fn remove_as_they_come(server: &Server, done: &AtomicBool) {
    let blobs = server.directory().join("blobs/sha256");
    while !done.load(Ordering::Relaxed) {
        for entry in std::fs::read_dir(&blobs).into_iter().flatten().flatten() {
            if entry.metadata().is_ok_and(|metadata| metadata.len() > 1 << 20) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
