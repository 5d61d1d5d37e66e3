//! get and list.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Api, ListOptions, ObjectList, VersionMatch, event_form};
use crate::error::{ApiError, Reason};
use crate::resources::Resource;
use crate::storage::Key;

impl Api {
    /// Reads one object.
    ///
    /// # Errors
    /// 404 when it does not exist, 405 for a kind that is not stored.
    pub fn get(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, ApiError> {
        Ok(event_form::served(resource, self.stored(resource, namespace, name)?))
    }

    /// Lists a kind in one namespace, or in all when `namespace` is empty.
    ///
    /// # Errors
    /// 400 for an unsupported field label, 410 for a compacted revision.
    pub fn list(
        &self,
        resource: &'static Resource,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<ObjectList, ApiError> {
        options.fields.check(resource)?;
        let kind = self.kind(resource)?;
        let page = options.continue_token.as_deref().map(PageToken::parse).transpose()?;
        let after = page.as_ref().map(|page| &page.after);
        let published = self.store.revision();
        let past = match (&page, options.version_match, options.resource_version) {
            (Some(page), _, _) => Some(page.revision),
            (None, Some(VersionMatch::Exact), Some(revision)) => Some(revision),
            _ => None,
        };
        let snapshot = match past {
            Some(revision) => {
                kind.snapshot_at(namespace, after, revision).map_err(|compacted| {
                    if page.is_some() {
                        expired_page()
                    } else {
                        ApiError::too_old(revision, compacted.oldest)
                    }
                })?
            }
            None => match fixed_key(resource, namespace, options) {
                Some(key) => kind.snapshot_of(&key, published),
                None => kind.snapshot(namespace, after, published),
            },
        };
        if past.is_none()
            && let Some(wanted) = options.resource_version
            && snapshot.revision < wanted
        {
            return Err(too_new(wanted, snapshot.revision));
        }
        let unfiltered = options.labels.is_empty() && options.fields.is_empty();
        let total = snapshot.items.len();
        let limit = options.limit.filter(|limit| 0 < *limit).unwrap_or(usize::MAX);
        let mut items = Vec::with_capacity(total.min(limit));
        let mut continue_token = None;
        let mut remaining = None;
        let mut last: Option<&Key> = None;
        for (at, (key, object)) in snapshot.items.iter().enumerate() {
            if !(options.labels.matches(object) && options.fields.matches(object)) {
                continue;
            }
            if items.len() == limit {
                continue_token = last.map(|last| PageToken::format(snapshot.revision, last));
                remaining = unfiltered.then_some(total - at);
                break;
            }
            items.push(event_form::served(resource, Arc::clone(object)));
            last = Some(key);
        }
        Ok(ObjectList { items, resource_version: snapshot.revision, continue_token, remaining })
    }
}

/// The only object that can match, when the selector fixes its name (`kubectl wait`, `delete`).
fn fixed_key(resource: &Resource, namespace: &str, options: &ListOptions) -> Option<Key> {
    let name = options.fields.fixed_name()?;
    let one_place = !resource.is_namespaced() || !namespace.is_empty();
    one_place.then(|| Key::new(namespace, name))
}

/// What an opaque `continue` parameter holds.
struct PageToken {
    revision: u64,
    after: Key,
}

impl PageToken {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        let revision = token.get("rv").and_then(Value::as_u64).ok_or_else(invalid)?;
        let start = token.get("start").and_then(Value::as_str).ok_or_else(invalid)?;
        let (namespace, name) = start.split_once('/').ok_or_else(invalid)?;
        Ok(Self { revision, after: Key::new(namespace, name) })
    }

    fn format(revision: u64, last: &Key) -> String {
        let start = format!("{}/{}", last.namespace, last.name);
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }
}

fn expired_page() -> ApiError {
    ApiError::new(
        Reason::Expired,
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter.",
    )
}

fn too_new(wanted: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    let mut error = ApiError::new(Reason::Timeout, message).with_cause(
        "ResourceVersionTooLarge",
        "Too large resource version",
        "",
    );
    error.retry_after_seconds = Some(1);
    error
}
