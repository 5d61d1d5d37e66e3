//! What a command leaves at paths that are no part of the image.

use std::path::{Component, Path, PathBuf};

use crate::error::StepError;
use crate::workspace::remove_tree;

/// Removes what a command left at paths that are no part of the image; nobody else writes below
/// `upper`. A link on the way leads elsewhere, so that what is behind it stays.
pub(crate) fn remove_ignored(upper: &Path, ignored: &[PathBuf]) -> Result<(), StepError> {
    for path in ignored {
        let names: Vec<_> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let Some((last, parents)) = names.split_last() else { continue };
        let mut directory = upper.to_owned();
        let is_inside = parents.iter().all(|name| {
            directory.push(name);
            std::fs::symlink_metadata(&directory).is_ok_and(|metadata| metadata.is_dir())
        });
        if !is_inside {
            continue;
        }
        let target = directory.join(last);
        let removed = match std::fs::symlink_metadata(&target) {
            Ok(metadata) if metadata.is_dir() => remove_tree(&target),
            Ok(_) => std::fs::remove_file(&target),
            Err(_) => Ok(()),
        };
        removed.map_err(|error| StepError::io(&target, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_paths_vanish_and_what_links_lead_to_stays() {
        let root = tempfile::tempdir().expect("a directory");
        let (upper, outside) = (root.path().join("upper"), root.path().join("outside"));
        for directory in ["upper/a/b", "upper/keep", "outside/b"] {
            std::fs::create_dir_all(root.path().join(directory)).expect("a directory");
        }
        std::fs::write(upper.join("a/b/file"), "x").expect("a file");
        std::fs::write(upper.join("single"), "x").expect("a file");
        std::os::unix::fs::symlink(&outside, upper.join("link")).expect("a link");
        let ignored = ["/a/b", "single", "link/b", "missing/x", "/"].map(PathBuf::from).to_vec();
        remove_ignored(&upper, &ignored).expect("ours");
        assert!(upper.join("a").is_dir() && !upper.join("a/b").exists());
        assert!(!upper.join("single").exists());
        assert!(outside.join("b").is_dir() && upper.join("keep").is_dir());
    }
}
