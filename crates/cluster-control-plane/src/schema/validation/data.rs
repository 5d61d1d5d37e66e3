//! Secrets and ConfigMaps.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{Errors, go_json, names};
use crate::error::FieldError;
use crate::object;

/// Most bytes of data in one object.
const DATA_BYTES_MAX: usize = 1024 * 1024;
/// What stands in a message instead of a secret.
const REDACTED: &str = "<secret contents redacted>";

/// Validates a Secret (kubelet-images.md 5.1).
pub(super) fn secret(errors: &mut Errors, new: &Value, old: Option<&Value>) {
    let mut bytes = 0;
    for (key, value) in entries(new, "data") {
        errors.grammar(&format!("data[{key}]"), key, names::config_key(key));
        bytes += decoded(value).len();
    }
    if DATA_BYTES_MAX < bytes {
        errors.add(FieldError::too_long("data", DATA_BYTES_MAX));
    }
    let value = |key: &str| object::at(new, &["data", key]).map(decoded);
    match object::text(new, &["type"]) {
        "kubernetes.io/dockerconfigjson" => {
            docker(errors, ".dockerconfigjson", value(".dockerconfigjson"))
        }
        "kubernetes.io/dockercfg" => docker(errors, ".dockercfg", value(".dockercfg")),
        "kubernetes.io/basic-auth"
            if value("username").is_none() && value("password").is_none() =>
        {
            errors.required("data[username]", "");
            errors.required("data[password]", "");
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(|key| key.is_empty()) => {
            errors.required("data[ssh-privatekey]", "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if value(key).is_none() {
                    errors.required(format!("data[{key}]"), "");
                }
            }
        }
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if object::annotation(new, key).is_none_or(str::is_empty) {
                errors.required(format!("metadata.annotations[{key}]"), "");
            }
        }
        _ => {}
    }
    if let Some(old) = old {
        if object::text(new, &["type"]) != object::text(old, &["type"]) {
            errors.invalid("type", object::text(new, &["type"]), super::IMMUTABLE);
        }
        frozen(errors, new, old, &["data"]);
    }
}

fn docker(errors: &mut Errors, key: &str, value: Option<Vec<u8>>) {
    let path = format!("data[{key}]");
    let Some(bytes) = value else {
        errors.required(path, "");
        return;
    };
    if let Some(error) = go_json::object_error(&String::from_utf8_lossy(&bytes)) {
        errors.invalid(path, REDACTED, &error);
    }
}

/// Validates a ConfigMap.
pub(super) fn config_map(errors: &mut Errors, new: &Value, old: Option<&Value>) {
    let mut bytes = 0;
    for (key, value) in entries(new, "data") {
        let path = format!("data[{key}]");
        errors.grammar(&path, key, names::config_key(key));
        if object::at(new, &["binaryData", key]).is_some() {
            errors.invalid(path, key.as_str(), "duplicate of key present in binaryData");
        }
        bytes += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(new, "binaryData") {
        errors.grammar(&format!("binaryData[{key}]"), key, names::config_key(key));
        bytes += decoded(value).len();
    }
    if DATA_BYTES_MAX < bytes {
        errors.add(FieldError::too_long("", DATA_BYTES_MAX));
    }
    if let Some(old) = old {
        frozen(errors, new, old, &["data", "binaryData"]);
    }
}

/// What `immutable: true` forbids.
fn frozen(errors: &mut Errors, new: &Value, old: &Value, keys: &[&str]) {
    const TEXT: &str = "field is immutable when `immutable` is set";
    let is_frozen = |object: &Value| object.get("immutable") == Some(&Value::Bool(true));
    if !is_frozen(old) {
        return;
    }
    if !is_frozen(new) {
        errors.forbidden("immutable", TEXT);
    }
    for key in keys {
        let empty = Map::new();
        let of = |object: &Value| object::map(object, &[key]).unwrap_or(&empty).clone();
        if of(new) != of(old) {
            errors.forbidden(*key, TEXT);
        }
    }
}

fn entries<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object::map(object, &[key]).into_iter().flatten()
}

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}
