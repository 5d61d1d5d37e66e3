//! Slash paths as text: what Go's `path` package does, which Docker's rules are written against.

/// The shortest equivalent path: no empty or `.` components, `..` resolved by text; empty is `.`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `path` as an absolute clean path; a relative one starts at `directory`.
pub(crate) fn join_absolute(directory: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("/{directory}/{path}")) }
}

/// The last component; of `/` it is `/`, of nothing `.`.
pub(crate) fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match (trimmed.rsplit('/').next(), path.is_empty()) {
        (_, true) => ".",
        (Some(name), false) if !name.is_empty() => name,
        (_, false) => "/",
    }
}

/// A source path below a root: clean, without leading `/`; `.` is the root itself.
///
/// `..` cannot climb out of the root.
pub(crate) fn relative_to_root(path: &str) -> String {
    let cleaned = clean(&format!("/{path}"));
    match cleaned.trim_start_matches('/') {
        "" => ".".to_owned(),
        path => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_text() {
        for (path, expected) in [
            ("", "."),
            (".", "."),
            ("a//b/./c/", "a/b/c"),
            ("/../a", "/a"),
            ("a/../..", ".."),
            ("../../a", "../../a"),
            ("/", "/"),
            ("//", "/"),
            ("a/..", "."),
            ("/a/../b", "/b"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn relative_paths_start_at_the_directory() {
        assert_eq!(join_absolute("/w", "a"), "/w/a");
        assert_eq!(join_absolute("/w", "/a/"), "/a");
        assert_eq!(join_absolute("/w", ".."), "/");
        assert_eq!(join_absolute("", "a"), "/a");
    }

    #[test]
    fn base_names_follow_go() {
        for (path, expected) in [("", "."), ("/", "/"), ("a/b/", "b"), ("b", "b")] {
            assert_eq!(base_name(path), expected, "{path}");
        }
    }

    #[test]
    fn sources_cannot_leave_the_root() {
        for (path, expected) in [("../../x", "x"), ("/", "."), ("a/../b/", "b"), (".", ".")] {
            assert_eq!(relative_to_root(path), expected, "{path}");
        }
    }
}
