//! Which credentials a pod can show for an image: its pull secrets, the node's files, exec
//! credential providers (kubelet-images.md 4.6), and clouds that this process asks itself; and
//! which service account it is (8.4).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use credentials::cloud::{CloudCredential, Clouds};
use credentials::{
    Candidate, ConfigFileError, Keyring, Origin, PullSecret, RegistryAuth, SearchDirs,
    keyring_of_pull_secrets, node_file_candidates, parse_node_file,
};
use image_policy::Event;
use image_policy::verification::{PodCredentials, Provenance, SecretCoordinates, UsedCredential};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::Api;

use super::account::{Accounts, PodIdentity};
use super::providers::{self, KeptAnswer, Providers};

/// Longest docker config file that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The pull secrets of one pod.
#[derive(Debug, Default)]
pub(crate) struct PullSecrets {
    pub(crate) found: Vec<PullSecret>,
    /// Names that cannot be read, in the order of the pod's list.
    pub(crate) missing: Vec<String>,
}

/// Reads the secrets that a pod names; an entry without a name is skipped.
pub(crate) async fn pull_secrets(client: &kube::Client, pod: &Pod) -> PullSecrets {
    let mut secrets = PullSecrets::default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten())
        .map(|reference| reference.name.as_str())
        .filter(|name| !name.is_empty());
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for name in names {
        match api.get_opt(name).await {
            Ok(Some(secret)) => secrets.found.push(PullSecret {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: secret.metadata.uid.unwrap_or_default(),
                kind: secret.type_.unwrap_or_default(),
                data: secret
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.0))
                    .collect(),
            }),
            Ok(None) => secrets.missing.push(name.to_owned()),
            Err(error) => {
                tracing::warn!(namespace, name, %error, "pull secret not read");
                secrets.missing.push(name.to_owned());
            }
        }
    }
    secrets
}

/// Where a node takes credentials from, and who the pods are that ask.
pub(crate) struct CredentialSources {
    pub(crate) files: NodeFiles,
    pub(crate) providers: Option<Providers>,
    pub(crate) clouds: Option<Arc<Clouds>>,
    pub(crate) accounts: Arc<dyn Accounts>,
}

/// A credential to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) auth: RegistryAuth,
    /// What a record says when it has opened the image.
    pub(crate) used: UsedCredential,
    /// Where a fresh one comes from if the registry refuses this one, which was kept.
    pub(crate) renewal: Option<Renewal>,
}

/// Who gave a credential that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// An exec credential provider.
    Exec(KeptAnswer),
    /// A cloud.
    Cloud(CloudCredential),
}

impl CredentialSources {
    /// The credentials to try for an image (`name` has neither tag nor digest), best first; none
    /// means one anonymous try. `pod` is `None` when the node pulls for itself.
    ///
    /// # Errors
    /// One of the pod's secrets does not parse.
    pub(crate) async fn candidates(
        &self,
        name: &str,
        pod: Option<&PodIdentity>,
        secrets: &PullSecrets,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Result<Vec<Offer>, ConfigFileError> {
        let mut found = keyring_of_pull_secrets(&secrets.found)?.lookup(name);
        found.extend(self.files.keyring(Instant::now()).lookup(name));
        let offer = |candidate: Candidate| Offer {
            used: coordinates(&candidate).map_or(UsedCredential::Node, UsedCredential::Secret),
            auth: candidate.auth,
            renewal: None,
        };
        let mut offers: Vec<Offer> = found.into_iter().map(offer).collect();
        if let Some(providers) = &self.providers {
            offers.extend(providers.offers(name, pod, emit).await);
        }
        offers.extend(self.cloud_offer(name, emit).await);
        Ok(offers)
    }

    /// The credentials to try in place of one that the registry refused: nothing unless it was
    /// kept from an earlier pull and is another one now.
    pub(crate) async fn renewed(
        &self,
        name: &str,
        pod: Option<&PodIdentity>,
        refused: &Offer,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Vec<Offer> {
        let fresh = match (&refused.renewal, &self.providers, &self.clouds) {
            (Some(Renewal::Exec(kept)), Some(providers), _) => {
                providers.renewed(name, pod, kept, emit).await
            }
            (Some(Renewal::Cloud(credential)), _, Some(clouds)) => {
                clouds.invalidate(credential);
                self.cloud_offer(name, emit).await.into_iter().collect()
            }
            _ => Vec::new(),
        };
        fresh.into_iter().filter(|offer| offer.auth != refused.auth).collect()
    }

    /// What the cloud of a registry gives this machine: good for all pods.
    async fn cloud_offer(&self, name: &str, emit: &(dyn Fn(Event) + Sync)) -> Option<Offer> {
        let clouds = self.clouds.clone()?;
        clouds.provider_of(name)?;
        let image = name.to_owned();
        let asked = tokio::task::spawn_blocking(move || clouds.credential(&image)).await;
        let text = match asked {
            Ok(Ok(credential)) => {
                return credential.map(|credential| Offer {
                    auth: credential.auth.clone(),
                    used: UsedCredential::Node,
                    renewal: Some(Renewal::Cloud(credential)),
                });
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(image = name, error = text, "no credential of a cloud");
        emit(providers::warning(format!("Failed getting credential from cloud: {text}")));
        None
    }

    /// What a pod shows to use a present image: the hashes of all its usable secrets for it, and
    /// its service account if the image was opened by one.
    ///
    /// # Errors
    /// One of its secrets does not parse, which fails the whole lookup as in the kubelet.
    pub(crate) async fn shown(
        &self,
        name: &str,
        provenance: &Provenance,
        pod: &PodIdentity,
        secrets: &PullSecrets,
    ) -> Result<PodCredentials, ConfigFileError> {
        let found = keyring_of_pull_secrets(&secrets.found)?.lookup(name);
        let by_account = matches!(provenance, Provenance::Pulled(record)
            if record.credential_mapping.values().any(|known| !known.kubernetes_service_accounts.is_empty()));
        let account = match &pod.account {
            Some(account) if by_account => {
                let read = self.accounts.read(&pod.namespace, account).await;
                read.map_err(|error| {
                    tracing::warn!(pod.namespace, account, %error, "service account not read");
                })
                .ok()
            }
            _ => None,
        };
        Ok(PodCredentials {
            secrets: found.iter().filter_map(coordinates).collect(),
            account: account.map(|account| account.coordinates()),
        })
    }
}

/// The node's docker config files, read at most once per period.
#[derive(Debug)]
pub(crate) struct NodeFiles {
    dirs: SearchDirs,
    keep: Duration,
    read: Mutex<Option<(Instant, Keyring)>>,
}

impl NodeFiles {
    /// Files below `dirs`; what was found, also nothing, counts for `keep`.
    pub(crate) fn new(dirs: SearchDirs, keep: Duration) -> Self {
        NodeFiles { dirs, keep, read: Mutex::default() }
    }

    fn keyring(&self, now: Instant) -> Keyring {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((at, keyring)) if now.saturating_duration_since(*at) < self.keep => {
                keyring.clone()
            }
            _ => {
                let keyring = first_readable(&self.dirs);
                *read = Some((now, keyring.clone()));
                keyring
            }
        }
    }
}

/// The keyring of the first node file that can be read and parsed.
fn first_readable(files: &SearchDirs) -> Keyring {
    let mut keyring = Keyring::new();
    for (path, kind) in node_file_candidates(files) {
        let small =
            std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= CONFIG_BYTES_MAX);
        if !small {
            continue;
        }
        let Ok(bytes) = std::fs::read(&path) else { continue };
        match parse_node_file(&bytes, kind) {
            Ok(entries) => {
                keyring.add(entries, &Origin::File { path: path.display().to_string() });
                return keyring;
            }
            Err(error) => tracing::debug!(path = %path.display(), %error, "node file skipped"),
        }
    }
    keyring
}

fn coordinates(candidate: &Candidate) -> Option<SecretCoordinates> {
    match &candidate.origin {
        Origin::Secret { namespace, name, uid } => Some(SecretCoordinates {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
            credential_hash: candidate.auth.identity_hash(),
        }),
        Origin::File { .. } | Origin::Provider { .. } | Origin::CommandLine => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::images::account::tests::FakeAccounts;

    fn dirs(root: &std::path::Path) -> NodeFiles {
        let dirs = SearchDirs {
            root_dir: root.join("kubelet"),
            working_dir: root.join("work"),
            home: Some(root.join("home")),
            filesystem_root: root.join("root"),
        };
        NodeFiles::new(dirs, Duration::ZERO)
    }

    fn sources(files: NodeFiles) -> CredentialSources {
        CredentialSources {
            files,
            providers: None,
            clouds: None,
            accounts: Arc::new(FakeAccounts::default()),
        }
    }

    /// A node's sources that find what is written below a directory, if anything.
    pub(crate) fn sources_below(root: &std::path::Path) -> CredentialSources {
        sources(dirs(root))
    }

    fn secret(name: &str, json: &str) -> PullSecret {
        PullSecret {
            namespace: "ns".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
            kind: "kubernetes.io/dockerconfigjson".into(),
            data: [(".dockerconfigjson".to_owned(), json.as_bytes().to_vec())].into(),
        }
    }

    fn write(path: std::path::PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(path, text).expect("file");
    }

    async fn users(name: &str, secrets: &[PullSecret], files: NodeFiles) -> Vec<String> {
        let secrets = PullSecrets { found: secrets.to_vec(), missing: Vec::new() };
        sources(files)
            .candidates(name, Some(&PodIdentity::default()), &secrets, &|_| {})
            .await
            .expect("candidates")
            .iter()
            .map(|offer| offer.auth.username().unwrap_or_default().to_owned())
            .collect()
    }

    const NODE: &str = r#"{"auths":{"r.example":{"username":"node","password":"x"}}}"#;

    /// kubelet-images.md 15.5, rows L3 and L6.
    #[tokio::test]
    async fn secrets_come_before_node_files_and_specific_keys_first() {
        let root = tempfile::tempdir().expect("tempdir");
        let files = || dirs(root.path());
        write(root.path().join("kubelet/config.json"), NODE);
        let wide = secret("a", r#"{"auths":{"r.example":{"username":"wide","password":"x"}}}"#);
        let narrow =
            secret("b", r#"{"auths":{"r.example/team":{"username":"narrow","password":"x"}}}"#);
        assert_eq!(
            users("r.example/team/app", &[wide, narrow], files()).await,
            ["narrow", "wide", "node"]
        );
        assert_eq!(users("other.example/app", &[], files()).await, Vec::<String>::new());
    }

    /// kubelet-images.md 15.5, row L4.
    #[tokio::test]
    async fn secret_node_file_and_provider_come_in_this_order() {
        use std::os::unix::fs::PermissionsExt as _;

        let root = tempfile::tempdir().expect("tempdir");
        // Under more specific keys than the secret: one keyring of all would put the secret last.
        let node = r#"{"auths":{"r.example/app":{"username":"node","password":"x"}}}"#;
        write(root.path().join("kubelet/config.json"), node);
        let answer = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":{"r.example/app":{"username":"plugin","password":"x"}}}"#;
        let program = root.path().join("bin/plugin");
        // Written under another name: no process may hold it open for writing when it is run.
        let staged = root.path().join("bin/staged");
        write(staged.clone(), &format!("#!/bin/sh\ncat > /dev/null\necho '{answer}'\n"));
        std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o755)).expect("mode");
        std::fs::rename(staged, &program).expect("rename");
        let config = root.path().join("providers.json");
        let text = r#"{"kind":"CredentialProviderConfig","apiVersion":"kubelet.config.k8s.io/v1","providers":[{"name":"plugin","matchImages":["r.example"],"defaultCacheDuration":"0s","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}]}"#;
        write(config.clone(), text);
        let options = crate::ExecProviders { config, bin_dir: root.path().join("bin") };
        let accounts = Arc::new(FakeAccounts::default());
        let providers = Providers::open(options, accounts).expect("providers");
        let sources =
            CredentialSources { providers: Some(providers), ..sources(dirs(root.path())) };
        let own = secret("a", r#"{"auths":{"r.example":{"username":"secret","password":"x"}}}"#);
        let secrets = PullSecrets { found: vec![own], missing: Vec::new() };
        let pod = PodIdentity::default();
        let offers = sources.candidates("r.example/app", Some(&pod), &secrets, &|_| {}).await;
        let offers = offers.expect("candidates");
        let users: Vec<_> = offers.iter().filter_map(|offer| offer.auth.username()).collect();
        assert_eq!(users, ["secret", "node", "plugin"]);
    }

    /// kubelet-images.md 15.5, rows L13 and L14.
    #[tokio::test]
    async fn first_readable_node_file_wins_even_when_empty() {
        let root = tempfile::tempdir().expect("tempdir");
        let files = || dirs(root.path());
        write(root.path().join("home/.docker/config.json"), NODE);
        assert_eq!(users("r.example/app", &[], files()).await, ["node"]);
        write(root.path().join("kubelet/config.json"), "not json");
        assert_eq!(users("r.example/app", &[], files()).await, ["node"], "L14");
        write(root.path().join("kubelet/config.json"), "{}");
        assert_eq!(users("r.example/app", &[], files()).await, Vec::<String>::new(), "L13");
    }

    /// kubelet-images.md 15.5, row L15.
    #[test]
    fn node_file_counts_as_long_as_it_is_kept() {
        let root = tempfile::tempdir().expect("tempdir");
        let files = NodeFiles { keep: Duration::from_secs(300), ..dirs(root.path()) };
        let began = Instant::now();
        let edit = |user: &str| {
            let text = NODE.replace("node", user);
            write(root.path().join("kubelet/config.json"), &text);
        };
        let users = |seconds: u64| -> Vec<String> {
            let candidates =
                files.keyring(began + Duration::from_secs(seconds)).lookup("r.example/app");
            let users = candidates.iter().filter_map(|candidate| candidate.auth.username());
            users.map(str::to_owned).collect()
        };
        assert_eq!(users(0), [""; 0]);
        edit("old");
        assert_eq!(users(299), [""; 0], "that there is nothing is remembered as well");
        assert_eq!(users(300), ["old"]);
        edit("new");
        assert_eq!(users(360), ["old"]);
        assert_eq!(users(599), ["old"]);
        assert_eq!(users(600), ["new"]);
    }

    /// kubelet-images.md 15.5, row L12.
    #[tokio::test]
    async fn one_broken_secret_fails_the_lookup() {
        let root = tempfile::tempdir().expect("tempdir");
        let broken = secret("a", r#"{"auths":{"other.example":{"auth":"pants"}}}"#);
        let secrets = PullSecrets { found: vec![broken], missing: Vec::new() };
        let error = sources(dirs(root.path()))
            .candidates("r.example/app", None, &secrets, &|_| {})
            .await
            .expect_err("an error");
        assert_eq!(error.to_string(), "illegal base64 data at input byte 4");
    }
}
