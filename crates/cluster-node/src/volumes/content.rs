//! The files of secret, configMap, downwardAPI and projected volumes: pure (mini-kubernetes.md 8.4).

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection,
    ServiceAccountTokenProjection, Volume,
};

use crate::process::downward::{self, DownwardError, NodeFacts};
use crate::process::environment::Objects;

/// Mode of files when the volume names none.
const MODE_DEFAULT: u32 = 0o644;
/// Mode of a projected service account token unless the pod has an fsGroup.
const TOKEN_MODE: u32 = 0o600;
/// Lifetime asked for a token when the projection names none.
pub(crate) const TOKEN_SECONDS_DEFAULT: i64 = 3600;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileContent {
    pub(crate) bytes: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// Files of a volume by relative path.
pub(crate) type Payload = BTreeMap<String, FileContent>;

/// A token that the volume needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenNeed {
    /// Audience; empty means the API server.
    pub(crate) audience: String,
    /// Lifetime asked for.
    pub(crate) seconds: i64,
}

impl TokenNeed {
    fn of(projection: &ServiceAccountTokenProjection) -> Self {
        TokenNeed {
            audience: projection.audience.clone().unwrap_or_default(),
            seconds: projection.expiration_seconds.unwrap_or(TOKEN_SECONDS_DEFAULT),
        }
    }
}

/// What has to be fetched for a volume.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeNeeds {
    pub(crate) secrets: Vec<String>,
    pub(crate) config_maps: Vec<String>,
    pub(crate) tokens: Vec<TokenNeed>,
}

/// Why a volume has no content; the text ends up in a `FailedMount` event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ContentError {
    #[error("secret \"{0}\" not found")]
    SecretMissing(String),
    #[error("configmap \"{0}\" not found")]
    ConfigMapMissing(String),
    #[error("references non-existent secret key: {0}")]
    SecretKey(String),
    #[error("references non-existent config key: {0}")]
    ConfigMapKey(String),
    #[error("no token was issued for audience \"{0}\"")]
    Token(String),
    #[error("invalid path \"{0}\": it must be relative and must not contain \"..\"")]
    Path(String),
    #[error(transparent)]
    Downward(#[from] DownwardError),
}

/// Whether the content of a volume comes from the API and is written by the agent.
pub(crate) fn is_projected(volume: &Volume) -> bool {
    volume.secret.is_some()
        || volume.config_map.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Whether a volume holds secrets, so that it should not reach a disk.
pub(crate) fn is_secret(volume: &Volume) -> bool {
    volume.secret.is_some()
        || volume.projected.as_ref().is_some_and(|projected| {
            projected
                .sources
                .iter()
                .flatten()
                .any(|source| source.secret.is_some() || source.service_account_token.is_some())
        })
}

/// What has to be fetched for a volume.
pub(crate) fn needs(volume: &Volume) -> VolumeNeeds {
    let mut needs = VolumeNeeds::default();
    if let Some(secret) = &volume.secret {
        needs.secrets.extend(secret.secret_name.clone());
    }
    if let Some(map) = &volume.config_map {
        needs.config_maps.push(map.name.clone());
    }
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        needs.secrets.extend(source.secret.as_ref().map(|secret| secret.name.clone()));
        needs.config_maps.extend(source.config_map.as_ref().map(|map| map.name.clone()));
        needs.tokens.extend(source.service_account_token.as_ref().map(TokenNeed::of));
    }
    needs
}

/// Computes the files of a projected-type volume.
///
/// # Errors
/// A source that is not optional is missing.
pub(crate) fn payload(
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
    tokens: &BTreeMap<TokenNeed, String>,
    node: &NodeFacts,
) -> Result<Payload, ContentError> {
    let mut files = Payload::new();
    let fs_group = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.fs_group);
    if let Some(secret) = &volume.secret {
        let projection = SecretProjection {
            name: secret.secret_name.clone().unwrap_or_default(),
            items: secret.items.clone(),
            optional: secret.optional,
        };
        add_secret(&projection, objects, mode(secret.default_mode), &mut files)?;
    }
    if let Some(map) = &volume.config_map {
        let projection = ConfigMapProjection {
            name: map.name.clone(),
            items: map.items.clone(),
            optional: map.optional,
        };
        add_config_map(&projection, objects, mode(map.default_mode), &mut files)?;
    }
    if let Some(downward) = &volume.downward_api {
        let items = downward.items.as_deref().unwrap_or_default();
        add_downward(pod, items, mode(downward.default_mode), node, &mut files)?;
    }
    let Some(projected) = &volume.projected else { return Ok(files) };
    let default_mode = mode(projected.default_mode);
    for source in projected.sources.iter().flatten() {
        if let Some(secret) = &source.secret {
            add_secret(secret, objects, default_mode, &mut files)?;
        }
        if let Some(map) = &source.config_map {
            add_config_map(map, objects, default_mode, &mut files)?;
        }
        if let Some(downward) = &source.downward_api {
            let items = downward.items.as_deref().unwrap_or_default();
            add_downward(pod, items, default_mode, node, &mut files)?;
        }
        if let Some(token) = &source.service_account_token {
            let need = TokenNeed::of(token);
            let text =
                tokens.get(&need).ok_or_else(|| ContentError::Token(need.audience.clone()))?;
            let mode =
                if fs_group.is_some() { default_mode } else { token_mode(pod, default_mode) };
            insert(&mut files, &token.path, text.clone().into_bytes(), mode)?;
        }
    }
    Ok(files)
}

/// Tokens are private to the one user of all containers; with several users they must be readable.
fn token_mode(pod: &Pod, default_mode: u32) -> u32 {
    let users: std::collections::BTreeSet<Option<i64>> = pod
        .spec
        .iter()
        .flat_map(|spec| {
            let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
            spec.containers.iter().map(move |container| {
                container
                    .security_context
                    .as_ref()
                    .and_then(|context| context.run_as_user)
                    .or(of_pod)
            })
        })
        .collect();
    match (users.len(), users.first()) {
        (1, Some(Some(_))) => TOKEN_MODE,
        _ => default_mode,
    }
}

/// The user that owns a token file: the one that all containers run as.
pub(crate) fn token_owner(pod: &Pod) -> Option<u32> {
    if token_mode(pod, MODE_DEFAULT) != TOKEN_MODE {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let first = spec.containers.first()?;
    let user = first
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user)
        .or_else(|| spec.security_context.as_ref().and_then(|context| context.run_as_user))?;
    u32::try_from(user).ok()
}

fn mode(value: Option<i32>) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).unwrap_or(MODE_DEFAULT)
}

fn add_secret(
    projection: &SecretProjection,
    objects: &Objects,
    default_mode: u32,
    files: &mut Payload,
) -> Result<(), ContentError> {
    let optional = projection.optional == Some(true);
    match objects.secrets.get(&projection.name).and_then(Option::as_ref) {
        Some(data) => add_keys(data, projection.items.as_deref(), optional, default_mode, files)?
            .map_or(Ok(()), |key| Err(ContentError::SecretKey(key))),
        None if optional => Ok(()),
        None => Err(ContentError::SecretMissing(projection.name.clone())),
    }
}

fn add_config_map(
    projection: &ConfigMapProjection,
    objects: &Objects,
    default_mode: u32,
    files: &mut Payload,
) -> Result<(), ContentError> {
    let optional = projection.optional == Some(true);
    match objects.config_maps.get(&projection.name).and_then(Option::as_ref) {
        Some(data) => add_keys(data, projection.items.as_deref(), optional, default_mode, files)?
            .map_or(Ok(()), |key| Err(ContentError::ConfigMapKey(key))),
        None if optional => Ok(()),
        None => Err(ContentError::ConfigMapMissing(projection.name.clone())),
    }
}

/// Adds all keys, or those of `items`; returns the first key that is missing.
fn add_keys(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    default_mode: u32,
    files: &mut Payload,
) -> Result<Option<String>, ContentError> {
    match items.filter(|items| !items.is_empty()) {
        None => {
            for (key, bytes) in data {
                insert(files, key, bytes.clone(), default_mode)?;
            }
        }
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(bytes) => {
                        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok());
                        insert(files, &item.path, bytes.clone(), mode.unwrap_or(default_mode))?;
                    }
                    None if optional => {}
                    None => return Ok(Some(item.key.clone())),
                }
            }
        }
    }
    Ok(None)
}

fn add_downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
    node: &NodeFacts,
    files: &mut Payload,
) -> Result<(), ContentError> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(reference), _) => downward::field(pod, &reference.field_path, node)?,
            (None, Some(selector)) => downward::resource(pod, None, selector, node)?,
            (None, None) => String::new(),
        };
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default_mode);
        insert(files, &item.path, text.into_bytes(), mode)?;
    }
    Ok(())
}

fn insert(files: &mut Payload, path: &str, bytes: Vec<u8>, mode: u32) -> Result<(), ContentError> {
    let safe = !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
        && !path.starts_with("..");
    if !safe {
        return Err(ContentError::Path(path.to_owned()));
    }
    files.insert(path.to_owned(), FileContent { bytes, mode });
    Ok(())
}

#[cfg(test)]
mod tests;
