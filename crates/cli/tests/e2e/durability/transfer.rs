//! Import and export with the registries and clients that others use. Rows 76 and 3 of the
//! feature matrix.

use std::path::Path;
use std::process::Command;

use oci_model::Digest;
use serde_json::{Value, json};

use super::http::{Image, MANIFEST, send};
use super::server::{Server, registry};
use crate::machine::{DebianRegistry, PASSWORD, USER, base64_encode, run};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A client of Debian's registry with its user.
struct Debian {
    registry: DebianRegistry,
    authorization: String,
}

impl Debian {
    fn start() -> Self {
        let registry = DebianRegistry::start(USER, PASSWORD);
        let authorization =
            format!("Basic {}", base64_encode(&format!("{USER}:{PASSWORD}")).trim());
        Self { registry, authorization }
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8], status: u16) -> String {
        let path = path.strip_prefix(&format!("http://{}", self.registry.address)).unwrap_or(path);
        let headers = [("Authorization", &self.authorization[..]), ("Content-Type", media_type)];
        let reply = send(&self.registry.address, method, path, &headers, body).expect("an answer");
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        reply.header("location").unwrap_or_default().to_owned()
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let start = format!("/v2/{repository}/blobs/uploads/");
        let location = self.send("POST", &start, "application/octet-stream", b"", 202);
        let path = format!("{location}&digest={}", Digest::of(bytes));
        self.send("PUT", &path, "application/octet-stream", bytes, 201);
    }

    fn push_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send("PUT", &path, media_type, bytes, 201);
    }

    fn push(&self, image: &Image) {
        self.push_blob(&image.repository, &image.layer);
        self.push_blob(&image.repository, &image.config);
        self.push_manifest(&image.repository, &image.tag, MANIFEST, &image.manifest);
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

fn import(state: &Path, arguments: &[&str]) -> Value {
    let ran = registry(state, &[&["import", "-o", "json"], arguments].concat());
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}{}", ran.stdout, ran.stderr))
}

#[test]
fn a_distribution_registry_moves_in_with_everything_that_it_holds() {
    let debian = Debian::start();
    let plain = Image::new("library/plain", "v1", 50_000);
    debian.push(&plain);
    // Two platforms under an index, and the same layer in a second repository.
    let (amd64, arm64) = (Image::new("team/app", "a", 60_000), Image::new("team/app", "b", 70_000));
    debian.push(&amd64);
    debian.push(&arm64);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        descriptor(MANIFEST, &amd64.manifest), descriptor(MANIFEST, &arm64.manifest),
    ]})
    .to_string();
    debian.push_manifest("team/app", "multi", INDEX, index.as_bytes());
    // An untagged image, and a signature-like artifact by its subject, listed by the fallback tag.
    let untagged = Image::new("team/app", "gone", 1_000);
    debian.push_blob("team/app", &untagged.layer);
    debian.push_blob("team/app", &untagged.config);
    let by_digest = Digest::of(&untagged.manifest).to_string();
    debian.push_manifest("team/app", &by_digest, MANIFEST, &untagged.manifest);
    debian.push_blob("team/app", b"{}");
    let artifact = json!({ "schemaVersion": 2, "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [descriptor("application/vnd.oci.empty.v1+json", b"{}")],
        "subject": descriptor(INDEX, index.as_bytes()) })
    .to_string();
    let artifact_digest = Digest::of(artifact.as_bytes());
    debian.push_manifest("team/app", &artifact_digest.to_string(), MANIFEST, artifact.as_bytes());
    let fallback = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        descriptor(MANIFEST, artifact.as_bytes()) ] })
    .to_string();
    let subject = Digest::of(index.as_bytes());
    let fallback_tag = format!("sha256-{}", subject.encoded());
    debian.push_manifest("team/app", &fallback_tag, INDEX, fallback.as_bytes());
    // And what is broken there: a layer that is gone, one that rotted, a link without a digest.
    let (short, rotten) =
        (Image::new("bad/short", "v1", 2_000), Image::new("bad/rot", "v1", 3_000));
    debian.push(&short);
    debian.push(&rotten);
    let tree = debian.registry.data();
    let v2 = tree.join("docker/registry/v2");
    let data = |bytes: &[u8]| {
        let hex = Digest::of(bytes).encoded();
        v2.join("blobs/sha256").join(&hex[..2]).join(&hex).join("data")
    };
    std::fs::remove_file(data(&short.layer)).expect("a blob");
    let mut bytes = rotten.layer.clone();
    bytes[0] ^= 1;
    std::fs::write(data(&rotten.layer), bytes).expect("a blob");
    let tags = v2.join("repositories/library/plain/_manifests/tags");
    std::fs::create_dir_all(tags.join("torn/current")).expect("a directory");
    std::fs::write(tags.join("torn/current/link"), "sha256:12").expect("a link");
    drop(debian.authorization);

    let tree = tree.to_str().expect("UTF-8");
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path();
    let planned = import(state, &[tree, "--dry-run"]);
    assert_eq!((&planned["manifests"], &planned["tags"]), (&json!(8), &json!(6)), "{planned}");
    assert!(!state.join("registry/metadata.redb").exists(), "a dry run writes nothing");
    let report = import(state, &[tree]);
    let problems = report["problems"].as_array().expect("a list");
    let objects: Vec<_> = problems.iter().map(|problem| &problem["object"]).collect();
    let bad =
        |image: &Image| json!(format!("{}@{}", image.repository, Digest::of(&image.manifest)));
    assert_eq!(objects, [&bad(&rotten), &bad(&short), &json!("library/plain:torn")], "{report}");
    assert!(problems[0]["reason"].as_str().expect("text").contains("damaged"), "{report}");
    assert!(problems[1]["reason"].as_str().expect("text").contains("missing"), "{report}");
    assert_eq!((&report["manifests"], &report["tags"]), (&json!(7), &json!(5)), "{report}");
    assert_eq!(report["linked"], report["blobs"], "in place: no byte is there twice");
    // Again: nothing is left to do.
    let again = import(state, &[tree, "--copy"]);
    assert_eq!((&again["present"], &again["linked"]), (&report["blobs"], &json!(0)), "{again}");

    let server = Server::start(state, &[]);
    for image in [&plain, &amd64, &arm64] {
        image.verify(&server.address);
    }
    let get = |path: &str| send(&server.address, "GET", path, &[], b"").expect("an answer");
    assert_eq!(get("/v2/team/app/manifests/multi").text(), index);
    assert_eq!(get(&untagged.digest_path()).status, 200);
    assert_eq!(get("/v2/bad/rot/manifests/v1").status, 404);
    let referrers: Value =
        serde_json::from_slice(&get(&format!("/v2/team/app/referrers/{subject}")).body)
            .expect("JSON");
    assert_eq!(referrers["manifests"][0]["digest"], json!(artifact_digest));
    assert_eq!(referrers["manifests"].as_array().map(Vec::len), Some(1), "{referrers}");
    let home = tempfile::tempdir().expect("a directory");
    let from = format!("docker://{}/team/app:multi", server.address);
    let to = format!("oci:{}:multi", home.path().join("pulled").display());
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--all", "--src-tls-verify=false", &from, &to]).env("HOME", home.path());
    run(&mut skopeo, "").ok();
    let refused = registry(state, &["import", tree]).refused();
    assert!(refused.contains("another registry uses"), "{refused}");
    server.stop();
}

#[test]
fn a_repository_goes_out_as_a_layout_and_comes_in_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    let layout = directory.path().join("layout");
    let layout_text = layout.to_str().expect("UTF-8");
    let server = Server::start(&from, &[]);
    let images: Vec<Image> =
        (0..3).map(|number| Image::new("team/app", &format!("v{number}"), 20_000)).collect();
    for image in &images {
        assert_eq!(image.push(&server.address).map(|reply| reply.status), Some(201));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        descriptor(MANIFEST, &images[0].manifest), descriptor(MANIFEST, &images[1].manifest) ]})
    .to_string();
    let headers = [("Content-Type", INDEX)];
    let put = |path: &str| {
        send(&server.address, "PUT", path, &headers, index.as_bytes()).map(|reply| reply.status)
    };
    assert_eq!(put("/v2/team/app/manifests/multi"), Some(201));
    let signature = json!({ "schemaVersion": 2, "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &images[2].config),
        "layers": [], "subject": descriptor(INDEX, index.as_bytes()) })
    .to_string();
    let digest = Digest::of(signature.as_bytes());
    let path = format!("/v2/team/app/manifests/{digest}");
    let headers = [("Content-Type", MANIFEST)];
    let reply = send(&server.address, "PUT", &path, &headers, signature.as_bytes());
    assert_eq!(reply.map(|reply| reply.status), Some(201));
    server.stop();

    let export = |arguments: &[&str]| {
        let arguments = [&["export", "team/app", layout_text, "-o", "json"], arguments].concat();
        let report = registry(&from, &arguments).ok();
        serde_json::from_str::<Value>(&report).expect("JSON")
    };
    let planned = export(&["--dry-run"]);
    assert!(!layout.exists());
    let report = export(&[]);
    assert_eq!(report, planned);
    assert_eq!((&report["tags"], &report["manifests"]), (&json!(4), &json!(5)), "{report}");
    // Other tools read it.
    let home = tempfile::tempdir().expect("a directory");
    let mut skopeo = Command::new("skopeo");
    let name = format!("oci:{layout_text}:v1");
    run(skopeo.args(["inspect", "--raw", &name]).env("HOME", home.path()), "").ok();
    // Once more, for one tag: what is there stays.
    let again = export(&["--tag", "v2"]);
    assert_eq!(again["tags"], json!(1), "{again}");

    let report = import(&to, &[layout_text, "--repository", "other/app"]);
    assert_eq!((&report["tags"], &report["problems"]), (&json!(4), &json!([])), "{report}");
    let server = Server::start(&to, &[]);
    for image in &images {
        let image = Image { repository: "other/app".to_owned(), ..image.clone() };
        image.verify(&server.address);
    }
    let path = format!("/v2/other/app/referrers/{}", Digest::of(index.as_bytes()));
    let referrers = send(&server.address, "GET", &path, &[], b"").expect("an answer").text();
    assert!(referrers.contains(&digest.to_string()), "{referrers}");
    server.stop();
}
