//! What a verb shows to a registry: what docker's config holds, else what the registry's cloud
//! gives to this machine, else nothing.

use std::sync::{Arc, OnceLock};

use credentials::RegistryAuth;
use credentials::cloud::{
    CloudCredential, CloudError, CloudOptions, CloudProvider, Clouds, RegistryHost, quay,
};
use oci_model::Reference;
use registry_client::{RegistryError, RegistryErrorKind};

use super::System;
use crate::auth_files;
use crate::exit::Failure;
use crate::registries::failure;

/// Which clouds are asked: `all` (as without it), `none`, or names with commas between.
const PROVIDERS: &str = "SHIPWAY_CLOUD_CREDENTIALS";

/// What is to be done at a registry: some clouds give out tokens that cannot push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// To read.
    Pull,
    /// To write, too.
    Push,
}

/// The clouds that the user wants to be asked and that may have something for this process.
fn providers() -> Result<Vec<CloudProvider>, Failure> {
    Ok(giving(wanted()?))
}

/// Those of some clouds that may have something for this process: whoever is no robot of Quay has
/// nothing to ask it for.
pub(crate) fn giving(mut clouds: Vec<CloudProvider>) -> Vec<CloudProvider> {
    let is_robot = std::env::var_os(quay::ROBOT).is_some_and(|value| !value.is_empty());
    clouds.retain(|provider| *provider != CloudProvider::Quay || is_robot);
    clouds
}

/// The clouds that the user wants to be asked.
fn wanted() -> Result<Vec<CloudProvider>, Failure> {
    match std::env::var(PROVIDERS).ok().filter(|value| !value.is_empty()).as_deref() {
        None | Some("all") => Ok(CloudProvider::ALL.to_vec()),
        Some("none") => Ok(Vec::new()),
        Some(names) => names
            .split(',')
            .map(|name| name.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::usage(format!("{PROVIDERS}: {error}"))),
    }
}

/// Whether a cloud would be asked about a server.
pub(crate) fn is_asked_about(server: &str) -> bool {
    provider_of(server).is_some()
}

/// Whether a server is of a cloud that the user wants to be asked, also where it would have nothing
/// for this process.
pub(crate) fn is_of_wanted(server: &str) -> bool {
    owner(wanted(), server).is_some()
}

/// The cloud that would be asked about a server.
pub(crate) fn provider_of(server: &str) -> Option<CloudProvider> {
    owner(providers(), server)
}

/// The one of some clouds that a server is of; none where it is not known which are meant.
fn owner(clouds: Result<Vec<CloudProvider>, Failure>, server: &str) -> Option<CloudProvider> {
    CloudOptions::only(clouds.unwrap_or_default()).provider_of(&RegistryHost::of(server)?)
}

/// Whether a cloud is asked for a server that speaks for others: whoever may read there reads with
/// the identity of this machine, so that it has to be wished for in so many words.
pub(crate) fn is_asked_for_others(server: &str) -> bool {
    std::env::var(PROVIDERS).is_ok_and(|value| !value.is_empty()) && is_asked_about(server)
}

/// The clouds, as this process asks them; one cache for all of it.
fn clouds(wants: Wants) -> Result<Arc<Clouds>, Failure> {
    static PULL: OnceLock<Arc<Clouds>> = OnceLock::new();
    static PUSH: OnceLock<Arc<Clouds>> = OnceLock::new();
    let cell = if wants == Wants::Push { &PUSH } else { &PULL };
    if let Some(clouds) = cell.get() {
        return Ok(Arc::clone(clouds));
    }
    let mut options = CloudOptions::only(providers()?);
    // These are the user's own files, and the user's own machine.
    options.ecr.allow_processes = true;
    options.google.push = wants == Wants::Push;
    let clouds = Arc::new(Clouds::new(Arc::new(System::new()?), options));
    Ok(Arc::clone(cell.get_or_init(|| clouds)))
}

/// What a cloud gives to this machine for a server; blocking. One that gives nothing is no
/// failure: the image may be public.
pub(crate) fn cloud_credential(server: &str, wants: Wants) -> CloudAnswer {
    if !is_asked_about(server) {
        return CloudAnswer::None;
    }
    let clouds = match clouds(wants) {
        Ok(clouds) => clouds,
        Err(failure) => {
            tracing::warn!(server, reason = %failure.text(), "the cloud cannot be asked");
            return CloudAnswer::None;
        }
    };
    match clouds.credential(server) {
        Ok(None) => CloudAnswer::None,
        Ok(Some(credential)) => {
            tracing::debug!(server, source = credential.source, "credential of the cloud");
            CloudAnswer::Given { clouds, credential }
        }
        Err(error) => {
            tracing::info!(server, reason = %error, "the cloud gives no credential");
            CloudAnswer::Refused(error)
        }
    }
}

/// What came of asking a cloud.
#[derive(Debug)]
pub(crate) enum CloudAnswer {
    /// It was not asked, or there is nothing to give.
    None,
    /// A credential, with those who can make another.
    Given {
        /// Who gave it.
        clouds: Arc<Clouds>,
        /// What was given.
        credential: CloudCredential,
    },
    /// None, and why.
    Refused(CloudError),
}

/// What a verb shows to one registry.
#[derive(Debug)]
pub(crate) struct Access {
    server: String,
    wants: Wants,
    stored: Option<RegistryAuth>,
    cloud: CloudAnswer,
}

impl Access {
    /// Looks for what there is to show for an image.
    pub(crate) async fn to(reference: &Reference, wants: Wants) -> Result<Self, Failure> {
        let server = reference.registry().to_owned();
        let repository = reference.repository().as_str().to_owned();
        // Helpers and clouds take their time.
        let found = tokio::task::spawn_blocking(move || {
            let stored = auth_files::credential_for(&server, &repository)?;
            let cloud = match stored {
                Some(_) => CloudAnswer::None,
                None => cloud_credential(&server, wants),
            };
            Ok::<_, Failure>(Self { server, wants, stored, cloud })
        });
        found.await?
    }

    /// What there is to show.
    pub(crate) fn auths(&self) -> Vec<RegistryAuth> {
        let of_cloud = match &self.cloud {
            CloudAnswer::Given { credential, .. } => Some(&credential.auth),
            CloudAnswer::None | CloudAnswer::Refused(_) => None,
        };
        self.stored.iter().chain(of_cloud).cloned().collect()
    }

    /// Does something at the registry. If it refuses what a cloud gave, that is forgotten, and
    /// what the cloud gives anew is tried once.
    pub(crate) async fn attempt<T>(
        &mut self,
        work: impl AsyncFn(&[RegistryAuth]) -> Result<T, RegistryError>,
    ) -> Result<T, Failure> {
        let result = work(&self.auths()).await;
        let result = match result {
            Err(error) if is_refusal(&error) && self.renew().await? => work(&self.auths()).await,
            result => result,
        };
        result.map_err(|error| self.explained(error))
    }

    /// Whether there is a fresh credential in place of one that a cloud gave.
    async fn renew(&mut self) -> Result<bool, Failure> {
        let CloudAnswer::Given { clouds, credential } = &self.cloud else { return Ok(false) };
        clouds.invalidate(credential);
        let (server, wants) = (self.server.clone(), self.wants);
        self.cloud = tokio::task::spawn_blocking(move || cloud_credential(&server, wants)).await?;
        Ok(matches!(self.cloud, CloudAnswer::Given { .. }))
    }

    /// A registry that refuses whoever shows nothing: why the cloud gave nothing is the cause.
    fn explained(&self, error: RegistryError) -> Failure {
        let is_refusal = is_refusal(&error);
        let failure = failure(error);
        match &self.cloud {
            CloudAnswer::Refused(reason) if is_refusal => {
                let next = reason.hint.as_ref().map(|hint| format!(": {hint}"));
                failure.hint(format!(
                    "its cloud gave no credential ({reason}){}",
                    next.unwrap_or_default()
                ))
            }
            _ => failure,
        }
    }
}

fn is_refusal(error: &RegistryError) -> bool {
    matches!(
        error.kind(),
        RegistryErrorKind::Unauthorized { .. } | RegistryErrorKind::Denied { .. }
    )
}
