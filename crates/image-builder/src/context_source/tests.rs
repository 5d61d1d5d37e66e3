use layers::{Entry, EntryKind, LayerWriter, Timestamps};

use super::*;

fn access(root: &Path) -> ContextAccess {
    // Only the first call can succeed, and only that one counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ContextAccess {
        scratch: root.join("scratch"),
        blobs: root.join("blobs"),
        client: Client::new(registry_client::ClientOptions::default()).expect("a client"),
        credentials: CredentialSource::anonymous(),
        git: GitCredentials::default(),
        limits: ContextLimits::default(),
    }
}

fn tar(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    for (entry, content) in entries {
        writer.add_with(entry, *content).expect("memory");
    }
    writer.finish().expect("memory")
}

#[tokio::test]
async fn archives_become_directories_and_other_files_dockerfiles() {
    let root = tempfile::tempdir().expect("a directory");
    let bytes = tar(&[(Entry::file("src/a", 0o644, 1), b"x")]);
    std::fs::write(root.path().join("c.tar"), bytes).expect("file");
    std::fs::write(root.path().join("Dockerfile"), "FROM scratch\n").expect("a file");
    let access = access(root.path());
    let fetch = async |name: &str| {
        let location = ContextLocation::Archive(root.path().join(name));
        fetch_context(&location, &access).await.expect(name)
    };
    let archive = fetch("c.tar").await;
    assert_eq!(std::fs::read(archive.root.join("src/a")).expect("unpacked"), b"x");
    assert!(!archive.dockerfile_only);
    let alone = fetch("Dockerfile").await;
    assert!(alone.dockerfile_only && alone.root.join("Dockerfile").exists());
    let path = archive.root.clone();
    drop(archive);
    assert!(!path.exists());
}

#[tokio::test]
async fn entries_that_lead_out_of_the_context_stay_inside() {
    let root = tempfile::tempdir().expect("a directory");
    let outside = root.path().join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    let link = EntryKind::Symlink { target: outside.clone() };
    let bytes = tar(&[
        (Entry::new("sled", link, 0o777), b""),
        (Entry::file("sled/planted", 0o644, 1), b"x"),
    ]);
    std::fs::write(root.path().join("c.tar"), bytes).expect("file");
    let location = ContextLocation::Archive(root.path().join("c.tar"));
    // Whether it is refused or placed below the root is the unpacker's choice.
    let _ = fetch_context(&location, &access(root.path())).await;
    assert!(!outside.join("planted").exists());
}

#[tokio::test]
async fn contexts_beyond_a_limit_are_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let entries: Vec<(Entry, &[u8])> =
        (0..20).map(|number| (Entry::file(format!("f{number}"), 0o644, 4), &b"1234"[..])).collect();
    std::fs::write(root.path().join("c.tar"), tar(&entries)).expect("file");
    let location = ContextLocation::Archive(root.path().join("c.tar"));
    for limits in [
        ContextLimits { entries_max: 10, ..ContextLimits::default() },
        ContextLimits { bytes_max: 4096, ..ContextLimits::default() },
    ] {
        let access = ContextAccess { limits, ..access(root.path()) };
        assert!(fetch_context(&location, &access).await.is_err(), "{limits:?}");
    }
    assert!(fetch_context(&location, &access(root.path())).await.is_ok());
}

#[test]
fn directories_below_a_context_are_inside_of_it() {
    let root = tempfile::tempdir().expect("a directory");
    let context = root.path().join("context");
    std::fs::create_dir_all(context.join("a/b")).expect("a directory");
    std::fs::write(context.join("file"), "").expect("a file");
    std::os::unix::fs::symlink("a/b", context.join("inside")).expect("a link");
    std::os::unix::fs::symlink("/etc", context.join("outside")).expect("a link");
    let real = context.canonicalize().expect("it exists");
    for (below, found) in [("a", "a"), ("/a/./b", "a/b"), ("inside", "a/b"), ("", "")] {
        let path = below_context(&context, Path::new(below)).expect(below);
        assert_eq!(path, real.join(found), "{below}");
    }
    for below in ["..", "a/../..", "outside", "file", "missing"] {
        assert!(below_context(&context, Path::new(below)).is_err(), "{below}");
    }
}
