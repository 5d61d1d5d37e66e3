//! [dockerignore] and --exclude: which files of a context count.

use container_runtime::Mode;

use super::case;
use crate::tests;

tests![
    ignored_files_are_not_in_the_context,
    illegal_patterns_stop_the_build,
    excluded_files_are_left_out_of_every_kind_of_source,
];

/// BuildKit Dockerignore.
fn ignored_files_are_not_in_the_context() {
    let ignore = "ba*\nDockerfile\n!bay\n.dockerignore\n# comment\nd/*\n!d/keep\n/rooted\n";
    let built = case("FROM scratch\nCOPY . .\n")
        .in_mode(Mode::None)
        .file(".dockerignore", ignore)
        .files(&["Dockerfile", "foo", "bar", "baz", "bay", "d/x", "d/keep", "rooted", "s/rooted"]);
    assert_eq!(
        built.tree(),
        [
            "bay 644 0:0 bay",
            "d/ 755 0:0",
            "d/keep 644 0:0 d/keep",
            "foo 644 0:0 foo",
            "s/ 755 0:0",
            "s/rooted 644 0:0 s/rooted",
        ]
    );
    let error = built.text("FROM scratch\nCOPY bar /\n").error();
    assert!(error.contains("\"/bar\": not found"), "{error}");
}

/// BuildKit DockerignoreInvalid.
fn illegal_patterns_stop_the_build() {
    let error = case("FROM scratch\nCOPY . .\n").file(".dockerignore", "!\n").error();
    assert!(error.contains("illegal exclusion pattern: \"!\""), "{error}");
}

/// BuildKit ExcludedFilesOnCopy.
fn excluded_files_are_left_out_of_every_kind_of_source() {
    const ALL: &[&str] =
        &["dir/top.txt", "dir/sub/file1.txt", "dir/sub/file2.md", "dir/deep/a/b.tmp", "dir/k.tmp"];
    let patterns: &[(&str, &[&str])] = &[
        ("", &["deep/a/b.tmp", "k.tmp", "sub/file1.txt", "sub/file2.md", "top.txt"]),
        ("--exclude=*.txt", &["deep/a/b.tmp", "k.tmp", "sub/file1.txt", "sub/file2.md"]),
        ("--exclude=**/*.txt", &["deep/a/b.tmp", "k.tmp", "sub/file2.md"]),
        ("--exclude=sub", &["deep/a/b.tmp", "k.tmp", "top.txt"]),
        ("--exclude=**/*.tmp --exclude=sub/*", &["top.txt"]),
        (
            "--exclude=**/*.tmp --exclude=!deep/a/b.tmp",
            &["deep/a/b.tmp", "sub/file1.txt", "sub/file2.md", "top.txt"],
        ),
    ];
    for (flags, expected) in patterns {
        for text in [
            format!("FROM scratch\nCOPY {flags} dir /t/\n"),
            format!("FROM scratch\nADD {flags} dir /t/\n"),
            format!(
                "FROM scratch AS src\nCOPY . .\nFROM scratch\nCOPY --from=src {flags} dir /t/\n"
            ),
            format!("FROM scratch\nCOPY --link {flags} dir /t/\n"),
        ] {
            let tree = case(&text).in_mode(Mode::None).files(ALL).tree();
            let found: Vec<&str> = tree
                .iter()
                .filter_map(|line| line.split(' ').next()?.strip_prefix("t/"))
                .filter(|path| !path.is_empty() && !path.ends_with('/'))
                .collect();
            assert_eq!(found, *expected, "{text}");
        }
    }
    // A file named by itself is excluded by its name.
    let text = "FROM scratch\nCOPY --exclude=*.md dir/top.txt dir/sub/file2.md /t/\n";
    let tree = case(text).in_mode(Mode::None).files(ALL).tree();
    assert_eq!(tree, ["t/ 755 0:0", "t/top.txt 644 0:0 dir/top.txt"]);
}
