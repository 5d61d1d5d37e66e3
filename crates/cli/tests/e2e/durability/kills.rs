//! kill -9 of `registry serve` while clients push in chunks, delete, and collections run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use oci_model::Digest;

use super::http::{Image, noise, send};
use super::server::{Server, registry};

/// How often the registry is killed.
const KILLS: usize = 10;

const CLIENTS: usize = 3;

/// What a client was told, or what it left half done.
enum Event {
    Stored(Image),
    Deleting(Image),
    Deleted(Image),
    /// An upload of so many acknowledged bytes, of a blob of the repository.
    Uploading {
        location: String,
        bytes: Vec<u8>,
        acknowledged: usize,
    },
}

#[test]
fn a_killed_registry_loses_nothing_beside_uploads_deletes_and_collections() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path();
    let mut stored: Vec<Image> = Vec::new();
    let (mut deleted, mut unsure) = (Vec::new(), Vec::new());
    let (mut resumed, mut collected) = (0, 0);
    for round in 0..KILLS {
        let server = Server::start(state, &[]);
        let (sender, events) = channel();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (address, sender) = (server.address.clone(), sender.clone());
                scope.spawn(move || work_until_killed(&address, round, client, &sender));
            }
            drop(sender);
            let collector = scope.spawn(|| {
                let mut removed = 0;
                while !done.load(Ordering::Relaxed) {
                    let report = registry(state, &["gc", "--delay", "0", "-o", "json"]).ok();
                    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
                    removed += report["blobs"].as_u64().expect("a number");
                }
                removed
            });
            let mut told = Vec::new();
            let enough = |told: &[Event]| {
                told.iter().filter(|event| matches!(event, Event::Stored(_))).count() >= 3 + round
            };
            while !enough(&told) {
                told.push(events.recv().expect("clients that push"));
            }
            server.kill();
            told.extend(events);
            done.store(true, Ordering::Relaxed);
            collected += collector.join().expect("no panic");
            let server = Server::start(state, &[]);
            for event in told {
                match event {
                    Event::Stored(image) => stored.push(image),
                    Event::Deleting(image) => unsure.push(image),
                    Event::Deleted(image) => deleted.push(image),
                    Event::Uploading { location, bytes, acknowledged } => {
                        resume(&server.address, &location, &bytes, acknowledged);
                        resumed += 1;
                    }
                }
            }
            let is_among = |list: &[Image], image: &Image| {
                list.iter().any(|other| other.manifest == image.manifest)
            };
            for image in &deleted {
                let reply = send(&server.address, "GET", &image.digest_path(), &[], b"");
                assert_eq!(reply.map(|reply| reply.status), Some(404), "{}", image.digest_path());
            }
            stored.retain(|image| !is_among(&deleted, image) && !is_among(&unsure, image));
            for image in &stored {
                image.verify(&server.address);
            }
            server.kill();
        });
    }
    assert!(stored.len() > KILLS && !deleted.is_empty());
    assert!(resumed > 0, "uploads went on after a kill");
    assert!(collected > 0, "collections removed something");
    let verified = registry(state, &["verify"]).ok();
    assert!(verified.starts_with("verified: "), "{verified}");
}

fn work_until_killed(address: &str, round: usize, client: usize, told: &Sender<Event>) {
    for number in 0.. {
        let tag = format!("t{round}-{client}-{number}");
        let image = Image::new("team/app", &tag, 5_000 + number * 10_000);
        // Collections have no delay here: they may take a blob before its manifest names it.
        let pushed = (0..100).find_map(|_| match push(address, &image, number) {
            Some(201) => Some(true),
            Some(_) => None,
            None => Some(false),
        });
        if !pushed.expect("a push that comes through") {
            return;
        }
        let tell = |event| told.send(event).expect("a listener");
        tell(Event::Stored(image.clone()));
        if number % 3 == 1 {
            tell(Event::Deleting(image.clone()));
            match send(address, "DELETE", &image.digest_path(), &[], b"") {
                Some(reply) if reply.status == 202 => tell(Event::Deleted(image)),
                _ => return,
            }
        }
        if number % 2 == 0 && !leave_half(address, &tag, told) {
            return;
        }
    }
}

/// The status of the manifest, or `None` if the registry died.
fn push(address: &str, image: &Image, number: usize) -> Option<u16> {
    let layer = if number.is_multiple_of(2) {
        image.put_chunks(address, &image.layer)?
    } else {
        image.put_blob(address, &image.layer)?
    };
    assert_eq!(layer.status, 201, "{}", layer.text());
    assert_eq!(image.put_blob(address, &image.config)?.status, 201);
    let reply = image.put_manifest(address)?;
    assert!(reply.status == 201 || reply.text().contains("MANIFEST_BLOB_UNKNOWN"), "{reply:?}");
    Some(reply.status)
}

/// Begins an upload that another process has to end.
fn leave_half(address: &str, seed: &str, told: &Sender<Event>) -> bool {
    let bytes = noise(&format!("half {seed}"), 300_000);
    let Some(begun) = send(address, "POST", "/v2/team/app/blobs/uploads/", &[], b"") else {
        return false;
    };
    let location = begun.header("location").expect("a place").to_owned();
    let Some(reply) = send(address, "PATCH", &location, &[], &bytes[..200_000]) else {
        return false;
    };
    assert_eq!(reply.status, 202, "{}", reply.text());
    told.send(Event::Uploading { location, bytes, acknowledged: 200_000 }).is_ok()
}

/// Goes on with an upload where the killed registry acknowledged it.
fn resume(address: &str, location: &str, bytes: &[u8], acknowledged: usize) {
    let status = send(address, "GET", location, &[], b"").expect("an answer");
    assert_eq!(status.status, 204, "{}", status.text());
    assert_eq!(status.header("range"), Some(&format!("0-{}", acknowledged - 1)[..]));
    let range = format!("{acknowledged}-{}", bytes.len() - 1);
    let headers = [("Content-Range", &range[..])];
    let place = status.header("location").expect("a place");
    let reply = send(address, "PATCH", place, &headers, &bytes[acknowledged..]);
    let reply = reply.expect("an answer");
    assert_eq!(reply.status, 202, "{}", reply.text());
    let path = format!("{place}?digest={}", Digest::of(bytes));
    let reply = send(address, "PUT", &path, &[], b"").expect("an answer");
    assert_eq!(reply.status, 201, "{}", reply.text());
}
