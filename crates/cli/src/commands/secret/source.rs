//! Where the credentials of a sync come from: a config file with its helpers, or a secret.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use credentials::lint::shown;
use credentials::{ClientConfig, ConfigEntry, RegistryAuth, parse_config_json, server_key};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use operator::secret_sync::{SourceError, Sourced, unanswered};

use super::{SyncArgs, file_changes};
use crate::auth_files::{login_file, stored_credential};
use crate::cloud::{CloudAnswer, Wants, cloud_credential, is_asked_about};
use crate::exit::{Failure, Kind};

/// Reads the source once.
pub(super) async fn read(args: &SyncArgs, client: kube::Client) -> Result<Sourced, Failure> {
    let sourced = match &args.from_secret {
        Some(secret) => secret.read(client, &args.registries).await,
        None => {
            let (path, registries) = (path(args)?, args.registries.clone());
            of_file(path, registries).await
        }
    };
    sourced.map_err(|error| Failure::new(Kind::Failed, error))
}

/// What the source gives now and whenever it changes: a secret is watched, a file's directory too;
/// helpers, which tell nobody, are asked again from time to time.
pub(super) fn watch(
    args: &SyncArgs,
    client: kube::Client,
) -> Result<BoxStream<'static, Result<Sourced, SourceError>>, Failure> {
    let registries = args.registries.clone();
    if let Some(secret) = args.from_secret.clone() {
        return Ok(secret.watch(client, registries).boxed());
    }
    let path = path(args)?;
    let changes = file_changes::beside(&path)?;
    let refresh = args.refresh;
    // The first tick is now.
    let ticks = stream::unfold(tokio::time::interval(refresh.max(file_changes::PAUSE_MIN)), {
        |mut interval| async move {
            interval.tick().await;
            Some(((), interval))
        }
    });
    let looks = stream::select(changes, ticks);
    Ok(looks.then(move |()| of_file(path.clone(), registries.clone())).boxed())
}

fn path(args: &SyncArgs) -> Result<PathBuf, Failure> {
    args.from_file.clone().map_or_else(login_file, Ok)
}

async fn of_file(path: PathBuf, registries: Vec<String>) -> Result<Sourced, SourceError> {
    // Helpers are programs that may take their time.
    let read = tokio::task::spawn_blocking(move || {
        let entries = entries(&path, &registries);
        let entries = entries.map_err(|error| SourceError::Unreadable(error.text()))?;
        Sourced::new(&entries, &registries)
    });
    read.await.unwrap_or_else(|error| Err(SourceError::Unreadable(error.to_string())))
}

/// All credentials of a config file, those of its helpers included, and for registries of clouds
/// that were named and for which the file holds nothing, what their cloud gives to this machine.
fn entries(path: &Path, registries: &[String]) -> Result<Vec<ConfigEntry>, Failure> {
    let mut entries = entries_of_file(path, registries)?;
    for registry in unanswered(&entries, registries) {
        match cloud_credential(registry, Wants::Pull) {
            CloudAnswer::Given { credential, .. } => {
                // The empty entries of its helper.
                entries.retain(|entry| server_key(&entry.key) != server_key(registry));
                entries.push(ConfigEntry { key: registry.clone(), auth: credential.auth });
            }
            // A token that was given before may still be good: nothing is to change.
            CloudAnswer::Refused(error) => {
                return Err(Failure::new(
                    Kind::Failed,
                    anyhow!("the cloud of {} gives no credential: {error}", shown(registry)),
                ));
            }
            CloudAnswer::None => {}
        }
    }
    Ok(entries)
}

fn entries_of_file(path: &Path, registries: &[String]) -> Result<Vec<ConfigEntry>, Failure> {
    let named = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read {}: {error}", path.display()))
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        // A machine whose credentials all come from its cloud has no file.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && registries.iter().any(|registry| is_asked_about(registry)) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(named(&error)),
    };
    let config = ClientConfig::parse(&bytes).map_err(|error| named(&error))?;
    let mut entries = parse_config_json(&bytes).map_err(|error| named(&error))?;
    for server in config.helper_servers() {
        if !entries.iter().any(|entry| entry.key == server) {
            let nothing = RegistryAuth::basic("", credentials::Secret::new(""));
            entries.push(ConfigEntry { key: server, auth: nothing });
        }
    }
    let mut found = Vec::new();
    for entry in entries {
        let is_plain = entry.auth.username().is_some_and(|user| !user.is_empty());
        if is_plain && config.helper_for(&entry.key).is_none() {
            found.push(entry);
            continue;
        }
        // Empty entries stand for a helper's; tokens are named by who knows what nodes can use.
        let (server, repository) = match entry.key.split_once('/') {
            Some((host, path)) if !entry.key.contains("://") => (host, path),
            _ => (entry.key.as_str(), ""),
        };
        let auth = stored_credential(&config, server, repository)?.unwrap_or(entry.auth);
        found.push(ConfigEntry { key: entry.key, auth });
    }
    Ok(found)
}
