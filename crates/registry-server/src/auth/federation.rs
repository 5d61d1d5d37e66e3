//! Identities of others: tokens of configured issuers (OpenID Connect Core 1.0; Kubernetes service
//! accounts, CI systems), which their bearers exchange for ours, and access tokens of other token
//! services.

mod claim_rules;
mod issuer_keys;
mod key_set;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

pub use self::claim_rules::ClaimRule;
pub(super) use self::claim_rules::apply as apply_claim_rules;
pub use self::issuer_keys::{KeyRequest, KeySource, KeySourceError};

use self::issuer_keys::IssuerKeys;
use super::identity::Identity;
use super::scope::{Access, Grant};
use super::token::{LEEWAY, TOKEN_BYTES_MAX};
use crate::auth::Role;

/// Longest subject of a token, in bytes.
const SUBJECT_BYTES_MAX: usize = 512;

/// Somebody else's tokens that count here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The first part of the names of its principals, `<name>:…`.
    pub name: String,
    /// Its `iss`, to the letter; also where its configuration is found.
    pub url: String,
    /// What `aud` must hold one of. Anybody can get a token of a public CI system: the audience
    /// says that it is meant for this registry.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub keys: KeyLocation,
    /// Authorities (PEM) for HTTPS to it, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A bearer token for reading its keys, as Kubernetes asks for one; read at each use.
    pub token_file: Option<PathBuf>,
    /// What its tokens are for.
    pub tokens: ForeignTokens,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    /// Where `<url>/.well-known/openid-configuration` says.
    Discovery,
    /// At this URL.
    Url(String),
    /// In this file, read again when it changes.
    File(PathBuf),
}

/// What tokens of an issuer are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForeignTokens {
    /// They say who somebody is. Each rule that matches adds groups, the first one names the
    /// principal; who matches none is nobody.
    Identity(Vec<ClaimRule>),
    /// They say what somebody may do: access tokens of another token service.
    Access,
}

/// The configuration of an issuer makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("issuer {name:?}: {reason}")]
pub struct IssuerError {
    /// The issuer.
    name: String,
    /// What is wrong.
    reason: String,
}

/// Why a token of somebody else does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForeignError {
    /// It is of nobody that is configured, forged, expired, or for somebody else; the text is for
    /// the log.
    #[error("{0}")]
    Invalid(&'static str),
    /// The keys of its issuer cannot be read for now.
    #[error("the keys of the issuer cannot be read")]
    Unavailable,
}

/// A token of somebody else that counts.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) identity: Identity,
    /// When it ends.
    pub(crate) until: SystemTime,
    /// Of an access token.
    pub(crate) access: Option<Arc<Access>>,
}

/// The configured issuers.
#[derive(Debug)]
pub(crate) struct Federation {
    issuers: Vec<(Issuer, IssuerKeys)>,
}

impl Federation {
    pub(crate) fn new(
        issuers: &[Issuer],
        source: Option<&Arc<dyn KeySource>>,
    ) -> Result<Self, IssuerError> {
        let mut names = HashSet::new();
        let mut known = Vec::new();
        for issuer in issuers {
            let wrong = |reason: String| IssuerError { name: issuer.name.clone(), reason };
            check(issuer).map_err(|reason| wrong(reason.to_owned()))?;
            if !names.insert(&issuer.name) || !names.insert(&issuer.url) {
                return Err(wrong("its name or URL is there twice".to_owned()));
            }
            let keys = IssuerKeys::new(issuer, source).map_err(wrong)?;
            known.push((issuer.clone(), keys));
        }
        Ok(Self { issuers: known })
    }

    /// Whether anybody else's tokens count.
    pub(crate) fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// Who the bearer of an issuer's token is.
    pub(crate) async fn identify(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<Foreign, ForeignError> {
        let (issuer, claims, until) = self.verify(token, now).await?;
        let ForeignTokens::Identity(rules) = &issuer.tokens else {
            return Err(ForeignError::Invalid("an access token says not who somebody is"));
        };
        let identity = claim_rules::apply(&issuer.name, rules, &claims)
            .ok_or(ForeignError::Invalid("no rule of the issuer is for this token"))?;
        Ok(Foreign { identity, until, access: None })
    }

    /// What an access token of another token service allows.
    pub(crate) async fn authorize(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<Foreign, ForeignError> {
        let (issuer, mut claims, until) = self.verify(token, now).await?;
        if issuer.tokens != ForeignTokens::Access {
            return Err(ForeignError::Invalid("the token has to be exchanged first"));
        }
        let access = claims.get_mut("access").map(Value::take).unwrap_or_default();
        let grants: Vec<Grant> = match access {
            Value::Null => Vec::new(),
            access => serde_json::from_value(access)
                .map_err(|_| ForeignError::Invalid("the access claim is malformed"))?,
        };
        // Who administers this registry is said here and nowhere else.
        let grants = grants
            .into_iter()
            .filter(|grant| !grant.actions.iter().any(|action| action == Role::Admin.action()))
            .filter(|grant| *grant != Grant::administration())
            .collect();
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let identity = match subject {
            "" => Identity::default(),
            subject => Identity::named(format!("{}:{subject}", issuer.name)),
        };
        let access = Access { grants, ..Access::default() };
        Ok(Foreign { identity, until, access: Some(Arc::new(access)) })
    }

    /// The issuer and the claims of a token, and when it ends.
    async fn verify(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<(&Issuer, Value, SystemTime), ForeignError> {
        let invalid = ForeignError::Invalid;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid("the token is too long"));
        }
        // Only to find the issuer; nothing of it counts before its key has signed it.
        let url = key_set::unverified_issuer(token).ok_or(invalid("not a token"))?;
        let (issuer, keys) = self
            .issuers
            .iter()
            .find(|(issuer, _)| issuer.url == url)
            .ok_or(invalid("the issuer is not configured"))?;
        let key_id = key_set::key_id(token).ok_or(invalid("not a token"))?;
        let set = keys.get(key_id.as_deref(), now).await.ok_or(ForeignError::Unavailable)?;
        let claims = set.verify(token).ok_or(invalid("no key of the issuer signed this"))?;
        if claims.get("iss").and_then(Value::as_str) != Some(&issuer.url) {
            return Err(invalid("another issuer"));
        }
        let is_for_us =
            |audience: &Value| issuer.audiences.iter().any(|ours| audience.as_str() == Some(ours));
        match claims.get("aud") {
            Some(Value::Array(audiences)) if audiences.iter().any(is_for_us) => {}
            Some(audience) if is_for_us(audience) => {}
            _ => return Err(invalid("another audience")),
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.len() > SUBJECT_BYTES_MAX {
            return Err(invalid("the subject is too long"));
        }
        let until = time(&claims, "exp").ok_or(invalid("no end"))?;
        if now > until + LEEWAY || time(&claims, "nbf").is_some_and(|begin| begin > now + LEEWAY) {
            return Err(invalid("expired, or not yet valid"));
        }
        Ok((issuer, claims, until))
    }
}

/// A time of a token: seconds since 1970, perhaps with a fraction.
fn time(claims: &Value, name: &str) -> Option<SystemTime> {
    let seconds = claims.get(name)?.as_f64()?;
    let passed = Duration::try_from_secs_f64(seconds).ok()?;
    // What is further away would overflow somewhere.
    (passed < Duration::from_secs(1 << 40)).then(|| UNIX_EPOCH + passed)
}

fn check(issuer: &Issuer) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if issuer.name.is_empty() || !issuer.name.chars().all(is_plain) {
        return Err("its name is of a-z, 0-9 and dashes");
    }
    if issuer.name == super::certificate::ISSUER {
        return Err("its name is kept for certificates");
    }
    if issuer.url.is_empty() {
        return Err("it has no URL");
    }
    if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
        return Err("it has no audience: anybody's tokens would count");
    }
    if issuer.tokens == ForeignTokens::Identity(Vec::new()) {
        return Err("it has no rule: nobody's tokens would count");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
