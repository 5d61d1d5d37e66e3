//! Makes the volumes of a pod, and takes them away.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Volume,
};
use kube::api::Api;
use rustix::mount::{MountFlags, UnmountFlags};

use super::content::{self, TokenNeed};
use super::host_path;
use super::image::ImageTree;
use super::ownership::{Owner, give_tree_to_group};
use super::writer;
use crate::process::environment::Objects;
use crate::process::quantity;
use crate::shared::Shared;

/// Tokens are renewed at this share of their lifetime, in percent.
const TOKEN_RENEW_PERCENT: i32 = 80;
/// Tokens are renewed at this age at the latest.
const TOKEN_AGE_MAX: SignedDuration = SignedDuration::from_hours(24);

/// A volume that cannot be made; the text is that of the `FailedMount` event.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {detail}")]
pub(crate) struct VolumeError {
    pub(crate) volume: String,
    pub(crate) detail: String,
}

/// Where a volume is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumePlace {
    /// A file or directory.
    Path {
        path: PathBuf,
        /// The volume itself is read-only, whatever the mounts say.
        read_only: bool,
    },
    /// The layers of an image.
    Image(ImageTree),
}

/// A token and when it has to be renewed.
#[derive(Clone, Debug)]
struct HeldToken {
    text: String,
    renew_at: Timestamp,
}

/// The tokens that a pod's volumes hold.
#[derive(Debug, Default)]
pub(crate) struct TokenCache(BTreeMap<TokenNeed, HeldToken>);

/// Makes all volumes of a pod; those that exist are brought up to date.
///
/// # Errors
/// The first volume that cannot be made.
pub(crate) async fn set_up(
    shared: &Shared,
    pod: &Pod,
    tokens: &mut TokenCache,
) -> Result<BTreeMap<String, VolumePlace>, VolumeError> {
    let mut places = BTreeMap::new();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if volume.image.is_some() {
            // Pulled with the images of the containers.
            continue;
        }
        let failed = |detail: String| VolumeError { volume: volume.name.clone(), detail };
        let directory = shared.directories.volume(uid, &volume.name);
        let place = if content::is_projected(volume) {
            project(shared, pod, volume, &directory, tokens).await.map_err(failed)?;
            VolumePlace::Path { path: directory, read_only: true }
        } else if let Some(claim) = &volume.persistent_volume_claim {
            let path = claim_path(shared, pod, &claim.claim_name).await.map_err(failed)?;
            VolumePlace::Path { path, read_only: claim.read_only == Some(true) }
        } else {
            plain(pod, volume, &directory).map_err(failed)?
        };
        places.insert(volume.name.clone(), place);
    }
    Ok(places)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// emptyDir and hostPath.
fn plain(pod: &Pod, volume: &Volume, directory: &Path) -> Result<VolumePlace, String> {
    if let Some(host) = &volume.host_path {
        let path = PathBuf::from(&host.path);
        host_path::check(&path, host.type_.as_deref().unwrap_or_default())
            .map_err(|error| error.to_string())?;
        return Ok(VolumePlace::Path { path, read_only: false });
    }
    let Some(empty) = &volume.empty_dir else {
        return Err("this kind of volume is not supported by this node".to_owned());
    };
    let result = (|| -> io::Result<()> {
        if directory.exists()
            && (empty.medium.as_deref() != Some("Memory") || is_mounted(directory)?)
        {
            return Ok(());
        }
        fs::create_dir_all(directory)?;
        if empty.medium.as_deref() == Some("Memory") {
            let limit = empty.size_limit.as_ref().and_then(|limit| quantity::units(&limit.0));
            mount_tmpfs(directory, limit)?;
        }
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
        match fs_group(pod) {
            Some(group) => give_tree_to_group(directory, group),
            None => Ok(()),
        }
    })();
    result.map_err(|error| error.to_string())?;
    Ok(VolumePlace::Path { path: directory.to_owned(), read_only: false })
}

/// Fetches the objects of a projected-type volume and writes its files.
async fn project(
    shared: &Shared,
    pod: &Pod,
    volume: &Volume,
    directory: &Path,
    tokens: &mut TokenCache,
) -> Result<(), String> {
    let needs = content::needs(volume);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let objects = fetch(&shared.client, namespace, &needs.secrets, &needs.config_maps)
        .await
        .map_err(|error| error.to_string())?;
    let mut texts = BTreeMap::new();
    for need in needs.tokens {
        let text = token(shared, pod, &need, tokens).await.map_err(|error| error.to_string())?;
        texts.insert(need, text);
    }
    let payload = content::payload(pod, volume, &objects, &texts, &shared.facts)
        .map_err(|error| error.to_string())?;
    let owner = Owner {
        user: if texts.is_empty() { None } else { content::token_owner(pod) },
        group: fs_group(pod),
    };
    let result = (|| -> io::Result<()> {
        fs::create_dir_all(directory)?;
        if content::is_secret(volume) && !is_mounted(directory)? {
            // Without the right to mount, the 0700 directory of the node has to do.
            if let Err(error) = mount_tmpfs(directory, None) {
                tracing::debug!(directory = %directory.display(), %error, "secret volume is on disk");
            }
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        }
        owner.apply(directory)?;
        let stamp = format!("{:016x}{:04x}", Timestamp::now().as_nanosecond(), fastrand::u16(..));
        writer::write(directory, &payload, owner, &stamp).map(drop)
    })();
    result.map_err(|error| format!("cannot write: {error}"))
}

/// Reads secrets and config maps; what does not exist is `None`.
///
/// # Errors
/// The API server refuses or does not answer.
pub(crate) async fn fetch(
    client: &kube::Client,
    namespace: &str,
    secrets: &[String],
    config_maps: &[String],
) -> Result<Objects, kube::Error> {
    let mut objects = Objects::default();
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for name in secrets {
        let data = api.get_opt(name).await?.map(|secret| {
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
        });
        objects.secrets.insert(name.clone(), data);
    }
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    for name in config_maps {
        let data = api.get_opt(name).await?.map(|map| {
            let text = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
            let binary = map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0));
            text.chain(binary).collect()
        });
        objects.config_maps.insert(name.clone(), data);
    }
    Ok(objects)
}

/// A token of the pod's service account, from the cache while it is fresh.
async fn token(
    shared: &Shared,
    pod: &Pod,
    need: &TokenNeed,
    cache: &mut TokenCache,
) -> Result<String, kube::Error> {
    let now = Timestamp::now();
    if let Some(held) = cache.0.get(need).filter(|held| now < held.renew_at) {
        return Ok(held.text.clone());
    }
    let meta = &pod.metadata;
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: (!need.audience.is_empty()).then(|| vec![need.audience.clone()]),
            expiration_seconds: Some(need.seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{account}/token",
        meta.namespace.as_deref().unwrap_or_default()
    );
    let body = serde_json::to_vec(&request).map_err(kube::Error::SerdeError)?;
    let http = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)?;
    let answer: TokenRequest = shared.client.request(http).await?;
    let status = answer.status.unwrap_or_default();
    let text = status.token.unwrap_or_default();
    let lifetime = status
        .expiration_timestamp
        .map_or(SignedDuration::from_secs(need.seconds), |end| end.0.duration_since(now));
    let age = (lifetime / 100 * TOKEN_RENEW_PERCENT).min(TOKEN_AGE_MAX);
    let held = HeldToken { text: text.clone(), renew_at: now.saturating_add(age).unwrap_or(now) };
    cache.0.insert(need.clone(), held);
    Ok(text)
}

/// The directory behind a bound claim.
async fn claim_path(shared: &Shared, pod: &Pod, claim: &str) -> Result<PathBuf, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(shared.client.clone(), namespace);
    let found = claims
        .get_opt(claim)
        .await
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("persistentvolumeclaim \"{claim}\" not found"))?;
    let volume = found
        .spec
        .and_then(|spec| spec.volume_name)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| format!("persistentvolumeclaim \"{claim}\" is not bound"))?;
    let volumes: Api<PersistentVolume> = Api::all(shared.client.clone());
    let spec = volumes
        .get_opt(&volume)
        .await
        .map_err(|error| error.to_string())?
        .and_then(|volume| volume.spec)
        .ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
    let (path, kind) = match (spec.host_path, spec.local) {
        (Some(host), _) => (PathBuf::from(host.path), host.type_.unwrap_or_default()),
        (None, Some(local)) => (PathBuf::from(local.path), String::new()),
        (None, None) => {
            return Err(format!("persistentvolume \"{volume}\" is neither hostPath nor local"));
        }
    };
    let create = || -> io::Result<()> {
        if path.starts_with(&shared.volumes_directory) && !path.exists() {
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        }
        Ok(())
    };
    create().map_err(|error| format!("{}: {error}", path.display()))?;
    host_path::check(&path, &kind).map_err(|error| error.to_string())?;
    if !path.exists() {
        return Err(format!("path \"{}\" does not exist", path.display()));
    }
    if let Some(group) = fs_group(pod) {
        give_tree_to_group(&path, group).map_err(|error| error.to_string())?;
    }
    Ok(path)
}

/// Whether something is mounted on a directory.
fn is_mounted(directory: &Path) -> io::Result<bool> {
    let Some(parent) = directory.parent() else { return Ok(true) };
    Ok(fs::metadata(directory)?.dev() != fs::metadata(parent)?.dev())
}

fn mount_tmpfs(directory: &Path, bytes_max: Option<i128>) -> io::Result<()> {
    let options = match bytes_max {
        Some(bytes) => format!("mode=0777,size={bytes}"),
        None => "mode=0777".to_owned(),
    };
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount("tmpfs", directory, "tmpfs", flags, Some(options.as_c_str()))?;
    Ok(())
}

/// Unmounts and removes everything of a pod except what outlives it.
///
/// # Errors
/// A directory cannot be removed; calling it again continues.
pub(crate) fn tear_down(shared: &Shared, uid: &str) -> io::Result<()> {
    let pod = shared.directories.pod(uid);
    if let Ok(entries) = fs::read_dir(pod.join("volumes")) {
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type()?.is_dir() && is_mounted(&path)? {
                rustix::mount::unmount(&path, UnmountFlags::DETACH)?;
            }
        }
    }
    match fs::remove_dir_all(&pod) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
