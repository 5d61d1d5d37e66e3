//! Which identity for which registry: docker config, helpers, pull secrets, keyring.
//!
//! This crate opens no socket, starts no process and reads no file: it is given bytes, and says
//! what to ask; the caller performs. It owns [`Secret`].
//!
//! Two readers of the same file live here, because they differ. [`Keyring`] matches as the kubelet
//! does (pull secrets, node files, providers), [`ClientConfig`] as `docker login` and
//! `docker pull` do on a person's machine, credential helpers included.

#![forbid(unsafe_code)]

mod auth;
mod auth_files;
mod base64_go;
mod client_config;
pub mod cloud;
mod config_file;
mod expiry;
mod glob;
mod helper;
mod keyring;
pub mod lint;
mod node_files;
pub mod provider;
mod pull_secret;
mod secret;

pub use auth::RegistryAuth;
pub use auth_files::{AuthEnvironment, AuthFile, AuthFileFormat, auth_files, login_file};
pub use client_config::{ClientConfig, ClientConfigError, Lookup, server_key};
pub use config_file::{ConfigEntry, ConfigFileError, parse_config_json, parse_dockercfg};
pub use helper::{HELPER_TIMEOUT, HelperAction, HelperError, HelperRequest};
pub use keyring::{Candidate, Keyring, Origin};
pub use node_files::{NodeFileKind, SearchDirs, node_file_candidates, parse_node_file};
pub use pull_secret::{PullSecret, SecretKind, keyring_of_pull_secrets};
pub use secret::Secret;
