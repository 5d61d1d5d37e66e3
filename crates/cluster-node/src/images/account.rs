//! Who asks for an image: the pod, and its service account, which is read only when something
//! needs it (kubelet-images.md 8.4 and 9.4).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use credentials::Secret;
use image_policy::verification::AccountCoordinates;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount as ApiServiceAccount};
use kube::api::Api;

/// Life of a token that asks for none (TokenRequest).
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

/// Who asks for an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodIdentity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Name of the pod's service account; a static pod has none.
    pub(crate) account: Option<String>,
}

impl PodIdentity {
    /// The identity of a pod.
    pub(crate) fn of(pod: &Pod) -> Self {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        PodIdentity {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            account: account.filter(|name| !name.is_empty()),
        }
    }
}

/// A service account, as a pull sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl ServiceAccount {
    /// What pull records know it by.
    pub(crate) fn coordinates(&self) -> AccountCoordinates {
        AccountCoordinates {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

/// An answer that takes a while.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where service accounts are read; a seam, so that the rules are tested without an API server.
pub(crate) trait Accounts: Send + Sync {
    /// The account of this name.
    ///
    /// The error is the text of the API server.
    fn read<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Later<'a, Result<ServiceAccount, String>>;

    /// A fresh token of a pod's account for an audience, bound to the pod, and how long it lives.
    ///
    /// The error is the text of the API server.
    fn token<'a>(
        &'a self,
        pod: &'a PodIdentity,
        account: &'a str,
        audience: &'a str,
    ) -> Later<'a, Result<(Secret, Duration), String>>;
}

/// [`Accounts`] of the cluster.
pub(crate) struct ApiAccounts {
    pub(crate) client: kube::Client,
}

impl Accounts for ApiAccounts {
    fn read<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Later<'a, Result<ServiceAccount, String>> {
        Box::pin(async move {
            let api: Api<ApiServiceAccount> = Api::namespaced(self.client.clone(), namespace);
            let meta = api.get(name).await.map_err(api_text)?.metadata;
            Ok(ServiceAccount {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: meta.uid.unwrap_or_default(),
                annotations: meta.annotations.unwrap_or_default(),
            })
        })
    }

    fn token<'a>(
        &'a self,
        pod: &'a PodIdentity,
        account: &'a str,
        audience: &'a str,
    ) -> Later<'a, Result<(Secret, Duration), String>> {
        Box::pin(async move {
            let request = TokenRequest {
                spec: Some(TokenRequestSpec {
                    audiences: Some(vec![audience.to_owned()]),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".to_owned()),
                        kind: Some("Pod".to_owned()),
                        name: Some(pod.name.clone()),
                        uid: Some(pod.uid.clone()),
                    }),
                    ..TokenRequestSpec::default()
                }),
                ..TokenRequest::default()
            };
            let path =
                format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod.namespace);
            let body = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
            let http = http::Request::post(path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body)
                .map_err(|error| error.to_string())?;
            let answer: TokenRequest = self.client.request(http).await.map_err(api_text)?;
            let status = answer.status.ok_or("the API server gave no token")?;
            let token = status.token.filter(|token| !token.is_empty());
            let token = Secret::new(token.ok_or("the API server gave no token")?);
            let life = status.expiration_timestamp.map_or(DEFAULT_LIFE, |end| {
                Duration::try_from(end.0.duration_since(Timestamp::now())).unwrap_or_default()
            });
            Ok((token, life))
        })
    }
}

/// What the API server said, without the words of our client.
fn api_text(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Accounts by namespace and name; every token is another one.
    #[derive(Default)]
    pub(crate) struct FakeAccounts {
        pub(crate) accounts: Vec<ServiceAccount>,
        /// What is answered in place of a token.
        pub(crate) refusal: Option<String>,
        pub(crate) tokens: AtomicU32,
    }

    impl Accounts for FakeAccounts {
        fn read<'a>(
            &'a self,
            namespace: &'a str,
            name: &'a str,
        ) -> Later<'a, Result<ServiceAccount, String>> {
            let found =
                self.accounts.iter().find(|one| one.namespace == namespace && one.name == name);
            let found =
                found.cloned().ok_or_else(|| format!("serviceaccounts \"{name}\" not found"));
            Box::pin(async move { found })
        }

        fn token<'a>(
            &'a self,
            pod: &'a PodIdentity,
            account: &'a str,
            audience: &'a str,
        ) -> Later<'a, Result<(Secret, Duration), String>> {
            let number = self.tokens.fetch_add(1, Ordering::SeqCst);
            let token = format!("token-{account}-{audience}-{}-{number}", pod.uid);
            let answer = match &self.refusal {
                Some(refusal) => Err(refusal.clone()),
                None => Ok((Secret::new(token), DEFAULT_LIFE)),
            };
            Box::pin(async move { answer })
        }
    }

    #[test]
    fn pod_without_a_named_account_has_none() {
        let pod = |spec| {
            serde_json::from_value::<Pod>(serde_json::json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": spec}))
        };
        let of = |spec| PodIdentity::of(&pod(spec).expect("a pod")).account;
        assert_eq!(of(serde_json::json!({"containers": []})), None);
        let named = serde_json::json!({"containers": [], "serviceAccountName": "sa"});
        assert_eq!(of(named), Some("sa".to_owned()));
    }
}
