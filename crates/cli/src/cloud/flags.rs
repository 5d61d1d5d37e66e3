//! Flags of the verbs that are all about one cloud.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use credentials::cloud::google::ServiceAccountFlow;
use credentials::cloud::oci::PrincipalKind;
use credentials::cloud::{CloudOptions, CloudProvider, RegistryHost};

use super::ALLOW_ENDPOINTS;
use crate::exit::Failure;

/// How a cloud is asked.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CloudFlags {
    /// ecr: give nothing to a pod whose service account names no role
    #[arg(long)]
    require_role: bool,
    /// Give a pod that has no identity at the cloud what this machine has (ecr: --require-role)
    #[arg(long)]
    allow_node_identity: bool,
    /// ecr: a profile of the AWS config files
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// ecr: let a profile run a program (credential_process)
    #[arg(long)]
    allow_credential_process: bool,
    /// ecr: ask for tokens of the public gallery too
    #[arg(long)]
    public_gallery: bool,
    /// google: URL of the cluster, for pods that pull with their own identity
    #[arg(long, value_name = "URL", requires = "project_id")]
    identity_provider: Option<String>,
    /// google: project of the cluster
    #[arg(long, value_name = "ID", requires = "identity_provider")]
    project_id: Option<String>,
    /// google: ask for a token that may push, too
    #[arg(long)]
    push: bool,
    /// google: domain of another universe that files with credentials may name
    #[arg(long, value_name = "DOMAIN")]
    universe_domain: Option<String>,
    /// google: let a file with credentials name a metadata server as its source
    #[arg(long)]
    allow_metadata_sources: bool,
    /// acr: the cloud provider's file, usually /etc/kubernetes/azure.json
    #[arg(long, value_name = "FILE")]
    azure_config: Option<PathBuf>,
    /// acr: end of registry hosts besides Azure's own; repeatable
    #[arg(long, value_name = "DOMAIN")]
    registry_suffix: Vec<String>,
    /// acr: images of SOURCE come from registry TARGET (SOURCE:TARGET); repeatable
    #[arg(long, value_name = "SOURCE:TARGET", value_delimiter = ',')]
    registry_mirror: Vec<String>,
    /// oci: domain of a realm besides the known ones; repeatable
    #[arg(long, value_name = "DOMAIN")]
    realm: Vec<String>,
    /// oci: which principal signs [default: the first that shows]
    #[arg(long, value_name = "KIND")]
    principal: Option<Principal>,
    /// ibm: region with a registry besides the known ones; repeatable
    #[arg(long, value_name = "REGION")]
    region: Vec<String>,
    /// quay: host of a registry besides quay.io, which gets the tokens of robots; repeatable
    #[arg(long, value_name = "HOST")]
    quay_host: Vec<String>,
    /// Let variables such as AWS_ENDPOINT_URL name endpoints anywhere, not only on this machine
    #[arg(long, env = ALLOW_ENDPOINTS)]
    pub(crate) allow_endpoint_overrides: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Principal {
    Workload,
    Resource,
    User,
    Instance,
}

impl From<Principal> for PrincipalKind {
    fn from(principal: Principal) -> Self {
        match principal {
            Principal::Workload => Self::Workload,
            Principal::Resource => Self::Resource,
            Principal::User => Self::User,
            Principal::Instance => Self::Instance,
        }
    }
}

impl CloudFlags {
    /// The file of Azure's cloud provider, as upstream's program takes it: without a flag.
    pub(crate) fn set_azure_config(&mut self, file: &str) {
        self.azure_config = Some(PathBuf::from(file));
    }

    /// The options for one cloud.
    pub(crate) fn options(&self, provider: CloudProvider) -> Result<CloudOptions, Failure> {
        let mut options = CloudOptions::only([provider]);
        options.pods_fall_back = self.allow_node_identity;
        options.ecr.profile.clone_from(&self.profile);
        options.ecr.allow_processes = self.allow_credential_process;
        options.ecr.require_role = self.require_role;
        options.ecr.public_gallery = self.public_gallery;
        options.google.push = self.push;
        options.google.universe_domain.clone_from(&self.universe_domain);
        options.google.allow_metadata_sources = self.allow_metadata_sources;
        let flow = self.identity_provider.clone().zip(self.project_id.clone());
        options.google.service_accounts = flow.map(|(identity_provider, project_id)| {
            ServiceAccountFlow { project_id, identity_provider }
        });
        options.acr.config_file.clone_from(&self.azure_config);
        options.acr.suffixes.clone_from(&self.registry_suffix);
        for text in &self.registry_mirror {
            let mirror = text
                .parse()
                .map_err(|error| Failure::usage(format!("--registry-mirror {text:?}: {error}")))?;
            options.acr.mirrors.push(mirror);
        }
        options.oci.realms.clone_from(&self.realm);
        options.oci.principal = self.principal.map(PrincipalKind::from);
        options.ibm.regions.clone_from(&self.region);
        for text in &self.quay_host {
            let host = RegistryHost::of(text).ok_or_else(|| {
                Failure::usage(format!(
                    "--quay-host {text:?}: it is no host of a registry: a name with a dot and \
                     without a port but 443"
                ))
            })?;
            options.quay.hosts.push(host);
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// cloud-credentials.md 14.2, row 76.
    #[test]
    fn a_host_of_quay_that_would_never_be_asked_is_refused() {
        let hosts = |text: &str| {
            let flags = CloudFlags { quay_host: vec![text.to_owned()], ..CloudFlags::default() };
            let options = flags.options(CloudProvider::Quay).map_err(|failure| failure.text())?;
            let hosts = options.quay.hosts.iter().map(|host| host.as_str().to_owned());
            Ok::<_, String>(hosts.collect::<Vec<_>>())
        };
        for text in ["quay.lan", "Quay.LAN", "quay.lan:443", "https://quay.lan/"] {
            assert_eq!(hosts(text), Ok(vec!["quay.lan".to_owned()]), "{text}");
        }
        for text in ["quay.lan:8443", "quay", "u@quay.lan", ""] {
            let refused = hosts(text).expect_err(text);
            assert!(
                refused.starts_with(&format!("--quay-host {text:?}: it is no host")),
                "{refused}"
            );
        }
    }
}
