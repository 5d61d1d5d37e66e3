//! The administration API of a shipway registry, below `/v2/_shipway/`.

use credentials::RegistryAuth;
use http::header;
use oci_model::Reference;

use crate::client::{Client, Remote};
use crate::error::{RegistryError, RegistryErrorKind};
use crate::onward::Target;
use crate::progress::Progress;
use crate::transport::{About, body_up_to};

/// Largest answer, in bytes (64 MiB: a plan for a few hundred thousand tags).
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request to the administration API.
#[derive(Clone, Copy, Debug)]
pub struct AdminRequest<'a> {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// The endpoint, after `/v2/_shipway/`.
    pub endpoint: &'a str,
    /// Parameters of the query.
    pub query: &'a [(&'a str, &'a str)],
    /// A JSON document to send.
    pub document: Option<&'a str>,
}

impl Client {
    /// Sends a request to the administration API of a registry and returns the JSON of its
    /// answer.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]; a registry without this API has [`RegistryErrorKind::NotFound`].
    pub async fn administer(
        &self,
        registry: &str,
        request: AdminRequest<'_>,
        auths: &[RegistryAuth],
    ) -> Result<Vec<u8>, RegistryError> {
        let name = format!("{registry}/administration");
        let reference: Reference = name.parse().map_err(|_| RegistryErrorKind::Malformed {
            reason: format!("{registry:?} is not the name of a registry"),
        })?;
        let reference = &reference;
        let send = |auth: Option<RegistryAuth>| async move {
            self.remote(reference, auth.as_ref()).administer(request).await
        };
        self.with_credentials(auths, send).await.map(|(answer, _)| answer)
    }
}

impl Remote {
    async fn administer(&self, request: AdminRequest<'_>) -> Result<Vec<u8>, RegistryError> {
        let progress = Progress::none();
        let endpoint = request.endpoint;
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(request.query)
            .finish();
        let target = format!("_shipway/{endpoint}?{query}");
        let about = About {
            method: request.method,
            target: Target::Path(&target),
            scopes: vec!["registry:admin:*".to_owned()],
            what: format!("{endpoint} at {}", self.reference().registry()),
            progress: &progress,
        };
        let finish = |builder: reqwest::RequestBuilder| match request.document {
            Some(document) => {
                builder.header(header::CONTENT_TYPE, "application/json").body(document.to_owned())
            }
            None => builder,
        };
        // What changes something is not sent again by itself.
        let response = if request.method == "GET" {
            self.send(&about, finish).await?
        } else {
            self.send_once_authorized(&about, finish).await?
        };
        body_up_to(response, ANSWER_BYTES_MAX).await.map_err(|_| {
            let reason = format!("the answer about {endpoint} broke off or is too large");
            RegistryErrorKind::Malformed { reason }.into()
        })
    }
}
