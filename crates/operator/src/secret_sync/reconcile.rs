//! Seeing the cluster, and making the steps of a plan.

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::content::Content;
use super::observed::{
    AccountState, NamespaceState, Observed, SecretState, Version, account_annotation,
};
use super::plan::{Desired, Plan, Problem, Step, StepKind, plan};
use super::source::Sourced;
use super::{CONTENT_ANNOTATION, FIELD_MANAGER, OWNER_LABEL, SECRET_KEY, SECRET_TYPE};

/// How often a one-shot sync looks again because somebody else was faster.
const ROUNDS_MAX: usize = 5;
/// Objects per page of a list.
const PAGE: u32 = 500;

/// Why a sync cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The cluster cannot be seen.
    #[error("cannot list {what}")]
    List {
        /// The kind of object.
        what: &'static str,
        /// The cause.
        #[source]
        source: kube::Error,
    },
    /// Other writers were faster each time.
    #[error("secret {name}: others keep changing what this sync is about to change; try again")]
    KeepsChanging {
        /// The sync.
        name: String,
    },
}

/// What a sync tells while it works. Nothing in it is secret.
#[derive(Debug)]
pub enum Told {
    /// The source has this content now.
    Source(Sourced),
    /// The source gives none; what was made before stays as it is.
    NoSource(super::SourceError),
    /// A step was made.
    Done(Step),
    /// A step failed.
    Failed {
        /// The step.
        step: Step,
        /// Why.
        error: String,
    },
    /// Something stands in the way.
    Problem(Problem),
    /// The cluster cannot be seen for the moment.
    Trouble(String),
    /// Everything is as it should be; the watches go on.
    Settled,
}

/// How a one-shot sync ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps made.
    pub done: usize,
    /// Steps that failed.
    pub failed: usize,
    /// What stands in the way.
    pub problems: Vec<Problem>,
}

/// Why a step was not made.
pub(super) enum StepError {
    /// The object is not any more as it was seen.
    Raced,
    /// The cluster refused.
    Refused(String),
}

/// One sync in one cluster.
pub struct Reconciler {
    pub(super) client: Client,
    /// Name of the sync and of its secrets.
    pub(super) name: String,
}

impl Reconciler {
    /// The sync of a name.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    /// What there is now.
    ///
    /// # Errors
    /// [`SyncError::List`].
    pub async fn observe(&self) -> Result<Observed, SyncError> {
        let mut observed = Observed::default();
        for namespace in self.list::<Namespace>("namespaces", ListParams::default()).await? {
            observed.namespaces.insert(namespace.name_any(), NamespaceState::of(&namespace));
        }
        let named = ListParams::default().fields(&format!("metadata.name={}", self.name));
        for secret in self.list::<Secret>("secrets", named).await? {
            let namespace = secret.namespace().unwrap_or_default();
            observed.secrets.insert(namespace, SecretState::of(&secret));
        }
        let accounts = self.list::<ServiceAccount>("service accounts", ListParams::default());
        for account in accounts.await? {
            let key = (account.namespace().unwrap_or_default(), account.name_any());
            observed.accounts.insert(key, AccountState::of(&account, &self.name));
        }
        Ok(observed)
    }

    async fn list<K>(&self, what: &'static str, params: ListParams) -> Result<Vec<K>, SyncError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut params = params.limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = api.list(&params).await;
            let page = page.map_err(|source| SyncError::List { what, source })?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// What a sync would do now.
    ///
    /// # Errors
    /// As for [`Self::observe`].
    pub async fn preview(&self, desired: &Desired) -> Result<Plan, SyncError> {
        Ok(plan(desired, &self.observe().await?))
    }

    /// Brings the cluster to what is wanted, once; looks again when others were faster.
    ///
    /// # Errors
    /// [`SyncError::List`], and [`SyncError::KeepsChanging`] after some rounds.
    pub async fn once(
        &self,
        desired: &Desired,
        tell: &mut (dyn FnMut(Told) + Send),
    ) -> Result<Report, SyncError> {
        let mut report = Report::default();
        for _ in 0..ROUNDS_MAX {
            let mut observed = self.observe().await?;
            let planned = plan(desired, &observed);
            let made = self.make_all(desired, &planned, &mut observed, tell).await;
            report.done += made.done;
            report.failed = made.refused.len();
            report.problems = planned.problems;
            if !made.raced {
                report.problems.iter().for_each(|one| tell(Told::Problem(one.clone())));
                return Ok(report);
            }
        }
        Err(SyncError::KeepsChanging { name: self.name.clone() })
    }

    /// Makes the steps in order; after a failure the rest of that namespace waits.
    pub(super) async fn make_all(
        &self,
        desired: &Desired,
        planned: &Plan,
        observed: &mut Observed,
        tell: &mut (dyn FnMut(Told) + Send),
    ) -> Made {
        let mut made = Made::default();
        let mut stopped: BTreeSet<&str> = BTreeSet::new();
        for step in &planned.steps {
            if stopped.contains(step.namespace.as_str()) {
                continue;
            }
            match self.make(desired, step, observed).await {
                Ok(()) => {
                    made.done += 1;
                    tell(Told::Done(step.clone()));
                }
                Err(StepError::Raced) => {
                    made.raced = true;
                    stopped.insert(&step.namespace);
                }
                Err(StepError::Refused(error)) => {
                    made.refused.push(step.clone());
                    stopped.insert(&step.namespace);
                    tell(Told::Failed { step: step.clone(), error });
                }
            }
        }
        made
    }

    /// Makes one step and notes what became of the object.
    async fn make(
        &self,
        desired: &Desired,
        step: &Step,
        observed: &mut Observed,
    ) -> Result<(), StepError> {
        let namespace = step.namespace.clone();
        match (&step.kind, &desired.content) {
            (StepKind::CreateSecret, Some(content)) => {
                let secret = self.create(&namespace, content).await.map_err(step_error)?;
                observed.secrets.insert(namespace, SecretState::of(&secret));
            }
            (StepKind::UpdateSecret { version }, Some(content)) => {
                let secret = self.update(&namespace, content, version).await;
                let secret = secret.map_err(step_error)?;
                observed.secrets.insert(namespace, SecretState::of(&secret));
            }
            // Without content nothing is planned but removals.
            (StepKind::CreateSecret | StepKind::UpdateSecret { .. }, None) => {}
            (StepKind::DeleteSecret { version }, _) => {
                self.delete(&namespace, version).await.map_err(step_error)?;
                observed.secrets.remove(&namespace);
            }
            (StepKind::AddToAccount { account, pull_secrets, version }, _) => {
                let mark = Some(self.name.as_str());
                let written = self.list_of(&namespace, account, pull_secrets, version, mark).await;
                let state = AccountState::of(&written.map_err(step_error)?, &self.name);
                observed.accounts.insert((namespace, account.clone()), state);
            }
            (StepKind::RemoveFromAccount { account, pull_secrets, version }, _) => {
                let written = self.list_of(&namespace, account, pull_secrets, version, None).await;
                let state = AccountState::of(&written.map_err(step_error)?, &self.name);
                observed.accounts.insert((namespace, account.clone()), state);
            }
        }
        Ok(())
    }

    fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create(&self, namespace: &str, content: &Content) -> kube::Result<Secret> {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut secret = Secret {
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some([(SECRET_KEY.to_owned(), ByteString(content.bytes()))].into()),
            ..Secret::default()
        };
        secret.metadata.name = Some(self.name.clone());
        secret.metadata.labels = Some(
            [pair(OWNER_LABEL, &self.name), pair("app.kubernetes.io/managed-by", "shipway")].into(),
        );
        secret.metadata.annotations = Some([pair(CONTENT_ANNOTATION, content.mark())].into());
        let params =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.secrets(namespace).create(&params, &secret).await
    }

    /// Replaces the content; what people added to the object stays.
    async fn update(
        &self,
        namespace: &str,
        content: &Content,
        version: &Version,
    ) -> kube::Result<Secret> {
        let patch = json!({
            "metadata": {
                "uid": version.uid,
                "resourceVersion": version.resource_version,
                "annotations": {CONTENT_ANNOTATION: content.mark()},
            },
            "data": {SECRET_KEY: ByteString(content.bytes())},
        });
        self.secrets(namespace).patch(&self.name, &patch_params(), &Patch::Merge(patch)).await
    }

    async fn delete(&self, namespace: &str, version: &Version) -> kube::Result<()> {
        let preconditions = Preconditions {
            uid: Some(version.uid.clone()),
            resource_version: Some(version.resource_version.clone()),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        self.secrets(namespace).delete(&self.name, &params).await.map(drop)
    }

    /// Writes the whole list of an account, which is atomic, over the state that was seen.
    async fn list_of(
        &self,
        namespace: &str,
        account: &str,
        pull_secrets: &[String],
        version: &Version,
        mark: Option<&str>,
    ) -> kube::Result<ServiceAccount> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let entries: Vec<_> = pull_secrets.iter().map(|name| json!({ "name": name })).collect();
        let patch = json!({
            "metadata": {
                "uid": version.uid,
                "resourceVersion": version.resource_version,
                "annotations": {account_annotation(&self.name): mark},
            },
            "imagePullSecrets": entries,
        });
        accounts.patch(account, &patch_params(), &Patch::Merge(patch)).await
    }
}

/// What became of the steps of one plan.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    pub(super) done: usize,
    pub(super) refused: Vec<Step>,
    pub(super) raced: bool,
}

fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Changed, made or gone since it was seen: look again. Everything else is for people.
fn step_error(error: kube::Error) -> StepError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => StepError::Raced,
        kube::Error::Api(status) => StepError::Refused(status.message.clone()),
        other => StepError::Refused(other.to_string()),
    }
}
