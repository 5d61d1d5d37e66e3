//! Backup and restore, as docs/registry-operations.md tells it. Row 77 of the feature matrix.

use std::path::Path;

use oci_model::Digest;
use serde_json::{Value, json};

use super::http::{Image, send};
use super::server::{Server, registry};

fn report(state: &Path, arguments: &[&str]) -> Value {
    let text = registry(state, &[arguments, &["-o", "json"]].concat()).ok();
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_backup_of_a_running_registry_restores_what_it_held() {
    let directory = tempfile::tempdir().expect("a directory");
    let (state, other) = (directory.path().join("state"), directory.path().join("other"));
    let backup = directory.path().join("backup");
    let to = backup.to_str().expect("UTF-8");
    let server = Server::start(&state, &[]);
    let push = |tag: &str| {
        let image = Image::new("team/app", tag, 30_000);
        assert_eq!(image.push(&server.address).map(|reply| reply.status), Some(201));
        image
    };
    let (first, second) = (push("v1"), push("v2"));
    let online = ["--registry", &server.address];
    let planned = report(&state, &[&["backup", to, "--dry-run"][..], &online].concat());
    assert!(!backup.exists());
    let done = report(&state, &[&["backup", to][..], &online].concat());
    assert_eq!(done, planned);
    assert_eq!((&done["manifests"], &done["blobs"]), (&json!(2), &json!(4)), "{done}");
    // Later: one more, one less. Only what is new is copied; what is in the trash stays, for a
    // restored registry can take it out again.
    let third = push("v3");
    let delete = |image: &Image| send(&server.address, "DELETE", &image.digest_path(), &[], b"");
    assert_eq!(delete(&first).map(|reply| reply.status), Some(202));
    let again = report(&state, &[&["backup", to][..], &online].concat());
    assert_eq!((&again["blobs"], &again["present"]), (&json!(6), &json!(4)), "{again}");
    let snapshots = || {
        let entries = std::fs::read_dir(backup.join("snapshots")).expect("a directory");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(snapshots().len(), 2);
    let leftovers = std::fs::read_dir(state.join("registry")).expect("a directory");
    let leftovers = leftovers
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("snapshot-"));
    assert_eq!(leftovers.count(), 0);
    server.stop();
    // Without a running registry as well.
    assert_eq!(report(&state, &["backup", to])["present"], json!(6));

    // Another machine: the drill, then the newest.
    let drill = report(&other, &["restore", to, "--dry-run"]);
    assert_eq!((&drill["blobs"], &drill["problems"]), (&json!(6), &json!([])), "{drill}");
    report(&other, &["restore", to]);
    let server = Server::start(&other, &[]);
    second.verify(&server.address);
    third.verify(&server.address);
    let gone = send(&server.address, "GET", &first.manifest_path(), &[], b"");
    assert_eq!(gone.map(|reply| reply.status), Some(404));
    let refused = registry(&other, &["restore", to, "--replace"]).refused();
    assert!(refused.contains("another registry uses"), "{refused}");
    server.stop();
    // The oldest over the newest, in place, when its blobs were not all collected yet.
    let refused = registry(&other, &["restore", to]).refused();
    assert!(refused.contains("--replace"), "{refused}");
    let oldest = snapshots().remove(0);
    report(&other, &["restore", to, "--replace", "--link", "--snapshot", &oldest]);
    let server = Server::start(&other, &[]);
    first.verify(&server.address);
    second.verify(&server.address);
    let gone = send(&server.address, "GET", &third.manifest_path(), &[], b"");
    assert_eq!(gone.map(|reply| reply.status), Some(404));
    server.stop();
    // What nobody needs now goes, and nothing else.
    assert_eq!(report(&other, &["gc", "--delay", "0"])["blobs"], json!(2));
    registry(&other, &["verify"]).ok();

    // A backup that rotted says so in the drill, and restores the rest only with leave.
    let hex = Digest::of(&second.layer).encoded();
    let path = backup.join("blobs/sha256").join(&hex);
    std::fs::write(&path, b"rotten").expect("damage");
    let refused = registry(&state, &["restore", to, "--dry-run"]).refused();
    assert!(refused.contains("is damaged"), "{refused}");
    let fresh = directory.path().join("fresh");
    let refused = registry(&fresh, &["restore", to]).refused();
    assert!(refused.contains(&hex) && refused.contains("--with-missing"), "{refused}");
    let refused = registry(&fresh, &["restore", to, "--with-missing"]).refused();
    assert!(refused.contains("left out"), "{refused}");
    let server = Server::start(&fresh, &[]);
    third.verify(&server.address);
    server.stop();
}
