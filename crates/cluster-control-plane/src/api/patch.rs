//! patch: read, apply, replace, with the server's own retries.

use std::sync::Arc;

use serde_json::Value;

use super::create::Ownership;
use super::{
    Api, Caller, PatchBody, Patched, Raced, Target, WRITE_ATTEMPTS_MAX, WriteOptions, event_form,
    metadata, scale,
};
use crate::error::ApiError;
use crate::object;
use crate::patch::{self, FieldManager, OnConflict, PatchFormat};
use crate::schema::{self, FieldValidation, Ingest};

impl Api {
    /// Patches an object or, through a subresource, a part of it.
    ///
    /// # Errors
    /// 404 when it does not exist (an apply creates it instead), 409 for a conflict, 415 for a
    /// format the kind does not take, 422 when the result is invalid.
    pub async fn patch(
        self: &Arc<Self>,
        caller: &Caller,
        target: &Target<'_>,
        patch: PatchBody,
        options: &WriteOptions,
    ) -> Result<Patched, ApiError> {
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let attempt = match &patch {
                PatchBody::Patch { format, body } => {
                    self.patch_once(caller, target, *format, body, options).await
                }
                PatchBody::Apply { body, on_conflict } => {
                    self.apply_once(caller, target, body, *on_conflict, options).await
                }
            };
            match attempt {
                Ok(patched) => return Ok(patched),
                Err(Raced::Refused(error)) => return Err(error),
                Err(Raced::Retry) => {}
            }
        }
        Err(ApiError::modified(target.resource, target.name))
    }

    async fn patch_once(
        self: &Arc<Self>,
        caller: &Caller,
        target: &Target<'_>,
        format: PatchFormat,
        body: &Value,
        options: &WriteOptions,
    ) -> Result<Patched, Raced> {
        let resource = target.resource;
        let current = self.stored(resource, target.namespace, target.name)?;
        if target.subresource == "scale" {
            let new = patch::apply(resource, format, &scale::view(&current), body)?;
            metadata::check_identity(resource, &new, &current)?;
            let stored =
                self.replace(caller, target, &current, new, Ownership::Record, options).await?;
            let object = Arc::new(scale::view(&stored));
            return Ok(Patched { object, created: false, warnings: Vec::new() });
        }
        let shown = event_form::served(resource, Arc::clone(&current));
        let mut new = patch::apply(resource, format, &shown, body)?;
        metadata::check_type(resource, &mut new)?;
        let validation = options.field_validation.unwrap_or(FieldValidation::Ignore);
        let warnings = schema::decode(resource, &mut new, validation, Ingest::Patch)?;
        let mut new = event_form::stored(resource, new);
        metadata::check_namespace(resource, target.namespace, &mut new)?;
        metadata::check_identity(resource, &new, &current)?;
        let stored =
            self.replace(caller, target, &current, new, Ownership::Record, options).await?;
        Ok(Patched { object: event_form::served(resource, stored), created: false, warnings })
    }

    async fn apply_once(
        self: &Arc<Self>,
        caller: &Caller,
        target: &Target<'_>,
        body: &Value,
        on_conflict: OnConflict,
        options: &WriteOptions,
    ) -> Result<Patched, Raced> {
        let resource = target.resource;
        let mut applied = body.clone();
        check_applied(&applied)?;
        metadata::check_type(resource, &mut applied)?;
        let validation = options.field_validation.unwrap_or(FieldValidation::Strict);
        let warnings = schema::decode(resource, &mut applied, validation, Ingest::Body)?;
        let mut applied = event_form::stored(resource, applied);
        metadata::check_namespace(resource, target.namespace, &mut applied)?;
        object::set(&mut applied, &["metadata", "name"], target.name);
        let manager = FieldManager {
            name: &caller.manager,
            subresource: target.subresource,
            at: jiff::Timestamp::now(),
        };
        match self.stored(resource, target.namespace, target.name) {
            Ok(current) => {
                metadata::check_identity(resource, &applied, &current)?;
                let new = patch::server_side_apply(
                    resource,
                    Some(&current),
                    &applied,
                    &manager,
                    on_conflict,
                )?;
                let stored = self
                    .replace(caller, target, &current, new, Ownership::Recorded, options)
                    .await?;
                Ok(Patched {
                    object: event_form::served(resource, stored),
                    created: false,
                    warnings,
                })
            }
            Err(error) if error.is_not_found() && target.subresource.is_empty() => {
                let new =
                    patch::server_side_apply(resource, None, &applied, &manager, on_conflict)?;
                let stored = self
                    .create_prepared(
                        caller,
                        resource,
                        target.namespace,
                        new,
                        Ownership::Recorded,
                        options,
                    )
                    .await;
                match stored {
                    Ok(object) => Ok(Patched { object, created: true, warnings }),
                    // Somebody created it in between: apply to theirs.
                    Err(error) if error.is_already_exists() => Err(Raced::Retry),
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn check_applied(applied: &Value) -> Result<(), ApiError> {
    if !object::list(applied, &["metadata", "managedFields"]).is_empty() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    for key in ["apiVersion", "kind"] {
        if object::text(applied, &[key]).is_empty() {
            return Err(ApiError::bad_request(format!("{key} must be set in an apply patch")));
        }
    }
    Ok(())
}
