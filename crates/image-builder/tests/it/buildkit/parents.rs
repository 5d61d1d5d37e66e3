//! [parents]: COPY --parents.

use container_runtime::Mode;

use super::{Case, case};
use crate::tests;

tests![
    parents_keep_the_path_of_a_source,
    what_stands_before_the_pivot_is_left_behind,
    a_missing_literal_fails_and_a_wildcard_does_not,
];

fn parents(sources: &str) -> Case {
    case(&format!("FROM scratch\nWORKDIR /test\nCOPY --parents {sources} ./to/\n"))
        .in_mode(Mode::None)
        .files(&["foo1/foo2/bar", "foo1/foo2/ba2", "foo1/foo3/bar", "a/b/c/d/e", "x"])
        .chmod("foo1", 0o711)
}

fn copied(case: &Case) -> Vec<String> {
    let tree = case.tree_below("test/to/");
    let paths = tree.iter().filter_map(|line| line.split(' ').next()?.strip_prefix("test/to/"));
    paths.filter(|path| !path.is_empty() && !path.ends_with('/')).map(str::to_owned).collect()
}

/// BuildKit CopyParents.
fn parents_keep_the_path_of_a_source() {
    for (sources, expected) in [
        ("foo1/foo2/bar", &["foo1/foo2/bar"][..]),
        ("foo1/foo2", &["foo1/foo2/ba2", "foo1/foo2/bar"]),
        ("foo1/*/bar x", &["foo1/foo2/bar", "foo1/foo3/bar", "x"]),
        ("foo1/**/ba*", &["foo1/foo2/ba2", "foo1/foo2/bar", "foo1/foo3/bar"]),
        ("**/e", &["a/b/c/d/e"]),
        ("/foo1/foo3/bar", &["foo1/foo3/bar"]),
    ] {
        assert_eq!(copied(&parents(sources)), expected, "{sources}");
    }
    let tree = parents("foo1/foo2/bar").tree_below("test/to/foo1/ ");
    assert_eq!(tree, ["test/to/foo1/ 711 0:0"], "implied parents look like their sources");
}

/// BuildKit CopyParents, CopyRelativeParents.
fn what_stands_before_the_pivot_is_left_behind() {
    for (sources, expected) in [
        ("a/./b/c/d/e", &["b/c/d/e"][..]),
        ("a/b/./c/d/e", &["c/d/e"]),
        ("./a/b/c/d/e", &["a/b/c/d/e"]),
        ("a/b/c/d/./e", &["e"]),
        ("foo1/./foo2/ba*", &["foo2/ba2", "foo2/bar"]),
        ("a/b/./c/*/e foo1/./foo3", &["c/d/e", "foo3/bar"]),
        ("a/**/./d/e", &["d/e"]),
        ("a/./b/**", &["b/c/d/e"]),
    ] {
        assert_eq!(copied(&parents(sources)), expected, "{sources}");
    }
    let text = "FROM scratch AS src\nWORKDIR /a/b/c\nCOPY x y/\nFROM scratch\nWORKDIR /out\n\
                COPY --from=src --parents /a/./b/c/y/x .\n";
    let built = case(text).in_mode(Mode::None).files(&["x"]);
    assert!(built.tree().contains(&"out/b/c/y/x 644 0:0 x".to_owned()));
}

/// BuildKit CopyParentsMissingDirectory.
fn a_missing_literal_fails_and_a_wildcard_does_not() {
    for missing in ["nope/bar", "foo1/nope/bar", "a/./nope", "nope/./bar"] {
        let error = parents(missing).error();
        assert!(error.contains("not found"), "{missing}: {error}");
    }
    for sources in ["nope/*", "foo1/nope/**/x", "nope/**"] {
        assert_eq!(copied(&parents(sources)), [] as [&str; 0], "{sources}");
    }
}
