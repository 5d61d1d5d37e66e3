//! Where the node takes credentials from besides pull secrets and docker config files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use cluster_node::{CredentialOptions, ExecProviders};
use credentials::cloud::{CloudOptions, CloudProvider, Clouds};

use crate::cloud::System;
use crate::exit::Failure;

/// Flags of credential providers; the first two are a kubelet's.
#[derive(Args, Debug)]
pub(super) struct ProviderFlags {
    /// CredentialProviderConfig of exec credential providers: a file, or a directory of .json,
    /// .yaml and .yml files; read again when it changes
    #[arg(
        long,
        env = "SHIPWAY_IMAGE_CREDENTIAL_PROVIDER_CONFIG",
        value_name = "PATH",
        requires = "image_credential_provider_bin_dir"
    )]
    image_credential_provider_config: Option<PathBuf>,
    /// Directory of the programs of those providers
    #[arg(
        long,
        env = "SHIPWAY_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR",
        value_name = "DIR",
        requires = "image_credential_provider_config"
    )]
    image_credential_provider_bin_dir: Option<PathBuf>,
    /// Clouds that the node asks itself for credentials of their registries, with the identity of
    /// this machine: ecr, google, acr, oci, ibm, quay, or all; none without the flag
    #[arg(
        long,
        env = "SHIPWAY_CLOUD_CREDENTIALS",
        value_name = "CLOUD,…",
        value_delimiter = ',',
        value_parser = parse_clouds
    )]
    cloud_credentials: Vec<CloudSet>,
}

/// The clouds of one word.
#[derive(Clone, Debug)]
struct CloudSet(Vec<CloudProvider>);

fn parse_clouds(text: &str) -> Result<CloudSet, String> {
    let text = text.trim();
    match text {
        "all" => return Ok(CloudSet(CloudProvider::ALL.to_vec())),
        // As the verbs read the same variable.
        "none" | "" => return Ok(CloudSet(Vec::new())),
        _ => {}
    }
    text.parse().map(|cloud| CloudSet(vec![cloud])).map_err(|_| {
        format!(
            "there is no cloud {text:?}: ecr, google, acr, oci, ibm, quay, all and none are known"
        )
    })
}

impl ProviderFlags {
    /// The configuration of exec credential providers.
    pub(super) fn config(&self) -> Option<&Path> {
        self.image_credential_provider_config.as_deref()
    }

    /// The clouds that the node asks itself.
    pub(super) fn clouds(&self) -> Vec<CloudProvider> {
        let mut asked: Vec<CloudProvider> =
            self.cloud_credentials.iter().flat_map(|set| set.0.iter().copied()).collect();
        asked.sort();
        asked.dedup();
        asked
    }

    /// What the node is told. Must be called within the runtime.
    pub(super) fn options(&self) -> Result<CredentialOptions, Failure> {
        let exec = self.image_credential_provider_config.clone();
        let exec = exec.zip(self.image_credential_provider_bin_dir.clone());
        let asked = self.clouds();
        let clouds = if asked.is_empty() {
            None
        } else {
            Some(Arc::new(Clouds::new(Arc::new(System::new()?), CloudOptions::only(asked))))
        };
        Ok(CredentialOptions {
            exec: exec.map(|(config, bin_dir)| ExecProviders { config, bin_dir }),
            clouds,
        })
    }
}
