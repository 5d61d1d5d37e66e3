//! The built-in token service: signed tokens that say what they allow (distribution token
//! authentication specification; JWT, RFC 7519).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Header, Validation};
use oci_model::Digest;
use serde::{Deserialize, Serialize};

use super::compact::CompactGrants;
use super::identity::Identity;
use super::key_ring::{KeyRing, KeyRingError, TokenAlgorithm};
use super::scope::{Access, Grant};

/// Name of the service in challenges, issuer of its tokens and audience of access tokens.
pub(crate) const SERVICE: &str = "shipway-registry";

/// Audience and type of refresh tokens, so that neither kind passes for the other.
const REFRESH_AUDIENCE: &str = "shipway-registry/refresh";
const REFRESH_TYPE: &str = "refresh+jwt";
const ACCESS_TYPE: &str = "JWT";

/// Life of a refresh token.
pub(crate) const REFRESH_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Clocks may differ by this much.
pub(crate) const LEEWAY: Duration = Duration::from_secs(60);

/// Longest token that lists its scopes, in bytes. Proxies allow 8 KiB for all headers together.
const LISTED_BYTES_MAX: usize = 4 * 1024;

/// Longest token looked at, in bytes.
pub(crate) const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Verified tokens remembered, so that a signature is checked once.
const VERIFIED_MAX: usize = 4096;

/// How tokens are made.
#[derive(Clone, Copy, Debug)]
pub struct TokenOptions {
    /// How they are signed.
    pub algorithm: TokenAlgorithm,
    /// Life of tokens that only read; between 1 and 15 minutes.
    pub pull_life: Duration,
    /// Life of all other access tokens: longer than the upload of any one layer takes to begin.
    /// Between 1 and 60 minutes.
    pub push_life: Duration,
    /// How long one key signs.
    pub key_life: Duration,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            algorithm: TokenAlgorithm::EdDsa,
            pull_life: Duration::from_secs(5 * 60),
            push_life: Duration::from_secs(15 * 60),
            key_life: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl TokenOptions {
    /// The options within their bounds.
    fn bounded(self) -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            algorithm: self.algorithm,
            pull_life: self.pull_life.clamp(minutes(1), minutes(15)),
            push_life: self.push_life.clamp(minutes(1), minutes(60)),
            key_life: self.key_life.max(minutes(60)),
        }
    }
}

/// Why a token does not count, or none can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Not one of ours, expired, or for something else.
    #[error("invalid token")]
    Invalid,
    /// The keys failed.
    #[error(transparent)]
    Keys(#[from] KeyRingError),
    /// Signing failed.
    #[error("cannot sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// The claims of an access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    iss: String,
    /// The full name; empty for an anonymous token.
    sub: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    /// What it allows.
    #[serde(default)]
    access: Vec<Grant>,
    /// The same for repositories, where a list would be too long.
    #[serde(default, skip_serializing_if = "CompactGrants::is_empty")]
    scopes: CompactGrants,
    /// Groups that an issuer vouched for, in tokens for what is not in `access`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    /// Of a refresh token: what names the password or secret that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    /// Of a refresh token: the client that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
}

/// What a refresh token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refresh {
    /// Whose it is.
    pub(crate) subject: String,
    /// What names the password or secret that it was made for.
    pub(crate) credential: String,
    /// The client that asked for it.
    pub(crate) client: String,
}

/// An access token that counts.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) identity: Identity,
    pub(crate) access: Arc<Access>,
    pub(crate) id: String,
    expires: u64,
}

/// An access token that was just made.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) id: String,
    pub(crate) life: Duration,
}

/// Signs and verifies.
pub(crate) struct TokenService {
    keys: KeyRing,
    options: TokenOptions,
    verified: Mutex<HashMap<Digest, Arc<Verified>>>,
}

impl TokenService {
    /// Reads the signing keys, or makes one the first time.
    pub(crate) fn open(
        keys: &Path,
        options: TokenOptions,
        now: SystemTime,
    ) -> Result<Self, TokenError> {
        let options = options.bounded();
        let keys = KeyRing::open(keys, options.algorithm, options.key_life, now)?;
        Ok(Self { keys, options, verified: Mutex::default() })
    }

    /// The public keys (JSON Web Key Set, RFC 7517).
    pub(crate) fn public_keys(&self, now: SystemTime) -> serde_json::Value {
        self.keys.public(now)
    }

    /// An access token for somebody, which lives no longer than `until` if that is known.
    pub(crate) fn access_token(
        &self,
        identity: &Identity,
        access: Access,
        until: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Issued, TokenError> {
        let read_only = access.is_read_only();
        let usual = if read_only { self.options.pull_life } else { self.options.push_life };
        let left = until.map(|until| until.duration_since(now).unwrap_or_default());
        // Clients take less than a minute for a minute.
        let life = left.map_or(usual, |left| left.min(usual)).max(Duration::from_secs(60));
        let mut claims = claims(&identity.name, SERVICE, now, life);
        if access.needs_groups() {
            claims.groups.clone_from(&identity.groups);
        }
        claims.access = access.grants;
        let mut token = self.sign(&claims, ACCESS_TYPE, now)?;
        if token.len() > LISTED_BYTES_MAX {
            (claims.scopes, claims.access) = CompactGrants::of(claims.access);
            token = self.sign(&claims, ACCESS_TYPE, now)?;
        }
        Ok(Issued { token, id: claims.jti, life })
    }

    /// A refresh token; it dies with the credential that it names.
    pub(crate) fn refresh_token(
        &self,
        refresh: Refresh,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        let mut claims = claims(&refresh.subject, REFRESH_AUDIENCE, now, REFRESH_LIFE);
        claims.credential = Some(refresh.credential);
        claims.client = Some(refresh.client);
        self.sign(&claims, REFRESH_TYPE, now)
    }

    /// An access token, if it is one of ours and counts now.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Verified>, TokenError> {
        let key = Digest::of(token.as_bytes());
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(verified) = known {
            return match seconds(now) <= verified.expires + LEEWAY.as_secs() {
                true => Ok(verified),
                false => Err(TokenError::Invalid),
            };
        }
        let claims = self.decode(token, SERVICE, ACCESS_TYPE, now)?;
        let verified = Arc::new(Verified {
            identity: Identity { name: claims.sub, groups: claims.groups },
            access: Arc::new(Access { grants: claims.access, compact: claims.scopes }),
            id: claims.jti,
            expires: claims.exp,
        });
        let mut remembered = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= VERIFIED_MAX {
            remembered.clear();
        }
        remembered.insert(key, Arc::clone(&verified));
        Ok(verified)
    }

    /// What a refresh token says, if it is one of ours and counts now.
    pub(crate) fn verify_refresh(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<Refresh, TokenError> {
        let claims = self.decode(token, REFRESH_AUDIENCE, REFRESH_TYPE, now)?;
        let credential = claims.credential.ok_or(TokenError::Invalid)?;
        Ok(Refresh { subject: claims.sub, credential, client: claims.client.unwrap_or_default() })
    }

    fn decode(
        &self,
        token: &str,
        audience: &str,
        kind: &str,
        now: SystemTime,
    ) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        // Only our own keys count, whatever key the header brings along (CVE-2025-24976), each
        // with its own algorithm and no other.
        let key = header.kid.as_deref().and_then(|id| self.keys.verifying(id, now));
        let key = key.ok_or(TokenError::Invalid)?;
        if header.alg != key.algorithm || header.typ.as_deref() != Some(kind) {
            return Err(TokenError::Invalid);
        }
        let mut validation = Validation::new(key.algorithm);
        // Times are compared here: the clock is an argument.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[SERVICE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        let (now, leeway) = (seconds(now), LEEWAY.as_secs());
        let is_in_time =
            now <= claims.exp.saturating_add(leeway) && claims.nbf <= now.saturating_add(leeway);
        if is_in_time { Ok(claims) } else { Err(TokenError::Invalid) }
    }

    fn sign(&self, claims: &Claims, kind: &str, now: SystemTime) -> Result<String, TokenError> {
        let key = self.keys.signing(now);
        let mut header = Header::new(key.algorithm);
        header.typ = Some(kind.to_owned());
        header.kid = Some(key.id.clone());
        jsonwebtoken::encode(&header, claims, &key.encoding).map_err(TokenError::Sign)
    }
}

fn claims(subject: &str, audience: &str, now: SystemTime, life: Duration) -> Claims {
    let now = seconds(now);
    Claims {
        iss: SERVICE.to_owned(),
        sub: subject.to_owned(),
        aud: audience.to_owned(),
        exp: now + life.as_secs(),
        nbf: now,
        iat: now,
        jti: uuid::Uuid::new_v4().simple().to_string(),
        access: Vec::new(),
        scopes: CompactGrants::default(),
        groups: Vec::new(),
        credential: None,
        client: None,
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{Algorithm, EncodingKey};
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::Role;

    fn time(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn open(keys: &Path) -> TokenService {
        TokenService::open(keys, TokenOptions::default(), time(0)).expect("keys")
    }

    fn service() -> (tempfile::TempDir, TokenService) {
        let directory = tempfile::tempdir().expect("a directory");
        let service = open(directory.path());
        (directory, service)
    }

    fn access(name: &str, actions: &[&str]) -> Access {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Access { grants: vec![Grant::repository(name, actions)], ..Access::default() }
    }

    fn alice() -> Identity {
        Identity::named("alice")
    }

    #[test]
    fn a_token_says_what_it_allows_even_after_a_restart() {
        let (directory, service) = service();
        let pull = access("a/b", &["pull"]);
        let issued = service.access_token(&alice(), pull, None, time(1)).expect("one");
        for service in [&service, &open(directory.path())] {
            let verified = service.verify(&issued.token, time(2)).expect("a valid token");
            assert_eq!((&verified.identity, &verified.id), (&alice(), &issued.id));
            assert!(verified.access.allows("a/b", Role::Pull));
            assert!(!verified.access.allows("a/b", Role::Push));
        }
    }

    #[test]
    fn reading_tokens_live_shorter_and_none_outlives_what_it_came_from() {
        let (_directory, service) = service();
        let life = |actions: &[&str], until: Option<u64>| {
            let access = access("a", actions);
            let until = until.map(time);
            service.access_token(&alice(), access, until, time(0)).expect("one").life.as_secs()
        };
        assert_eq!(life(&["pull"], None), 300);
        assert_eq!(life(&["pull", "push"], None), 900);
        assert_eq!(life(&["delete"], Some(100)), 100);
        assert_eq!(life(&["pull"], Some(5)), 60);
    }

    #[test]
    fn expired_and_future_tokens_do_not_count() {
        let (_directory, service) = service();
        let issued = service.access_token(&alice(), access("a", &["pull"]), None, time(1000));
        let token = issued.expect("a token").token;
        // Twice: before and after it is remembered.
        for _ in 0..2 {
            for (now, expected) in [(939, false), (940, true), (1360, true), (1361, false)] {
                let fresh = service.verify(&token, time(now)).is_ok();
                assert!(fresh == expected || now == 939, "{now}");
            }
        }
        assert!(self::service().1.verify(&token, time(1000)).is_err(), "another registry's");
    }

    #[test]
    fn a_hundred_scopes_fit_into_four_kibibytes() {
        let (_directory, service) = service();
        let name = |n: usize| format!("{n}/{}", "x".repeat(250));
        let actions = || vec!["pull".to_owned(), "push".to_owned()];
        let mut grants: Vec<_> = (0..100).map(|n| Grant::repository(&name(n), actions())).collect();
        grants.push(Grant::catalog());
        let access = Access { grants, ..Access::default() };
        let token = service.access_token(&alice(), access, None, time(0)).expect("one").token;
        assert!(token.len() <= 4096, "{} bytes", token.len());
        let access = Arc::clone(&service.verify(&token, time(0)).expect("it counts").access);
        assert!(access.has_catalog());
        for n in 0..100 {
            assert!(access.allows(&name(n), Role::Push) && access.allows(&name(n), Role::Pull));
            assert!(!access.allows(&name(n), Role::Delete));
        }
        assert!(!access.allows(&name(100), Role::Pull));
    }

    #[test]
    fn refresh_tokens_and_access_tokens_do_not_pass_for_each_other() {
        let (_directory, service) = service();
        let refresh = Refresh {
            subject: "alice".to_owned(),
            credential: "x".to_owned(),
            client: "docker".to_owned(),
        };
        let token = service.refresh_token(refresh.clone(), time(0)).expect("a token");
        let access = service.access_token(&alice(), Access::default(), None, time(0));
        assert_eq!(service.verify_refresh(&token, time(1)).expect("a token"), refresh);
        assert!(service.verify(&token, time(1)).is_err());
        assert!(service.verify_refresh(&access.expect("a token").token, time(1)).is_err());
        assert!(service.verify_refresh(&token, time(91 * 24 * 3600)).is_err());
    }

    fn jwt(header: &Value, claims: &Value, signature: &[u8]) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode(signature))
    }

    // registry.md 8.1 row 4 (CVE-2025-24976) and 8.2 "token confusion": none of these forgeries
    // counts, though each names a key that the registry knows.
    #[test]
    fn forged_tokens_do_not_count() {
        let (_directory, service) = service();
        let now = time(10);
        let (_other_directory, other) = self::service();
        let (key, foreign) = (service.keys.signing(now), other.keys.signing(now));
        let claims = claims("root", SERVICE, now, Duration::from_secs(300));
        let claims = serde_json::to_value(&claims).expect("JSON");
        let public = service.public_keys(now)["keys"][0].clone();
        let raw = URL_SAFE_NO_PAD.decode(public["x"].as_str().expect("x")).expect("base64");
        let signed = |header: Value, key: &EncodingKey, algorithm: Algorithm| {
            let unsigned = jwt(&header, &claims, b"");
            let message = unsigned.trim_end_matches('.');
            let signature =
                jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).expect("signed");
            format!("{message}.{signature}")
        };
        let good = json!({ "alg": "EdDSA", "typ": "JWT", "kid": key.id });
        let genuine = signed(good.clone(), &key.encoding, Algorithm::EdDSA);
        assert!(service.verify(&genuine, now).is_ok(), "what the forgeries are made like");
        let with = |name: &str, value: Value| {
            let mut header = good.clone();
            header[name] = value;
            header
        };
        let foreign_public = other.public_keys(now)["keys"][0].clone();
        let hmac = |secret: &[u8]| {
            let header = with("alg", "HS256".into());
            signed(header, &EncodingKey::from_secret(secret), Algorithm::HS256)
        };
        let eddsa = |header: Value| signed(header, &foreign.encoding, Algorithm::EdDSA);
        let mut forgeries = vec![
            ("no signature", jwt(&with("alg", "none".into()), &claims, b"")),
            ("alg None", jwt(&with("alg", "None".into()), &claims, b"")),
            ("empty signature", jwt(&good, &claims, b"")),
            ("the public key as a secret", hmac(&raw)),
            ("the published key as a secret", hmac(public.to_string().as_bytes())),
            ("the key id as a secret", hmac(key.id.as_bytes())),
            ("a foreign key under our id", eddsa(good.clone())),
            ("a foreign key that comes along", eddsa(with("jwk", foreign_public.clone()))),
            ("a foreign key under its own id", eddsa(with("kid", foreign.id.clone().into()))),
            ("a foreign chain", eddsa(with("x5c", json!(["AAAA"])))),
            ("a foreign set", eddsa(with("jku", "http://127.0.0.1:1/keys".into()))),
            ("no key id", eddsa(json!({ "alg": "EdDSA", "typ": "JWT" }))),
            (
                "no type",
                signed(json!({"alg": "EdDSA", "kid": key.id}), &key.encoding, Algorithm::EdDSA),
            ),
        ];
        for id in ["../../../dev/null", "' OR 1=1 --", "", "\u{0}", &"x".repeat(5000)] {
            forgeries.push(("an id that is none", eddsa(with("kid", id.into()))));
        }
        for (name, value) in [
            ("aud", json!("another")),
            ("aud", json!(["shipway-registry/refresh"])),
            ("iss", json!("another")),
            ("exp", json!(1)),
            ("exp", Value::Null),
            ("nbf", json!(9_000_000_000_u64)),
        ] {
            let mut claims = claims.clone();
            claims[name] = value;
            let unsigned = jwt(&good, &claims, b"");
            let message = unsigned.trim_end_matches('.');
            let signature =
                jsonwebtoken::crypto::sign(message.as_bytes(), &key.encoding, Algorithm::EdDSA);
            forgeries.push((name, format!("{message}.{}", signature.expect("signed"))));
        }
        forgeries.push(("too long", format!("{genuine}{}", "A".repeat(TOKEN_BYTES_MAX))));
        forgeries.push(("cut", genuine[..genuine.len() - 1].to_owned()));
        forgeries.extend(["", "a.b.c", "..", "Bearer"].map(|text| ("nonsense", text.to_owned())));
        for (what, token) in &forgeries {
            assert!(service.verify(token, now).is_err(), "{what}: {token}");
            assert!(service.verify_refresh(token, now).is_err(), "{what}");
        }
    }
}
