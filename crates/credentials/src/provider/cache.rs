//! Answers of one provider that are kept (kubelet-images.md 9.3).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::protocol::{Answer, CacheKeyType};
use crate::config_file::ConfigEntry;

/// Time between two looks for entries that nobody asks for any more.
const PURGE_PERIOD: Duration = Duration::from_secs(15 * 60);
/// Entries kept per provider; beyond, the one that ends first goes.
const ENTRIES_MAX: usize = 4096;

/// What entries of different service accounts are kept apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountKey {
    /// Namespace of the account.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The annotations that the provider gets.
    pub annotations: BTreeMap<String, String>,
    /// Hash of the token, when entries are good for that token only.
    pub token_hash: Option<String>,
}

/// Kept answers of one provider.
#[derive(Debug, Default)]
pub struct ProviderCache {
    entries: HashMap<Key, Entry>,
    purged_at: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    scope: Scope,
    account: Option<AccountKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Image(String),
    Registry(String),
    Global,
}

#[derive(Debug)]
struct Entry {
    entries: Vec<ConfigEntry>,
    expires_at: Instant,
}

impl Scope {
    /// The scopes of an image, in the order in which they are looked at.
    fn all(image: &str) -> [Self; 3] {
        [CacheKeyType::Image, CacheKeyType::Registry, CacheKeyType::Global]
            .map(|kind| Self::of(kind, image))
    }

    fn of(kind: CacheKeyType, image: &str) -> Self {
        match kind {
            CacheKeyType::Image => Self::Image(image.to_owned()),
            CacheKeyType::Registry => {
                Self::Registry(image.split('/').next().unwrap_or(image).to_owned())
            }
            CacheKeyType::Global => Self::Global,
        }
    }
}

impl ProviderCache {
    /// The kept answer for an image; it may be that there is no credential.
    pub fn get(
        &mut self,
        image: &str,
        account: Option<&AccountKey>,
        now: Instant,
    ) -> Option<Vec<ConfigEntry>> {
        self.purge(now);
        let keys = Scope::all(image).map(|scope| Key { scope, account: account.cloned() });
        keys.iter()
            .filter_map(|key| self.entries.get(key))
            // Good up to and including the last moment.
            .find(|entry| now <= entry.expires_at)
            .map(|entry| entry.entries.clone())
    }

    /// Keeps an answer for as long as it says.
    pub fn put(
        &mut self,
        image: &str,
        account: Option<&AccountKey>,
        answer: &Answer,
        now: Instant,
    ) {
        if answer.keep_for.is_zero() {
            return;
        }
        // A time that this machine cannot count to is for ever: a day at a time.
        let expires_at = now
            .checked_add(answer.keep_for)
            .unwrap_or_else(|| now + Duration::from_secs(24 * 60 * 60));
        let key = Key { scope: Scope::of(answer.cache_key, image), account: account.cloned() };
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.expires_at);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                self.entries.remove(&first);
            }
        }
        self.entries.insert(key, Entry { entries: answer.entries.clone(), expires_at });
    }

    /// Drops the kept answer for an image if it is still the one that a registry refused.
    pub fn forget(&mut self, image: &str, account: Option<&AccountKey>, refused: &[ConfigEntry]) {
        for scope in Scope::all(image) {
            let key = Key { scope, account: account.cloned() };
            if self.entries.get(&key).is_some_and(|entry| entry.entries == refused) {
                self.entries.remove(&key);
            }
        }
    }

    fn purge(&mut self, now: Instant) {
        let purged_at = *self.purged_at.get_or_insert(now);
        if now.saturating_duration_since(purged_at) > PURGE_PERIOD {
            self.entries.retain(|_, entry| now <= entry.expires_at);
            self.purged_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RegistryAuth, Secret};

    const MINUTE: Duration = Duration::from_secs(60);

    fn answer(cache_key: CacheKeyType, keep_for: Duration, user: &str) -> Answer {
        let auth = RegistryAuth::basic(user, Secret::new("pw"));
        let entry = ConfigEntry { key: "registry.example.com".to_owned(), auth };
        Answer { cache_key, keep_for, entries: vec![entry] }
    }

    fn account(uid: &str) -> AccountKey {
        AccountKey {
            namespace: "ns".to_owned(),
            name: "sa".to_owned(),
            uid: uid.to_owned(),
            annotations: BTreeMap::new(),
            token_hash: None,
        }
    }

    fn user(found: Option<Vec<ConfigEntry>>) -> Option<String> {
        found.map(|entries| entries[0].auth.username().map(str::to_owned).unwrap_or_default())
    }

    /// kubelet-images.md 15.10, X4.
    #[test]
    fn answer_for_a_registry_serves_its_other_images_until_it_ends() {
        let (mut cache, now) = (ProviderCache::default(), Instant::now());
        let ten = answer(CacheKeyType::Registry, 10 * MINUTE, "u");
        cache.put("registry.example.com/a", None, &ten, now);
        assert!(cache.get("registry.example.com/b", None, now + 5 * MINUTE).is_some());
        assert!(cache.get("registry.example.com/b", None, now + 10 * MINUTE).is_some());
        assert!(cache.get("registry.example.com/b", None, now + 11 * MINUTE).is_none());
        assert!(cache.get("registry.example.com:5000/b", None, now).is_none());
    }

    /// kubelet-images.md 15.10, X5.
    #[test]
    fn answer_without_time_is_not_kept() {
        let (mut cache, now) = (ProviderCache::default(), Instant::now());
        cache.put("r/a", None, &answer(CacheKeyType::Image, Duration::ZERO, "u"), now);
        assert!(cache.get("r/a", None, now).is_none());
        assert!(cache.entries.is_empty());
    }

    /// kubelet-images.md 15.10, X6, and 9.3: the order of the look-up.
    #[test]
    fn global_answer_serves_every_image_after_the_narrower_ones() {
        let (mut cache, now) = (ProviderCache::default(), Instant::now());
        for (kind, name) in [
            (CacheKeyType::Global, "global"),
            (CacheKeyType::Registry, "registry"),
            (CacheKeyType::Image, "image"),
        ] {
            cache.put("r.example/a", None, &answer(kind, MINUTE, name), now);
        }
        assert_eq!(user(cache.get("r.example/a", None, now)).as_deref(), Some("image"));
        assert_eq!(user(cache.get("r.example/b", None, now)).as_deref(), Some("registry"));
        assert_eq!(user(cache.get("other.example/c", None, now)).as_deref(), Some("global"));
    }

    /// kubelet-images.md 9.4.
    #[test]
    fn accounts_and_tokens_do_not_share_answers() {
        let (mut cache, now) = (ProviderCache::default(), Instant::now());
        let mine = account("1");
        cache.put("r/a", Some(&mine), &answer(CacheKeyType::Global, MINUTE, "u"), now);
        assert!(cache.get("r/a", Some(&mine), now).is_some());
        assert!(cache.get("r/a", None, now).is_none());
        assert!(cache.get("r/a", Some(&account("2")), now).is_none());
        let annotated =
            AccountKey { annotations: [("a".to_owned(), "b".to_owned())].into(), ..account("1") };
        assert!(cache.get("r/a", Some(&annotated), now).is_none());
        let token = AccountKey { token_hash: Some("sha256:x".to_owned()), ..account("1") };
        assert!(cache.get("r/a", Some(&token), now).is_none());
    }

    #[test]
    fn refused_answer_is_forgotten_and_a_newer_one_is_not() {
        let (mut cache, now) = (ProviderCache::default(), Instant::now());
        let old = answer(CacheKeyType::Registry, MINUTE, "old");
        cache.put("r/a", None, &old, now);
        cache.forget("r/a", None, &old.entries);
        assert!(cache.get("r/a", None, now).is_none());
        cache.put("r/a", None, &answer(CacheKeyType::Registry, MINUTE, "new"), now);
        cache.forget("r/a", None, &old.entries);
        assert_eq!(user(cache.get("r/a", None, now)).as_deref(), Some("new"));
    }

    #[test]
    fn entries_that_nobody_asks_for_are_purged_after_a_while() {
        let (mut cache, now) = (ProviderCache::default(), Instant::now());
        assert!(cache.get("r/x", None, now).is_none());
        for number in 0..3 {
            let image = format!("r/{number}");
            cache.put(&image, None, &answer(CacheKeyType::Image, MINUTE, "u"), now);
        }
        cache.get("r/x", None, now + 15 * MINUTE);
        assert_eq!(cache.entries.len(), 3);
        cache.get("r/x", None, now + 16 * MINUTE);
        assert_eq!(cache.entries.len(), 0);
    }

    #[test]
    fn number_of_entries_is_bounded() {
        let (mut cache, now) = (ProviderCache::default(), Instant::now());
        for number in 0..=ENTRIES_MAX as u64 {
            let answer = answer(CacheKeyType::Image, MINUTE + Duration::from_secs(number), "u");
            cache.put(&format!("r/{number}"), None, &answer, now);
        }
        assert_eq!(cache.entries.len(), ENTRIES_MAX);
        assert!(cache.get("r/0", None, now).is_none());
        assert!(cache.get("r/1", None, now).is_some());
    }
}
