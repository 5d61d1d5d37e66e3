//! The kubelet's exec credential provider protocol (`credentialprovider.kubelet.k8s.io`, KEP-2133
//! and KEP-4412): one JSON document in, one out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::azure::Mirror;
use super::{
    CloudCredential, CloudError, CloudOptions, CloudProvider, Performer, PodIdentity, RegistryHost,
    half_life,
};
use crate::{RegistryAuth, Secret};

const GROUP: &str = "credentialprovider.kubelet.k8s.io";
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
const REQUEST_KIND: &str = "CredentialProviderRequest";
const RESPONSE_KIND: &str = "CredentialProviderResponse";

/// What the kubelet asks.
#[derive(Clone, Debug)]
pub struct PluginRequest {
    api_version: String,
    /// The image whose credential is wanted.
    pub image: String,
    /// The token of the pod's service account, if the provider is configured to get one.
    pub service_account_token: Option<Secret>,
    /// The annotations of that service account which the provider is configured to get.
    pub annotations: BTreeMap<String, String>,
}

/// What the kubelet is told.
#[derive(Clone, Debug)]
pub struct PluginAnswer {
    /// A `CredentialProviderResponse`, for standard output.
    pub document: Secret,
    /// Why there is no credential in it, where the protocol has no word for that.
    pub warning: Option<CloudError>,
}

/// Why a request is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginRequestError {
    /// Not a request in JSON; what it is instead is not repeated, it may hold a token.
    #[error("standard input is not a {REQUEST_KIND} in JSON")]
    Syntax,
    /// Another kind or version.
    #[error("standard input is a {kind} of {api_version}, not a {REQUEST_KIND} of {GROUP}/v1")]
    Version {
        /// What it says it is.
        kind: String,
        /// And of which version.
        api_version: String,
    },
    /// There is no image in it.
    #[error("the {REQUEST_KIND} names no image")]
    NoImage,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    service_account_token: String,
    #[serde(default)]
    service_account_annotations: Option<BTreeMap<String, String>>,
}

impl PluginRequest {
    /// Reads what came on standard input.
    ///
    /// # Errors
    /// [`PluginRequestError`], which repeats nothing of the input but kind and version.
    pub fn parse(input: &[u8]) -> Result<Self, PluginRequestError> {
        let wire: Wire = serde_json::from_slice(input).map_err(|_| PluginRequestError::Syntax)?;
        let version = wire.api_version.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/'));
        if wire.kind != REQUEST_KIND || !version.is_some_and(|known| VERSIONS.contains(&known)) {
            return Err(PluginRequestError::Version {
                kind: shortened(wire.kind),
                api_version: shortened(wire.api_version),
            });
        }
        if wire.image.is_empty() {
            return Err(PluginRequestError::NoImage);
        }
        let token = Some(wire.service_account_token).filter(|token| !token.is_empty());
        Ok(Self {
            api_version: wire.api_version,
            image: wire.image,
            service_account_token: token.map(Secret::new),
            annotations: wire.service_account_annotations.unwrap_or_default(),
        })
    }

    /// Asks the cloud for a credential, if the image is from one of its registries.
    ///
    /// A pod on GKE that pulls with its own identity and may not gets an answer without a
    /// credential, as from Google's own program, and never what the node has.
    ///
    /// # Errors
    /// [`CloudError`] if the exchange failed.
    pub fn respond(
        &self,
        performer: &dyn Performer,
        provider: CloudProvider,
        options: &CloudOptions,
    ) -> Result<PluginAnswer, CloudError> {
        let pod = self
            .service_account_token
            .as_ref()
            .map(|token| PodIdentity { token, annotations: &self.annotations });
        let mut mirrors = options.acr.mirrors.iter();
        let mirror = match provider {
            CloudProvider::Acr => mirrors.find(|mirror| mirror.target_of(&self.image).is_some()),
            _ => None,
        };
        let named = RegistryHost::of(&self.image);
        let target = mirror.and_then(|mirror| mirror.target_of(&self.image));
        let Some(host) = target.or(named.as_ref()) else {
            return Ok(PluginAnswer { document: self.answer(None), warning: None });
        };
        match options.exchange(performer, provider, host, pod) {
            Ok(mut credential) => {
                // The kubelet does not forget one that stopped working: half of its life at most.
                if let Some(given) = &mut credential
                    && let Some(ends) = given.expires_at
                {
                    given.keep_for = given.keep_for.min(half_life(performer.now(), ends));
                }
                // The kubelet looks for the name that the pod uses, not for its mirror.
                let key = mirror.map_or(host.as_str(), Mirror::source);
                let document = self.document(credential.as_ref(), key);
                Ok(PluginAnswer { document, warning: None })
            }
            Err(error)
                if provider == CloudProvider::Google
                    && options.whose(performer, provider, pod).is_some() =>
            {
                Ok(PluginAnswer { document: self.answer(None), warning: Some(error) })
            }
            Err(error) => Err(error),
        }
    }

    /// The answer, for standard output: one key, the exact host, or no credential at all.
    pub fn answer(&self, credential: Option<&CloudCredential>) -> Secret {
        self.document(credential, credential.map_or("", |given| &given.host))
    }

    /// As [`PluginRequest::answer`], under another key: a host, or a name below one. What is of a
    /// part of a host is kept for the image alone, or the kubelet would use it for all others of
    /// that host.
    fn document(&self, credential: Option<&CloudCredential>, key: &str) -> Secret {
        let mut auth = serde_json::Map::new();
        let mut keep_for = None;
        if let Some(CloudCredential { auth: given, keep_for: time, .. }) = credential
            && let RegistryAuth::Basic { username, password, .. } = given
        {
            let entry = json!({ "username": username, "password": password.expose() });
            auth.insert(key.to_owned(), entry);
            keep_for = Some(go_duration(*time));
        }
        let mut response = json!({
            "apiVersion": self.api_version,
            "kind": RESPONSE_KIND,
            "cacheKeyType": if key.contains('/') { "Image" } else { "Registry" },
            "auth": auth,
        });
        if let Some(keep_for) = keep_for {
            response["cacheDuration"] = keep_for.into();
        }
        Secret::new(response.to_string())
    }
}

/// What somebody sent, fit for one line of a log.
fn shortened(text: String) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(80).collect()
}

/// A duration as Go prints it, in whole seconds: `6h0m0s`.
fn go_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::super::world::World;
    use super::*;

    fn request(version: &str, more: &str) -> String {
        format!(
            r#"{{"apiVersion":"credentialprovider.kubelet.k8s.io/{version}","kind":"CredentialProviderRequest","image":"123456789012.dkr.ecr.eu-west-1.amazonaws.com/app"{more}}}"#
        )
    }

    fn credential(seconds: u64) -> CloudCredential {
        CloudCredential {
            host: "123456789012.dkr.ecr.eu-west-1.amazonaws.com".to_owned(),
            auth: RegistryAuth::basic("AWS", Secret::new("pw")),
            expires_at: None,
            keep_for: Duration::from_secs(seconds),
            source: "environment".to_owned(),
        }
    }

    fn answer(request: &str, credential: Option<&CloudCredential>) -> serde_json::Value {
        let request = PluginRequest::parse(request.as_bytes()).expect("a request");
        serde_json::from_str(request.answer(credential).expose()).expect("JSON")
    }

    #[test]
    fn the_answer_has_the_version_of_the_request_and_one_exact_key() {
        for version in VERSIONS {
            let answer = answer(&request(version, ""), Some(&credential(21600))); // cases 1, 2
            assert_eq!(
                answer,
                json!({
                    "apiVersion": format!("{GROUP}/{version}"),
                    "kind": "CredentialProviderResponse",
                    "cacheKeyType": "Registry",
                    "cacheDuration": "6h0m0s",
                    "auth": {
                        "123456789012.dkr.ecr.eu-west-1.amazonaws.com": {
                            "username": "AWS", "password": "pw",
                        },
                    },
                })
            );
        }
    }

    #[test]
    fn no_credential_is_an_empty_answer() {
        let answer = answer(&request("v1", ""), None); // case 7
        assert_eq!(answer["auth"], json!({}));
        assert_eq!(answer.get("cacheDuration"), None);
    }

    #[test]
    fn a_credential_that_has_ended_is_not_kept() {
        assert_eq!(answer(&request("v1", ""), Some(&credential(0)))["cacheDuration"], "0s");
        for (seconds, text) in [(59, "59s"), (60, "1m0s"), (3599, "59m59s"), (90061, "25h1m1s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_request_of_another_version_or_none_is_refused_without_repeating_it() {
        for (input, expected) in [
            (request("v2", ""), "is a CredentialProviderRequest of credentialprovider"),
            (request("v1", "").replace("ProviderRequest", "Other"), "is a CredentialOther of"),
            (String::new(), "is not a CredentialProviderRequest in JSON"),
            (request("v1", "")[..40].to_owned(), "is not a CredentialProviderRequest in JSON"),
            (request("v1", "").replace("1234", "").replace("image", "x"), "names no image"),
        ] {
            let error = PluginRequest::parse(input.as_bytes()).expect_err(&input); // case 3
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn an_image_is_asked_for_in_every_form_and_answered_under_its_host() {
        // cloud-credentials.md 14.2, rows 5 to 7.
        let body =
            r#"{"authorizationData":[{"authorizationToken":"QVdTOnB3","expiresAt":1793577600}]}"#;
        let host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
        let api = "https://api.ecr.eu-west-1.amazonaws.com/";
        for (image, expected) in [
            ("HOST", true),
            ("HOST/app", true),
            ("HOST/app:1.0", true),
            ("HOST/app@sha256:0000", true),
            ("HOST:443/app", true),
            ("HOST:8443/app", false),
            ("docker.io/library/x", false),
            ("evil.com/HOST", false),
        ] {
            let text = request("v1", "").replace(&format!("{host}/app"), image);
            let request = PluginRequest::parse(text.replace("HOST", host).as_bytes()).expect("it");
            let world = World::new()
                .variable("AWS_ACCESS_KEY_ID", "AKID")
                .variable("AWS_SECRET_ACCESS_KEY", "secret")
                .server(Method::Post, api, super::super::world::answer(200, body));
            let options = CloudOptions::only([CloudProvider::Ecr]);
            let answer = request.respond(&world, CloudProvider::Ecr, &options).expect(image);
            let answer: serde_json::Value =
                serde_json::from_str(answer.document.expose()).expect("JSON");
            let keys: Vec<&String> =
                answer["auth"].as_object().expect("an object").keys().collect();
            assert_eq!(keys, if expected { vec![host] } else { vec![] }, "{image}");
        }
    }

    #[test]
    fn a_pod_on_gke_that_may_not_pull_gets_nothing_and_the_node_is_not_asked() {
        // cloud-credentials.md 14.2, row 39.
        let annotations = r#"{"iam.gke.io/enable-wi-image-pull":"true"}"#;
        let more =
            format!(r#","serviceAccountToken":"pod","serviceAccountAnnotations":{annotations}"#);
        let text = request("v1", &more)
            .replace("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "eu-docker.pkg.dev");
        let request = PluginRequest::parse(text.as_bytes()).expect("a request");
        let refusal = super::super::world::answer(400, r#"{"error":"invalid_target"}"#);
        let world = World::new().variable("GCE_METADATA_HOST", "127.0.0.1:1").server(
            Method::Post,
            "https://sts.googleapis.com/v1/token",
            refusal,
        );
        let mut options = CloudOptions::only([CloudProvider::Google]);
        options.google.service_accounts = Some(super::super::google::ServiceAccountFlow {
            project_id: "p".to_owned(),
            identity_provider: "https://cluster.example".to_owned(),
        });
        let answer = request.respond(&world, CloudProvider::Google, &options).expect("an answer");
        let document: serde_json::Value =
            serde_json::from_str(answer.document.expose()).expect("JSON");
        assert_eq!(document["auth"], json!({}));
        assert!(answer.warning.expect("a reason").to_string().contains("invalid_target"));
        assert_eq!(world.sent.borrow().len(), 1);
    }

    #[test]
    fn a_mirrors_credential_goes_by_the_name_that_the_pod_uses() {
        // cloud-credentials.md 4.4.
        let text = request("v1", "")
            .replace("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "mcr.microsoft.com");
        let request = PluginRequest::parse(text.as_bytes()).expect("a request");
        let mut options = CloudOptions::only([CloudProvider::Acr]);
        let challenge =
            "Bearer realm=\"https://team.azurecr.io/oauth2/token\",service=\"team.azurecr.io\"";
        let world = || {
            World::new()
                .server(
                    Method::Get,
                    "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01\
                     &resource=https%3A%2F%2Fcontainerregistry.azure.net",
                    super::super::world::answer(200, r#"{"access_token":"entra"}"#),
                )
                .server(
                    Method::Get,
                    "https://team.azurecr.io/v2/",
                    super::super::world::answer_with(401, &[("www-authenticate", challenge)], ""),
                )
                .server(
                    Method::Post,
                    "https://team.azurecr.io/oauth2/exchange",
                    super::super::world::answer(200, r#"{"refresh_token":"refresh"}"#),
                )
        };
        let without = request.respond(&world(), CloudProvider::Acr, &options).expect("an answer");
        assert!(without.document.expose().contains(r#""auth":{}"#));
        options.acr.mirrors = vec!["mcr.microsoft.com:team.azurecr.io".parse().expect("one")];
        let with = request.respond(&world(), CloudProvider::Acr, &options).expect("an answer");
        let document: serde_json::Value =
            serde_json::from_str(with.document.expose()).expect("JSON");
        assert_eq!(document["auth"]["mcr.microsoft.com"]["password"], "refresh");
        assert_eq!(document["cacheKeyType"], "Registry");

        // A mirror of a part of the host is no mirror of the rest, in the answer and in the cache.
        options.acr.mirrors = vec!["mcr.microsoft.com/oss:team.azurecr.io".parse().expect("one")];
        let ask = |image: &str| -> serde_json::Value {
            let text = text.replace("mcr.microsoft.com/app", &format!("mcr.microsoft.com/{image}"));
            let request = PluginRequest::parse(text.as_bytes()).expect("a request");
            let answer = request.respond(&world(), CloudProvider::Acr, &options);
            serde_json::from_str(answer.expect("an answer").document.expose()).expect("JSON")
        };
        let part = ask("oss/app");
        let keys: Vec<&String> = part["auth"].as_object().expect("a map").keys().collect();
        assert_eq!(keys, ["mcr.microsoft.com/oss"]);
        assert_eq!(part["cacheKeyType"], "Image");
        for other in ["other", "ossified", "app"] {
            assert_eq!(ask(other)["auth"], json!({}), "{other}");
        }
    }

    #[test]
    fn a_kubelet_keeps_nothing_for_more_than_half_of_its_life() {
        // cloud-credentials.md 1.4: in this process IBM's is kept for four fifths.
        let text =
            request("v1", "").replace("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "de.icr.io");
        let token = r#"{"access_token":"a","expiration":1793494800}"#;
        let world = World::new().variable("ICR_APIKEY", "key").server(
            Method::Post,
            "https://iam.cloud.ibm.com/identity/token",
            super::super::world::answer(200, token),
        );
        let request = PluginRequest::parse(text.as_bytes()).expect("a request");
        let given = request.respond(&world, CloudProvider::Ibm, &CloudOptions::all());
        let document = given.expect("an answer").document;
        let document: serde_json::Value = serde_json::from_str(document.expose()).expect("JSON");
        assert_eq!(document["cacheDuration"], "30m0s");
    }

    #[test]
    fn unknown_fields_are_ignored_and_the_token_is_not_printed() {
        let more = r#","serviceAccountToken":"canary","serviceAccountAnnotations":{"a":"b"},"x":1"#;
        let request = PluginRequest::parse(request("v1", more).as_bytes()).expect("it"); // case 4
        assert_eq!(request.service_account_token, Some(Secret::new("canary")));
        assert_eq!(request.annotations["a"], "b");
        assert!(!format!("{request:?}").contains("canary"));
    }
}
