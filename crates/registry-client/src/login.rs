//! Checks a credential as `docker login` does.

use credentials::RegistryAuth;
use oci_model::Reference;

use crate::challenge::Challenge;
use crate::client::{Client, Remote};
use crate::error::{RegistryError, RegistryErrorKind};
use crate::handshake::{NextStep, Tried, after_unauthorized};
use crate::onward::Target;
use crate::progress::Progress;
use crate::token_service::Purpose;
use crate::tokens::Authorization;
use crate::transport::{About, refusal};

impl Client {
    /// Checks user and password against a registry; returns what to keep. That is an identity
    /// token instead of the password if the registry's token service gives one, as in docker.
    ///
    /// # Errors
    /// [`RegistryErrorKind::Unauthorized`] for a refused credential.
    pub async fn login(
        &self,
        registry: &str,
        auth: &RegistryAuth,
    ) -> Result<RegistryAuth, RegistryError> {
        let name = format!("{registry}/login");
        let reference: Reference = name.parse().map_err(|_| RegistryErrorKind::Malformed {
            reason: format!("{registry:?} is not the name of a registry"),
        })?;
        let remote = self.remote(&reference, Some(auth));
        match remote.login().await.map_err(|error| error.at(&remote.endpoint.host))? {
            Some(token) => Ok(token),
            None => {
                remote.ping().await?;
                Ok(auth.clone())
            }
        }
    }
}

impl Remote {
    /// The identity token that a token service gives for the credential, checked with the
    /// registry; nothing if there is no token service, or it gives none.
    async fn login(&self) -> Result<Option<RegistryAuth>, RegistryError> {
        let progress = Progress::none();
        let about = About {
            method: "GET",
            target: Target::Path(""),
            scopes: Vec::new(),
            what: format!("registry API at {}", self.endpoint.host),
            progress: &progress,
        };
        let response = self.send_once(&about, None, &|request| request).await?;
        if response.status() != http::StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        let challenges = Challenge::of_response(response.headers());
        let step = after_unauthorized(&challenges, self.auth.as_ref(), &[], Tried::Nothing);
        let NextStep::FetchToken(request) = step else { return Ok(None) };
        let approved = self.approve(request, &response)?;
        if let Some(reason) = approved.withheld {
            let refused = "authorization failed".to_owned();
            let error = RegistryError::from(RegistryErrorKind::Unauthorized { reason: refused });
            return Err(error.context(reason));
        }
        let token = self.fetch_token(&approved, Purpose::Login, &about).await?;
        let Some(refresh) = token.refresh else { return Ok(None) };
        let bearer = Authorization::Bearer(token.value);
        let checked = self.send_once(&about, Some(&bearer), &|request| request).await?;
        if !checked.status().is_success() {
            return Err(refusal(checked, &about).await.into());
        }
        Ok(Some(RegistryAuth::IdentityToken { token: refresh }))
    }
}
