//! [add]: archives and files of the network.

use container_runtime::Mode;
use oci_model::Digest;

use super::server::Server;
use super::{Case, case};
use crate::tests;

tests![
    a_remote_file_is_named_by_its_url_and_dated_by_its_server,
    archives_of_the_context_are_unpacked_and_remote_ones_are_not,
    parents_without_a_header_are_made,
    extraction_through_an_absolute_link_stays_in_the_image,
    the_chown_owner_owns_what_was_unpacked,
    every_archive_of_a_wildcard_is_unpacked,
    a_remote_file_takes_a_mode,
    a_checksum_is_verified_before_anything_is_added,
    unpacking_can_be_asked_for_and_refused,
];

fn plain(text: &str) -> Case {
    case(text).in_mode(Mode::None)
}

const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// BuildKit DockerfileADDFromURL.
fn a_remote_file_is_named_by_its_url_and_dated_by_its_server() {
    let server = Server::start();
    let (dated, undated) = (
        server.serve("/foo", b"content1", Some(DATE)),
        server.serve("/dir/bar", b"content2", None),
    );
    let text = format!(
        "FROM scratch\nARG D={dated}\nADD ${{D}} /\nADD {undated} /dest/\nADD {dated} /own-name\n\
         ADD {dated}?token=1 /with-query/\n"
    );
    assert_eq!(
        plain(&text).tree(),
        [
            "dest/ 755 0:0",
            "dest/bar 600 0:0 content2",
            "foo 600 0:0 content1",
            "own-name 600 0:0 content1",
            "with-query/ 755 0:0",
            "with-query/foo 600 0:0 content1",
        ]
    );
    let text = format!("FROM base\nADD {dated} /\nADD {undated} /\nRUN stat -c %Y /foo /bar\n");
    assert_eq!(case(&text).printed(), "1445412480\n0\n");
    let error = plain(&format!("FROM scratch\nADD {dated}-missing /\n")).error();
    assert!(error.contains("invalid response status 404"), "{error}");
}

/// A context with `t.tar` and `t.tar.gz` of `foo` and `dir/bar`.
fn with_archives(text: &str) -> Case {
    plain(text)
        .files(&["in/foo", "in/dir/bar"])
        .chmod("in/dir", 0o750)
        .tar(&[
            "--owner=7",
            "--group=8",
            "--numeric-owner",
            "-C",
            "in",
            "-cf",
            "t.tar",
            "foo",
            "dir",
        ])
        .tar(&[
            "--owner=7",
            "--group=8",
            "--numeric-owner",
            "-C",
            "in",
            "-czf",
            "t.tgz",
            "foo",
            "dir",
        ])
}

/// BuildKit DockerfileAddArchive.
fn archives_of_the_context_are_unpacked_and_remote_ones_are_not() {
    for archive in ["t.tar", "t.tgz"] {
        let expected = ["dir/ 750 7:8", "dir/bar 644 7:8 in/dir/bar", "foo 644 7:8 in/foo"];
        assert_eq!(with_archives(&format!("FROM scratch\nADD {archive} /\n")).tree(), expected);
        let below = with_archives(&format!("FROM scratch\nADD {archive} /dest\n")).tree();
        assert_eq!(below[0], "dest/ 755 0:0");
        assert_eq!(below[3], "dest/foo 644 7:8 in/foo");
        // COPY never unpacks.
        let copied = with_archives(&format!("FROM scratch\nCOPY {archive} /\n")).tree();
        assert!(copied[0].starts_with(archive), "{copied:?}");
    }
    let server = Server::start();
    let built = with_archives("");
    let bytes = std::fs::read(built.root().join("t.tar")).expect("made");
    let url = server.serve("/t.tar", &bytes, Some(DATE));
    let text = format!("FROM scratch\nADD {url} /\nADD {url} /named.tar\n");
    assert_eq!(
        built.text(&text).tree(),
        ["named.tar 600 0:0 10240 bytes", "t.tar 600 0:0 10240 bytes"]
    );
}

/// BuildKit DockerfileAddArchiveWithImpliedParentDir.
fn parents_without_a_header_are_made() {
    let built = plain("FROM scratch\nADD t.tar /dest/\n").files(&["foo/bar/f"]).tar(&[
        "--owner=7",
        "--group=8",
        "--numeric-owner",
        "-cf",
        "t.tar",
        "foo/bar/f",
    ]);
    assert_eq!(
        built.tree(),
        [
            "dest/ 755 0:0",
            "dest/foo/ 755 0:0",
            "dest/foo/bar/ 755 0:0",
            "dest/foo/bar/f 644 7:8 foo/bar/f"
        ]
    );
}

/// BuildKit DockerfileAddArchiveThroughAbsoluteSymlink.
fn extraction_through_an_absolute_link_stays_in_the_image() {
    let built = plain("FROM base\nADD t.tar /\n").files(&["var/run/foo"]).tar(&[
        "--owner=0",
        "--group=0",
        "-cf",
        "t.tar",
        "var/run/foo",
    ]);
    assert_eq!(built.tree_below("run/foo"), ["run/foo 644 0:0 var/run/foo"]);
    assert_eq!(built.tree_below("var/run"), ["var/run -> /run"]);
    assert!(!std::path::Path::new("/run/foo").exists());
}

/// BuildKit DockerfileAddChownArchive.
fn the_chown_owner_owns_what_was_unpacked() {
    let built = with_archives("FROM scratch\nADD --chown=100:200 t.tar /out/\n");
    assert_eq!(
        built.tree(),
        [
            "out/ 755 100:200",
            "out/dir/ 750 100:200",
            "out/dir/bar 644 100:200 in/dir/bar",
            "out/foo 644 100:200 in/foo",
        ]
    );
}

/// BuildKit DockerfileAddArchiveWildcard.
fn every_archive_of_a_wildcard_is_unpacked() {
    let built = with_archives("FROM scratch\nADD *.tar /dest/\n").files(&["other"]).tar(&[
        "--owner=0",
        "--group=0",
        "-cf",
        "u.tar",
        "other",
    ]);
    let names: Vec<String> =
        built.tree().iter().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
    assert_eq!(names, ["dest/", "dest/dir/", "dest/dir/bar", "dest/foo", "dest/other"]);
}

/// BuildKit AddURLChmod.
fn a_remote_file_takes_a_mode() {
    let server = Server::start();
    let url = server.serve("/foo", b"x", None);
    let text = format!(
        "FROM scratch\nADD --chmod=644 {url} /a\nADD --chmod=755 --chown=7 {url} /b\n\
         ADD --chmod=u=rwx {url} /c\nADD {url} /d\n"
    );
    assert_eq!(plain(&text).tree(), ["a 644 0:0 x", "b 755 7:7 x", "c 700 0:0 x", "d 600 0:0 x"]);
}

/// BuildKit AddChecksum.
fn a_checksum_is_verified_before_anything_is_added() {
    let server = Server::start();
    let url = server.serve("/foo", b"content1", None);
    let digest = Digest::of(b"content1").to_string();
    let add_to = |checksum: &str, source: &str, to: &str| {
        plain(&format!("FROM scratch\nARG SUM={checksum}\nADD --checksum=$SUM {source} {to}\n"))
            .files(&["local"])
    };
    let add = |checksum: &str, source: &str| add_to(checksum, source, "/f");
    assert_eq!(add(&digest, &url).tree(), ["f 600 0:0 content1"]);
    let other = Digest::of(b"content2").to_string();
    let error = add(&other, &url).error();
    assert!(error.contains(&format!("digest mismatch {digest}: {other}")), "{error}");
    let error = add("md5:7e55db001d319a94b0b713529a756623", &url).error();
    assert!(error.contains("algorithm"), "{error}");
    let error = add("sha256:00", &url).error();
    assert!(error.contains("invalid"), "{error}");
    let error = add(&digest, "local").error();
    assert!(error.contains("checksum"), "{error}");
    let before = server.requests();
    let error = add_to(&digest, &format!("{url} {url}"), "/d/").error();
    assert!(error.contains("checksum"), "{error}");
    assert_eq!(server.requests(), before, "refused before anything is fetched");
}

/// ADD --unpack (builder reference 1.7).
fn unpacking_can_be_asked_for_and_refused() {
    let server = Server::start();
    let built = with_archives("FROM scratch\nADD --unpack=false t.tar /\n");
    assert_eq!(built.tree(), ["t.tar 644 0:0 10240 bytes"]);
    let bytes = std::fs::read(built.root().join("t.tgz")).expect("made");
    let url = server.serve("/t.tgz", &bytes, None);
    let built = built.text(&format!("FROM scratch\nADD --unpack=true {url} /d/\n"));
    let expected =
        ["d/ 755 0:0", "d/dir/ 750 7:8", "d/dir/bar 644 7:8 in/dir/bar", "d/foo 644 7:8 in/foo"];
    assert_eq!(built.tree(), expected);
}
