//! Power failures under load, on a file system of their own.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use oci_model::Digest;

use super::http::{Image, send};
use super::server::{Disk, Server};
use crate::machine::{run, shipway};

/// How often the power fails under load.
const FAILURES: usize = 8;

const CLIENTS: usize = 4;

/// What happened to an image as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Blobs may have been acknowledged, the manifest was not.
    Nothing,
    Stored,
    /// A delete was sent; nobody knows.
    Deleting,
    Deleted,
}

#[test]
fn a_power_failure_loses_nothing_that_was_acknowledged() {
    let mut disk = Disk::ext4(512);
    let state = disk.path().join("state");
    let mut images: BTreeMap<String, (Image, Told)> = BTreeMap::new();
    let mut unsynced_lost = 0;
    for round in 0..FAILURES {
        let server = Server::start(&state, &[]);
        let (sender, events) = channel();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (address, sender) = (server.address.clone(), sender.clone());
                std::thread::spawn(move || push_until_cut(&address, round, client, &sender))
            })
            .collect();
        drop(sender);
        let mut told = Vec::new();
        // Each round a little later in the life of the store.
        while told.iter().filter(|(_, told)| *told == Told::Stored).count() < 6 + 3 * round {
            told.push(events.recv().expect("clients that push"));
        }
        std::fs::write(disk.path().join("canary"), vec![7; 100_000]).expect("an unsynced file");
        disk.cut_power();
        server.kill();
        for client in clients {
            client.join().expect("no panic");
        }
        told.extend(events);
        for (image, told) in told {
            images.insert(image.manifest_path(), (image, told));
        }
        disk = disk.restore_power();
        let canary = disk.path().join("canary");
        unsynced_lost += usize::from(std::fs::read(&canary).unwrap_or_default().len() < 100_000);
        let _ = std::fs::remove_file(&canary);
        let server = Server::start(&state, &[]);
        for (image, told) in images.values() {
            check(&server.address, image, *told);
        }
        server.kill();
    }
    assert!(unsynced_lost > 0, "the power failures were none");
    let stored = images.values().filter(|(_, told)| *told == Told::Stored).count();
    let deleted = images.values().filter(|(_, told)| *told == Told::Deleted).count();
    assert!(stored > FAILURES && deleted > 0, "{stored} stored, {deleted} deleted");
}

/// Pushes and deletes until the other side is gone; tells of each step.
fn push_until_cut(address: &str, round: usize, client: usize, told: &Sender<(Image, Told)>) {
    let mut last: Option<Image> = None;
    for number in 0.. {
        let tag = format!("t{round}-{client}-{number}");
        let image = Image::new(&format!("team{}/app", client % 2), &tag, 3_000 + number * 40_000);
        let tell =
            |image: &Image, what: Told| told.send((image.clone(), what)).expect("a listener");
        tell(&image, Told::Nothing);
        let blob = if number % 3 == 2 {
            image.put_chunks(address, &image.layer)
        } else {
            image.put_blob(address, &image.layer)
        };
        if blob.is_none_or(|reply| reply.status != 201) {
            return;
        }
        if image.put_blob(address, &image.config).is_none_or(|reply| reply.status != 201) {
            return;
        }
        if image.put_manifest(address).is_none_or(|reply| reply.status != 201) {
            return;
        }
        tell(&image, Told::Stored);
        if let (Some(victim), true) = (&last, number % 4 == 3) {
            tell(victim, Told::Deleting);
            match send(address, "DELETE", &victim.digest_path(), &[], b"") {
                Some(reply) if reply.status == 202 => tell(victim, Told::Deleted),
                _ => return,
            }
        }
        last = Some(image);
    }
}

/// Checks that the registry knows what it said, and that nothing which it shows is broken.
fn check(address: &str, image: &Image, told: Told) {
    let found = send(address, "GET", &image.manifest_path(), &[], b"").expect("an answer").status;
    match told {
        Told::Stored => assert_eq!(found, 200, "{} is lost", image.manifest_path()),
        Told::Deleted => assert_eq!(found, 404, "{} is back", image.manifest_path()),
        Told::Nothing | Told::Deleting => {}
    }
    if found == 200 {
        image.verify(address);
        return;
    }
    for bytes in [&image.layer, &image.config] {
        let path = image.blob_path(bytes);
        let reply = send(address, "GET", &path, &[], b"").expect("an answer");
        match reply.status {
            200 => assert!(reply.body == *bytes, "{path} has other bytes"),
            status => assert_eq!(status, 404, "{path}: {}", reply.text()),
        }
    }
}

/// A blob is acknowledged before its name is durable (ARCHITECTURE.md); what the manifest does
/// then, and that clients get on.
#[test]
fn a_blob_that_a_power_failure_took_is_refused_to_manifests_and_pushed_again() {
    let mut disk = Disk::ext4(256);
    let state = disk.path().join("state");
    let image = Image::new("team/app", "v1", 100_000);
    let server = Server::start(&state, &[]);
    // The stores, the database and a first image are durable.
    assert_eq!(Image::new("team/app", "v0", 10).push(&server.address).map(|r| r.status), Some(201));
    assert_eq!(image.put_blob(&server.address, &image.config).map(|r| r.status), Some(201));
    assert_eq!(image.put_blob(&server.address, &image.layer).map(|r| r.status), Some(201));
    disk.cut_power();
    server.kill();
    disk = disk.restore_power();
    let server = Server::start(&state, &[]);
    let address = &server.address;
    let lost = |bytes: &[u8]| {
        let reply = send(address, "HEAD", &image.blob_path(bytes), &[], b"").expect("an answer");
        assert!(matches!(reply.status, 200 | 404), "{reply:?}");
        reply.status == 404
    };
    if lost(&image.layer) || lost(&image.config) {
        let refused = image.put_manifest(address).expect("an answer");
        assert!(matches!(refused.status, 400 | 404), "{refused:?}");
        assert!(refused.text().contains("MANIFEST_BLOB_UNKNOWN"), "{refused:?}");
    }
    // What people do then: push again, with whatever they push with.
    let layout = disk.path().join("layout");
    write_layout(&layout, &image);
    let from = format!("oci:{}:v1", layout.display());
    let to = format!("docker://{address}/team/app:v1");
    let home = tempfile::tempdir().expect("a directory");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--preserve-digests", "--dest-tls-verify=false", &from, &to]);
    skopeo.env("HOME", home.path());
    run(&mut skopeo, "").ok();
    image.verify(address);
    let to = format!("{address}/other/app:v1");
    let mut push = shipway();
    push.args(["copy", &format!("oci:{}:v1", layout.display()), &to]).env("HOME", home.path());
    run(&mut push, "").ok();
    let copied = send(address, "HEAD", "/v2/other/app/manifests/v1", &[], b"").expect("an answer");
    assert_eq!(copied.status, 200);
    server.stop();
}

/// Writes an image as an OCI image layout.
fn write_layout(path: &std::path::Path, image: &Image) {
    let blobs = path.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a directory");
    for bytes in [&image.layer, &image.config, &image.manifest] {
        std::fs::write(blobs.join(Digest::of(bytes).encoded()), bytes).expect("a blob");
    }
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": super::http::MANIFEST,
            "digest": Digest::of(&image.manifest),
            "size": image.manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": image.tag },
        }],
    });
    std::fs::write(path.join("index.json"), index.to_string()).expect("a file");
}
