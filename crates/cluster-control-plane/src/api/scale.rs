//! The `scale` subresource: `autoscaling/v1 Scale` over a kind with replicas.

use std::sync::Arc;

use serde_json::{Value, json};

use super::create::Ownership;
use super::{Api, Caller, Raced, Target, WRITE_ATTEMPTS_MAX, WriteOptions, metadata};
use crate::error::ApiError;
use crate::object;

impl Api {
    /// Reads the `Scale` of an object.
    ///
    /// # Errors
    /// 404 when the object does not exist.
    pub fn scale(&self, target: &Target<'_>) -> Result<Arc<Value>, ApiError> {
        let current = self.stored(target.resource, target.namespace, target.name)?;
        Ok(Arc::new(view(&current)))
    }

    pub(super) async fn update_scale(
        self: &Arc<Self>,
        caller: &Caller,
        target: &Target<'_>,
        body: &Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let current = self.stored(target.resource, target.namespace, target.name)?;
            metadata::check_identity(target.resource, body, &current)?;
            let written = self
                .replace(caller, target, &current, body.clone(), Ownership::Record, options)
                .await;
            match written {
                Ok(stored) => return Ok(Arc::new(view(&stored))),
                Err(Raced::Refused(error)) => return Err(error),
                Err(Raced::Retry) => {}
            }
        }
        Err(ApiError::modified(target.resource, target.name))
    }
}

/// The `Scale` of an object.
pub(super) fn view(object: &Value) -> Value {
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[key] = object["metadata"][key].clone();
    }
    let replicas = object::integer(object, &["spec", "replicas"]).unwrap_or(0);
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": replicas},
        "status": {
            "replicas": object::integer(object, &["status", "replicas"]).unwrap_or(0),
            "selector": selector_text(object),
        },
    })
}

/// The object with the replicas of a `Scale`.
pub(super) fn applied(current: &Value, scale: &Value) -> Value {
    let mut new = current.clone();
    let replicas = object::at(scale, &["spec", "replicas"]).cloned().unwrap_or_else(|| json!(0));
    object::set(&mut new, &["spec", "replicas"], replicas);
    new
}

/// The object's pod selector in query form.
fn selector_text(object: &Value) -> String {
    let selector = object::at(object, &["spec", "selector"]);
    let labels = selector.and_then(|selector| {
        // A ReplicationController's selector is the map itself.
        object::map(selector, &["matchLabels"]).or_else(|| selector.as_object())
    });
    let terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| value.as_str().map(|value| format!("{key}={value}")))
        .collect();
    terms.join(",")
}
