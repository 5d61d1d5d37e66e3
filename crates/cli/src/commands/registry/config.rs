//! The file given with `--config`: its keys.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Deserialize;

use crate::exit::{Failure, Kind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AnonymousArg {
    /// Nothing.
    None,
    /// Pull.
    Pull,
    /// Pull and push.
    Push,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AuthArg {
    /// User name and password with each request.
    Basic,
    /// Tokens from the built-in token service.
    Token,
}

/// The file given with `--config`; other tables belong to other verbs.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    registry: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Config {
    pub(super) address: Option<String>,
    pub(super) htpasswd: Option<PathBuf>,
    pub(super) anonymous: Option<AnonymousArg>,
    pub(super) auth: Option<AuthArg>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    #[serde(default)]
    pub(super) plain_http: bool,
    pub(super) external_url: Option<String>,
    #[serde(default)]
    pub(super) access: Vec<ConfigAccess>,
}

/// One right; rights add up.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ConfigAccess {
    /// The repository and those below it; empty for all.
    #[serde(default)]
    pub(super) prefix: String,
    /// A user of the user file; `*` for each of them, absent for everybody.
    pub(super) user: Option<String>,
    pub(super) role: ConfigRole,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ConfigRole {
    Pull,
    Push,
    Delete,
}

pub(super) fn read(path: &Path) -> Result<Config, Failure> {
    let usage = |error: anyhow::Error| {
        Failure::new(Kind::Usage, error.context(format!("cannot use {}", path.display())))
    };
    let text = std::fs::read_to_string(path).map_err(|error| usage(error.into()))?;
    let file: ConfigFile = toml::from_str(&text).map_err(|error| usage(error.into()))?;
    Ok(file.registry)
}
