//! Claims, volumes and storage classes.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::{Errors, IMMUTABLE, difference, names};
use crate::error::FieldError;
use crate::object;
use crate::schema::quantity::Quantity;

const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

fn access_modes(errors: &mut Errors, object: &Value) {
    let modes = object::list(object, &["spec", "accessModes"]);
    if modes.is_empty() {
        errors.required("spec.accessModes", "at least 1 access mode is required");
    }
    for mode in modes.iter().filter_map(Value::as_str) {
        if !ACCESS_MODES.contains(&mode) {
            errors.add(FieldError::not_supported("spec.accessModes", &mode.into(), &ACCESS_MODES));
        }
    }
    let single = modes.iter().any(|mode| mode.as_str() == Some("ReadWriteOncePod"));
    if single && 1 < modes.len() {
        let text = "may not use ReadWriteOncePod with other access modes";
        errors.forbidden("spec.accessModes", text);
    }
}

fn volume_mode(errors: &mut Errors, object: &Value) {
    let mode = object::text(object, &["spec", "volumeMode"]);
    if !mode.is_empty() && !VOLUME_MODES.contains(&mode) {
        errors.add(FieldError::not_supported("spec.volumeMode", &mode.into(), &VOLUME_MODES));
    }
}

/// Validates a PersistentVolumeClaim.
pub(super) fn claim(errors: &mut Errors, new: &Value, old: Option<&Value>) {
    access_modes(errors, new);
    volume_mode(errors, new);
    let path = ["spec", "resources", "requests", "storage"];
    match object::at(new, &path).and_then(Value::as_str).map(Quantity::parse) {
        None => errors.required("spec.resources[storage]", ""),
        Some(None) => {}
        Some(Some(amount)) if amount.is_zero() || amount.is_negative() => {
            let text = "must be greater than zero";
            errors.invalid("spec.resources[storage]", amount.canonical(), text);
        }
        Some(Some(_)) => {}
    }
    let class = object::text(new, &["spec", "storageClassName"]);
    if !class.is_empty() {
        errors.grammar("spec.storageClassName", class, names::subdomain(class));
    }
    if let Some(old) = old {
        claim_update(errors, new, old);
    }
}

fn claim_update(errors: &mut Errors, new: &Value, old: &Value) {
    let amount = |claim: &Value, path: &[&str]| Quantity::parse(object::text(claim, path));
    let request = ["spec", "resources", "requests", "storage"];
    let bound = !object::text(old, &["spec", "volumeName"]).is_empty();
    let mut munged = new.get("spec").cloned().unwrap_or_default();
    let was = old.get("spec").cloned().unwrap_or_default();
    let restore = |munged: &mut Value, path: &[&str]| match object::at(&was, path) {
        Some(value) => object::set(munged, path, value.clone()),
        None => drop(object::remove(munged, path)),
    };
    if !bound {
        restore(&mut munged, &["volumeName"]);
    }
    // A claim that had no class may be given one, as when a default class appears.
    if was.get("storageClassName").is_none() {
        restore(&mut munged, &["storageClassName"]);
    }
    restore(&mut munged, &["volumeAttributesClassName"]);
    if object::text(old, &["status", "phase"]) == "Bound" {
        if let (Some(is), Some(was)) = (amount(new, &request), amount(old, &request))
            && is.compare(was) == Ordering::Less
        {
            let text = "field can not be less than status.capacity";
            errors.forbidden("spec.resources.requests.storage", text);
        }
        restore(&mut munged, &["resources", "requests", "storage"]);
    }
    if munged != was {
        let lines = difference("spec", Some(&was), Some(&munged));
        let text = format!(
            "spec is immutable after creation except resources.requests and \
             volumeAttributesClassName for bound claims{lines}"
        );
        errors.forbidden("spec", &text);
    }
}

/// Validates a PersistentVolume.
pub(super) fn volume(errors: &mut Errors, new: &Value) {
    access_modes(errors, new);
    volume_mode(errors, new);
    match object::at(new, &["spec", "capacity", "storage"]).and_then(Value::as_str) {
        None => errors.required("spec.capacity", ""),
        Some(text) => {
            if Quantity::parse(text).is_none_or(|amount| amount.is_zero() || amount.is_negative()) {
                errors.invalid("spec.capacity[storage]", text, "must be greater than zero");
            }
        }
    }
    let sources = ["hostPath", "local", "nfs", "csi", "iscsi", "fc", "rbd", "cephfs"];
    let set: Vec<&str> =
        sources.into_iter().filter(|source| object::at(new, &["spec", source]).is_some()).collect();
    if set.is_empty() {
        errors.required("spec", "must specify a volume type");
    }
    for extra in set.iter().skip(1) {
        errors.forbidden(format!("spec.{extra}"), "may not specify more than 1 volume type");
    }
    for source in ["hostPath", "local"] {
        let path = object::at(new, &["spec", source]).map(|source| object::text(source, &["path"]));
        match path {
            Some("") => errors.required(format!("spec.{source}.path"), ""),
            Some(path) if path.split('/').any(|part| part == "..") => {
                errors.invalid(format!("spec.{source}.path"), path, "must not contain '..'");
            }
            Some(_) | None => {}
        }
    }
    if set.contains(&"local") && object::at(new, &["spec", "nodeAffinity"]).is_none() {
        errors.required("spec.nodeAffinity", "Local volume requires node affinity");
    }
    let policy = object::text(new, &["spec", "persistentVolumeReclaimPolicy"]);
    let words = ["Delete", "Recycle", "Retain"];
    errors.one_of("spec.persistentVolumeReclaimPolicy", policy, &words);
}

/// Validates a StorageClass.
pub(super) fn class(errors: &mut Errors, new: &Value, old: Option<&Value>) {
    if object::text(new, &["provisioner"]).is_empty() {
        errors.required("provisioner", "");
    }
    let policy = object::text(new, &["reclaimPolicy"]);
    errors.one_of("reclaimPolicy", policy, &["Delete", "Retain"]);
    let mode = object::text(new, &["volumeBindingMode"]);
    errors.one_of("volumeBindingMode", mode, &["Immediate", "WaitForFirstConsumer"]);
    let Some(old) = old else { return };
    for key in ["parameters", "provisioner", "reclaimPolicy"] {
        if new.get(key) != old.get(key) {
            errors.forbidden(key, &format!("updates to {key} are forbidden."));
        }
    }
    if mode != object::text(old, &["volumeBindingMode"]) {
        errors.invalid("volumeBindingMode", json!(mode), IMMUTABLE);
    }
}
