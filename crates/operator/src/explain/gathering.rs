//! What is known about the pull secrets of one subject: those it names, those of its service
//! account, and those that only look as if they counted.

use credentials::PullSecret;
use image_policy::PullPolicy;
use image_policy::admission::{inherited_pull_secrets, missing_service_account_text};
use k8s_openapi::api::core::v1::{Event, ServiceAccount};
use oci_model::Reference;

use super::documents::{Documents, pull_secret};
use super::policy;
use super::report::Remark;
use super::seams::{Cluster, Known, NodeImages};
use super::subject::{Source, Subject};

/// Secrets that one pod may name, as a bound on the work.
const SECRETS_MAX: usize = 100;

/// Code of the remark about a service account that got its secrets after the pod was made.
pub(crate) const ATTACHED_LATER: &str = "account.attached-later";

/// Who names a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamedBy {
    Pod,
    ServiceAccount,
    CommandLine,
}

impl NamedBy {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::ServiceAccount => "serviceAccount",
            Self::CommandLine => "commandLine",
        }
    }
}

/// One pull secret.
#[derive(Clone, Debug)]
pub(crate) struct NamedSecret {
    pub(crate) name: String,
    pub(crate) named_by: NamedBy,
    pub(crate) state: SecretState,
}

/// What is known about it.
#[derive(Clone, Debug)]
pub(crate) enum SecretState {
    Found(PullSecret),
    Missing { elsewhere: Vec<String> },
    Unknown { why: String },
}

/// What is known about a subject.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) secrets: Vec<NamedSecret>,
    /// About the service account; the first one may be the cause of a refusal.
    pub(crate) remarks: Vec<Remark>,
    pub(crate) events: Vec<Event>,
    /// The images of the pod's node, or of all nodes while it has none.
    pub(crate) node_images: Vec<NodeImages>,
    /// Why those cannot be read.
    pub(crate) nodes_unknown: Option<String>,
    /// The secrets of the service account, if they are known.
    pub(crate) account_secrets: Option<Vec<String>>,
    /// Those of them that the pod was made too early for.
    pub(crate) attached: Vec<NamedSecret>,
    /// Whether there is no cluster to look into.
    pub(crate) no_cluster: bool,
    /// Why there may be more secrets than we know.
    pub(crate) unknown: Option<String>,
}

impl Gathered {
    /// The secrets that can be read, in order.
    pub(crate) fn found(&self) -> Vec<PullSecret> {
        self.secrets
            .iter()
            .filter_map(|secret| match &secret.state {
                SecretState::Found(found) => Some(found.clone()),
                SecretState::Missing { .. } | SecretState::Unknown { .. } => None,
            })
            .collect()
    }

    /// The nodes that report an image, in their order.
    pub(crate) fn nodes_with(&self, image: &Reference) -> Vec<String> {
        let is_it = |name: &String| {
            name.parse::<Reference>().is_ok_and(|listed| match image.digest() {
                Some(digest) => listed.name() == image.name() && listed.digest() == Some(digest),
                None => listed == image.with_default_tag(),
            })
        };
        let nodes = self.node_images.iter().filter(|node| node.names.iter().any(is_it));
        nodes.map(|node| node.node.clone()).collect()
    }

    /// What would be known if the pod were made again, if its service account has got secrets
    /// since it was made.
    pub(crate) fn made_again(&self) -> Option<Self> {
        if self.attached.is_empty() {
            return None;
        }
        let unknown = self.attached.iter().find_map(|secret| match &secret.state {
            SecretState::Unknown { why } => Some(why.clone()),
            SecretState::Found(_) | SecretState::Missing { .. } => None,
        });
        Some(Self {
            secrets: self.attached.clone(),
            remarks: Vec::new(),
            attached: Vec::new(),
            unknown,
            ..self.clone()
        })
    }

    /// The names that the node cannot read, in order.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.secrets
            .iter()
            .filter(|secret| matches!(secret.state, SecretState::Missing { .. }))
            .map(|secret| secret.name.clone())
            .collect()
    }
}

/// Reads what a subject depends on: first the files, then the cluster. `extra` are secrets of the
/// command line: they stand for those of the same name, and the others count as named.
pub(crate) async fn gather<C: Cluster>(
    subject: &Subject,
    documents: &Documents,
    extra: &[PullSecret],
    cluster: &C,
) -> Gathered {
    let mut gathered = Gathered { no_cluster: !cluster.is_there(), ..Gathered::default() };
    let (names, named_by) = names(subject, documents, cluster, &mut gathered).await;
    for name in names.iter().take(SECRETS_MAX) {
        let state = read(name, subject, documents, extra, cluster).await;
        if let SecretState::Unknown { why } = &state {
            gathered.unknown.get_or_insert_with(|| why.clone());
        }
        gathered.secrets.push(NamedSecret { name: name.clone(), named_by, state });
    }
    for secret in extra.iter().filter(|secret| !names.contains(&secret.name)) {
        gathered.secrets.push(NamedSecret {
            name: secret.name.clone(),
            named_by: NamedBy::CommandLine,
            state: SecretState::Found(secret.clone()),
        });
    }
    let is_late = gathered.remarks.iter().any(|remark| remark.code == ATTACHED_LATER);
    for name in gathered.account_secrets.iter().flatten().take(SECRETS_MAX).filter(|_| is_late) {
        let state = read(name, subject, documents, extra, cluster).await;
        let named_by = NamedBy::ServiceAccount;
        gathered.attached.push(NamedSecret { name: name.clone(), named_by, state });
    }
    if let Some(live) = &subject.live
        && let Known::Is(events) = cluster.events(&subject.namespace, &live.pod).await
    {
        gathered.events = events.into_iter().filter(|event| live.is_meant_by(event)).collect();
    }
    // What always asks the registry does not ask what the node has.
    let looks = |image_use| policy::read(image_use).0 != PullPolicy::Always;
    if subject.source != Source::CommandLine && subject.images.iter().any(looks) {
        let node = subject.live.as_ref().and_then(|live| live.node.as_deref());
        match cluster.node_images(node).await {
            Known::Is(images) => gathered.node_images = images,
            Known::Unknown { why } => gathered.nodes_unknown = Some(why),
            Known::Absent => {}
        }
    }
    gathered
}

/// The names that count, and who names them.
async fn names<C: Cluster>(
    subject: &Subject,
    documents: &Documents,
    cluster: &C,
    gathered: &mut Gathered,
) -> (Vec<String>, NamedBy) {
    let named = subject.pull_secrets.clone();
    if subject.source == Source::CommandLine {
        return (named, NamedBy::CommandLine);
    }
    let (namespace, account) = (&subject.namespace, &subject.service_account);
    let object = format!("service account {namespace}/{account}");
    let in_file = documents.accounts.get(&(namespace.clone(), account.clone()));
    let known = match in_file {
        Some(found) => Known::Is(found.clone()),
        None => cluster.service_account(namespace, account).await,
    };
    // Every namespace gets that account by itself, soon after it is made.
    let is_to_come = account == "default"
        && known == Known::Absent
        && (documents.namespaces.contains(namespace)
            || cluster.namespace(namespace).await == Known::Absent);
    let known = if is_to_come { Known::Is(ServiceAccount::default()) } else { known };
    let was_admitted = subject.kind == "Pod" && subject.source == Source::Cluster;
    match known {
        Known::Is(found) => {
            let of_account = account_secrets(&found);
            gathered.account_secrets = Some(of_account.clone());
            if was_admitted && named.is_empty() && !of_account.is_empty() {
                gathered.remarks.push(Remark::about(
                    object,
                    ATTACHED_LATER,
                    format!(
                        "it has the pull secrets {} now, but they are copied into a pod only when \
                         it is made: this pod has none",
                        of_account.join(", ")
                    ),
                ));
                return (named, NamedBy::Pod);
            }
            if !was_admitted && let Some(inherited) = inherited_pull_secrets(&named, &of_account) {
                return (inherited.to_vec(), NamedBy::ServiceAccount);
            }
            let left_out: Vec<&str> = of_account
                .iter()
                .filter(|name| !named.contains(name))
                .map(String::as_str)
                .collect();
            if !named.is_empty() && !left_out.is_empty() {
                gathered.remarks.push(Remark::about(
                    object,
                    "account.ignored",
                    format!(
                        "its pull secrets do not count ({}), because the pod names some itself: \
                         there is no merging",
                        left_out.join(", ")
                    ),
                ));
            }
        }
        Known::Absent if !was_admitted => gathered.remarks.push(Remark::about(
            object,
            "account.missing",
            format!(
                "it does not exist, and pods would be refused: {}",
                missing_service_account_text(namespace, account)
            ),
        )),
        Known::Absent => {}
        Known::Unknown { why } => {
            if named.is_empty() && !was_admitted {
                gathered.unknown.get_or_insert_with(|| why.clone());
                let text = format!("whether it adds pull secrets is unknown: {why}");
                gathered.remarks.push(Remark::about(object, "account.unknown", text));
            }
        }
    }
    (named, NamedBy::Pod)
}

fn account_secrets(account: &ServiceAccount) -> Vec<String> {
    let secrets = account.image_pull_secrets.iter().flatten();
    secrets.map(|secret| secret.name.clone()).filter(|name| !name.is_empty()).collect()
}

async fn read<C: Cluster>(
    name: &str,
    subject: &Subject,
    documents: &Documents,
    extra: &[PullSecret],
    cluster: &C,
) -> SecretState {
    let namespace = &subject.namespace;
    if let Some(found) = extra.iter().find(|secret| secret.name == name) {
        return SecretState::Found(PullSecret { namespace: namespace.clone(), ..found.clone() });
    }
    if let Some(found) = documents.secrets.get(&(namespace.clone(), name.to_owned())) {
        return SecretState::Found(found.clone());
    }
    let mut elsewhere: Vec<String> =
        documents.secrets.keys().filter(|key| key.1 == name).map(|key| key.0.clone()).collect();
    match cluster.secret(namespace, name).await {
        Known::Is(secret) => SecretState::Found(pull_secret(&secret)),
        Known::Absent => {
            if let Known::Is(more) = cluster.namespaces_with_secret(name).await {
                elsewhere.extend(more);
                elsewhere.retain(|other| other != namespace);
                elsewhere.sort();
                elsewhere.dedup();
            }
            SecretState::Missing { elsewhere }
        }
        Known::Unknown { .. } if !elsewhere.is_empty() => SecretState::Missing { elsewhere },
        Known::Unknown { why } => SecretState::Unknown { why },
    }
}
