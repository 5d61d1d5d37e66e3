//! What a push costs, counted by strace.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::http::Image;
use super::server::Server;

/// Syncs between two moments, by what was synced.
#[derive(Clone, Copy, Debug, Default)]
struct Syncs {
    /// Files of blobs.
    blobs: usize,
    directories: usize,
    /// The database.
    metadata: usize,
    others: usize,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs_f64()
}

/// Reads lines such as `1234 1700000000.5 fdatasync(17</state/registry/metadata.redb>) = 0`.
fn count(log: &Path, from: f64, to: f64) -> Syncs {
    let mut syncs = Syncs::default();
    for line in std::fs::read_to_string(log).expect("strace's log").lines() {
        let mut words = line.split_whitespace();
        let at: f64 = words.nth(1).and_then(|text| text.parse().ok()).unwrap_or_default();
        let call = words.next().unwrap_or_default();
        if at < from || at > to || !call.contains("sync") || call.starts_with('<') {
            continue;
        }
        match call {
            call if call.contains("/registry/metadata.redb") => syncs.metadata += 1,
            call if call.contains("/uploads/") || call.contains("/staging/") => syncs.blobs += 1,
            call if call.contains("/blobs/sha256>") => syncs.directories += 1,
            _ => syncs.others += 1,
        }
    }
    syncs
}

#[test]
fn a_small_push_costs_two_file_syncs_and_one_commit_and_a_burst_shares_commits() {
    const PUSHES: usize = 6;
    const BURST: usize = 32;
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("strace.log");
    let server = Server::traced(&directory.path().join("state"), &log);
    let push = |tag: &str| {
        let from = now();
        let image = Image::new("team/app", tag, 4096);
        assert_eq!(image.push(&server.address).map(|reply| reply.status), Some(201));
        (from, now())
    };
    push("first");
    let times: Vec<_> = (0..PUSHES).map(|number| push(&format!("v{number}"))).collect();
    let image = Image::new("team/app", "burst", 4096);
    assert_eq!(image.push(&server.address).map(|reply| reply.status), Some(201));
    let from = now();
    std::thread::scope(|scope| {
        for number in 0..BURST {
            let (image, address) = (image.clone(), &server.address);
            scope.spawn(move || {
                let image = Image { tag: format!("burst{number}"), ..image };
                assert_eq!(image.put_manifest(address).map(|reply| reply.status), Some(201));
            });
        }
    });
    let to = now();
    server.stop();
    // A push that took over a second shares its time with the timer that commits idle links.
    let each: Vec<Syncs> = times.iter().map(|(from, to)| count(&log, *from, *to)).collect();
    let least = each.iter().min_by_key(|syncs| syncs.metadata + syncs.directories).expect("some");
    assert_eq!((least.blobs, least.directories, least.others), (2, 1, 0), "{each:?}");
    assert_eq!(least.metadata, 1, "{each:?}");
    let burst = count(&log, from, to);
    assert!(burst.metadata < BURST / 2, "{burst:?}");
}
