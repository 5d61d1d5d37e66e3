//! Source paths of COPY and ADD against a list of existing paths.

use crate::error::DockerfileError;
use crate::instruction::Parents;
use crate::path_pattern::{DoubleStar, PathPattern};

/// A source path that may hold wildcards.
///
/// Wildcards match segment by segment as Go's `filepath.Match`; names that begin with a dot are
/// matched like others. `**` spans directories only with `--parents`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePattern {
    /// Literal directory in front of the first wildcard; the whole path when there is none.
    directory: String,
    /// What follows, relative to `directory`.
    wildcard: Option<PathPattern>,
    /// Segments of the wildcard part; `None` when `**` makes the number open.
    depth: Option<usize>,
    /// Leading part of a matched path that `--parents` drops.
    pivot: String,
    parents: Parents,
}

impl SourcePattern {
    /// Reads a path as it stands in [`FileSource::Path`](crate::FileSource::Path).
    ///
    /// # Errors
    /// If a wildcard is malformed.
    pub fn parse(path: &str, parents: Parents) -> Result<Self, DockerfileError> {
        let (pivot, path) = match path.split_once("/./") {
            Some((before, after)) if parents == Parents::Keep => {
                (before.to_owned(), format!("{before}/{after}"))
            }
            Some(_) | None => (String::new(), path.to_owned()),
        };
        let segments: Vec<&str> = path.split('/').collect();
        let first = segments.iter().position(|segment| has_wildcard(segment));
        let Some(first) = first else {
            return Ok(Self { directory: path, wildcard: None, depth: Some(0), pivot, parents });
        };
        let (directory, rest) = segments.split_at(first);
        let spans = parents == Parents::Keep && rest.iter().any(|segment| segment.contains("**"));
        let double_star = if spans { DoubleStar::Directories } else { DoubleStar::Plain };
        Ok(Self {
            directory: directory.join("/"),
            wildcard: Some(PathPattern::parse(&rest.join("/"), double_star)?),
            depth: (!spans).then_some(rest.len()),
            pivot,
            parents,
        })
    }

    /// Whether the path has wildcards: then matching nothing is no error.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard.is_some()
    }

    /// Where a search begins: the literal part, empty for the root.
    #[must_use]
    pub fn directory(&self) -> &str {
        if self.directory == "." { "" } else { &self.directory }
    }

    /// How many levels below [`SourcePattern::directory`] matches lie; `None` for any number.
    #[must_use]
    pub fn depth(&self) -> Option<usize> {
        self.depth
    }

    /// Whether `path`, clean and relative to the root, is named by the pattern itself.
    ///
    /// Children of a matched directory are not matches: they come along with it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(wildcard) = &self.wildcard else {
            return path == self.directory || (self.directory == "." && path.is_empty());
        };
        let rest = match self.directory() {
            "" => Some(path),
            directory => path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')),
        };
        rest.is_some_and(|rest| !rest.is_empty() && wildcard.matches(rest))
    }

    /// The matches among `paths`, in their order.
    pub fn select<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        paths.into_iter().filter(|path| self.matches(path)).collect()
    }

    /// The path below the destination that `--parents` gives to the matched `path`; `None` when
    /// the pattern was not made for `--parents`.
    #[must_use]
    pub fn kept_path<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.parents {
            Parents::Drop => None,
            Parents::Keep if self.pivot.is_empty() => Some(path),
            Parents::Keep => {
                let rest = path.strip_prefix(self.pivot.as_str()).unwrap_or(path);
                Some(rest.trim_start_matches('/'))
            }
        }
    }
}

fn has_wildcard(segment: &str) -> bool {
    let mut chars = segment.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: [&str; 10] = [
        ".hidden",
        "a.txt",
        "b.txt",
        "dir",
        "dir/a.txt",
        "dir/sub",
        "dir/sub/c.txt",
        "dir2/x",
        "we[i]rd",
        "ünï.txt",
    ];

    fn check(pattern: &str, expected: &[&str]) {
        let compiled = SourcePattern::parse(pattern, Parents::Drop).expect(pattern);
        assert_eq!(compiled.select(TREE), expected, "{pattern}");
    }

    /// BuildKit CopyWildcards, CopyUnicodePath; buildah's escape-glob cases.
    #[test]
    fn wildcards_match_segment_by_segment() {
        check("*.txt", &["a.txt", "b.txt", "ünï.txt"]);
        check("?.txt", &["a.txt", "b.txt"]);
        check("[a]*", &["a.txt"]);
        check("[^a].txt", &["b.txt"]);
        check("*", &[".hidden", "a.txt", "b.txt", "dir", "we[i]rd", "ünï.txt"]);
        check("dir/*", &["dir/a.txt", "dir/sub"]);
        check("*/*.txt", &["dir/a.txt"]);
        check("dir/*/c.txt", &["dir/sub/c.txt"]);
        check("**", &[".hidden", "a.txt", "b.txt", "dir", "we[i]rd", "ünï.txt"]);
        check("we[[]i]rd", &["we[i]rd"]);
        check("none*", &[]);
    }

    #[test]
    fn literal_paths_match_themselves() {
        check("dir/a.txt", &["dir/a.txt"]);
        check("dir", &["dir"]);
        let root = SourcePattern::parse(".", Parents::Drop).expect("the root");
        assert!(!root.is_wildcard());
        assert_eq!(root.directory(), "");
        assert!(root.matches("."));
    }

    #[test]
    fn searches_begin_at_the_literal_part() {
        let pattern = SourcePattern::parse("a/b/*/d?", Parents::Drop).expect("a pattern");
        assert_eq!((pattern.directory(), pattern.depth()), ("a/b", Some(2)));
        let pattern = SourcePattern::parse("a/**/d", Parents::Keep).expect("a pattern");
        assert_eq!((pattern.directory(), pattern.depth()), ("a", None));
    }

    /// BuildKit CopyParents, CopyRelativeParents.
    #[test]
    fn parents_keep_what_follows_the_pivot() {
        let kept = |pattern: &str| -> Vec<String> {
            let compiled = SourcePattern::parse(pattern, Parents::Keep).expect(pattern);
            let found = compiled.select(TREE);
            found
                .into_iter()
                .filter_map(|path| compiled.kept_path(path))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(kept("dir/sub/c.txt"), ["dir/sub/c.txt"]);
        assert_eq!(kept("dir/./sub/c.txt"), ["sub/c.txt"]);
        assert_eq!(kept("dir/./*/c.txt"), ["sub/c.txt"]);
        assert_eq!(kept("**/*.txt"), ["a.txt", "b.txt", "dir/a.txt", "dir/sub/c.txt", "ünï.txt"]);
        assert_eq!(kept("dir/./**/*.txt"), ["a.txt", "sub/c.txt"]);
    }

    #[test]
    fn malformed_wildcards_are_errors() {
        assert!(SourcePattern::parse("a[", Parents::Drop).is_err());
    }
}
