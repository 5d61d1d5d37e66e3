//! A secret of the cluster as the source of the credentials.

use std::str::FromStr;

use credentials::{ConfigEntry, ConfigFileError, SecretKind, parse_config_json, parse_dockercfg};
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};

use super::content::{Content, ContentError, Skipped};

/// What a source gave.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// What the secrets will hold.
    pub content: Content,
    /// What nodes could not use.
    pub skipped: Vec<Skipped>,
}

impl Sourced {
    /// The content of the entries of a source for `registries`; empty means all.
    ///
    /// # Errors
    /// [`SourceError::Content`].
    pub fn new(entries: &[ConfigEntry], registries: &[String]) -> Result<Self, SourceError> {
        let (content, skipped) = Content::new(entries, registries)?;
        Ok(Self { content, skipped })
    }

    /// Refuses to take the place of `known` where the source only fell silent about a part of it.
    /// A key that it names no more was taken away by people.
    ///
    /// # Errors
    /// [`SourceError::Silent`].
    pub(super) fn check_after(&self, known: &Content) -> Result<(), SourceError> {
        let held = |key: &&String| known.servers().contains(key);
        let skipped = self.skipped.iter().map(|one| &one.key);
        let keys: Vec<String> = skipped.filter(held).cloned().collect();
        if keys.is_empty() { Ok(()) } else { Err(SourceError::Silent { keys }) }
    }
}

/// Why a source gives no content. Nothing in the text is secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The text does not name a secret.
    #[error("{text:?} does not name a secret: want NAMESPACE/NAME")]
    BadName {
        /// The text.
        text: String,
    },
    /// No such secret.
    #[error("secret {source_name} does not exist")]
    Missing {
        /// The secret.
        source_name: String,
    },
    /// A secret without registry credentials.
    #[error(
        "secret {source_name} is of type {kind:?}; want \"kubernetes.io/dockerconfigjson\" or \
         \"kubernetes.io/dockercfg\""
    )]
    OfType {
        /// The secret.
        source_name: String,
        /// Its type.
        kind: String,
    },
    /// The content cannot be read.
    #[error("secret {source_name}: {error}")]
    Malformed {
        /// The secret.
        source_name: String,
        /// What is wrong.
        error: ConfigFileError,
    },
    /// Nothing to pass on.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// It still names what it gave before, and gives nothing that can be used.
    #[error("the source names {} and gives nothing for it any more", .keys.join(", "))]
    Silent {
        /// The keys, as they may be shown.
        keys: Vec<String>,
    },
    /// The source cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

/// A secret by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSecret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for SourceSecret {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(SourceError::BadName { text: text.to_owned() }),
        }
    }
}

impl std::fmt::Display for SourceSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl SourceSecret {
    fn api(&self, client: Client) -> Api<Secret> {
        Api::namespaced(client, &self.namespace)
    }

    /// Reads it now.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn read(
        &self,
        client: Client,
        registries: &[String],
    ) -> Result<Sourced, SourceError> {
        let found = self.api(client).get_opt(&self.name).await;
        let found = found.map_err(|error| {
            SourceError::Unreadable(format!("cannot read secret {self}: {error}"))
        })?;
        self.sourced(found.as_ref(), registries)
    }

    /// What it holds now, and again whenever it changes.
    pub fn watch(
        self,
        client: Client,
        registries: Vec<String>,
    ) -> impl Stream<Item = Result<Sourced, SourceError>> + Send {
        let fields = format!("metadata.name={}", self.name);
        let config = watcher::Config::default().fields(&fields);
        let mut seen = None;
        watcher(self.api(client), config).default_backoff().filter_map(move |event| {
            let told = match event {
                Ok(watcher::Event::Init) => {
                    seen = None;
                    None
                }
                Ok(watcher::Event::InitApply(secret)) => {
                    seen = Some(secret);
                    None
                }
                Ok(watcher::Event::InitDone) => Some(self.sourced(seen.as_ref(), &registries)),
                Ok(watcher::Event::Apply(secret)) => Some(self.sourced(Some(&secret), &registries)),
                Ok(watcher::Event::Delete(_)) => Some(self.sourced(None, &registries)),
                Err(error) => Some(Err(SourceError::Unreadable(format!(
                    "cannot watch secret {self}: {error}"
                )))),
            };
            futures_util::future::ready(told)
        })
    }

    fn sourced(
        &self,
        secret: Option<&Secret>,
        registries: &[String],
    ) -> Result<Sourced, SourceError> {
        let source_name = self.to_string();
        let Some(secret) = secret else { return Err(SourceError::Missing { source_name }) };
        Sourced::new(&entries(source_name, secret)?, registries)
    }
}

fn entries(source_name: String, secret: &Secret) -> Result<Vec<ConfigEntry>, SourceError> {
    let kind = secret.type_.clone().unwrap_or_default();
    let Some(known) = SecretKind::of_type(&kind) else {
        return Err(SourceError::OfType { source_name, kind });
    };
    let held = secret.data.as_ref().and_then(|data| data.get(known.data_key()));
    let bytes = held.map(|bytes| bytes.0.as_slice()).unwrap_or_default();
    match known {
        SecretKind::DockerConfigJson => parse_config_json(bytes),
        SecretKind::DockerCfg => parse_dockercfg(bytes),
    }
    .map_err(|error| SourceError::Malformed { source_name, error })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(kind: &str, key: &str, value: &str) -> Secret {
        Secret {
            type_: Some(kind.to_owned()),
            data: Some([(key.to_owned(), ByteString(value.as_bytes().to_vec()))].into()),
            ..Secret::default()
        }
    }

    fn told(secret: Option<&Secret>) -> Result<Vec<String>, String> {
        let source: SourceSecret = "ns/x".parse().expect("a name");
        source
            .sourced(secret, &[])
            .map(|sourced| sourced.content.servers().to_vec())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn both_types_are_read_and_what_is_wrong_is_named() {
        let json = "kubernetes.io/dockerconfigjson";
        let config = |text: &str| secret(json, ".dockerconfigjson", text);
        let good = r#"{"auths":{"r.example":{"auth":"Zm9vOmJhcg=="}}}"#;
        assert_eq!(told(Some(&config(good))), Ok(vec!["r.example".to_owned()]));
        let legacy = r#"{"r.example":{"auth":"Zm9vOmJhcg=="}}"#;
        let legacy = secret("kubernetes.io/dockercfg", ".dockercfg", legacy);
        assert_eq!(told(Some(&legacy)), Ok(vec!["r.example".to_owned()]));
        for (secret, expected) in [
            (None, "secret ns/x does not exist"),
            (
                Some(secret("Opaque", ".dockerconfigjson", good)),
                "secret ns/x is of type \"Opaque\"; want \"kubernetes.io/dockerconfigjson\" or \
                 \"kubernetes.io/dockercfg\"",
            ),
            (Some(config("")), "secret ns/x: unexpected end of JSON input"),
            (
                Some(config(r#"{"auths":{"r.example":{"auth":"pants"}}}"#)),
                "secret ns/x: illegal base64 data at input byte 4",
            ),
            (Some(config("{}")), "the source has no credential"),
        ] {
            assert_eq!(told(secret.as_ref()), Err(expected.to_owned()));
        }
    }

    #[test]
    fn content_shrinks_only_by_what_the_source_names_no_more() {
        let entry = |key: &str, user: &str| ConfigEntry {
            key: key.to_owned(),
            auth: credentials::RegistryAuth::basic(user, credentials::Secret::new(user)),
        };
        let sourced = |entries: &[ConfigEntry]| Sourced::new(entries, &[]).expect("a content");
        let known = sourced(&[entry("a.example", "u"), entry("b.example", "u")]).content;
        let silent = sourced(&[entry("a.example", "new"), entry("b.example", "")]);
        assert_eq!(
            silent.check_after(&known).map_err(|error| error.to_string()),
            Err("the source names b.example and gives nothing for it any more".to_owned())
        );
        let taken_away = sourced(&[entry("a.example", "new"), entry("never.example", "")]);
        assert_eq!(taken_away.check_after(&known), Ok(()));
    }

    #[test]
    fn names_have_a_namespace() {
        for text in ["x", "/x", "ns/", "a/b/c", ""] {
            assert!(text.parse::<SourceSecret>().is_err(), "{text:?}");
        }
        assert_eq!(
            "ns/x".parse::<SourceSecret>().map(|found| found.to_string()),
            Ok("ns/x".into())
        );
    }
}
