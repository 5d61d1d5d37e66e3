//! The built-in token service: signed tokens that say what they allow (distribution token
//! authentication specification; JWT, RFC 7519).

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use oci_model::Digest;
use serde::{Deserialize, Serialize};

use super::scope::Grant;

/// Name of the service in challenges, and audience of access tokens.
pub(crate) const SERVICE: &str = "shipway-registry";

/// Audience of refresh tokens, so that neither kind passes for the other.
const REFRESH_AUDIENCE: &str = "shipway-registry/refresh";

/// Life of an access token: longer than the upload of any one layer takes to begin.
pub(crate) const ACCESS_LIFE: Duration = Duration::from_secs(15 * 60);

/// Life of a refresh token.
const REFRESH_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Clocks may differ by this much.
const LEEWAY: Duration = Duration::from_secs(60);

/// Longest token looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Verified tokens remembered, so that a signature is checked once.
const VERIFIED_MAX: usize = 4096;

/// Why a token does not count, or none can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Not one of ours, expired, or for something else.
    #[error("invalid token")]
    Invalid,
    /// The signing key failed.
    #[error("cannot use token key {}", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Signing failed.
    #[error("cannot sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// The claims of an access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    /// The user; empty for an anonymous token.
    pub(crate) sub: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    /// What it allows.
    #[serde(default)]
    pub(crate) access: Vec<Grant>,
    /// Of a refresh token: what names the password that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// Signs and verifies.
pub(crate) struct TokenService {
    key_id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    verified: Mutex<HashMap<Digest, Arc<Claims>>>,
}

impl TokenService {
    /// Reads the signing key, or makes one the first time.
    pub(crate) fn open(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Key { path: path.to_owned(), source };
        let pem = match std::fs::read_to_string(path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
                    .map_err(|error| failed(std::io::Error::other(error)))?;
                let pem = key.serialize_pem();
                write_secret(path, &pem).map_err(failed)?;
                pem
            }
            Err(error) => return Err(failed(error)),
        };
        let invalid = |error: jsonwebtoken::errors::Error| failed(std::io::Error::other(error));
        let pair =
            rcgen::KeyPair::from_pem(&pem).map_err(|error| failed(std::io::Error::other(error)))?;
        let encoding = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(invalid)?;
        let decoding = DecodingKey::from_ec_der(pair.public_key_raw());
        let key_id = Digest::of(pair.public_key_raw()).encoded();
        Ok(Self { key_id, encoding, decoding, verified: Mutex::default() })
    }

    /// An access token for `subject`.
    pub(crate) fn access_token(
        &self,
        subject: &str,
        access: Vec<Grant>,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        let claims = claims(subject, SERVICE, now, ACCESS_LIFE, access);
        self.sign(&claims)
    }

    /// A refresh token for a user; it dies with the password that `password` names.
    pub(crate) fn refresh_token(
        &self,
        subject: &str,
        password: String,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        let mut claims = claims(subject, REFRESH_AUDIENCE, now, REFRESH_LIFE, Vec::new());
        claims.password = Some(password);
        self.sign(&claims)
    }

    /// The claims of an access token, if it is one of ours and not expired.
    pub(crate) fn verify(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let key = Digest::of(token.as_bytes());
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(claims) = known {
            let now = seconds(SystemTime::now());
            return if now <= claims.exp + LEEWAY.as_secs() {
                Ok(claims)
            } else {
                Err(TokenError::Invalid)
            };
        }
        let claims = Arc::new(self.decode(token, SERVICE)?);
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(key, Arc::clone(&claims));
        Ok(claims)
    }

    /// The user of a refresh token, and what names the password that it was made for.
    pub(crate) fn verify_refresh(&self, token: &str) -> Result<(String, String), TokenError> {
        let claims = self.decode(token, REFRESH_AUDIENCE)?;
        Ok((claims.sub, claims.password.ok_or(TokenError::Invalid)?))
    }

    fn decode(&self, token: &str, audience: &str) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        // Only our own key counts, whatever key the header brings along (CVE-2025-24976).
        if header.kid.as_deref() != Some(&self.key_id) || header.alg != Algorithm::ES256 {
            return Err(TokenError::Invalid);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&[audience]);
        validation.set_issuer(&[SERVICE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud"]);
        let token = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation);
        Ok(token.map_err(|_| TokenError::Invalid)?.claims)
    }

    fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(TokenError::Sign)
    }
}

fn claims(
    subject: &str,
    audience: &str,
    now: SystemTime,
    life: Duration,
    access: Vec<Grant>,
) -> Claims {
    let now = seconds(now);
    Claims {
        iss: SERVICE.to_owned(),
        sub: subject.to_owned(),
        aud: audience.to_owned(),
        exp: now + life.as_secs(),
        nbf: now,
        iat: now,
        jti: uuid::Uuid::new_v4().simple().to_string(),
        access,
        password: None,
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_secret(path: &Path, content: &str) -> std::io::Result<()> {
    let staged = path.with_added_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&staged, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> (tempfile::TempDir, TokenService) {
        let directory = tempfile::tempdir().expect("a directory");
        let service = TokenService::open(&directory.path().join("key.pem")).expect("a key");
        (directory, service)
    }

    #[test]
    fn a_token_says_what_it_allows_even_after_a_restart() {
        let (directory, service) = service();
        let access = vec![Grant::repository("a/b", vec!["pull".to_owned()])];
        let token = service.access_token("alice", access.clone(), SystemTime::now()).expect("one");
        let again = TokenService::open(&directory.path().join("key.pem")).expect("the same key");
        for service in [&service, &again] {
            let claims = service.verify(&token).expect("a valid token");
            assert_eq!((claims.sub.as_str(), &claims.access), ("alice", &access));
        }
    }

    #[test]
    fn expired_and_future_tokens_do_not_count() {
        let (_directory, service) = service();
        let now = SystemTime::now();
        for time in [now - ACCESS_LIFE - 2 * LEEWAY, now + 2 * LEEWAY] {
            let token = service.access_token("alice", Vec::new(), time).expect("a token");
            assert!(service.verify(&token).is_err());
        }
    }

    #[test]
    fn tokens_of_another_key_kind_or_algorithm_do_not_count() {
        let (_directory, first) = service();
        let (_other_directory, other) = service();
        let now = SystemTime::now();
        let foreign = other.access_token("alice", Vec::new(), now).expect("a token");
        let refresh = first.refresh_token("alice", "x".to_owned(), now).expect("a token");
        let access = first.access_token("alice", Vec::new(), now).expect("a token");
        // A foreign key under our key id.
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(first.key_id.clone());
        let claims = claims("root", SERVICE, now, ACCESS_LIFE, Vec::new());
        let forged = jsonwebtoken::encode(&header, &claims, &other.encoding).expect("a token");
        // The public key used as the secret of a symmetric algorithm.
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(first.key_id.clone());
        let secret = EncodingKey::from_secret(first.key_id.as_bytes());
        let symmetric = jsonwebtoken::encode(&header, &claims, &secret).expect("a token");
        let mut flipped = access.clone();
        flipped.pop();
        for token in [&foreign, &refresh, &forged, &symmetric, &flipped, "", "a.b.c"] {
            assert!(first.verify(token).is_err(), "{token}");
        }
        assert!(first.verify_refresh(&access).is_err());
        assert_eq!(
            first.verify_refresh(&refresh).expect("a refresh token"),
            ("alice".to_owned(), "x".to_owned())
        );
    }
}
