//! The registry beside Debian's docker-registry, by turns, on the same disk: the promised numbers,
//! and scenarios 1 to 8 and 10 of the design's list.
//!
//! Both run with their default settings; the peer's access log is off. Every scenario runs
//! [`ROUNDS`] times, ours and the peer's by turns.

mod client;
mod collection;
mod listings;
mod metadata;
mod pulls;
mod pushes;
mod servers;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::report::{Measurement, Promise};
use super::stage::{self, Stage};
use client::Client;
use servers::Server;

/// How often each is measured on each server.
const ROUNDS: usize = 3;

/// How long a scenario without a natural end goes on.
const READ_TIME: Duration = Duration::from_secs(2);

/// What the peer is called in the table.
const PEER: &str = "docker-registry";

/// The numbers that the design promises.
pub(crate) fn promised(stage: &Stage) -> Result<Vec<Measurement>> {
    let directory = stage::directory()?;
    let pair = Pair::start(stage, directory.path())?;
    let mut measured = vec![pair.idle_memory()?];
    measured.extend([
        pair.by_turns(
            "manifest GET by tag, 16 clients",
            "1/s",
            Promise::RatioAtLeast(4.0),
            pulls::manifests_by_tag,
        )?,
        pair.by_turns(
            "small image push (config, 4 KiB layer, manifest), p50",
            "ms",
            Promise::RatioAtMost(0.25),
            pushes::small_image,
        )?,
        pair.by_turns("1 GiB blob push, POST+PUT", "MiB/s", Promise::RatioAtLeast(3.0), |call| {
            pushes::monolithic(call, 1, 1, 1024)
        })?,
        pair.by_turns(
            "1 GiB blob push, POST+PATCH+PUT",
            "MiB/s",
            Promise::RatioAtLeast(3.0),
            |call| pushes::streamed(call, 1, 1, 1024),
        )?,
        pair.by_turns("1 GiB blob pull", "MiB/s", Promise::RatioAtLeast(1.5), |call| {
            pulls::blobs(call, 1, 1, 1024)
        })?,
    ]);
    Ok(measured)
}

/// The scenarios of `reference/registry.md` 6.4 that both can do.
pub(crate) fn scenarios(stage: &Stage) -> Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    for part in [pulls::scenarios, pushes::scenarios, metadata::scenarios, listings::scenarios] {
        let directory = stage::directory()?;
        let pair = Pair::start(stage, directory.path())?;
        measured.extend(part(&pair)?);
    }
    Ok(measured)
}

/// Requests beside a collection at full speed, and what it gives back.
pub(crate) fn collections(stage: &Stage) -> Result<Vec<Measurement>> {
    collection::beside_clients(stage)
}

/// Memory of the registry while many clients push large blobs.
pub(crate) fn memory(stage: &Stage) -> Result<Vec<Measurement>> {
    pushes::memory(stage)
}

/// Ours and the peer's, side by side.
pub(crate) struct Pair {
    ours: Server,
    theirs: Server,
}

/// One measurement of one server.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a Server,
    /// Counts rounds, so that no two push the same bytes.
    pub(crate) round: usize,
}

impl Pair {
    fn start(stage: &Stage, directory: &std::path::Path) -> Result<Self> {
        Ok(Self {
            ours: Server::ours(stage, &directory.join("ours"))?,
            theirs: Server::theirs(&directory.join("theirs"))?,
        })
    }

    fn idle_memory(&self) -> Result<Measurement> {
        Ok(Measurement::beside(
            "idle memory (RSS)",
            PEER,
            "MiB",
            vec![self.ours.resident_mib()?],
            vec![self.theirs.resident_mib()?],
            Promise::AtMost(20.0),
        ))
    }

    /// Measures both, [`ROUNDS`] times by turns.
    fn by_turns(
        &self,
        work: &str,
        unit: &'static str,
        promise: Promise,
        mut measure: impl FnMut(&Call<'_>) -> Result<f64>,
    ) -> Result<Measurement> {
        static ROUND: AtomicUsize = AtomicUsize::new(0);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let round = ROUND.fetch_add(1, Ordering::Relaxed);
            ours.push(measure(&Call { server: &self.ours, round })?);
            theirs.push(measure(&Call { server: &self.theirs, round })?);
        }
        Ok(Measurement::beside(work, PEER, unit, ours, theirs, promise))
    }
}

/// Runs `work(client, index)` for every index below `total` on `clients` connections; returns the
/// seconds it took and the sorted seconds of each.
pub(crate) fn in_parallel(
    server: &Server,
    clients: usize,
    total: usize,
    work: impl Fn(&mut Client, usize) -> Result<()> + Sync,
) -> Result<(f64, Vec<f64>)> {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let times = each_client(server, clients, |client| {
        let mut times = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= total {
                return Ok(times);
            }
            let begun = Instant::now();
            work(client, index)?;
            times.push(begun.elapsed().as_secs_f64());
        }
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let mut times: Vec<f64> = times.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    Ok((seconds, times))
}

/// Runs `work` again and again on `clients` connections for [`READ_TIME`]; returns how often per
/// second.
pub(crate) fn per_second(
    server: &Server,
    clients: usize,
    work: impl Fn(&mut Client) -> Result<()> + Sync,
) -> Result<f64> {
    let started = Instant::now();
    let counts = each_client(server, clients, |client| {
        let mut count = 0_u32;
        while started.elapsed() < READ_TIME {
            work(client)?;
            count += 1;
        }
        Ok(count)
    })?;
    Ok(f64::from(counts.iter().sum::<u32>()) / started.elapsed().as_secs_f64())
}

fn each_client<T: Send>(
    server: &Server,
    clients: usize,
    work: impl Fn(&mut Client) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| scope.spawn(|| work(&mut Client::connect(server.address())?)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?)
            .collect()
    })
}

/// The value below which `share` of the sorted `values` lie.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
