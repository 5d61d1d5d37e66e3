//! Tokens of Microsoft Entra ID for applications (client credentials, RFC 6749 and RFC 7523).

use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use oci_model::Digest;
use serde_json::{Value, json};

use super::super::attempts::{Pace, attempts, is_passing};
use super::super::{CloudError, Method, Performer, Request, Response, overrides};
use super::PROVIDER;
use crate::Secret;

const STEP: &str = "Entra token";
const SCOPE: &str = "https://containerregistry.azure.net/.default";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Life of a signed assertion, in seconds.
const ASSERTION_SECONDS: u64 = 600;

/// The hosts of Azure's clouds at which applications log in, the public one first.
const AUTHORITIES: [&str; 5] = [
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
    "login.partner.microsoftonline.cn",
    "login.microsoft.com",
];

/// Where a cloud's applications log in.
#[derive(Clone, Debug)]
pub(super) struct Cloud {
    authority: String,
}

impl Cloud {
    /// The cloud with a name of `azure.json`.
    pub(super) fn named(name: &str) -> Option<Self> {
        let host = match name.to_ascii_uppercase().as_str() {
            "AZUREPUBLICCLOUD" | "AZURECLOUD" => "login.microsoftonline.com",
            "AZURECHINACLOUD" => "login.chinacloudapi.cn",
            "AZUREUSGOVERNMENTCLOUD" | "AZUREUSGOVERNMENT" => "login.microsoftonline.us",
            _ => return None,
        };
        Some(Self { authority: format!("https://{host}") })
    }

    /// The cloud that the environment names, else the public one.
    pub(super) fn of_environment(performer: &dyn Performer) -> Result<Self, CloudError> {
        const NAME: &str = "AZURE_AUTHORITY_HOST";
        let authority = overrides::endpoint(performer, PROVIDER, NAME, &AUTHORITIES)?;
        Ok(Self { authority: authority.unwrap_or_else(|| format!("https://{}", AUTHORITIES[0])) })
    }
}

/// How an application proves who it is.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// A secret.
    Secret(Secret),
    /// A token of an issuer that the application trusts.
    Assertion(Secret),
    /// A certificate and its key, in one file.
    Certificate {
        /// Both, in PEM.
        pem: Secret,
        /// The file.
        file: String,
    },
}

/// An application of a tenant.
pub(super) struct Application<'a> {
    pub(super) cloud: Cloud,
    pub(super) tenant: &'a str,
    pub(super) client_id: &'a str,
}

impl Application<'_> {
    /// A token for container registries.
    pub(super) fn token(
        &self,
        performer: &dyn Performer,
        proof: &Proof,
    ) -> Result<Secret, CloudError> {
        let is_plain = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if !is_plain(self.tenant) || !is_plain(self.client_id) {
            return Err(CloudError::new(PROVIDER, STEP, "tenant or client", "it is no identifier"));
        }
        let url = format!("{}/{}/oauth2/v2.0/token", self.cloud.authority, self.tenant);
        let assertion;
        let mut fields = vec![
            ("client_id", self.client_id),
            ("scope", SCOPE),
            ("grant_type", "client_credentials"),
        ];
        match proof {
            Proof::Secret(secret) => fields.push(("client_secret", secret.expose())),
            Proof::Assertion(token) => {
                fields.push(("client_assertion_type", JWT_BEARER));
                fields.push(("client_assertion", token.expose().trim()));
            }
            Proof::Certificate { pem, file } => {
                assertion = self.sign(performer, pem, file, &url)?;
                fields.push(("client_assertion_type", JWT_BEARER));
                fields.push(("client_assertion", assertion.expose()));
            }
        }
        let request = Request::to_cloud(Method::Post, &*url).form(&fields);
        attempts(performer, Pace::CLOUD, |_| {
            let response = performer
                .send(&request)
                .map_err(|error| CloudError::unsent(PROVIDER, STEP, &*url, &error))?;
            let document = response.json().unwrap_or_default();
            if !response.is_success() {
                return Err(self.refusal(&response, &document, &url));
            }
            let token = document["access_token"].as_str().filter(|token| !token.is_empty());
            token
                .map(Secret::new)
                .ok_or_else(|| CloudError::new(PROVIDER, STEP, &*url, "the answer holds no token"))
        })
    }

    fn refusal(&self, response: &Response, document: &Value, url: &str) -> CloudError {
        let code = document["error_codes"][0].as_u64().unwrap_or_default();
        // A federation that was just made is not known everywhere at once.
        let is_new = matches!(code, 70021 | 700_213);
        let retryable = is_passing(response.status) || is_new;
        let error = CloudError::new(
            PROVIDER,
            STEP,
            url,
            format!("status {} AADSTS{code}", response.status),
        )
        .retryable_by(response, retryable)
        .request_id(document["correlation_id"].as_str());
        match code {
            700_016 => error.hint(format!("the tenant has no application {}", self.client_id)),
            70021 | 700_213 => error.hint(
                "the application needs a federated credential with this issuer, subject and \
                 audience",
            ),
            7_000_215 => error.hint("the client secret is wrong: its value is needed, not its id"),
            700_024 => error.hint(
                "the assertion is outside of its time: the clock is off, or the token file is old",
            ),
            90_002 => error.hint(format!("there is no tenant {}", self.tenant)),
            _ => error,
        }
    }

    /// An assertion signed with the key of a certificate.
    fn sign(
        &self,
        performer: &dyn Performer,
        pem: &Secret,
        file: &str,
        url: &str,
    ) -> Result<Secret, CloudError> {
        let failed = |reason: &str| CloudError::new(PROVIDER, "sign assertion", file, reason);
        let der = certificate_of(pem.expose()).ok_or_else(|| failed("it holds no certificate"))?;
        let key = EncodingKey::from_rsa_pem(key_of(pem.expose()).unwrap_or_default().as_bytes())
            .map_err(|_| failed("it holds no RSA key without a password"))?;
        let now = performer.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = json!({
            "aud": url,
            "iss": self.client_id,
            "sub": self.client_id,
            "jti": format!("{:016x}{:016x}", performer.random(), performer.random()),
            "nbf": now,
            "exp": now + ASSERTION_SECONDS,
        });
        let mut header = Header::new(Algorithm::PS256);
        header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(Digest::of(&der).raw()));
        let assertion = jsonwebtoken::encode(&header, &claims, &key);
        assertion.map(Secret::new).map_err(|_| failed("its key cannot sign"))
    }
}

/// The first certificate of a PEM file, in DER (RFC 7468).
fn certificate_of(pem: &str) -> Option<Vec<u8>> {
    let block = block_of(pem, "CERTIFICATE")?;
    let base64: String =
        block.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    STANDARD.decode(base64).ok()
}

fn key_of(pem: &str) -> Option<&str> {
    block_of(pem, "PRIVATE KEY").or_else(|| block_of(pem, "RSA PRIVATE KEY"))
}

fn block_of<'a>(pem: &'a str, label: &str) -> Option<&'a str> {
    let begin = pem.find(&format!("-----BEGIN {label}-----"))?;
    let end_line = format!("-----END {label}-----");
    let end = begin + pem[begin..].find(&end_line)? + end_line.len();
    Some(&pem[begin..end])
}
