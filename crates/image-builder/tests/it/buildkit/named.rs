//! [namedcontext]: directories and images that replace bases and sources.

use container_runtime::Mode;
use image_builder::{ContextDirectory, NamedContext};

use super::{Case, case};
use crate::tests;

tests![
    an_image_replaces_a_base_and_keeps_its_times,
    a_directory_replaces_a_source_or_a_base,
    an_empty_directory_is_as_good_as_scratch,
];

fn with_image(text: &str, name: &'static str, image: &'static str) -> Case {
    case(text).with(move |_, request| {
        let image = NamedContext::Image(crate::fixture::reference(image));
        request.named_contexts.insert(name.into(), image);
    })
}

fn with_directory(text: &str, name: &'static str, files: &[(&str, &str)], ignore: &str) -> Case {
    let directory = tempfile::tempdir().expect("a directory");
    for (path, content) in files {
        std::fs::write(directory.path().join(path), content).expect("a file");
    }
    let ignore = dockerfile::IgnoreFile::parse(ignore).expect("an ignore file");
    case(text).in_mode(Mode::None).with(move |_, request| {
        let root = directory.path().to_owned();
        let context = NamedContext::Directory(ContextDirectory { root, ignore: ignore.clone() });
        request.named_contexts.insert(name.into(), context);
    })
}

/// BuildKit NamedImageContext, NamedImageContextTimestamps.
fn an_image_replaces_a_base_and_keeps_its_times() {
    let history = |case: &Case| case.build(|_, outcome| outcome.image.history.clone());
    let base = case("FROM base\nENV FOO=of-the-image\n").with(|_, request| {
        request.epoch = Some(1_000_000);
    });
    base.keep("replacement");
    let of_base = history(&case("FROM replacement\n"));
    let child = with_image("FROM nosuch:1\nRUN echo $FOO\n", "nosuch:1", "replacement")
        .with(|_, request| request.epoch = Some(2_000_000));
    assert_eq!(child.printed(), "of-the-image\n");
    let of_child = history(&child);
    assert_eq!(of_child[..of_base.len()], of_base);
    assert_eq!(
        of_child.last().and_then(|last| last.created.as_deref()),
        Some("1970-01-24T03:33:20Z")
    );
}

/// BuildKit NamedLocalContext.
fn a_directory_replaces_a_source_or_a_base() {
    let files = [("foo", "named"), ("bar", "ignored")];
    let text = "FROM scratch\nCOPY --from=other . /\n";
    assert_eq!(with_directory(text, "other", &files, "bar\n").tree(), ["foo 644 0:0 named"]);
    let text = "FROM other\nCOPY own /\n";
    let built = with_directory(text, "other", &files, "").file("own", "x");
    assert_eq!(built.tree(), ["bar 644 0:0 ignored", "foo 644 0:0 named", "own 644 0:0 x"]);
    // A stage of that name is replaced as well.
    let text = "FROM nosuch AS other\nRUN exit 1\nFROM scratch\nCOPY --from=other foo /\n";
    assert_eq!(with_directory(text, "other", &files, "").tree(), ["foo 644 0:0 named"]);
}

fn an_empty_directory_is_as_good_as_scratch() {
    let built = with_directory("FROM nosuch\nCOPY foo /\n", "nosuch", &[], "").file("foo", "x");
    assert_eq!(built.tree(), ["foo 644 0:0 x"]);
}
