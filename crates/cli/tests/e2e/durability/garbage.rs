//! What nobody needs, what is damaged, and why something stays: told by the verbs and by the
//! running registry. Row 25 and 32 of the feature matrix.

use std::os::unix::fs::PermissionsExt as _;

use oci_model::Digest;
use serde_json::{Value, json};

use super::http::{Image, send};
use super::server::{Server, registry};

#[test]
fn garbage_damage_and_the_reasons_are_told_with_and_without_a_running_registry() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path();
    let server = Server::start(state, &["--upkeep-reserve-percent", "1"]);
    let (image, victim) = (Image::new("a", "v1", 5_000), Image::new("b", "v1", 6_000));
    for image in [&image, &victim] {
        assert_eq!(image.push(&server.address).map(|reply| reply.status), Some(201));
    }
    let loose = Digest::of(b"loose");
    assert_eq!(image.put_blob(&server.address, b"loose").map(|reply| reply.status), Some(201));
    let json_of = |arguments: &[&str]| -> Value {
        let text = registry(state, &[arguments, &["-o", "json"]].concat()).ok();
        serde_json::from_str(&text).expect("JSON")
    };
    let status = json_of(&["gc", "status", "--delay", "0"]);
    assert_eq!((&status["blobs"], &status["reclaimableBlobs"]), (&json!(5), &json!(1)), "{status}");
    assert_eq!(status["reclaimableBytes"], json!(5), "{status}");
    let later = json_of(&["gc", "status"]);
    assert_eq!((&later["reclaimableBlobs"], &later["waitingBlobs"]), (&json!(0), &json!(1)));
    // The same from the registry itself, for whoever administers it.
    let ask = |path: &str| {
        let reply = send(&server.address, "GET", path, &[], b"").expect("an answer");
        (reply.status, serde_json::from_slice::<Value>(&reply.body).expect("JSON"))
    };
    let (code, answer) = ask("/v2/_shipway/storage");
    assert_eq!((code, &answer["status"]["waitingBlobs"]), (200, &json!(1)), "{answer}");
    let (code, answer) = ask(&format!("/v2/_shipway/storage/blob?digest={loose}"));
    assert_eq!((code, &answer["neededBy"]), (200, &json!([])), "{answer}");

    let layer = Digest::of(&image.layer);
    let why = json_of(&["gc", "explain", &layer.to_string()]);
    let manifest = Digest::of(&image.manifest);
    assert_eq!(why["neededBy"], json!([format!("registry/a@{manifest}")]), "{why}");
    let text = registry(state, &["gc", "explain", &loose.to_string()]).ok();
    assert!(text.contains("nothing needs it: it goes in "), "{text}");

    let path = state.join("blobs/sha256").join(Digest::of(&victim.layer).encoded());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::write(&path, vec![0; victim.layer.len()]).expect("damage");
    let refused = registry(state, &["verify"]).refused();
    assert!(refused.contains("1 blobs were damaged on disk"), "{refused}");
    let blob = victim.blob_path(&victim.layer);
    let get = || send(&server.address, "GET", &blob, &[], b"").map(|reply| reply.status);
    assert_eq!(get(), Some(404));
    let status = json_of(&["gc", "status"]);
    assert_eq!(status["quarantined"], json!([Digest::of(&victim.layer)]), "{status}");
    assert_eq!(status["missingBlobs"], json!(1), "{status}");
    let refused = registry(state, &["verify"]).refused();
    assert!(refused.contains("1 blobs are missing"), "{refused}");
    assert_eq!(victim.push(&server.address).map(|reply| reply.status), Some(201));
    assert_eq!(get(), Some(200));
    registry(state, &["verify"]).ok();

    let planned = json_of(&["gc", "--dry-run", "--delay", "0"]);
    assert_eq!((&planned["blobs"], &planned["dryRun"]), (&json!(1), &json!(true)), "{planned}");
    assert_eq!(json_of(&["gc", "--delay", "0"])["blobs"], json!(1));
    let status = json_of(&["gc", "status"]);
    assert_eq!(status["lastCollection"]["bytes"], json!(5), "{status}");
    image.verify(&server.address);
    server.stop();
}
