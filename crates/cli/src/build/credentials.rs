//! Credentials of a build: the files and variables of whoever runs it, read once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use credentials::cloud::CloudProvider;
use credentials::{ClientConfig, RegistryAuth, Secret};
use image_builder::CredentialSource;
use oci_model::Reference;
use registry_client::ClientOptions;

use crate::auth_files::{config_at, of_environment as config_of_environment, stored_credential};
use crate::cloud::{CloudAnswer, Wants, cloud_credential};
use crate::exit::Failure;
use crate::registries::{proxy_of_environment, roots_of_environment};

/// Sources of credentials besides config files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    /// `KANIKO_<HOST>_USER` and `KANIKO_<HOST>_PASSWORD`.
    Environment,
    /// The identity of this machine at a cloud, for that cloud's registries.
    Cloud(CloudProvider),
    /// GitLab's variables of a CI job, for its registry.
    GitLab,
}

impl Helper {
    /// The names that kaniko has for them, and three of our own.
    pub(crate) const NAMES: [(&'static str, Self); 8] = [
        ("env", Self::Environment),
        ("google", Self::Cloud(CloudProvider::Google)),
        ("ecr", Self::Cloud(CloudProvider::Ecr)),
        ("acr", Self::Cloud(CloudProvider::Acr)),
        ("gitlab", Self::GitLab),
        ("oci", Self::Cloud(CloudProvider::Oci)),
        ("ibm", Self::Cloud(CloudProvider::Ibm)),
        ("quay", Self::Cloud(CloudProvider::Quay)),
    ];

    fn is_cloud(self) -> bool {
        matches!(self, Self::Cloud(_))
    }
}

/// Where credentials come from, in order.
#[derive(Clone, Debug)]
pub(crate) struct CredentialFile {
    configs: Vec<Arc<ClientConfig>>,
    helpers: Vec<Helper>,
}

impl CredentialFile {
    /// Reads `DOCKER_AUTH_CONFIG`, `config.json` in `directory`, and podman's file; the first that
    /// knows a registry counts.
    pub(crate) fn read(directory: Option<&Path>) -> Result<Self, Failure> {
        let mut configs = Vec::from_iter(config_of_environment());
        if let Some(directory) = directory {
            configs.extend(config_at(&directory.join("config.json"))?);
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let podman = set("REGISTRY_AUTH_FILE").map(PathBuf::from).or_else(|| {
            set("XDG_RUNTIME_DIR").map(|run| PathBuf::from(run).join("containers/auth.json"))
        });
        if let Some(path) = podman {
            configs.extend(config_at(&path)?);
        }
        let clouds = Helper::NAMES.iter().map(|(_, helper)| *helper).filter(|one| one.is_cloud());
        Ok(Self { configs: configs.into_iter().map(Arc::new).collect(), helpers: clouds.collect() })
    }

    /// The same with other sources than the clouds.
    pub(crate) fn with_helpers(mut self, names: &[&str]) -> Self {
        let known = Helper::NAMES.iter().filter(|(name, _)| names.contains(name));
        self.helpers = known.map(|(_, helper)| *helper).collect();
        self
    }

    /// The same as the builder asks for it.
    pub(crate) fn source(&self) -> CredentialSource {
        let credentials = self.clone();
        CredentialSource::new(move |reference: Reference| {
            let credentials = credentials.clone();
            Box::pin(async move { credentials.for_reference(&reference).await })
        })
    }

    /// The credentials for an image, asking a helper where a file names one.
    pub(crate) async fn for_reference(&self, reference: &Reference) -> Vec<RegistryAuth> {
        let (sources, wanted) = (self.clone(), reference.clone());
        // A helper is a program that may take its time.
        let found = tokio::task::spawn_blocking(move || {
            sources.for_repository(wanted.registry(), wanted.repository().as_str())
        });
        found.await.unwrap_or_else(|error| {
            tracing::warn!(%reference, %error, "credential cannot be looked up");
            Vec::new()
        })
    }

    /// The credentials for a repository, in the order in which to try them; blocking.
    pub(crate) fn for_repository(&self, host: &str, repository: &str) -> Vec<RegistryAuth> {
        let usable = |found: Result<Option<RegistryAuth>, Failure>| {
            found.unwrap_or_else(|failure| {
                tracing::warn!(host, reason = %failure.text(), "credential cannot be used");
                None
            })
        };
        let mut files = self.configs.iter();
        let in_file = files.find_map(|one| usable(stored_credential(one, host, repository)));
        if in_file.is_some() {
            return in_file.into_iter().collect();
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut helpers = self.helpers.iter();
        let found = helpers.find_map(|helper| match helper {
            Helper::Environment => of_environment(host, &variable),
            Helper::GitLab => of_gitlab(host, &variable),
            Helper::Cloud(provider) => of_cloud(*provider, host),
        });
        found.into_iter().collect()
    }
}

/// What a cloud gives to this machine, for its own registries.
fn of_cloud(provider: CloudProvider, host: &str) -> Option<RegistryAuth> {
    if crate::cloud::provider_of(host) != Some(provider) {
        return None;
    }
    // A build pushes what it makes, and its cache.
    match cloud_credential(host, Wants::Push) {
        CloudAnswer::Given { credential, .. } => Some(credential.auth),
        CloudAnswer::None => None,
        // Many of its images are for everybody.
        CloudAnswer::Refused(error) if error.is_for_want_of_identity() => None,
        CloudAnswer::Refused(error) => {
            let hint = error.hint.clone().unwrap_or_default();
            tracing::warn!(host, reason = %error, hint, "the cloud gives no credential");
            None
        }
    }
}

/// `KANIKO_<HOST>_USER` and `_PASSWORD`: for the host, then for what follows each of its dots.
fn of_environment(host: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<RegistryAuth> {
    let host = if host == "docker.io" { "index.docker.io" } else { host };
    let without_port = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let mut candidates = vec![host];
    let mut rest = Some(without_port);
    while let Some(name) = rest {
        candidates.push(name);
        rest = name.split_once('.').map(|(_, rest)| rest);
    }
    candidates.into_iter().find_map(|name| {
        let name = name.to_ascii_uppercase().replace(['-', '.', ':'], "_");
        let user = variable(&format!("KANIKO_{name}_USER"))?;
        let password = variable(&format!("KANIKO_{name}_PASSWORD"))?;
        Some(RegistryAuth::basic(user, Secret::new(password)))
    })
}

/// The registry of a GitLab job: `CI_REGISTRY` with the job's token.
fn of_gitlab(host: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<RegistryAuth> {
    let own = variable("CI_REGISTRY")?;
    if own.split('/').next() != Some(host) {
        return None;
    }
    if let (Some(user), Some(password)) =
        (variable("CI_REGISTRY_USER"), variable("CI_REGISTRY_PASSWORD"))
    {
        return Some(RegistryAuth::basic(user, Secret::new(password)));
    }
    let token = variable("CI_JOB_TOKEN")?;
    Some(RegistryAuth::basic("gitlab-ci-token", Secret::new(token)))
}

/// Client options that follow from the environment.
pub(crate) fn client_options() -> Result<ClientOptions, Failure> {
    Ok(ClientOptions {
        proxy: proxy_of_environment(),
        extra_roots_pem: roots_of_environment()?,
        ..ClientOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(
        pairs: &'static [(&'static str, &'static str)],
    ) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn user(auth: Option<RegistryAuth>) -> Option<String> {
        auth.map(|auth| format!("{auth:?}"))
    }

    #[test]
    fn variables_name_hosts_in_capitals_and_parents_serve_children() {
        let set = variables(&[
            ("KANIKO_MY_REGISTRY_EXAMPLE_COM_USER", "own"),
            ("KANIKO_MY_REGISTRY_EXAMPLE_COM_PASSWORD", "x"),
            ("KANIKO_EXAMPLE_COM_USER", "parent"),
            ("KANIKO_EXAMPLE_COM_PASSWORD", "x"),
            ("KANIKO_DOCKER_IO_USER", "hub"),
            ("KANIKO_DOCKER_IO_PASSWORD", "x"),
            ("KANIKO_HALF_ORG_USER", "no password"),
        ]);
        let found = |host| user(of_environment(host, &set)).unwrap_or_default();
        assert!(found("my-registry.example.com").contains("own"));
        assert!(found("my-registry.example.com:5000").contains("own"));
        assert!(found("a.b.example.com").contains("parent"));
        assert!(found("docker.io").contains("hub"));
        assert_eq!(found("half.org"), "");
        assert!(!found("my-registry.example.com").contains('x') || found("a").is_empty());
    }

    #[test]
    fn jobs_of_gitlab_have_a_token_for_their_own_registry() {
        let set = variables(&[("CI_REGISTRY", "registry.example.com"), ("CI_JOB_TOKEN", "t")]);
        assert!(user(of_gitlab("registry.example.com", &set)).is_some());
        assert_eq!(user(of_gitlab("other.example.com", &set)), None);
    }
}
