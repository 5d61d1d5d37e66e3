//! The rows of Docker's pattern matcher.

use super::*;

fn ignored(patterns: &[&str], path: &str) -> bool {
    IgnoreFile::from_patterns(patterns).expect("patterns").ignores(path)
}

/// BuildKit Dockerignore; kaniko dockerignore.
#[test]
fn one_pattern_matches_as_docker_matches_it() {
    let rows: &[(&str, &str, bool)] = &[
        ("**", "file", true),
        ("**", "file/", true),
        ("**/", "file", true),
        ("**/", "file/", true),
        ("**", "/", true),
        ("**/", "/", true),
        ("**", "dir/file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/*", "dir/dir2/dir2/file", true),
        ("**/dir2/**", "dir/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir2/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**/file", "dir/file", true),
        ("**file", "dir/dir/file", true),
        ("**/file", "dir/dir/file", true),
        ("**/file*", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/file*.txt", "dir/dir/file.txt", true),
        ("**/file*.txt*", "dir/dir/file.txt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txt", true),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abc.def", true),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abcdef", false),
        ("a\\\\", "a\\", true),
        ("a\\b", "ab", true),
        ("a\\b", "ac", false),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/foo/bar", true),
        ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc", false),
        ("abc/**", "abc/def", true),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", ".foo", true),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        (
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            true,
        ),
        ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
        ("foo", "a/foo", false),
        ("foo", "foo/a/b", true),
        (".", "foo", false),
    ];
    for (pattern, path, expected) in rows {
        assert_eq!(ignored(&[pattern], path), *expected, "{pattern} on {path}");
    }
}

/// BuildKit Dockerignore; kaniko dockerignore_relative.
#[test]
fn the_last_matching_line_wins() {
    for (patterns, path, expected) in [
        (&["**", "!util/docker/web"][..], "util/docker/web/foo", false),
        (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
        (
            &["**", "!dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl"],
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            false,
        ),
        (&["**", "!dist/*.whl"], "dist/a.whl", false),
        (&["docs", "!docs/README.md"], "docs/README.md", false),
        (&["docs", "!docs/README.md"], "docs/other.md", true),
        (&["!docs/README.md", "docs"], "docs/README.md", true),
        (&["*.md", "!README*.md", "README-secret.md"], "README-secret.md", true),
        (&["*.md", "!README*.md", "README-secret.md"], "README-a.md", false),
    ] {
        assert_eq!(ignored(patterns, path), expected, "{patterns:?} on {path}");
    }
}

#[test]
fn the_pattern_that_leaves_a_path_out_can_be_named() {
    let patterns = ["docs", "!docs/README.md", "*.log", "!keep"];
    let file = IgnoreFile::from_patterns(&patterns).expect("patterns");
    for (path, expected) in [
        ("docs/x", Some("docs")),
        ("docs/README.md", None),
        ("a.log", Some("*.log")),
        ("keep", None),
        ("src/a.log", None),
    ] {
        assert_eq!(file.ignoring_pattern(path), expected, "{path}");
        assert_eq!(file.ignores(path), expected.is_some(), "{path}");
    }
}

#[test]
fn files_are_read_with_comments_blanks_and_slashes() {
    let text = "\u{feff}# comment\n  \n /foo/ \n!  /foo/./keep\n./bar/../baz\n #not\\ a comment\n";
    let file = IgnoreFile::parse(text).expect("an ignore file");
    assert!(file.ignores("foo/x"));
    assert!(!file.ignores("foo/keep"));
    assert!(file.ignores("baz"));
    assert!(!file.ignores("bar"));
    assert!(file.ignores("#not a comment"));
}

/// BuildKit DockerignoreInvalid.
#[test]
fn illegal_patterns_are_reported() {
    let error = IgnoreFile::parse("a\n!\n").expect_err("a lone exclamation mark");
    assert_eq!(error.message(), "error checking context: illegal exclusion pattern: \"!\"");
    let error = IgnoreFile::parse("a[\n").expect_err("an open class");
    assert_eq!(error.message(), "error checking context: syntax error in pattern \"a[\"");
}

#[test]
fn walks_prune_only_where_nothing_can_come_back() {
    let prunes = |patterns: &[&str], directory| {
        IgnoreFile::from_patterns(patterns).expect("patterns").prunes(directory)
    };
    assert!(prunes(&["node_modules"], "node_modules"));
    assert!(prunes(&["node_modules", "!src/x"], "node_modules"));
    assert!(!prunes(&["node_modules", "!node_modules/x"], "node_modules"));
    assert!(!prunes(&["a", "!*/x"], "a"));
    assert!(!prunes(&["a", "!**/x"], "a"));
    assert!(prunes(&["a", "!a/b/x"], "a/c"));
    assert!(!prunes(&["a"], "b"));
}

/// BuildKit DockerignoreOverride.
#[test]
fn an_ignore_file_beside_the_dockerfile_comes_first() {
    assert_eq!(
        ignore_file_names("build/app.Dockerfile"),
        ["build/app.Dockerfile.dockerignore", ".dockerignore"]
    );
}
