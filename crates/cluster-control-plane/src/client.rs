//! The in-process client: what controllers and admission steps use instead of a socket.
//!
//! It calls the same handlers as the HTTP server, with a user of its own; authorization,
//! admission, validation and field ownership apply as to anyone else.

use std::sync::Arc;

use serde_json::Value;

use crate::api::{
    Api, Caller, DeleteOptions, Deleted, ListOptions, ObjectList, PatchBody, WatchStream,
};
use crate::error::ApiError;
use crate::identity::User;
use crate::object;
use crate::resources::Resource;

/// One identity's way to the API. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    api: Arc<Api>,
    caller: Arc<Caller>,
}

impl Client {
    /// A client for `user`, recorded as `manager` in `metadata.managedFields`.
    pub fn new(api: Arc<Api>, user: User, manager: &str) -> Self {
        let caller = Caller { user, manager: manager.to_owned() };
        Self { api, caller: Arc::new(caller) }
    }

    /// The same access under another name in `metadata.managedFields`.
    #[must_use]
    pub fn named(&self, manager: &str) -> Self {
        Self::new(Arc::clone(&self.api), self.caller.user.clone(), manager)
    }

    /// Reads one object. `namespace` is empty for cluster-scoped kinds.
    ///
    /// # Errors
    /// 404 when it does not exist.
    pub fn get(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, ApiError> {
        self.api.get(resource, namespace, name)
    }

    /// Lists a kind in one namespace, or in all when `namespace` is empty.
    ///
    /// # Errors
    /// 400 for a selector that does not parse, 410 for a compacted revision.
    pub fn list(
        &self,
        resource: &'static Resource,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<ObjectList, ApiError> {
        self.api.list(resource, namespace, options)
    }

    /// Watches a kind in one namespace, or in all when `namespace` is empty.
    ///
    /// # Errors
    /// As for [`Client::list`].
    pub fn watch(
        &self,
        resource: &'static Resource,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<WatchStream, ApiError> {
        self.api.watch(resource, namespace, options)
    }

    /// Creates an object in the namespace it names and returns it as stored.
    ///
    /// # Errors
    /// 409 when the name is taken, 422 when it is invalid, 403 when admission refuses.
    pub async fn create(
        &self,
        resource: &'static Resource,
        new: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let namespace = object::namespace(&new).to_owned();
        self.api.create(&self.caller, resource, &namespace, new, &Default::default()).await
    }

    /// Replaces an object; conditional when `metadata.resourceVersion` is set.
    ///
    /// # Errors
    /// 409 when it changed, 404 when it is gone, 422 when the result is invalid.
    pub async fn update(
        &self,
        resource: &'static Resource,
        new: Value,
    ) -> Result<Arc<Value>, ApiError> {
        self.update_subresource(resource, "", new).await
    }

    /// Replaces an object's `status`; conditional when `metadata.resourceVersion` is set.
    ///
    /// # Errors
    /// As for [`Client::update`].
    pub async fn update_status(
        &self,
        resource: &'static Resource,
        new: Value,
    ) -> Result<Arc<Value>, ApiError> {
        self.update_subresource(resource, "status", new).await
    }

    /// Replaces an object through a subresource such as `status` or `finalize`.
    ///
    /// # Errors
    /// As for [`Client::update`].
    pub async fn update_subresource(
        &self,
        resource: &'static Resource,
        subresource: &str,
        new: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let (namespace, name) = (object::namespace(&new).to_owned(), object::name(&new).to_owned());
        let target =
            crate::api::Target { resource, namespace: &namespace, name: &name, subresource };
        self.api.update(&self.caller, &target, new, &Default::default()).await
    }

    /// Patches an object or, with a `subresource`, a part of it.
    ///
    /// # Errors
    /// 404 when it does not exist, 409 for a conflict, 422 when the result is invalid.
    pub async fn patch(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: PatchBody,
    ) -> Result<Arc<Value>, ApiError> {
        let target = crate::api::Target { resource, namespace, name, subresource };
        self.api
            .patch(&self.caller, &target, patch, &Default::default())
            .await
            .map(|patched| patched.object)
    }

    /// Binds a pod to a node, as a scheduler does.
    ///
    /// # Errors
    /// 404 for a missing pod, 409 when it is bound already or being deleted.
    pub async fn bind(&self, namespace: &str, name: &str, node: &str) -> Result<(), ApiError> {
        let binding = serde_json::json!({"target": {"kind": "Node", "name": node}});
        self.api.bind(namespace, name, &binding, &Default::default()).await
    }

    /// Deletes an object; the answer says whether it is gone or waits for grace or finalizers.
    ///
    /// # Errors
    /// 404 when it does not exist, 409 when a precondition fails.
    pub async fn delete(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        self.api.delete(&self.caller, resource, namespace, name, options).await
    }
}
