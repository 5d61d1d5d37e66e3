//! Scenario 10: requests beside a collection.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::client::Client;
use super::servers::Server;
use super::{in_parallel, quantile};
use crate::bench::report::{Measurement, Promise};
use crate::bench::stage::{self, Stage};

const GARBAGE: usize = 100_000;
const CLIENTS: usize = 16;
const REQUESTS: usize = 4000;

/// How long ago a blob must have been used to be garbage: longer than a push takes.
const DELAY_SECONDS: u64 = 5;

/// The slowest hundredth of pushes and pulls by 16 clients, with a collection of 100 000 blobs
/// beside them and without; and how long that collection takes.
pub(crate) fn beside_clients(stage: &Stage) -> Result<Vec<Measurement>> {
    let directory = stage::directory()?;
    let server = Server::ours(stage, directory.path())?;
    make_garbage(&server)?;
    std::thread::sleep(Duration::from_secs(DELAY_SECONDS + 1));
    let idle = mixed(&server)?;
    let collected = AtomicBool::new(false);
    let (busy, seconds) = std::thread::scope(|scope| -> Result<_> {
        let collection = scope.spawn(|| {
            let started = Instant::now();
            let ended = collect(stage, directory.path());
            collected.store(true, Ordering::Relaxed);
            ended.map(|()| started.elapsed().as_secs_f64())
        });
        let mut times = Vec::new();
        while !collected.load(Ordering::Relaxed) {
            times.extend(mixed(&server)?);
        }
        times.sort_by(f64::total_cmp);
        let seconds =
            collection.join().map_err(|_| anyhow::anyhow!("the collection panicked"))??;
        Ok((times, seconds))
    })?;
    Ok(vec![
        Measurement::beside(
            "p99 of pushes and pulls by 16 clients beside a collection",
            "the same without it",
            "ms",
            vec![quantile(&busy, 0.99) * 1000.0],
            vec![quantile(&idle, 0.99) * 1000.0],
            Promise::RatioAtMost(2.0),
        ),
        Measurement::alone(
            &format!("collection of {GARBAGE} blobs beside them"),
            "s",
            vec![seconds],
            Promise::None,
        ),
    ])
}

/// Blobs that no manifest needs.
fn make_garbage(server: &Server) -> Result<()> {
    in_parallel(server, 16, GARBAGE, |client, index| {
        client.push_bytes("bench/garbage", format!("garbage {index}").as_bytes()).map(drop)
    })
    .map(drop)
}

/// Three pulls to a push; the sorted seconds of each.
fn mixed(server: &Server) -> Result<Vec<f64>> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut client = Client::connect(server.address())?;
    client.push_image("bench/mixed", "latest", "mixed", 1)?;
    let (_, times) = in_parallel(server, CLIENTS, REQUESTS, |client, index| {
        if index % 4 == 0 {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            return client.push_image("bench/mixed", "pushed", &format!("mixed {number} "), 1);
        }
        client.read("GET", "/v2/bench/mixed/manifests/latest", "").map(drop)
    })?;
    Ok(times)
}

fn collect(stage: &Stage, state: &std::path::Path) -> Result<()> {
    let output = Command::new(&stage.shipway)
        .args(["registry", "gc", "--delay", &DELAY_SECONDS.to_string(), "-o", "json"])
        .arg("--state-dir")
        .arg(state)
        .output()
        .context("cannot start shipway")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let blobs = report["blobs"].as_u64().unwrap_or_default();
    ensure!(blobs >= GARBAGE as u64, "only {blobs} blobs were collected");
    Ok(())
}
