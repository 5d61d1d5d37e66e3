//! What opened an endpoint last time: tokens by right, and Basic where it was asked for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use credentials::{RegistryAuth, Secret};

/// No token is kept for longer, whatever its service says.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A token that is about to expire is fetched anew, so that it does not expire on the way.
const RENEW_MARGIN: Duration = Duration::from_secs(10);
/// Tokens kept; beyond it all are dropped, which costs one more request each.
const TOKENS_MAX: usize = 1024;

/// How a request proves who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Authorization {
    Basic { username: String, password: Secret },
    Bearer(Secret),
}

/// Whom a cached authorisation belongs to, and for what it is good.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    host: String,
    identity: String,
    scopes: Vec<String>,
}

impl TokenKey {
    pub(crate) fn new(host: &str, auth: Option<&RegistryAuth>, scopes: &[String]) -> Self {
        let mut scopes = scopes.to_vec();
        scopes.sort_unstable();
        let identity = auth.map(RegistryAuth::identity_hash).unwrap_or_default();
        Self { host: host.to_owned(), identity, scopes }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    kept: Mutex<HashMap<TokenKey, (Authorization, Option<Instant>)>>,
}

impl Tokens {
    pub(crate) fn get(&self, key: &TokenKey, now: Instant) -> Option<Authorization> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |key: &TokenKey| {
            let (authorization, expires) = kept.get(key)?;
            let fresh = expires.is_none_or(|expires| now + RENEW_MARGIN < expires);
            fresh.then(|| authorization.clone())
        };
        // Basic opens everything at once; it is kept without scopes.
        find(key).or_else(|| {
            find(&TokenKey { scopes: Vec::new(), ..key.clone() })
                .filter(|authorization| matches!(authorization, Authorization::Basic { .. }))
        })
    }

    pub(crate) fn put_basic(&self, key: &TokenKey, authorization: Authorization) {
        self.put(TokenKey { scopes: Vec::new(), ..key.clone() }, authorization, None);
    }

    pub(crate) fn put_bearer(
        &self,
        key: &TokenKey,
        token: Secret,
        lifetime: Duration,
        now: Instant,
    ) {
        let expires = now + lifetime.min(LIFETIME_MAX);
        self.put(key.clone(), Authorization::Bearer(token), Some(expires));
    }

    pub(crate) fn forget(&self, key: &TokenKey) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(key);
        kept.remove(&TokenKey { scopes: Vec::new(), ..key.clone() });
    }

    fn put(&self, key: TokenKey, authorization: Authorization, expires: Option<Instant>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if TOKENS_MAX <= kept.len() {
            kept.clear();
        }
        kept.insert(key, (authorization, expires));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_renewed_before_it_expires() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let key = TokenKey::new("h", None, &["repository:a:pull".to_owned()]);
        tokens.put_bearer(&key, Secret::new("t"), Duration::from_secs(300), now);
        assert!(tokens.get(&key, now + Duration::from_secs(289)).is_some());
        assert!(tokens.get(&key, now + Duration::from_secs(290)).is_none());
    }

    #[test]
    fn tokens_are_kept_apart_by_identity_and_right_and_basic_by_identity() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let (ada, bob) = (
            RegistryAuth::basic("ada", Secret::new("1")),
            RegistryAuth::basic("bob", Secret::new("2")),
        );
        let scopes = ["repository:a:pull".to_owned()];
        let key = TokenKey::new("h", Some(&ada), &scopes);
        tokens.put_bearer(&key, Secret::new("t"), Duration::from_secs(60), now);
        assert!(tokens.get(&TokenKey::new("h", Some(&bob), &scopes), now).is_none());
        assert!(tokens.get(&TokenKey::new("h", Some(&ada), &[]), now).is_none());
        let basic = Authorization::Basic { username: "bob".to_owned(), password: Secret::new("2") };
        tokens.put_basic(&TokenKey::new("h", Some(&bob), &scopes), basic.clone());
        let other = TokenKey::new("h", Some(&bob), &["repository:b:push".to_owned()]);
        assert_eq!(tokens.get(&other, now), Some(basic));
    }
}
