//! Processes that die in the middle. The child is this test binary again, told what to do by an
//! environment variable.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use blob_store::{BlobStore, RefName};
use oci_model::{Algorithm, Digest};

use crate::{collect_now, name, store};

const ROLE: &str = "BLOB_STORE_CHILD_ROLE";
const ROOT: &str = "BLOB_STORE_CHILD_ROOT";

/// How often a child is killed: enough to hit every step of a push, in a few seconds.
const KILLS: u32 = 25;

fn child(role: &str, store: &BlobStore) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "crash::child_process", "--nocapture", "--quiet"])
        .env(ROLE, role)
        .env(ROOT, store.root())
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .expect("a child")
}

/// Not a test: what the children run.
#[test]
fn child_process() {
    let (Ok(role), Some(root)) = (std::env::var(ROLE), std::env::var_os(ROOT)) else { return };
    let store = BlobStore::open(root).expect("the store");
    match role.as_str() {
        "push" => push_forever(&store),
        "lease" => hold_a_lease(&store),
        _ => panic!("unknown role {role}"),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("a pipe to the parent");
}

/// Pushes images and says after each what was acknowledged.
fn push_forever(store: &BlobStore) {
    let seed = std::process::id();
    for round in 0u32.. {
        let lease = store.lease().expect("a lease");
        let mut digests = Vec::new();
        for size in [10, 5_000, 400_000] {
            let mut ingest = store.ingest().expect("an ingest").guarded_by(&lease);
            let line = format!("{seed} {round} {size} ");
            ingest.write_all(line.repeat(size / line.len() + 1).as_bytes()).expect("a write");
            digests.push(ingest.commit_any().expect("a commit"));
        }
        let mut upload = store.begin_upload("crash", Algorithm::Sha256).expect("an upload");
        let part = format!("{seed} {round} upload");
        upload.append(part.as_bytes()).expect("bytes");
        digests.push(Digest::of(part.as_bytes()));
        upload.commit(&Digest::of(part.as_bytes())).expect("a commit");
        let name: RefName = format!("build/{seed}-{round}").parse().expect("a name");
        store.set_ref(&name, &digests).expect("a ref");
        say(name.as_str());
    }
}

fn hold_a_lease(store: &BlobStore) {
    let lease = store.lease().expect("a lease");
    let digest = store.put(b"leased by a child").expect("a blob");
    assert!(lease.add(&digest).expect("an answer"));
    say("held");
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn nothing_acknowledged_is_lost_when_processes_are_killed() {
    let (_directory, store) = store();
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        let mut child = child("push", &store);
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        // Later rounds die after more pushes, each at an arbitrary place of the next one.
        for _ in 0..=round % 5 {
            let line = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("build/"));
            acknowledged.push(line.expect("an acknowledged push"));
        }
        if round % 3 == 0 {
            store.collect(&collect_now(), |_, _| {}).expect("a collection");
        }
        child.kill().expect("a kill");
        child.wait().expect("its end");
        let rest = lines.map_while(Result::ok).filter(|line| line.starts_with("build/"));
        acknowledged.extend(rest);
    }
    let store = BlobStore::open(store.root()).expect("the store");
    store.collect(&collect_now(), |_, _| {}).expect("a collection");
    for text in &acknowledged {
        let digests = store.get_ref(&name(text)).expect("an answer").expect("the ref");
        assert_eq!(digests.len(), 4);
    }
    // Whatever is visible is intact, and the dead left no litter.
    store
        .for_each_blob(|digest, size| -> Result<(), blob_store::ReadError> {
            store.read(&digest, size).map(drop)
        })
        .expect("intact blobs");
    for litter in ["staging", "trash", "leases", "quarantine"] {
        let entries = std::fs::read_dir(store.root().join(litter)).expect("a directory").count();
        assert_eq!(entries, 0, "{litter} is not empty");
    }
}

#[test]
fn a_lease_dies_with_its_process() {
    let (_directory, store) = store();
    let mut child = child("lease", &store);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    lines.by_ref().map_while(Result::ok).find(|line| line == "held").expect("a held lease");
    assert_eq!(store.collect(&collect_now(), |_, _| {}).expect("a collection").blobs, 0);
    child.kill().expect("a kill");
    child.wait().expect("its end");
    assert_eq!(store.collect(&collect_now(), |_, _| {}).expect("a collection").blobs, 1);
}
