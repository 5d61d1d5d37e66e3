//! Debian's docker-registry as the other side.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use credentials::{RegistryAuth, Secret};
use oci_model::{MediaType, RawManifest};
use registry_client::{CopyOptions, Platforms, Progress, PushOptions, RegistryErrorKind};

use crate::images::{client, image, index, reference, store};
use crate::transfer::pull_options;

struct Registry {
    child: Child,
    address: String,
    _place: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a registry with the user `ada`, password `pw`.
async fn registry() -> Registry {
    let place = tempfile::tempdir().unwrap();
    let output = Command::new("htpasswd").args(["-nbB", "ada", "pw"]).output();
    let output = output.expect("htpasswd (apache2-utils) is needed");
    std::fs::write(place.path().join("htpasswd"), output.stdout).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let config = config(place.path(), &address);
    std::fs::write(place.path().join("config.yml"), config).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(place.path().join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry is needed");
    let registry = Registry { child, address, _place: place };
    let deadline = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(&registry.address).await.is_err() {
        assert!(Instant::now() < deadline, "docker-registry did not start");
        tokio::task::yield_now().await;
    }
    registry
}

fn config(place: &Path, address: &str) -> String {
    let place = place.display();
    format!(
        "version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {place}/data}}, delete: {{enabled: true}}}}
http: {{addr: \"{address}\"}}
auth: {{htpasswd: {{realm: test, path: {place}/htpasswd}}}}
"
    )
}

fn ada() -> [RegistryAuth; 1] {
    [RegistryAuth::basic("ada", Secret::new("pw"))]
}

#[tokio::test]
async fn image_goes_there_and_back() {
    let registry = registry().await;
    let content: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let source = image(&content);
    let (_place, from) = store();
    source.put(&from);
    let client = client();
    let reference = reference(&registry.address, "team/app:1");
    client.ping(&registry.address, Some(&ada()[0])).await.unwrap();
    client
        .push(
            &reference,
            &source.manifest,
            &ada(),
            &from,
            &PushOptions::default(),
            &Progress::none(),
        )
        .await
        .unwrap();
    assert_eq!(client.tags(&reference, &ada()).await.unwrap(), ["1"]);
    let resolved = client.resolve(&reference, &ada()).await.unwrap();
    assert_eq!(resolved.digest, *source.manifest.digest());

    let (_place, into) = store();
    let progress = Progress::none();
    let pulled = client.pull(&reference, &ada(), &into, &pull_options(), &progress).await.unwrap();
    assert_eq!(pulled.credential, Some(0));
    assert!(into.read(&source.layer, 1 << 30).unwrap() == content);

    let error = client.pull(&reference, &[], &into, &pull_options(), &progress).await.unwrap_err();
    assert!(
        error.to_string().ends_with("authorization failed: no basic auth credentials"),
        "{error}"
    );
}

#[tokio::test]
async fn index_is_copied_with_all_children_and_blobs_are_mounted() {
    let registry = registry().await;
    let (amd, arm) = (image(b"amd"), image(b"arm"));
    let list = index(&[("linux/amd64", &amd), ("linux/arm64", &arm)]);
    let (_place, from) = store();
    amd.put(&from);
    arm.put(&from);
    from.put(list.bytes()).unwrap();
    let client = client();
    let one = reference(&registry.address, "one/list:1");
    let two = reference(&registry.address, "two/list:2");
    let none = Progress::none();
    client.push(&one, &list, &ada(), &from, &PushOptions::default(), &none).await.unwrap();
    let (_place, between) = store();
    let options = CopyOptions { platforms: Platforms::All };
    client.copy(&one, &ada(), &two, &ada(), &between, &options, &none).await.unwrap();
    let copied: RawManifest = client.fetch_manifest(&two, &ada()).await.unwrap();
    assert_eq!(copied.bytes(), list.bytes());
    assert_eq!(*copied.media_type(), MediaType::OCI_INDEX);
    let (_place, into) = store();
    client.pull(&two, &ada(), &into, &pull_options(), &none).await.unwrap();
    assert!(into.contains(&amd.layer) && !into.contains(&arm.layer));
}

#[tokio::test]
async fn streamed_upload_and_deletion() {
    let registry = registry().await;
    let client = client();
    let name = reference(&registry.address, "a/b:1");
    let remote = client.remote(&name, Some(&ada()[0]));
    let content: Vec<u8> = (0..17_000_000u32).map(|at| (at % 249) as u8).collect();
    let digest = oci_model::Digest::of(&content);
    let mut upload = remote.begin_upload(&Progress::none()).await.unwrap();
    for part in content.chunks(1_000_003) {
        upload.write(part).await.unwrap();
    }
    upload.finish(&digest).await.unwrap();
    assert!(remote.has_blob(&digest, &Progress::none()).await.unwrap());

    let source = image(b"x");
    let (_place, from) = store();
    source.put(&from);
    let none = Progress::none();
    client
        .push(&name, &source.manifest, &ada(), &from, &PushOptions::default(), &none)
        .await
        .unwrap();
    let by_digest = name.with_digest(*source.manifest.digest());
    client.delete(&by_digest, &ada()).await.unwrap();
    let error = client.fetch_manifest(&name, &ada()).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn wrong_password_is_unauthorized() {
    let registry = registry().await;
    let wrong = [RegistryAuth::basic("ada", Secret::new("wrong"))];
    let name = reference(&registry.address, "a/b:1");
    let error = client().fetch_manifest(&name, &wrong).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }), "{error}");
    let error = client().ping(&registry.address, Some(&wrong[0])).await.unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }), "{error}");
}
