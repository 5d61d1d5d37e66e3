//! What makes an object invalid, with upstream's field paths and texts.

mod containers;
mod data;
mod ephemeral;
mod go_json;
mod metadata;
mod names;
mod pods;
mod storage;
mod volumes;
mod workloads;

use serde_json::Value;

use crate::error::FieldError;
use crate::object;
use crate::resources::Resource;

/// What a field that must not change says.
const IMMUTABLE: &str = "field is immutable";

/// Collects broken rules.
#[derive(Debug, Default)]
struct Errors {
    list: Vec<FieldError>,
}

impl Errors {
    fn add(&mut self, error: FieldError) {
        self.list.push(error);
    }

    fn required(&mut self, path: impl Into<String>, detail: &str) {
        self.add(FieldError::required(path, detail));
    }

    fn invalid(&mut self, path: impl Into<String>, value: impl Into<Value>, detail: &str) {
        self.add(FieldError::invalid(path, &value.into(), detail));
    }

    fn forbidden(&mut self, path: impl Into<String>, detail: &str) {
        self.add(FieldError::forbidden(path, detail));
    }

    /// Each complaint of a grammar about a text.
    fn grammar(&mut self, path: &str, text: &str, complaints: names::Complaints) {
        for complaint in complaints {
            self.invalid(path, text, &complaint);
        }
    }

    /// One of a few words; an empty one is required.
    fn one_of(&mut self, path: &str, text: &str, words: &[&str]) {
        if text.is_empty() {
            self.required(path, "");
        } else if !words.contains(&text) {
            self.add(FieldError::not_supported(path, &text.into(), words));
        }
    }

    /// Integers of an object that must not be negative.
    fn not_negative(&mut self, path: &str, object: &Value, keys: &[&str]) {
        for key in keys {
            if let Some(number) = object::integer(object, &[key])
                && number < 0
            {
                self.invalid(format!("{path}.{key}"), number, "must be greater than or equal to 0");
            }
        }
    }

    /// A field that an update must leave alone.
    fn immutable(&mut self, path: &str, new: &Value, old: &Value) {
        let keys: Vec<&str> = path.split('.').collect();
        let (is, was) = (object::at(new, &keys), object::at(old, &keys));
        if is != was {
            self.invalid(path, is.cloned().unwrap_or_default(), IMMUTABLE);
        }
    }
}

/// Every broken rule of an object; `old` is the state an update starts from.
pub(super) fn validate(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if resource.kind == "Event" {
        return errors.list;
    }
    metadata::validate(&mut errors, resource, new);
    match (resource.group, resource.kind) {
        ("", "Pod") => pods::validate(&mut errors, new, old),
        ("", "Secret") => data::secret(&mut errors, new, old),
        ("", "ConfigMap") => data::config_map(&mut errors, new, old),
        ("", "PersistentVolumeClaim") => storage::claim(&mut errors, new, old),
        ("", "PersistentVolume") => storage::volume(&mut errors, new),
        ("storage.k8s.io", "StorageClass") => storage::class(&mut errors, new, old),
        ("", "ReplicationController") => workloads::replication_controller(&mut errors, new),
        ("apps", "ReplicaSet") => workloads::replica_set(&mut errors, new, old),
        ("apps", "Deployment") => workloads::deployment(&mut errors, new, old),
        ("batch", "Job") => workloads::job(&mut errors, new, old),
        ("coordination.k8s.io", "Lease") => {
            if let Some(seconds) = object::integer(new, &["spec", "leaseDurationSeconds"])
                && seconds <= 0
            {
                errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
            }
        }
        _ => {}
    }
    errors.list
}

/// Every rule that a write of a pod's ephemeral containers breaks.
pub(super) fn validate_ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    ephemeral::update(&mut errors, new, old);
    errors.list
}

/// What changed between two values, as lines for people; upstream appends a diff here too.
fn difference(path: &str, old: Option<&Value>, new: Option<&Value>) -> String {
    match (old, new) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.into_iter()
                .map(|key| difference(&format!("{path}.{key}"), a.get(key), b.get(key)))
                .collect()
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs
                .map(|(at, (a, b))| difference(&format!("{path}[{at}]"), Some(a), Some(b)))
                .collect()
        }
        (a, b) if a == b => String::new(),
        (a, b) => {
            let line = |sign: char, value: Option<&Value>| {
                value.map_or_else(String::new, |value| format!("\n{sign} {path}: {value}"))
            };
            format!("{}{}", line('-', a), line('+', b))
        }
    }
}

#[cfg(test)]
mod tests;
