//! A directory tree as lines that can be compared.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// One line per path: kind, mode, owner, and what it holds. Times are not compared: directories
/// made along the way carry the time of the build.
pub(crate) fn describe(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    walk(root, Path::new(""), &mut lines);
    lines.sort();
    lines
}

fn walk(root: &Path, below: &Path, lines: &mut Vec<String>) {
    for item in std::fs::read_dir(root.join(below)).expect("readable") {
        let item = item.expect("readable");
        let path = below.join(item.file_name());
        let metadata = item.metadata().expect("readable");
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("link {}", std::fs::read_link(item.path()).expect("a link").display())
        } else if kind.is_file() {
            let digest = oci_model::Digest::of(&std::fs::read(item.path()).expect("readable"));
            format!("file {} links {}", digest.short(), metadata.nlink())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("device {}", metadata.rdev())
        };
        let mode = if kind.is_symlink() { 0o777 } else { metadata.mode() & 0o7777 };
        let owner = format!("{}:{}", metadata.uid(), metadata.gid());
        lines.push(format!("/{} {mode:o} {owner} {what}", path.display()));
        if kind.is_dir() {
            walk(root, &path, lines);
        }
    }
}

/// Panics with what only one side has.
pub(crate) fn assert_same(title: &str, ours: &[String], theirs: &[String]) {
    let only = |these: &[String], those: &[String]| -> String {
        these.iter().filter(|line| !those.contains(line)).fold(String::new(), |mut text, line| {
            text.push_str("\n    ");
            text.push_str(line);
            text
        })
    };
    assert!(
        ours == theirs,
        "{title}\n  only ours:{}\n  only theirs:{}",
        only(ours, theirs),
        only(theirs, ours)
    );
}
