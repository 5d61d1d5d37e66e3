//! Which paths of a source the words of a COPY mean.

use std::path::{Path, PathBuf};

use dockerfile::{DoubleStar, PathPattern};

use crate::tree::{Files, TreeError, resolve, tree_path};

/// One thing that a source word means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Path of the thing itself, symbolic links resolved.
    pub(crate) from: PathBuf,
    /// Path under which it was found, whose last part names the copy.
    pub(crate) written: PathBuf,
    /// How many leading parts of `written` stay behind with `--parents`.
    pub(crate) pivot: usize,
}

/// A source word that means nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectError {
    #[error("\"/{path}\": not found")]
    NotFound { path: String },
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// What `word` means in `files`. A wildcard may mean nothing; a plain path must exist.
pub(crate) fn select(files: &dyn Files, word: &str) -> Result<Vec<Selected>, SelectError> {
    let (head, tail) = word.split_once("/./").unwrap_or(("", word));
    let pivot = if head.is_empty() { 0 } else { tree_path(head).components().count() };
    let joined = if head.is_empty() { tail.to_owned() } else { format!("{head}/{tail}") };
    if !is_wildcard(&joined) {
        let written = tree_path(&joined);
        let from = resolve(files, &written)?;
        if files.node(&from)?.is_none() {
            let path = written.display().to_string();
            return Err(SelectError::NotFound { path });
        }
        return Ok(vec![Selected { from, written, pivot }]);
    }
    let segments: Vec<&str> =
        joined.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let mut found = Vec::new();
    expand(files, Path::new(""), &segments, &mut found)?;
    found.sort();
    found.dedup();
    let selected = found.into_iter().map(|written| {
        let from = resolve(files, &written)?;
        // A dangling link is copied as the link that it is.
        let from = if files.node(&from)?.is_some() { from } else { written.clone() };
        Ok(Selected { from, written, pivot })
    });
    selected.collect()
}

fn expand(
    files: &dyn Files,
    directory: &Path,
    segments: &[&str],
    found: &mut Vec<PathBuf>,
) -> Result<(), TreeError> {
    let Some((segment, rest)) = segments.split_first() else {
        found.push(directory.to_owned());
        return Ok(());
    };
    let real = resolve(files, directory)?;
    if *segment == "**" {
        expand(files, directory, rest, found)?;
        for name in files.children(&real)? {
            let is_directory =
                files.node(&real.join(&name))?.is_some_and(|n| n.entry.is_directory());
            if is_directory {
                expand(files, &directory.join(&name), segments, found)?;
            }
        }
        return Ok(());
    }
    if !is_wildcard(segment) {
        let next = directory.join(segment);
        let exists = files.node(&real.join(segment))?.is_some();
        return if exists { expand(files, &next, rest, found) } else { Ok(()) };
    }
    // A malformed pattern matches nothing, as a wildcard may.
    let Ok(pattern) = PathPattern::parse(segment, DoubleStar::Plain) else { return Ok(()) };
    for name in files.children(&real)? {
        if pattern.matches(&name.to_string_lossy()) {
            expand(files, &directory.join(&name), rest, found)?;
        }
    }
    Ok(())
}

/// Whether a source is a wildcard rather than a path.
fn is_wildcard(pattern: &str) -> bool {
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, IndexedTree, Node};
    use layers::Entry;

    fn files() -> IndexedTree {
        let mut tree = IndexedTree::new();
        for path in ["a.txt", "b.txt", "src/main.rs", "src/deep/x.rs", "README"] {
            let entry = Entry::file(path, 0o644, 1);
            tree.insert(Node { entry, content: Content::Empty, link: None });
        }
        for (path, target) in [("link", "src"), ("b-link.txt", "b.txt")] {
            let entry = Entry::symlink(path, target);
            tree.insert(Node { entry, content: Content::Empty, link: None });
        }
        tree
    }

    fn check(word: &str, expected: &[&str]) {
        let found = select(&files(), word).expect(word);
        let found: Vec<String> = found.iter().map(|s| s.written.display().to_string()).collect();
        assert_eq!(found, expected, "{word}");
    }

    #[test]
    fn words_mean_paths_and_wildcards() {
        check("a.txt", &["a.txt"]);
        check("*.txt", &["a.txt", "b-link.txt", "b.txt"]);
        check("*.none", &[]);
        check("**/*.rs", &["src/deep/x.rs", "src/main.rs"]);
        check("link/*.rs", &["link/main.rs"]);
        check("../../README", &["README"]);
        check(".", &[""]);
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = select(&files(), "no/such").expect_err("missing");
        assert_eq!(error.to_string(), "\"/no/such\": not found");
    }

    #[test]
    fn named_links_are_followed_and_keep_their_name() {
        let found = select(&files(), "b-link.txt").expect("there");
        assert_eq!(found[0].from, Path::new("b.txt"));
        assert_eq!(found[0].written, Path::new("b-link.txt"));
    }

    #[test]
    fn a_dot_component_marks_the_pivot() {
        let found = select(&files(), "src/./deep/x.rs").expect("there");
        assert_eq!(found[0].written, Path::new("src/deep/x.rs"));
        assert_eq!(found[0].pivot, 1);
    }
}
