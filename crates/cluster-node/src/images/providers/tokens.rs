//! Tokens of service accounts for providers, kept for four fifths of their life
//! (kubelet-images.md 9.4).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use credentials::Secret;

use crate::images::account::{Accounts, PodIdentity, ServiceAccount};

/// Tokens kept at once; one per pod and audience.
const HELD_MAX: usize = 4096;
/// Part of its life after which a token is renewed.
const RENEW_PERCENT: u32 = 80;

/// Whose token for whom.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    pod_uid: String,
    account_uid: String,
    audience: String,
}

struct Held {
    token: Secret,
    renew_at: Instant,
}

/// Tokens that are bound to pods.
pub(super) struct Tokens {
    accounts: Arc<dyn Accounts>,
    held: Mutex<HashMap<Key, Held>>,
}

impl Tokens {
    pub(super) fn new(accounts: Arc<dyn Accounts>) -> Self {
        Tokens { accounts, held: Mutex::default() }
    }

    /// The token of a pod's account for an audience; the error is the API server's text.
    pub(super) async fn get(
        &self,
        pod: &PodIdentity,
        account: &ServiceAccount,
        audience: &str,
        now: Instant,
    ) -> Result<Secret, String> {
        let key = Key {
            pod_uid: pod.uid.clone(),
            account_uid: account.uid.clone(),
            audience: audience.to_owned(),
        };
        {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(held) = held.get(&key).filter(|held| now < held.renew_at) {
                return Ok(held.token.clone());
            }
        }
        let (token, life) = self.accounts.token(pod, &account.name, audience).await?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= HELD_MAX {
            held.retain(|_, held| now < held.renew_at);
        }
        if held.len() < HELD_MAX {
            let renew_at = now + (life / 100).min(Duration::from_secs(864)) * RENEW_PERCENT;
            held.insert(key, Held { token: token.clone(), renew_at });
        }
        Ok(token)
    }
}
