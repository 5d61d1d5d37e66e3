//! The docker config files of a node, in the kubelet's search order.

use std::path::{Path, PathBuf};

use crate::config_file::{ConfigEntry, ConfigFileError, parse_config_json, parse_dockercfg};

/// The directories that the search order is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchDirs {
    /// The kubelet's root directory, `/var/lib/kubelet` by default.
    pub root_dir: PathBuf,
    /// The working directory of the process.
    pub working_dir: PathBuf,
    /// `$HOME`; `None` if unset, which the kubelet takes as the working directory.
    pub home: Option<PathBuf>,
    /// `/`, or another directory in tests.
    pub filesystem_root: PathBuf,
}

/// Which of the two formats a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFileKind {
    /// `config.json`.
    ConfigJson,
    /// `.dockercfg`.
    DockerCfg,
}

/// The eight places where the kubelet looks, first hit wins: the first file that can be read and
/// parsed ends the search, even when it holds no credential, and nothing is merged.
pub fn node_file_candidates(dirs: &SearchDirs) -> Vec<(PathBuf, NodeFileKind)> {
    let home = dirs.home.as_deref().unwrap_or_else(|| Path::new(""));
    let home = if home.is_absolute() { home.to_path_buf() } else { dirs.working_dir.join(home) };
    let root = &dirs.filesystem_root;
    let config_dirs = [
        dirs.root_dir.clone(),
        dirs.working_dir.clone(),
        home.join(".docker"),
        root.join(".docker"),
    ];
    let legacy_dirs = [dirs.root_dir.clone(), dirs.working_dir.clone(), home, root.clone()];
    let config = config_dirs.into_iter().map(|d| (d.join("config.json"), NodeFileKind::ConfigJson));
    let legacy = legacy_dirs.into_iter().map(|d| (d.join(".dockercfg"), NodeFileKind::DockerCfg));
    config.chain(legacy).collect()
}

/// Reads a file of one of the two formats.
///
/// # Errors
/// As [`parse_config_json`] and [`parse_dockercfg`]; the search then goes on with the next place.
pub fn parse_node_file(
    bytes: &[u8],
    kind: NodeFileKind,
) -> Result<Vec<ConfigEntry>, ConfigFileError> {
    match kind {
        NodeFileKind::ConfigJson => parse_config_json(bytes),
        NodeFileKind::DockerCfg => parse_dockercfg(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(home: Option<&str>) -> Vec<String> {
        let dirs = SearchDirs {
            root_dir: PathBuf::from("/var/lib/kubelet"),
            working_dir: PathBuf::from("/work"),
            home: home.map(PathBuf::from),
            filesystem_root: PathBuf::from("/"),
        };
        node_file_candidates(&dirs)
            .into_iter()
            .map(|(path, _)| path.display().to_string())
            .collect()
    }

    #[test]
    fn all_config_files_come_before_all_legacy_files() {
        assert_eq!(
            paths(Some("/root")),
            [
                "/var/lib/kubelet/config.json",
                "/work/config.json",
                "/root/.docker/config.json",
                "/.docker/config.json",
                "/var/lib/kubelet/.dockercfg",
                "/work/.dockercfg",
                "/root/.dockercfg",
                "/.dockercfg",
            ]
        );
    }

    #[test]
    fn unset_home_degenerates_to_the_working_directory() {
        assert_eq!(paths(None)[2], "/work/.docker/config.json");
    }
}
