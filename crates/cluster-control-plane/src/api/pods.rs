//! The pod subresources that write: binding and eviction.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Api, Caller, DeleteOptions, Persist, Raced, WRITE_ATTEMPTS_MAX, WriteOptions, refused,
};
use crate::error::ApiError;
use crate::object;
use crate::resources::PODS;
use crate::storage::{Expected, Key, Operation, Write};

impl Api {
    /// Binds a pod to the node a `v1 Binding` names and sets its `PodScheduled` condition.
    ///
    /// # Errors
    /// 404 for a missing pod, 409 when it is bound or being deleted, 400 without a target.
    pub async fn bind(
        &self,
        namespace: &str,
        name: &str,
        binding: &Value,
        options: &WriteOptions,
    ) -> Result<(), ApiError> {
        let node = object::text(binding, &["target", "name"]);
        if node.is_empty() {
            return Err(ApiError::bad_request("target.name: Required value"));
        }
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let current = self.stored(&PODS, namespace, name)?;
            let new = bound(&current, node)?;
            if options.persist == Persist::DryRun {
                return Ok(());
            }
            let write = Write {
                storage: PODS.storage,
                key: Key::new(namespace, name),
                expected: Expected::Revision(object::resource_version(&current)),
                operation: Operation::Put(new),
            };
            match self.store.write(write).await.map_err(refused) {
                Ok(_) => return Ok(()),
                Err(Raced::Refused(error)) => return Err(error),
                Err(Raced::Retry) => {}
            }
        }
        Err(ApiError::modified(&PODS, name))
    }

    /// Evicts a pod: a delete with the options of a `policy/v1 Eviction`. There are no disruption
    /// budgets here, so nothing forbids it.
    ///
    /// # Errors
    /// As for delete.
    pub async fn evict(
        self: &Arc<Self>,
        caller: &Caller,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        self.delete(caller, &PODS, namespace, name, options).await.map(drop)
    }
}

fn bound(current: &Value, node: &str) -> Result<Value, ApiError> {
    let name = object::name(current);
    if object::is_deleting(current) {
        let why = format!("pod {name} is being deleted, cannot be assigned to a host");
        return Err(ApiError::conflict(&PODS, name, &why));
    }
    let existing = object::text(current, &["spec", "nodeName"]);
    if !existing.is_empty() {
        let why = format!("pod {name} is already assigned to node {existing:?}");
        return Err(ApiError::conflict(&PODS, name, &why));
    }
    let mut new = current.clone();
    object::set(&mut new, &["spec", "nodeName"], node);
    let mut conditions: Vec<Value> = object::list(current, &["status", "conditions"])
        .iter()
        .filter(|condition| object::text(condition, &["type"]) != "PodScheduled")
        .cloned()
        .collect();
    conditions.push(json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": object::format_time(Timestamp::now()),
    }));
    object::set(&mut new, &["status", "conditions"], conditions);
    Ok(new)
}
