//! create.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::{Api, Caller, Persist, Raced, WriteOptions, event_form, metadata, refused};
use crate::admission::{self, AdmissionContext};
use crate::error::{ApiError, Reason};
use crate::object;
use crate::patch::{self, FieldManager};
use crate::resources::{NAMESPACES, Resource};
use crate::schema;
use crate::storage::{Expected, Key, Operation, Write};

/// Names tried for one `generateName`.
const GENERATED_NAMES_MAX: usize = 8;

/// Whether `managedFields` of a new object are already right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Record the caller as the owner of what it wrote.
    Record,
    /// Server-side apply has recorded it.
    Recorded,
}

impl Api {
    /// Creates an object and returns it as stored.
    ///
    /// # Errors
    /// 409 when the name is taken, 404 for a missing namespace, 422 when the object is invalid, 403
    /// when admission refuses.
    pub async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        resource: &'static Resource,
        namespace: &str,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        let mut new = body;
        metadata::check_type(resource, &mut new)?;
        let mut new = event_form::stored(resource, new);
        metadata::check_namespace(resource, namespace, &mut new)?;
        if !matches!(object::text(&new, &["metadata", "resourceVersion"]), "" | "0") {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        object::remove(&mut new, &["metadata", "managedFields"]);
        self.create_prepared(caller, resource, namespace, new, Ownership::Record, options).await
    }

    pub(super) async fn create_prepared(
        self: &Arc<Self>,
        caller: &Caller,
        resource: &'static Resource,
        namespace: &str,
        body: Value,
        ownership: Ownership,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        self.check_namespace_open(resource, namespace, object::name(&body))?;
        let base = object::text(&body, &["metadata", "generateName"]).to_owned();
        let fixed = !object::name(&body).is_empty();
        if !fixed && base.is_empty() {
            return Err(metadata::name_required(resource));
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut new = body.clone();
            if !fixed {
                object::set(&mut new, &["metadata", "name"], metadata::generate_name(&base));
            }
            let name = object::name(&new).to_owned();
            // Before admission: a taken name is the better answer, and cheaper.
            let exists = self.kind(resource)?.get(&Key::new(namespace, &name)).is_some();
            if exists && fixed {
                return Err(ApiError::already_exists(resource, &name));
            }
            if !exists {
                let now = Timestamp::now();
                self.complete_created(caller, resource, &mut new, ownership, now).await?;
                match self.store_created(resource, new, options).await {
                    Ok(stored) => return Ok(event_form::served(resource, stored)),
                    Err(Raced::Refused(error)) => return Err(error),
                    Err(Raced::Retry) if fixed => {
                        return Err(ApiError::already_exists(resource, &name));
                    }
                    Err(Raced::Retry) => {}
                }
            }
            if attempts == GENERATED_NAMES_MAX {
                return Err(metadata::no_unique_name(resource, &name));
            }
        }
    }

    /// Defaults, admission and validation of a new object.
    async fn complete_created(
        self: &Arc<Self>,
        caller: &Caller,
        resource: &'static Resource,
        new: &mut Value,
        ownership: Ownership,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        metadata::fill_created(resource, new, now);
        metadata::drop_empty_metadata(object::ensure_map(new, &["metadata"]));
        schema::default(resource, new);
        // What admission adds is nobody's, or an apply of the same configuration would remove it.
        if ownership == Ownership::Record {
            let manager = FieldManager { name: &caller.manager, subresource: "", at: now };
            patch::track_update(resource, None, new, &manager);
        }
        schema::prepare_create(resource, new);
        let client = self.loopback();
        let namespace = object::namespace(new).to_owned();
        let context = AdmissionContext {
            resource,
            subresource: "",
            namespace: &namespace,
            old: None,
            user: &caller.user,
            client: &client,
            switches: self.switches,
        };
        admission::admit(&context, new).await?;
        schema::default(resource, new);
        let errors = schema::validate(resource, new, None);
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(resource, object::name(new), &errors))
    }

    async fn store_created(
        &self,
        resource: &'static Resource,
        new: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, Raced> {
        if options.persist == Persist::DryRun {
            return Ok(Arc::new(new));
        }
        let key = Key::new(object::namespace(&new), object::name(&new));
        let write = Write {
            storage: resource.storage,
            key,
            expected: Expected::Absent,
            operation: Operation::Put(new),
        };
        self.store.write(write).await.map_err(refused)
    }

    /// Refuses creation in a namespace that is missing or on its way out.
    fn check_namespace_open(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        if !resource.is_namespaced() {
            return Ok(());
        }
        let holder = self.stored(&NAMESPACES, "", namespace)?;
        if !object::is_deleting(&holder) {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let cause = format!("namespace {namespace} is being terminated");
        let mut error = ApiError::forbidden(resource, name, &why);
        error.reason = Reason::Forbidden;
        Err(error.with_cause("NamespaceTerminating", &cause, "metadata.namespace"))
    }
}
