//! A real client: skopeo of the Debian package, with both ways to log in.

use std::path::Path;
use std::process::Command;

use registry_server::{Anonymous, AuthScheme, ByteSize, ImmutableTags, Namespace, add_user};

use crate::{Fixture, MANIFEST, image_manifest};

const CREDENTIALS: &str = "alice:wonder:land";

/// Runs skopeo; what it says on failure.
pub(crate) fn skopeo(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("skopeo")
        .args(arguments)
        .output()
        .expect("skopeo of the Debian package skopeo");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// An image in skopeo's `dir:` form with a layer larger than any buffer on the way.
pub(crate) fn write_image(directory: &Path) {
    let layer: String = (0..200_000).map(|n| format!("{n:08}\n")).collect();
    let manifest = image_manifest(&layer).to_string();
    std::fs::create_dir(directory).expect("a directory");
    let digest = |bytes: &[u8]| oci_model::Digest::of(bytes).encoded();
    for (name, bytes) in [
        ("version".to_owned(), "Directory Transport Version: 1.1\n"),
        ("manifest.json".to_owned(), &manifest),
        (digest(b"{}"), "{}"),
        (digest(layer.as_bytes()), &layer),
    ] {
        std::fs::write(directory.join(name), bytes).expect("a file");
    }
}

async fn copies_there_and_back(scheme: AuthScheme) {
    let registry = Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        add_user(&users, "alice", "wonder:land").expect("a user");
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
        options.scheme = scheme;
    })
    .await;
    let directory = registry.directory.as_ref().expect("a directory").path().to_owned();
    let (source, target) = (directory.join("source"), directory.join("target"));
    write_image(&source);
    let address = registry.registry.address();
    let done = tokio::task::spawn_blocking(move || -> Result<(), String> {
        let image = format!("docker://{address}/team/app:v1");
        let (from, to) = (format!("dir:{}", source.display()), format!("dir:{}", target.display()));
        let refused = skopeo(&["copy", "--dest-tls-verify=false", &from, &image]);
        let text = refused.expect_err("no credentials");
        assert!(text.contains("unauthorized") || text.contains("denied"), "{text}");
        let refused =
            skopeo(&["copy", "--dest-tls-verify=false", "--dest-creds=alice:no", &from, &image]);
        refused.expect_err("wrong credentials");
        skopeo(&[
            "copy",
            "--dest-tls-verify=false",
            &format!("--dest-creds={CREDENTIALS}"),
            "--preserve-digests",
            &from,
            &image,
        ])?;
        // Mounted from one repository to the other by skopeo's own memory of where blobs are.
        let elsewhere = format!("docker://{address}/team/copy:v1");
        skopeo(&[
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            &format!("--src-creds={CREDENTIALS}"),
            &format!("--dest-creds={CREDENTIALS}"),
            &image,
            &elsewhere,
        ])?;
        skopeo(&[
            "copy",
            "--src-tls-verify=false",
            &format!("--src-creds={CREDENTIALS}"),
            &elsewhere,
            &to,
        ])?;
        for name in std::fs::read_dir(&source).expect("a directory") {
            let name = name.expect("an entry").file_name();
            let read = |directory: &Path| std::fs::read(directory.join(&name)).expect("a file");
            assert_eq!(read(&source), read(&target), "{name:?}");
        }
        let tags = skopeo(&[
            "list-tags",
            "--tls-verify=false",
            &format!("--creds={CREDENTIALS}"),
            &format!("docker://{address}/team/app"),
        ])?;
        assert!(tags.contains("\"v1\""), "{tags}");
        skopeo(&[
            "delete",
            "--tls-verify=false",
            &format!("--creds={CREDENTIALS}"),
            &format!("docker://{address}/team/app:v1"),
        ])?;
        Ok(())
    });
    done.await.expect("the checks").expect("skopeo");
    let mut registry = registry;
    registry.login(crate::basic("alice", "wonder:land"));
    assert_eq!(registry.get("/v2/team/app/manifests/v1").await.status.as_u16(), 404);
    let copy = registry.get("/v2/team/copy/manifests/v1").await;
    assert_eq!((copy.status.as_u16(), copy.header("content-type")), (200, MANIFEST));
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_with_a_password() {
    copies_there_and_back(AuthScheme::Basic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_with_tokens() {
    copies_there_and_back(AuthScheme::Bearer).await;
}

/// The words in which people read that a policy stands in their way.
#[tokio::test(flavor = "multi_thread")]
async fn skopeo_shows_which_policy_refused() {
    let registry = Fixture::with(|options, _| {
        let mut small = Namespace::new("small");
        small.quota = Some(ByteSize(1_000_000));
        let mut fixed = Namespace::new("fixed");
        fixed.immutable_tags = vec![ImmutableTags::new("v*".parse().expect("a pattern"))];
        options.namespaces = vec![small, fixed];
    })
    .await;
    registry.push_image("fixed/app", "v1", "another image").await;
    let directory = registry.directory.as_ref().expect("a directory").path().join("source");
    write_image(&directory);
    let address = registry.registry.address();
    let copy = move |name: &str| {
        let (from, to) =
            (format!("dir:{}", directory.display()), format!("docker://{address}/{name}"));
        skopeo(&["copy", "--dest-tls-verify=false", "--preserve-digests", &from, &to])
            .expect_err("a policy is against it")
    };
    let check = move || {
        let text = copy("small/app:v1");
        assert!(text.contains("quota of namespace small exceeded: 976.5 KiB allowed"), "{text}");
        let text = copy("fixed/app:v1");
        let rule = "tag v1 is immutable: tags v* are immutable in namespace fixed";
        assert!(text.contains(rule), "{text}");
    };
    tokio::task::spawn_blocking(check).await.expect("the checks");
}
