//! How verbs about a running registry reach its administration API: with the credentials of
//! `shipway login` and the TLS rules of pull and push.

use clap::Args;
use registry_client::{AdminRequest, RegistryErrorKind};
use serde::de::DeserializeOwned;

use crate::auth_files;
use crate::exit::{Failure, Kind};
use crate::registries::{RegistryArgs, client, failure};

/// Flags of every verb about a running registry.
#[derive(Args, Clone, Debug)]
pub(super) struct RemoteArgs {
    /// The registry
    #[arg(
        long = "registry",
        env = "SHIPWAY_REGISTRY",
        default_value = "127.0.0.1:5000",
        value_name = "HOST[:PORT]"
    )]
    registry: String,
    #[command(flatten)]
    transport: RegistryArgs,
}

impl RemoteArgs {
    /// Reads a document.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        self.send(AdminRequest { method: "GET", endpoint, query, document: None }).await
    }

    /// Sends a request and reads the document that comes back.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        request: AdminRequest<'_>,
    ) -> Result<T, Failure> {
        let client = client(&self.transport)?;
        let credential = auth_files::credential_for(&self.registry, "")?;
        let auths: Vec<_> = credential.into_iter().collect();
        let answer = client.administer(&self.registry, request, &auths).await;
        let answer = answer.map_err(|error| {
            let hint = match error.kind() {
                RegistryErrorKind::Unauthorized { .. } => {
                    "shipway login SERVER, with an account that administers the namespace"
                }
                RegistryErrorKind::Denied { .. } => "this takes the right to administer",
                RegistryErrorKind::NotFound { .. } => {
                    "check the name; what one does not administer looks absent"
                }
                _ => return failure(error),
            };
            failure(error).hint(hint)
        })?;
        serde_json::from_slice(&answer).map_err(|error| {
            let text = format!("{} answered something else: {error}", self.registry);
            Failure::new(Kind::Failed, anyhow::anyhow!("{text}"))
                .hint("is it a shipway registry, and of this version?")
        })
    }
}
