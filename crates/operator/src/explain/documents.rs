//! A file of Kubernetes objects: what is to be explained, and what it brings along.

use std::collections::{BTreeMap, BTreeSet};

use credentials::PullSecret;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::Value;

use super::subject::{Source, Subject, SubjectError};

/// Objects in one file, as a bound on the work (a namespace of a large cluster has fewer).
const DOCUMENTS_MAX: usize = 10_000;

/// What files hold.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// What runs containers.
    pub subjects: Vec<Subject>,
    /// Secrets, by namespace and name.
    pub secrets: BTreeMap<(String, String), PullSecret>,
    /// Service accounts, by namespace and name.
    pub accounts: BTreeMap<(String, String), ServiceAccount>,
    /// Names of the namespaces that the files declare.
    pub namespaces: BTreeSet<String>,
    /// Objects of other kinds.
    pub others: usize,
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentsError {
    /// Neither YAML nor JSON.
    #[error("{path}: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// What is wrong and where.
        reason: String,
    },
    /// More objects than `DOCUMENTS_MAX`.
    #[error("{path}: more than {DOCUMENTS_MAX} objects")]
    TooMany {
        /// The file.
        path: String,
    },
    /// One object is malformed.
    #[error("{path}: {error}")]
    Object {
        /// The file.
        path: String,
        /// Which, and why.
        error: SubjectError,
    },
}

impl Documents {
    /// Adds the objects of a file: one or more YAML documents, JSON, lists. Objects that name no
    /// namespace belong to `namespace`.
    ///
    /// # Errors
    /// [`DocumentsError`].
    pub fn add(&mut self, path: &str, text: &str, namespace: &str) -> Result<(), DocumentsError> {
        let syntax = |reason: String| DocumentsError::Syntax { path: path.to_owned(), reason };
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| syntax(position_of(&error)))?;
        for document in documents {
            let listed = document["items"].as_array().filter(|_| is_list(&document));
            match listed {
                Some(items) => {
                    for item in items {
                        self.add_object(path, item, namespace)?;
                    }
                }
                None if document.is_null() => {}
                None => self.add_object(path, &document, namespace)?,
            }
        }
        Ok(())
    }

    fn add_object(
        &mut self,
        path: &str,
        object: &Value,
        namespace: &str,
    ) -> Result<(), DocumentsError> {
        let known = self.subjects.len() + self.secrets.len() + self.accounts.len() + self.others;
        if DOCUMENTS_MAX <= known {
            return Err(DocumentsError::TooMany { path: path.to_owned() });
        }
        let kind = object["kind"].as_str();
        let malformed = |reason: String| DocumentsError::Object {
            path: path.to_owned(),
            error: SubjectError::Malformed {
                kind: kind.unwrap_or_default().to_owned(),
                name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                place: "the object".to_owned(),
                reason,
            },
        };
        match kind {
            Some("Secret") => {
                // The parser's own words would show values.
                let mut secret: Secret = serde_json::from_value(object.clone()).map_err(|_| {
                    malformed("data are base64 texts by key, stringData plain ones".to_owned())
                })?;
                secret.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
                let secret = pull_secret(&secret);
                self.secrets.insert((secret.namespace.clone(), secret.name.clone()), secret);
            }
            Some("ServiceAccount") => {
                let account: ServiceAccount = serde_json::from_value(object.clone())
                    .map_err(|error| malformed(error.to_string()))?;
                let own = account.metadata.namespace.clone();
                let name = account.metadata.name.clone().unwrap_or_default();
                self.accounts.insert((own.unwrap_or_else(|| namespace.to_owned()), name), account);
            }
            _ => {
                if let (Some("Namespace"), Some(name)) = (kind, object["metadata"]["name"].as_str())
                {
                    self.namespaces.insert(name.to_owned());
                }
                let source = Source::File { path: path.to_owned() };
                match Subject::of_object(object, namespace, source) {
                    Ok(subject) => self.subjects.push(subject),
                    Err(SubjectError::NoPods { .. }) => self.others += 1,
                    Err(error) => {
                        return Err(DocumentsError::Object { path: path.to_owned(), error });
                    }
                }
            }
        }
        Ok(())
    }
}

fn is_list(document: &Value) -> bool {
    document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
}

/// Only where the mistake is: the parser's own words show the text around it.
fn position_of(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(at) => format!("line {}: neither YAML nor JSON", at.line()),
        None => "neither YAML nor JSON".to_owned(),
    }
}

/// A secret as the keyring takes it; `stringData` over `data`, as the API server merges them.
pub fn pull_secret(secret: &Secret) -> PullSecret {
    let mut data: BTreeMap<String, Vec<u8>> =
        secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    for (key, text) in secret.string_data.iter().flatten() {
        data.insert(key.clone(), text.as_bytes().to_vec());
    }
    PullSecret {
        namespace: secret.metadata.namespace.clone().unwrap_or_default(),
        name: secret.metadata.name.clone().unwrap_or_default(),
        uid: secret.metadata.uid.clone().unwrap_or_default(),
        kind: secret.type_.clone().unwrap_or_else(|| "Opaque".to_owned()),
        data,
    }
}
