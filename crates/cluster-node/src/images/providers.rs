//! Exec credential providers of the node (kubelet-images.md 9): their configuration, whom they
//! are asked for, and what becomes of a failure.
//!
//! Beyond the kubelet: the configuration is read again when it has changed, a failure shows itself
//! as an event of the pod, a failed program is not run again for ten seconds, and a kept
//! credential that the registry refused is asked for anew.

mod asking;
mod files;
mod program;
mod tokens;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use credentials::provider::{
    AccountClaim, AccountKey, CacheType, ProviderConfigError, TokenAttributes, claimed_annotations,
};
use credentials::{ConfigEntry, Keyring, Origin};
use futures_util::future::join_all;
use image_policy::verification::{AccountCoordinates, UsedCredential};
use image_policy::{Event, EventType};
use oci_model::Digest;

use self::asking::{Asked, Claimed, Found, Times};
use self::files::Files;
use self::tokens::Tokens;
use super::access::{Offer, Renewal};
use super::account::{Accounts, PodIdentity, ServiceAccount};
use crate::credential_options::ExecProviders;

/// Longest run of a provider, as in the kubelet.
const RUN_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a failure stands before the program is run again.
const FAILURE_KEPT: Duration = Duration::from_secs(10);

/// Why the node does not start with these providers; the texts are the kubelet's.
#[derive(Debug, thiserror::Error)]
pub enum ProvidersError {
    /// The configuration is not there.
    #[error("unable to access path {path:?}")]
    Access {
        /// File or directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The directory of configuration files cannot be listed.
    #[error("unable to read directory {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The directory holds no `.json`, `.yaml` or `.yml` file.
    #[error("no configuration files found in directory {path:?}")]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds more files than a person can mean.
    #[error("more than 256 configuration files in directory {path:?}")]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
    },
    /// A configuration file cannot be read.
    #[error("unable to read file {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// A configuration file is neither JSON nor YAML.
    #[error("error decoding config {path:?}: {reason}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong where.
        reason: String,
    },
    /// The configuration breaks a rule.
    #[error(transparent)]
    Config(#[from] ProviderConfigError),
    /// There is no directory of programs.
    #[error("plugin binary directory {} did not exist", path.display())]
    NoBinDir {
        /// The directory.
        path: PathBuf,
    },
    /// The directory of programs cannot be looked at.
    #[error("error inspecting binary directory {}", path.display())]
    BinDir {
        /// The directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// A provider has no program.
    #[error("plugin binary executable {} did not exist", path.display())]
    NoProgram {
        /// The program.
        path: PathBuf,
    },
    /// A provider's program cannot be run.
    #[error("error inspecting binary executable {}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}

/// The exec credential providers of the node.
pub(crate) struct Providers {
    options: ExecProviders,
    accounts: Arc<dyn Accounts>,
    tokens: Tokens,
    times: Times,
    loaded: Mutex<Loaded>,
}

/// What the configuration said when it was last right.
struct Loaded {
    /// The last look; it may have been wrong.
    files: Option<Files>,
    asked: Vec<Arc<Asked>>,
    /// Why the last look was wrong.
    complaint: Option<String>,
}

impl Providers {
    /// Reads the configuration.
    ///
    /// # Errors
    /// See [`ProvidersError`]; the kubelet does not start then.
    pub(crate) fn open(
        options: ExecProviders,
        accounts: Arc<dyn Accounts>,
    ) -> Result<Self, ProvidersError> {
        let times = Times { run_max: RUN_TIME_MAX, failure_kept: FAILURE_KEPT };
        Self::with_times(options, accounts, times)
    }

    fn with_times(
        options: ExecProviders,
        accounts: Arc<dyn Accounts>,
        times: Times,
    ) -> Result<Self, ProvidersError> {
        let files = Files::read(&options.config)?;
        let providers = files.providers(&options.bin_dir)?;
        let asked = providers
            .into_iter()
            .map(|provider| {
                let program = options.bin_dir.join(&provider.name);
                Arc::new(Asked::new(provider, program, times))
            })
            .collect();
        let loaded = Loaded { files: Some(files), asked, complaint: None };
        Ok(Providers {
            tokens: Tokens::new(Arc::clone(&accounts)),
            options,
            accounts,
            times,
            loaded: Mutex::new(loaded),
        })
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The providers as the configuration is now, and what is wrong with it. A broken change
    /// leaves the last good configuration in force; a provider that did not change keeps its
    /// answers.
    fn current(&self) -> (Vec<Arc<Asked>>, Option<String>) {
        let read = Files::read(&self.options.config);
        let mut loaded = self.loaded();
        let changed = match &read {
            Ok(files) => loaded.files.as_ref() != Some(files),
            Err(_) => true,
        };
        // A program may have come that was missing.
        if changed || loaded.complaint.is_some() {
            let result = read.and_then(|files| {
                let providers = files.providers(&self.options.bin_dir);
                loaded.files = Some(files);
                providers
            });
            match result {
                Ok(providers) => {
                    tracing::info!(
                        path = %self.options.config.display(),
                        providers = providers.len(),
                        "credential provider configuration read again"
                    );
                    let known = std::mem::take(&mut loaded.asked);
                    loaded.asked = providers
                        .into_iter()
                        .map(|provider| {
                            let same = known.iter().find(|known| known.provider == provider);
                            same.cloned().unwrap_or_else(|| {
                                let program = self.options.bin_dir.join(&provider.name);
                                Arc::new(Asked::new(provider, program, self.times))
                            })
                        })
                        .collect();
                    loaded.complaint = None;
                }
                Err(error) => {
                    let text = with_cause(&error);
                    if loaded.complaint.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "credential provider configuration kept");
                    }
                    loaded.complaint = Some(text);
                }
            }
        }
        (loaded.asked.clone(), loaded.complaint.clone())
    }

    /// What the providers have for an image without tag and digest, best first; each failure is
    /// an event.
    pub(crate) async fn offers(
        &self,
        image: &str,
        pod: Option<&PodIdentity>,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Vec<Offer> {
        let (all, complaint) = self.current();
        let matching: Vec<Arc<Asked>> =
            all.into_iter().filter(|asked| asked.provider.is_for(image)).collect();
        if let Some(complaint) = complaint {
            emit(warning(format!(
                "Credential provider configuration was not taken over: {complaint}"
            )));
        }
        self.offers_of(&matching, image, pod, emit).await
    }

    /// Asks again whoever gave a kept credential that the registry refused.
    pub(crate) async fn renewed(
        &self,
        image: &str,
        pod: Option<&PodIdentity>,
        refused: &KeptAnswer,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Vec<Offer> {
        let (all, _) = self.current();
        let same: Vec<Arc<Asked>> =
            all.into_iter().filter(|asked| asked.provider.name == refused.provider).collect();
        for asked in &same {
            asked.forget(image, refused.account.as_ref(), &refused.entries);
        }
        self.offers_of(&same, image, pod, emit).await
    }

    async fn offers_of(
        &self,
        asked: &[Arc<Asked>],
        image: &str,
        pod: Option<&PodIdentity>,
        emit: &(dyn Fn(Event) + Sync),
    ) -> Vec<Offer> {
        let answers = join_all(asked.iter().map(|asked| self.ask(asked, image, pod))).await;
        let mut keyring = Keyring::new();
        let mut given = Vec::new();
        for (asked, answer) in asked.iter().zip(answers) {
            let name = &asked.provider.name;
            match answer {
                Ok(Some((found, account))) => {
                    keyring.add(found.entries.clone(), &Origin::Provider { name: name.clone() });
                    given.push((name.clone(), found, account));
                }
                Ok(None) => {}
                Err(text) => {
                    tracing::warn!(provider = name, image, error = text, "no credential");
                    emit(warning(format!(
                        "Failed getting credential from external registry credential provider: {text}"
                    )));
                }
            }
        }
        let offers = keyring.lookup(image).into_iter().map(|candidate| {
            let by = match &candidate.origin {
                Origin::Provider { name } => given.iter().find(|(given, ..)| given == name),
                Origin::Secret { .. } | Origin::File { .. } | Origin::CommandLine => None,
            };
            let account = by.and_then(|(.., account)| account.as_ref());
            Offer {
                auth: candidate.auth,
                used: account.map_or(UsedCredential::Node, |(coordinates, _)| {
                    UsedCredential::Account(coordinates.clone())
                }),
                renewal: by.filter(|(_, found, _)| found.is_kept).map(|(name, found, account)| {
                    Renewal::Exec(KeptAnswer {
                        provider: name.clone(),
                        entries: found.entries.clone(),
                        account: account.as_ref().map(|(_, key)| key.clone()),
                    })
                }),
            }
        });
        offers.collect()
    }

    /// `None` when the provider is not for this pod.
    async fn ask(
        &self,
        asked: &Arc<Asked>,
        image: &str,
        pod: Option<&PodIdentity>,
    ) -> Result<Option<(Found, Option<(AccountCoordinates, AccountKey)>)>, String> {
        let Some(attributes) = &asked.provider.token_attributes else {
            return Ok(Some((asked.ask(image, None).await?, None)));
        };
        let named = pod.and_then(|pod| Some((pod, pod.account.as_deref()?)));
        let Some((pod, name)) = named else {
            if attributes.require_service_account {
                return Ok(None);
            }
            return Ok(Some((asked.ask(image, None).await?, None)));
        };
        let namespace = &pod.namespace;
        let account = self.accounts.read(namespace, name).await.map_err(|error| {
            format!("failed to get service account {namespace}/{name}: {error}")
        })?;
        let Some(claimed) = self.claim(attributes, pod, &account).await? else { return Ok(None) };
        let found = asked.ask(image, Some(&claimed)).await?;
        Ok(Some((found, Some((account.coordinates(), claimed.key)))))
    }

    /// What the provider is told of the account; `None` when it lacks an annotation.
    async fn claim(
        &self,
        attributes: &TokenAttributes,
        pod: &PodIdentity,
        account: &ServiceAccount,
    ) -> Result<Option<Claimed>, String> {
        let annotations = match claimed_annotations(attributes, &account.annotations) {
            Ok(annotations) => annotations,
            Err(reason) => {
                tracing::debug!(account.namespace, account.name, %reason, "provider not asked");
                return Ok(None);
            }
        };
        let now = Instant::now();
        let token =
            self.tokens.get(pod, account, &attributes.audience, now).await.map_err(|error| {
                format!(
                    "error getting service account token {}/{}: {error}",
                    account.namespace, account.name
                )
            })?;
        let token_hash = Digest::of(token.expose().as_bytes()).to_string();
        let key = AccountKey {
            namespace: account.namespace.clone(),
            name: account.name.clone(),
            uid: account.uid.clone(),
            annotations: annotations.clone(),
            token_hash: match attributes.cache_type {
                CacheType::ServiceAccount => None,
                CacheType::Token => Some(token_hash.clone()),
            },
        };
        Ok(Some(Claimed { claim: AccountClaim { token, annotations }, key, token_hash }))
    }
}

/// A kept answer of a provider, for the case that a registry refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptAnswer {
    provider: String,
    entries: Vec<ConfigEntry>,
    account: Option<AccountKey>,
}

/// An event that a provider gave nothing.
pub(super) fn warning(message: String) -> Event {
    Event { event_type: EventType::Warning, reason: "CredentialProviderFailed", message }
}

fn with_cause(error: &ProvidersError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
