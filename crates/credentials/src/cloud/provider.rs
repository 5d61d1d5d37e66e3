//! One entry over all clouds: which of them a host belongs to, how each is configured, and whose
//! identity is used.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::deadline::{Deadline, EXCHANGE_MAX};
use super::{
    CloudCredential, CloudError, Performer, RegistryHost, aws, azure, google, ibm, oci, quay,
};
use crate::Secret;

/// Annotations by which a service account names its identity at a cloud.
const AWS_ROLE: &str = "eks.amazonaws.com/ecr-role-arn";
const AZURE_CLIENT: &str = "kubernetes.azure.com/acr-client-id";
const AZURE_TENANT: &str = "kubernetes.azure.com/acr-tenant-id";
/// Quay has none of its own.
const QUAY_ROBOT: &str = "shipway.dev/quay-robot";

/// A cloud with registries of its own, or Quay, which gives out tokens as they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloudProvider {
    /// Amazon ECR, private and public.
    Ecr,
    /// Google Artifact Registry and Container Registry.
    Google,
    /// Azure Container Registry.
    Acr,
    /// Oracle Cloud Infrastructure Registry.
    Oci,
    /// IBM Cloud Container Registry.
    Ibm,
    /// Quay, by robot federation.
    Quay,
}

/// A name that no cloud has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no cloud {name:?}: ecr, google, acr, oci, ibm and quay are known")]
pub struct UnknownProvider {
    /// The name.
    pub name: String,
}

impl CloudProvider {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ecr, Self::Google, Self::Acr, Self::Oci, Self::Ibm, Self::Quay];

    /// The name that a person types.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ecr => "ecr",
            Self::Google => "google",
            Self::Acr => "acr",
            Self::Oci => "oci",
            Self::Ibm => "ibm",
            Self::Quay => "quay",
        }
    }
}

impl fmt::Display for CloudProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CloudProvider {
    type Err = UnknownProvider;

    fn from_str(text: &str) -> Result<Self, UnknownProvider> {
        match text {
            "ecr" | "aws" => Ok(Self::Ecr),
            "google" | "gcp" | "gcr" | "gar" => Ok(Self::Google),
            "acr" | "azure" => Ok(Self::Acr),
            "oci" | "ocir" | "oke" => Ok(Self::Oci),
            "ibm" | "icr" => Ok(Self::Ibm),
            "quay" => Ok(Self::Quay),
            _ => Err(UnknownProvider { name: text.to_owned() }),
        }
    }
}

/// Which clouds are asked, and how.
#[derive(Clone, Debug, Default)]
pub struct CloudOptions {
    /// The clouds that are asked; a host of another gets nothing.
    pub providers: Vec<CloudProvider>,
    /// How Amazon is asked.
    pub ecr: aws::EcrOptions,
    /// How Google is asked.
    pub google: google::GoogleOptions,
    /// How Azure is asked.
    pub acr: azure::AzureOptions,
    /// How Oracle is asked.
    pub oci: oci::OciOptions,
    /// How IBM is asked.
    pub ibm: ibm::IbmOptions,
    /// How Quay is asked.
    pub quay: quay::QuayOptions,
    /// Whether a pod that gives a token, but has no identity at the cloud by it, gets what this
    /// machine has. Without, such a pod gets nothing. Amazon's rule is its own:
    /// [`aws::EcrOptions::require_role`].
    pub pods_fall_back: bool,
}

/// The identity of a pod, in place of the machine's (KEP-4412).
#[derive(Clone, Copy, Debug)]
pub struct PodIdentity<'a> {
    /// A token of its service account, for the audience of the cloud.
    pub token: &'a Secret,
    /// The annotations of that service account.
    pub annotations: &'a BTreeMap<String, String>,
}

impl<'a> PodIdentity<'a> {
    fn annotation(&self, name: &str) -> Option<&'a str> {
        self.annotations.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl CloudOptions {
    /// Every cloud, as its own tools are configured by the environment.
    pub fn all() -> Self {
        Self::only(CloudProvider::ALL)
    }

    /// Some clouds, as their own tools are configured by the environment.
    pub fn only(providers: impl IntoIterator<Item = CloudProvider>) -> Self {
        Self { providers: providers.into_iter().collect(), ..Self::default() }
    }

    /// The cloud that the host belongs to, if it is one that is asked.
    pub fn provider_of(&self, host: &RegistryHost) -> Option<CloudProvider> {
        self.providers.iter().copied().find(|provider| match provider {
            CloudProvider::Ecr => aws::EcrHost::of(host).is_some(),
            CloudProvider::Google => google::is_registry(host),
            CloudProvider::Acr => azure::is_registry(host, &self.acr.suffixes),
            CloudProvider::Oci => oci::is_registry(host, &self.oci.realms),
            CloudProvider::Ibm => ibm::is_registry(host, &self.ibm.regions),
            CloudProvider::Quay => quay::is_registry(host, &self.quay.hosts),
        })
    }

    /// Whether a fresh credential is made each time that one is needed, so that nobody has to keep
    /// one: at the clouds always, at Quay if this machine is a robot.
    pub(super) fn makes_credentials(&self, performer: &dyn Performer, host: &RegistryHost) -> bool {
        match self.provider_of(host) {
            None => false,
            Some(CloudProvider::Quay) => quay::is_configured(performer),
            Some(
                CloudProvider::Ecr
                | CloudProvider::Google
                | CloudProvider::Acr
                | CloudProvider::Oci
                | CloudProvider::Ibm,
            ) => true,
        }
    }

    /// The pod, unless it has no identity at the cloud and may have the machine's.
    pub(super) fn whose<'a>(
        &self,
        performer: &dyn Performer,
        provider: CloudProvider,
        pod: Option<PodIdentity<'a>>,
    ) -> Option<PodIdentity<'a>> {
        pod.filter(|pod| {
            !self.pods_fall_back
                || match provider {
                    CloudProvider::Ecr => true,
                    CloudProvider::Google => {
                        self.google.service_accounts.is_some() && asks_google(*pod)
                    }
                    CloudProvider::Acr => azure_account(*pod).is_ok(),
                    CloudProvider::Oci => oci::knows_pods(performer),
                    CloudProvider::Ibm => ibm::knows_pods(performer),
                    CloudProvider::Quay => pod.annotation(QUAY_ROBOT).is_some(),
                }
        })
    }

    /// Asks a cloud for a credential for its host: with the identity of a pod if there is one, and
    /// with no other then, else with that of this machine. `None` if the host is none of the
    /// cloud's, or needs no credential.
    ///
    /// A pod that has no identity at the cloud gets what the machine has in two cases only: at
    /// Amazon unless [`aws::EcrOptions::require_role`] is set, as the kubelet's provider for ECR
    /// does, and where [`CloudOptions::pods_fall_back`] allows it.
    ///
    /// # Errors
    /// [`CloudError`] if the exchange failed, or if the pod's service account does not say what
    /// identity it has where it has to.
    pub fn exchange(
        &self,
        performer: &dyn Performer,
        provider: CloudProvider,
        host: &RegistryHost,
        pod: Option<PodIdentity<'_>>,
    ) -> Result<Option<CloudCredential>, CloudError> {
        let pod = self.whose(performer, provider, pod);
        let performer: &dyn Performer = &Deadline::new(performer, EXCHANGE_MAX);
        match provider {
            CloudProvider::Ecr => {
                let request = aws::EcrRequest {
                    service_account_token: pod.map(|pod| pod.token),
                    role: pod.and_then(|pod| pod.annotation(AWS_ROLE)),
                };
                aws::credential(performer, host, &self.ecr, request)
            }
            CloudProvider::Google => match pod {
                None => google::credential(performer, host, &self.google),
                Some(_) if !google::is_registry(host) => Ok(None),
                Some(pod) => {
                    let flow = google_flow(&self.google, pod)?;
                    google::service_account_credential(performer, host, flow, pod.token)
                }
            },
            CloudProvider::Acr => {
                let account = pod.map(azure_account).transpose()?;
                let request = azure::AzureRequest { service_account: account };
                azure::credential(performer, host, &self.acr, request)
            }
            CloudProvider::Oci => {
                oci::credential(performer, host, &self.oci, pod.map(|pod| pod.token))
            }
            CloudProvider::Ibm => {
                ibm::credential(performer, host, &self.ibm, pod.map(|pod| pod.token))
            }
            CloudProvider::Quay => {
                let robot = pod.map(pods_robot).transpose()?;
                quay::credential(performer, host, &self.quay, robot)
            }
        }
    }
}

/// How a pod pulls from Google by itself; what the node has would be more than it may have.
fn google_flow<'a>(
    options: &'a google::GoogleOptions,
    pod: PodIdentity<'_>,
) -> Result<&'a google::ServiceAccountFlow, CloudError> {
    let failed =
        |reason: &str| CloudError::new("google", "find identity", "service account", reason);
    let flow = options.service_accounts.as_ref().ok_or_else(|| {
        failed("the provider does not know the cluster")
            .hint("--identity-provider and --project-id, or --allow-node-identity")
    })?;
    if asks_google(pod) {
        return Ok(flow);
    }
    let name = google::ServiceAccountFlow::ANNOTATION;
    Err(failed("it does not ask to pull by itself")
        .hint(format!("annotate it with {name}: \"true\", or --allow-node-identity")))
}

/// Whether the service account of a pod on GKE asks to pull with its own identity.
fn asks_google(pod: PodIdentity<'_>) -> bool {
    pod.annotation(google::ServiceAccountFlow::ANNOTATION) == Some("true")
}

/// Quay does not know of itself which robot a pod is.
fn pods_robot(pod: PodIdentity<'_>) -> Result<quay::PodRobot<'_>, CloudError> {
    let robot = pod.annotation(QUAY_ROBOT).ok_or_else(|| {
        CloudError::new("quay", "find identity", "service account", "it names no robot")
            .hint(format!("annotate it with {QUAY_ROBOT}: ORGANISATION+NAME"))
    })?;
    Ok(quay::PodRobot { token: pod.token, robot })
}

/// Azure knows a pod by two annotations; without them the token is good for nothing, and the
/// node's own identity would be more than the pod may have.
fn azure_account(pod: PodIdentity<'_>) -> Result<azure::ServiceAccount<'_>, CloudError> {
    let needed = |name: &'static str| {
        pod.annotation(name).ok_or_else(|| {
            CloudError::new("acr", "find identity", "service account", "it names no identity")
                .hint(format!("annotate it with {name}"))
        })
    };
    Ok(azure::ServiceAccount {
        token: pod.token,
        client_id: needed(AZURE_CLIENT)?,
        tenant_id: needed(AZURE_TENANT)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::super::world::World;
    use super::*;

    /// cloud-credentials.md 14.2, row 40.
    #[test]
    fn each_host_belongs_to_one_cloud_and_look_alikes_to_none() {
        // cloud-credentials.md 12.2.
        let all = CloudOptions::all();
        for (host, expected) in [
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", Some(CloudProvider::Ecr)),
            ("public.ecr.aws", Some(CloudProvider::Ecr)),
            ("europe-docker.pkg.dev", Some(CloudProvider::Google)),
            ("gcr.io", Some(CloudProvider::Google)),
            ("team.azurecr.io", Some(CloudProvider::Acr)),
            ("fra.ocir.io", Some(CloudProvider::Oci)),
            ("ocir.eu-frankfurt-1.oci.oraclecloud.com", Some(CloudProvider::Oci)),
            ("de.icr.io", Some(CloudProvider::Ibm)),
            ("quay.io", Some(CloudProvider::Quay)),
            ("quay.io.evil.com", None),
            ("docker.io", None),
            ("fakegcr.io", None),
            ("gcr.io.attacker.com", None),
            ("evilazurecr.io", None),
            ("x.azurecr.io.evil.com", None),
            ("foo.evilocir.io", None),
            ("xicr.io", None),
            ("cp.icr.io", None),
        ] {
            let host = RegistryHost::of(host).expect(host);
            assert_eq!(all.provider_of(&host), expected, "{host:?}");
            let others = CloudProvider::ALL.into_iter().filter(|known| Some(*known) != expected);
            assert_eq!(CloudOptions::only(others).provider_of(&host), None, "{host:?}");
        }
    }

    #[test]
    fn clouds_have_the_names_of_their_products_too() {
        for provider in CloudProvider::ALL {
            assert_eq!(provider.name().parse(), Ok(provider));
        }
        for (alias, provider) in [("gcp", CloudProvider::Google), ("icr", CloudProvider::Ibm)] {
            assert_eq!(alias.parse(), Ok(provider));
        }
        let error = "hub".parse::<CloudProvider>().expect_err("no cloud").to_string();
        assert_eq!(
            error,
            "there is no cloud \"hub\": ecr, google, acr, oci, ibm and quay are known"
        );
    }

    /// A node that has an identity of its own everywhere, and nobody to answer it.
    fn node() -> World {
        World::new()
            .variable("GCE_METADATA_HOST", "127.0.0.1:1")
            .variable("AZURE_CLIENT_ID", "node")
            .variable("OCIR_AUTH_METHOD", "INSTANCE_PRINCIPAL")
            .variable("ICR_APIKEY", "node")
            .variable("QUAY_ROBOT", "team+node")
            .variable("QUAY_ROBOT_TOKEN_FILE", "/token")
    }

    #[test]
    fn a_pods_token_never_means_the_node() {
        let (token, annotations) = (Secret::new("t"), BTreeMap::new());
        let pod = PodIdentity { token: &token, annotations: &annotations };
        for (provider, host, reason) in [
            (CloudProvider::Google, "gcr.io", "the provider does not know the cluster"),
            (CloudProvider::Acr, "team.azurecr.io", "it names no identity"),
            (CloudProvider::Oci, "fra.ocir.io", "a pod's token goes nowhere else"),
            (CloudProvider::Ibm, "de.icr.io", "no trusted profile is named"),
            (CloudProvider::Quay, "quay.io", "it names no robot"),
        ] {
            let (host, world) = (RegistryHost::of(host).expect("a host"), node());
            let asked = CloudOptions::all().exchange(&world, provider, &host, Some(pod));
            let error = asked.expect_err("no identity").to_string();
            assert!(error.contains(reason), "{error}");
            assert!(world.sent.borrow().is_empty(), "{provider}");

            let options = CloudOptions { pods_fall_back: true, ..CloudOptions::all() };
            assert!(options.whose(&world, provider, Some(pod)).is_none(), "{provider}");
        }
        let flow = google::ServiceAccountFlow {
            project_id: "p".to_owned(),
            identity_provider: "https://cluster.example".to_owned(),
        };
        let mut options = CloudOptions::all();
        options.google.service_accounts = Some(flow);
        let host = RegistryHost::of("gcr.io").expect("a host");
        let world = node();
        let asked = options.exchange(&world, CloudProvider::Google, &host, Some(pod));
        let error = asked.expect_err("no annotation");
        assert!(error.hint.expect("a hint").contains(google::ServiceAccountFlow::ANNOTATION));
        assert!(world.sent.borrow().is_empty());
    }

    #[test]
    fn a_pods_token_is_used_where_the_cloud_can() {
        let (token, annotations) = (Secret::new("pods-token"), BTreeMap::new());
        let pod = PodIdentity { token: &token, annotations: &annotations };
        let refused = || super::super::world::answer(401, "{}");
        for (provider, host, url, known) in [
            (
                CloudProvider::Ibm,
                "de.icr.io",
                "https://iam.cloud.ibm.com/identity/token",
                ("ICR_IAM_PROFILE_ID", "Profile-1"),
            ),
            (
                CloudProvider::Oci,
                "fra.ocir.io",
                "https://10.96.0.1:12250/resourcePrincipalSessionTokens",
                ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ),
        ] {
            let host = RegistryHost::of(host).expect("a host");
            let world = node()
                .variable(known.0, known.1)
                .file("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", "ca")
                .server(Method::Post, url, refused());
            let options = CloudOptions { pods_fall_back: true, ..CloudOptions::all() };
            options.exchange(&world, provider, &host, Some(pod)).expect_err("refused");
            let bearer = world.sent_header(0, "authorization").unwrap_or_default();
            let sent = world.sent_body(0) + &bearer;
            assert!(sent.contains("pods-token"), "{provider}");
            assert_eq!(world.sent.borrow().len(), 1, "{provider}: nobody else is asked");
        }
    }

    #[test]
    fn a_pod_without_azures_annotations_does_not_get_what_the_node_has() {
        let (token, annotations) = (Secret::new("t"), BTreeMap::new());
        let pod = PodIdentity { token: &token, annotations: &annotations };
        let host = RegistryHost::of("team.azurecr.io").expect("a host");
        let world = World::new();
        let asked = CloudOptions::all().exchange(&world, CloudProvider::Acr, &host, Some(pod));
        let error = asked.expect_err("no identity");
        assert_eq!(
            error.to_string(),
            "acr: find identity at service account: it names no identity"
        );
        assert!(world.sent.borrow().is_empty());
    }
}
