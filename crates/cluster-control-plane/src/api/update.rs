//! update, on the object or one of its parts, and the steps every change of an object goes through.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::create::Ownership;
use super::{
    Api, Caller, Persist, Raced, Target, WRITE_ATTEMPTS_MAX, WriteOptions, event_form, metadata,
    refused, scale,
};
use crate::admission::{self, AdmissionContext};
use crate::error::ApiError;
use crate::object;
use crate::patch::{self, FieldManager};
use crate::resources::{EPHEMERAL_CONTAINERS, NAMESPACES, PODS, StatusPart};
use crate::schema;
use crate::storage::{Expected, Key, Operation, Write};

impl Api {
    /// Replaces an object, its `status`, its `scale`, a namespace's `finalize` list, or a pod's
    /// ephemeral containers.
    ///
    /// # Errors
    /// 404 when it does not exist, 409 when it changed or a precondition fails, 422 when the result
    /// is invalid.
    pub async fn update(
        self: &Arc<Self>,
        caller: &Caller,
        target: &Target<'_>,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        if target.subresource == "scale" {
            return self.update_scale(caller, target, &body, options).await;
        }
        let mut body = body;
        metadata::check_type(target.resource, &mut body)?;
        let mut body = event_form::stored(target.resource, body);
        metadata::check_namespace(target.resource, target.namespace, &mut body)?;
        let conditional =
            !matches!(object::text(&body, &["metadata", "resourceVersion"]), "" | "0");
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let current = self.stored(target.resource, target.namespace, target.name)?;
            metadata::check_identity(target.resource, &body, &current)?;
            let written = self
                .replace(caller, target, &current, body.clone(), Ownership::Record, options)
                .await;
            match written {
                Ok(stored) => return Ok(event_form::served(target.resource, stored)),
                Err(Raced::Refused(error)) => return Err(error),
                Err(Raced::Retry) if conditional => break,
                Err(Raced::Retry) => {}
            }
        }
        Err(ApiError::modified(target.resource, target.name))
    }

    /// Writes one new state over a known current one: merge of the written part, defaults,
    /// admission, validation, ownership, storage. Every update and patch ends here.
    pub(super) async fn replace(
        self: &Arc<Self>,
        caller: &Caller,
        target: &Target<'_>,
        current: &Arc<Value>,
        body: Value,
        ownership: Ownership,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, Raced> {
        let resource = target.resource;
        let recorded = object::at(&body, &["metadata", "managedFields"]).cloned();
        let seen = object::resource_version(&body) == object::resource_version(current);
        let mut new = written_part(target, current, body);
        metadata::carry_over(&mut new, current);
        // A writer that has seen the present state may also rewrite who owns what: kubectl moves
        // the fields of client-side apply that way.
        if (ownership == Ownership::Recorded || seen)
            && let Some(fields) = recorded
        {
            object::set(&mut new, &["metadata", "managedFields"], fields);
        }
        metadata::check_finalizers(resource, &new, current)?;
        schema::default(resource, &mut new);
        if target.subresource.is_empty() || target.subresource == "scale" {
            schema::prepare_update(resource, &mut new, current);
        }
        // Before admission, whose additions are nobody's.
        if ownership == Ownership::Record {
            let now = Timestamp::now();
            let manager =
                FieldManager { name: &caller.manager, subresource: target.subresource, at: now };
            patch::track_update(resource, Some(current), &mut new, &manager);
        }
        if matches!(target.subresource, "" | "scale" | EPHEMERAL_CONTAINERS) {
            let client = self.loopback();
            let context = AdmissionContext {
                resource,
                subresource: target.subresource,
                namespace: target.namespace,
                old: Some(current),
                user: &caller.user,
                client: &client,
                switches: self.switches,
            };
            admission::admit(&context, &mut new).await?;
            schema::default(resource, &mut new);
        }
        let errors = match target.subresource {
            "status" => schema::validate_status(resource, &new, current),
            EPHEMERAL_CONTAINERS => schema::validate_ephemeral_containers(&new, current),
            _ => schema::validate(resource, &new, Some(current)),
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, target.name, &errors).into());
        }
        metadata::count_generation(resource, &mut new, current);
        let owners_changed = !same_owners(&new, current);
        if metadata::is_unchanged(&new, current) && !owners_changed {
            return Ok(Arc::clone(current));
        }
        self.store_replaced(target, current, new, options).await
    }

    async fn store_replaced(
        &self,
        target: &Target<'_>,
        current: &Arc<Value>,
        new: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, Raced> {
        if options.persist == Persist::DryRun {
            return Ok(Arc::new(new));
        }
        let expected = Expected::Revision(object::resource_version(current));
        let key = Key::new(target.namespace, target.name);
        let storage = target.resource.storage;
        // The last finalizer went away: the write that says so is the removal itself.
        let operation =
            if is_finished(target, &new) { Operation::DeleteAs(new) } else { Operation::Put(new) };
        self.store.write(Write { storage, key, expected, operation }).await.map_err(refused)
    }
}

/// The new state in which only the part the target names is taken from the body.
fn written_part(target: &Target<'_>, current: &Value, body: Value) -> Value {
    match target.subresource {
        "status" => {
            let mut new = current.clone();
            for path in [["metadata", "labels"], ["metadata", "annotations"]] {
                if let Some(value) = object::at(&body, &path) {
                    object::set(&mut new, &path, value.clone());
                }
            }
            match object::at(&body, &["status"]) {
                Some(status) => object::set(&mut new, &["status"], status.clone()),
                None => object::set(&mut new, &["status"], json!({})),
            }
            new
        }
        "finalize" => {
            let mut new = current.clone();
            let finalizers = object::at(&body, &["spec", "finalizers"]).cloned();
            object::set(&mut new, &["spec", "finalizers"], finalizers.unwrap_or_else(|| json!([])));
            new
        }
        "scale" => scale::applied(current, &body),
        EPHEMERAL_CONTAINERS => {
            let mut new = current.clone();
            let path = ["spec", "ephemeralContainers"];
            match object::at(&body, &path) {
                Some(list) => object::set(&mut new, &path, list.clone()),
                None => drop(object::remove(&mut new, &path)),
            }
            new
        }
        _ => {
            let mut new = body;
            if target.resource.status == StatusPart::Subresource {
                match object::at(current, &["status"]) {
                    Some(status) => object::set(&mut new, &["status"], status.clone()),
                    None => drop(object::remove(&mut new, &["status"])),
                }
            }
            new
        }
    }
}

/// Whether a deleted object has nothing left to wait for.
fn is_finished(target: &Target<'_>, new: &Value) -> bool {
    if !object::is_deleting(new) || !object::finalizers(new).is_empty() {
        return false;
    }
    if std::ptr::eq(target.resource, &NAMESPACES) {
        return object::list(new, &["spec", "finalizers"]).is_empty();
    }
    if std::ptr::eq(target.resource, &PODS) {
        // A pod in its grace period ends by the node's own delete with grace zero.
        return object::integer(new, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0;
    }
    true
}

/// Whether `managedFields` say the same apart from their times.
fn same_owners(new: &Value, old: &Value) -> bool {
    let strip = |object: &Value| -> Vec<Value> {
        object::list(object, &["metadata", "managedFields"])
            .iter()
            .map(|entry| {
                let mut entry = entry.clone();
                object::remove(&mut entry, &["time"]);
                entry
            })
            .collect()
    };
    strip(new) == strip(old)
}
