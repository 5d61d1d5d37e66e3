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
    let parts = |text| -> Vec<&str> {
        let parts = str::split(text, '/');
        parts.filter(|part| !part.is_empty() && *part != ".").collect()
    };
    let segments = parts(&joined);
    let mut search = Search { files, after_pivot: parts(tail).len(), found: Vec::new() };
    search.expand(Path::new(""), &segments, None)?;
    let mut found = search.found;
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    let selected = found.into_iter().map(|(written, pivot)| {
        let from = resolve(files, &written)?;
        // A dangling link is copied as the link that it is.
        let from = if files.node(&from)?.is_some() { from } else { written.clone() };
        Ok(Selected { from, written, pivot })
    });
    selected.collect()
}

/// A walk along the segments of a wildcard.
struct Search<'a> {
    files: &'a dyn Files,
    /// How many segments stand behind the pivot.
    after_pivot: usize,
    /// Paths, and how many of their parts stand before the pivot.
    found: Vec<(PathBuf, usize)>,
}

impl Search<'_> {
    fn expand(
        &mut self,
        directory: &Path,
        segments: &[&str],
        pivot: Option<usize>,
    ) -> Result<(), TreeError> {
        let reached = segments.len() == self.after_pivot;
        let pivot = pivot.or_else(|| reached.then(|| directory.components().count()));
        let Some((segment, rest)) = segments.split_first() else {
            self.found.push((directory.to_owned(), pivot.unwrap_or(0)));
            return Ok(());
        };
        let real = resolve(self.files, directory)?;
        if *segment == "**" {
            self.expand(directory, rest, pivot)?;
            for name in self.files.children(&real)? {
                let node = self.files.node(&real.join(&name))?;
                if node.is_some_and(|node| node.entry.is_directory()) {
                    self.expand(&directory.join(&name), segments, pivot)?;
                }
            }
            return Ok(());
        }
        if !is_wildcard(segment) {
            let next = directory.join(segment);
            let exists = self.files.node(&real.join(segment))?.is_some();
            return if exists { self.expand(&next, rest, pivot) } else { Ok(()) };
        }
        // A malformed pattern matches nothing, as a wildcard may.
        let Ok(pattern) = PathPattern::parse(segment, DoubleStar::Plain) else { return Ok(()) };
        for name in self.files.children(&real)? {
            if pattern.matches(&name.to_string_lossy()) {
                self.expand(&directory.join(&name), rest, pivot)?;
            }
        }
        Ok(())
    }
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

    #[test]
    fn a_pivot_behind_a_wildcard_counts_what_the_wildcard_matched() {
        for (word, pivot) in [("**/./x.rs", 2), ("s*/./**/*.rs", 1), ("src/**/./x.rs", 2)] {
            let found = select(&files(), word).expect(word);
            let deep = found.iter().find(|one| one.written.ends_with("deep/x.rs"));
            assert_eq!(deep.map(|one| one.pivot), Some(pivot), "{word}");
        }
    }

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
