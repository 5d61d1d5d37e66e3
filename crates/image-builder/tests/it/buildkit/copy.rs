//! [copy]: which files a COPY takes, where they go, and whose they are.

use container_runtime::Mode;

use super::{Case, case};
use crate::tests;

tests![
    an_empty_destination_is_the_working_directory,
    a_final_slash_makes_the_destination_a_directory,
    links_layers_have_their_destination_below_the_working_directory,
    an_existing_destination_keeps_its_owner,
    created_directories_belong_to_the_chown_user,
    only_matched_files_invalidate_a_wildcard,
    a_wildcard_without_match_is_no_mistake,
    sources_are_found_through_links,
    a_socket_arrives_as_an_empty_file,
    targets_of_named_links_come_along,
    links_named_by_a_wildcard_are_followed_and_others_stay,
    owners_are_names_or_numbers,
    modes_are_octal_or_symbolic,
    bad_modes_are_refused_with_their_text,
    repeated_copies_override,
    wildcards_match_names_segment_by_segment,
    relative_paths_stay_inside,
    names_need_not_be_ascii,
    variables_stand_in_sources_and_destinations,
    a_changed_kind_of_a_context_entry_is_seen,
    a_destination_behind_a_link_is_where_the_link_leads,
];

/// A build without RUN, which needs no rights.
fn plain(text: &str) -> Case {
    case(text).in_mode(Mode::None)
}

/// BuildKit EmptyDestDir.
fn an_empty_destination_is_the_working_directory() {
    let built =
        plain("FROM scratch\nENV empty=\"\"\nWORKDIR /w\nCOPY foo $empty\n").file("foo", "x");
    assert_eq!(built.tree(), ["w/ 755 0:0", "w/foo 644 0:0 x"]);
}

/// BuildKit PreserveDestDirSlash.
fn a_final_slash_makes_the_destination_a_directory() {
    let built = plain("FROM scratch\nCOPY foo /sample/\nCOPY foo /other\n").file("foo", "x");
    assert_eq!(built.tree(), ["other 644 0:0 x", "sample/ 755 0:0", "sample/foo 644 0:0 x"]);
}

/// BuildKit CopyLinkDotDestDir, CopyLinkEmptyDestDir.
fn links_layers_have_their_destination_below_the_working_directory() {
    for destination in [".", "./", "$empty"] {
        let text = format!(
            "FROM scratch\nENV empty=\"\"\nWORKDIR /var/www\nCOPY --link testfile {destination}\n"
        );
        let tree = plain(&text).file("testfile", "x").tree();
        assert_eq!(tree, ["var/ 755 0:0", "var/www/ 755 0:0", "var/www/testfile 644 0:0 x"]);
    }
}

/// BuildKit CopyChownExistingDir.
fn an_existing_destination_keeps_its_owner() {
    let text = "FROM scratch\nCOPY --chown=1:2 --chmod=700 seed /out/\n\
                COPY --chown=7:8 --chmod=644 src /out\n";
    let built = plain(text).files(&["seed", "src/a", "src/sub/b"]);
    assert_eq!(
        built.tree(),
        [
            "out/ 700 1:2",
            "out/a 644 7:8 src/a",
            "out/seed 700 1:2 seed",
            "out/sub/ 644 7:8",
            "out/sub/b 644 7:8 src/sub/b",
        ]
    );
}

/// BuildKit CopyChownCreateDest, DockerfileAddChownExpand.
fn created_directories_belong_to_the_chown_user() {
    let text = "FROM base\nARG group\nENV owner=app\n\
                COPY --chown=${owner}:${group} a /dest/one/\n\
                COPY --chown=app a /dest/two/three/a\nADD --chown=${owner} a /dest/four/\n";
    let built = plain(text).arg("group", "50").files(&["a"]);
    assert_eq!(
        built.tree_below("dest"),
        [
            "dest/ 755 1000:50",
            "dest/four/ 755 1000:1001",
            "dest/four/a 644 1000:1001 a",
            "dest/one/ 755 1000:50",
            "dest/one/a 644 1000:50 a",
            "dest/two/ 755 1000:1001",
            "dest/two/three/ 755 1000:1001",
            "dest/two/three/a 644 1000:1001 a",
        ]
    );
}

/// BuildKit CopyWildcardCache, WildcardRenameCache.
fn only_matched_files_invalidate_a_wildcard() {
    let built = plain("FROM scratch\nCOPY foo* files/\n").cached().files(&["foo1", "foo2", "bar"]);
    assert_eq!(built.executed(), 1);
    let built = built.file("bar", "changed");
    assert_eq!(built.executed(), 0);
    let built = built.file("foo2", "changed");
    assert_eq!(built.executed(), 1);
    std::fs::rename(built.root().join("foo2"), built.root().join("foo3")).expect("a file");
    assert_eq!(built.executed(), 1);
}

/// BuildKit EmptyWildcard.
fn a_wildcard_without_match_is_no_mistake() {
    let built = plain("FROM scratch\nCOPY foo nomatch* /\n").files(&["foo", "bar"]);
    assert_eq!(built.tree(), ["foo 644 0:0 foo"]);
    assert_eq!(plain("FROM scratch\nCOPY nomatch* /\n").tree(), [] as [&str; 0]);
}

/// BuildKit CopyThroughSymlinkContext, CopyThroughSymlinkMultiStage.
fn sources_are_found_through_links() {
    let built = plain("FROM scratch\nCOPY link/foo .\n").link("link", "sub").files(&["sub/foo"]);
    assert_eq!(built.tree(), ["foo 644 0:0 sub/foo"]);
    let text =
        "FROM scratch AS build\nCOPY . /out\nFROM scratch\nCOPY --from=build /out/link/foo .\n";
    let built = plain(text).link("link", "/out/sub").files(&["sub/foo"]);
    assert_eq!(built.tree(), ["foo 644 0:0 sub/foo"]);
}

/// BuildKit CopySocket.
fn a_socket_arrives_as_an_empty_file() {
    let built = plain("FROM scratch\nCOPY . /\n").files(&["foo"]);
    let _listener =
        std::os::unix::net::UnixListener::bind(built.root().join("sock")).expect("a socket");
    let tree = built.tree();
    assert_eq!(tree.len(), 2, "{tree:?}");
    assert!(tree[1].starts_with("sock ") && tree[1].ends_with("0:0 "), "{tree:?}");
}

/// BuildKit CopyFollowAllSymlinks.
fn targets_of_named_links_come_along() {
    let built = plain("FROM scratch\nCOPY foo /\nCOPY foo/sub bar\n")
        .link("foo/sub", "../bar")
        .files(&["bar"]);
    assert_eq!(built.tree(), ["bar 644 0:0 bar", "sub -> ../bar"]);
}

/// BuildKit CopySymlinks.
fn links_named_by_a_wildcard_are_followed_and_others_stay() {
    let built = plain("FROM scratch\nCOPY foo /\nCOPY sub/l* alllinks/\nCOPY sub subs/\n")
        .link("foo", "bar")
        .link("sub/l0", "lfile")
        .link("sub/l1", "../bar")
        .files(&["bar", "sub/lfile"]);
    assert_eq!(
        built.tree(),
        [
            "alllinks/ 755 0:0",
            "alllinks/l0 644 0:0 sub/lfile",
            "alllinks/l1 644 0:0 bar",
            "alllinks/lfile 644 0:0 sub/lfile",
            "foo 644 0:0 bar",
            "subs/ 755 0:0",
            "subs/l0 -> lfile",
            "subs/l1 -> ../bar",
            "subs/lfile 644 0:0 sub/lfile",
        ]
    );
}

/// BuildKit CopyChown.
fn owners_are_names_or_numbers() {
    for (chown, owner) in [
        ("app:extra", "1000:50"),
        ("1000:extra", "1000:50"),
        ("app", "1000:1001"),
        ("7", "7:7"),
        ("7:8", "7:8"),
        ("root", "0:0"),
    ] {
        let text = format!("FROM base\nCOPY --chown={chown} dir /copied\n");
        let built = plain(&text).files(&["dir/a"]).link("dir/l", "a");
        let expected = [
            format!("copied/ 755 {owner}"),
            format!("copied/a 644 {owner} dir/a"),
            "copied/l -> a".to_owned(),
        ];
        assert_eq!(built.tree_below("copied"), expected, "{chown}");
    }
    let error = plain("FROM base\nCOPY --chown=nobody a /a\n").files(&["a"]).error();
    assert!(error.contains("unable to find user nobody"), "{error}");
}

/// BuildKit CopyChmod, ChmodNonOctal.
fn modes_are_octal_or_symbolic() {
    for (chmod, file, directory) in [
        ("0644", "644", "644"),
        ("777", "777", "777"),
        ("0", "0", "0"),
        ("4755", "4755", "4755"),
        ("u=rwX,go=rX", "644", "755"),
        ("go=u", "666", "777"),
        ("a-w", "444", "555"),
        ("u+x,g-r", "704", "715"),
        ("+x", "755", "755"),
    ] {
        let text = format!("FROM scratch\nARG M={chmod}\nCOPY --chmod=$M dir /d\n");
        let built = plain(&text).files(&["dir/sub/f"]);
        let expected = [format!("d/sub/ {directory} 0:0"), format!("d/sub/f {file} 0:0 dir/sub/f")];
        assert_eq!(built.tree_below("d/sub"), expected, "{chmod}");
    }
}

/// BuildKit CopyInvalidChmod, AddInvalidChmod.
fn bad_modes_are_refused_with_their_text() {
    for verb in ["COPY", "ADD"] {
        for mode in ["64a", "10777"] {
            let error = plain(&format!("FROM scratch\n{verb} --chmod={mode} foo /\n")).error();
            let expected = format!(
                "invalid chmod parameter: '{mode}'. it should be octal string and between 0 and \
                 07777"
            );
            assert!(error.contains(&expected), "{error}");
        }
    }
}

/// BuildKit CopyOverrideFiles.
fn repeated_copies_override() {
    let text = "FROM scratch AS base\nCOPY sub sub\nCOPY sub sub\nCOPY files/foo.go dest/foo.go\n\
                COPY files/foo.go dest/foo.go\nCOPY files dest\n";
    let built = plain(text).file("sub/dir1/dir2/foo", "foo0").file("files/foo.go", "foo1");
    assert_eq!(
        built.tree(),
        [
            "dest/ 755 0:0",
            "dest/foo.go 644 0:0 foo1",
            "sub/ 755 0:0",
            "sub/dir1/ 755 0:0",
            "sub/dir1/dir2/ 755 0:0",
            "sub/dir1/dir2/foo 644 0:0 foo0",
        ]
    );
}

/// BuildKit CopyWildcards.
fn wildcards_match_names_segment_by_segment() {
    let all =
        &["foo", "fob", "bar1", "bar2", ".hid", "sub/foo.go", "sub/x.c", "sub/d/y.go", "o/z.go"];
    for (sources, expected) in [
        ("fo*", &["foo", "fob"][..]),
        ("fo?", &["foo", "fob"]),
        ("bar[0-9]", &["bar1", "bar2"]),
        ("bar[^1]", &["bar2"]),
        ("*", &["foo", "fob", "bar1", "bar2", ".hid", "foo.go", "x.c", "d/y.go", "z.go"]),
        ("*/*.go", &["foo.go", "z.go"]),
        ("s*/*", &["foo.go", "x.c", "y.go"]),
        ("sub/*.go bar1", &["foo.go", "bar1"]),
        ("f\\o*", &["foo", "fob"]),
        ("**/*.c", &["x.c"]),
    ] {
        let built = plain(&format!("FROM scratch\nCOPY {sources} /t/\n")).files(all);
        let mut found: Vec<String> = built
            .tree_below("t/")
            .iter()
            .filter_map(|line| line.split(' ').next()?.strip_prefix("t/"))
            .filter(|path| !path.is_empty() && !path.ends_with('/'))
            .map(str::to_owned)
            .collect();
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{sources}");
    }
}

/// BuildKit CopyRelative, WorkdirCopyIgnoreRelative.
fn relative_paths_stay_inside() {
    let text = "FROM scratch\nWORKDIR /test1\nCOPY ./foo .\nWORKDIR sub\nCOPY foo ../up\n\
                COPY /foo ../../../../top\nCOPY ../../foo below/\nWORKDIR /\nCOPY sub/../foo last\n";
    let built = plain(text).files(&["foo", "sub/x"]);
    assert_eq!(
        built.tree(),
        [
            "last 644 0:0 foo",
            "test1/ 755 0:0",
            "test1/foo 644 0:0 foo",
            "test1/sub/ 755 0:0",
            "test1/sub/below/ 755 0:0",
            "test1/sub/below/foo 644 0:0 foo",
            "test1/up 644 0:0 foo",
            "top 644 0:0 foo",
        ]
    );
    // A source of a stage is below its root, whatever its WORKDIR.
    let text = "FROM scratch AS base\nWORKDIR /foo\nCOPY f bar/\nFROM scratch\n\
                COPY --from=base foo/bar/f .\n";
    assert_eq!(plain(text).files(&["f"]).tree(), ["f 644 0:0 f"]);
}

/// BuildKit CopyUnicodePath.
fn names_need_not_be_ascii() {
    let text = "FROM scratch\nCOPY test-äöü.txt /\nCOPY test-äöü.txt /test-üöä.txt\nCOPY test-%*.txt /d/\n";
    let built = plain(text).files(&["test-äöü.txt", "test-%C3%A4.txt"]);
    assert_eq!(
        built.tree(),
        [
            "d/ 755 0:0",
            "d/test-%C3%A4.txt 644 0:0 test-%C3%A4.txt",
            "test-äöü.txt 644 0:0 test-äöü.txt",
            "test-üöä.txt 644 0:0 test-äöü.txt",
        ]
    );
}

/// BuildKit CopyVarSubstitution.
fn variables_stand_in_sources_and_destinations() {
    let text = "FROM scratch\nENV FOO=bar\nARG D=/dest\nCOPY $FOO ${D}/${FOO}-2\n";
    assert_eq!(plain(text).files(&["bar"]).tree(), ["dest/ 755 0:0", "dest/bar-2 644 0:0 bar"]);
}

/// BuildKit ContextChangeDirToFile.
fn a_changed_kind_of_a_context_entry_is_seen() {
    let built = plain("FROM scratch\nCOPY . /\n").cached().files(&["foo/bar"]);
    assert_eq!(built.tree(), ["foo/ 755 0:0", "foo/bar 644 0:0 foo/bar"]);
    std::fs::remove_dir_all(built.root().join("foo")).expect("ours");
    assert_eq!(built.files(&["foo"]).tree(), ["foo 644 0:0 foo"]);
}

/// BuildKit SymlinkDestination.
fn a_destination_behind_a_link_is_where_the_link_leads() {
    let text = "FROM scratch\nCOPY tree /\nCOPY foo /symlink/\nCOPY foo /deep/up/x\n";
    let built = plain(text)
        .link("tree/symlink", "tmp/symlink-target")
        .link("tree/deep/up", "../other")
        .files(&["foo", "tree/tmp/symlink-target/k", "tree/other/k"]);
    let tree = built.tree();
    for line in [
        "tmp/symlink-target/foo 644 0:0 foo",
        "other/x 644 0:0 foo",
        "symlink -> tmp/symlink-target",
    ] {
        assert!(tree.contains(&line.to_owned()), "{line}: {tree:?}");
    }
}
