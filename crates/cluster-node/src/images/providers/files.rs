//! The configuration files of exec credential providers, read whenever they may have changed.

use std::io;
use std::path::{Path, PathBuf};

use credentials::provider::{ConfigDocument, Provider, is_config_file, providers_of};
use rustix::fs::Access;
use serde_json::Value;

use super::ProvidersError;

/// Longest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most files of a directory.
const FILES_MAX: usize = 256;

/// What the files hold, byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files(Vec<(PathBuf, Vec<u8>)>);

impl Files {
    /// Reads a file, or the `.json`, `.yaml` and `.yml` files of a directory in order of names.
    pub(super) fn read(config: &Path) -> Result<Self, ProvidersError> {
        let metadata = std::fs::metadata(config)
            .map_err(|source| ProvidersError::Access { path: config.to_owned(), source })?;
        if !metadata.is_dir() {
            return Ok(Self(vec![(config.to_owned(), read_file(config)?)]));
        }
        let list = || -> io::Result<Vec<PathBuf>> {
            let mut paths = Vec::new();
            for entry in std::fs::read_dir(config)? {
                let entry = entry?;
                let counts = is_config_file(&entry.file_name().to_string_lossy());
                if counts && !entry.file_type()?.is_dir() {
                    paths.push(entry.path());
                }
            }
            paths.sort();
            Ok(paths)
        };
        let paths = list()
            .map_err(|source| ProvidersError::Directory { path: config.to_owned(), source })?;
        if paths.is_empty() {
            return Err(ProvidersError::NoFiles { path: config.to_owned() });
        }
        if paths.len() > FILES_MAX {
            return Err(ProvidersError::TooManyFiles { path: config.to_owned() });
        }
        let mut files = Vec::new();
        for path in paths {
            let bytes = read_file(&path)?;
            files.push((path, bytes));
        }
        Ok(Self(files))
    }

    /// The providers that the files configure, whose programs are all there.
    pub(super) fn providers(&self, bin_dir: &Path) -> Result<Vec<Provider>, ProvidersError> {
        if let Err(source) = std::fs::metadata(bin_dir) {
            let path = bin_dir.to_owned();
            return Err(match source.kind() {
                io::ErrorKind::NotFound => ProvidersError::NoBinDir { path },
                _ => ProvidersError::BinDir { path, source },
            });
        }
        let mut documents = Vec::new();
        for (path, bytes) in &self.0 {
            let value = decode(bytes)
                .map_err(|reason| ProvidersError::Decode { path: path.clone(), reason })?;
            documents.push(ConfigDocument { path: path.display().to_string(), value });
        }
        let providers = providers_of(&documents)?;
        for provider in &providers {
            let path = bin_dir.join(&provider.name);
            if let Err(source) = is_program(&path) {
                return Err(match source.kind() {
                    io::ErrorKind::NotFound => ProvidersError::NoProgram { path },
                    _ => ProvidersError::Program { path, source },
                });
            }
        }
        Ok(providers)
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, ProvidersError> {
    let read = || {
        if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
            return Err(io::Error::other("file is larger than 1 MiB"));
        }
        std::fs::read(path)
    };
    read().map_err(|source| ProvidersError::File { path: path.to_owned(), source })
}

/// JSON if it begins as an object, else YAML, of which JSON is a part.
fn decode(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    serde_saphyr::from_str(text).map_err(|error| {
        // The text below the first line shows the file, which may hold secrets.
        let text = error.to_string();
        format!("error converting YAML to JSON: {}", text.lines().next().unwrap_or_default())
    })
}

fn is_program(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    Ok(rustix::fs::access(path, Access::EXEC_OK)?)
}
