//! Volumes of pods and templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers::{POLICIES, relative};
use super::pods::Owner;
use super::{Errors, names};
use crate::error::FieldError;
use crate::object;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
/// Largest file mode.
const MODE_MAX: i64 = 0o777;

/// Validates a pod's volumes.
pub(super) fn list(errors: &mut Errors, path: &str, volumes: &[Value], owner: Owner) {
    let mut seen = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = object::text(volume, &["name"]);
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else {
            errors.grammar(&format!("{path}.name"), name, names::label(name));
            if !seen.insert(name) {
                errors.add(FieldError::duplicate(format!("{path}.name"), &name.into()));
            }
        }
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key)
            .collect();
        if sources.is_empty() {
            errors.required(path.clone(), "must specify a volume type");
        }
        for extra in sources.iter().skip(1) {
            errors.forbidden(format!("{path}.{extra}"), "may not specify more than 1 volume type");
        }
        for source in sources.into_iter().take(1) {
            one(errors, &format!("{path}.{source}"), source, &volume[source.as_str()], owner);
        }
    }
}

fn one(errors: &mut Errors, path: &str, kind: &str, source: &Value, owner: Owner) {
    let need = |errors: &mut Errors, key: &str| {
        if object::text(source, &[key]).is_empty() {
            errors.required(format!("{path}.{key}"), "");
        }
    };
    match kind {
        "secret" => {
            need(errors, "secretName");
            files(errors, path, source);
        }
        "configMap" => {
            need(errors, "name");
            files(errors, path, source);
        }
        "downwardAPI" => downward(errors, path, source),
        "persistentVolumeClaim" => need(errors, "claimName"),
        "image" => {
            if owner == Owner::Pod {
                need(errors, "reference");
            }
            let policy = object::text(source, &["pullPolicy"]);
            errors.one_of(&format!("{path}.pullPolicy"), policy, &POLICIES);
        }
        "hostPath" => {
            need(errors, "path");
            let place = object::text(source, &["path"]);
            if place.split('/').any(|part| part == "..") {
                errors.invalid(format!("{path}.path"), place, "must not contain '..'");
            }
            let kind = object::text(source, &["type"]);
            if !HOST_PATH_TYPES.contains(&kind) {
                let field = format!("{path}.type");
                errors.add(FieldError::not_supported(field, &kind.into(), &HOST_PATH_TYPES));
            }
        }
        "projected" => projected(errors, path, source),
        _ => {}
    }
}

fn projected(errors: &mut Errors, path: &str, source: &Value) {
    mode(errors, &format!("{path}.defaultMode"), object::integer(source, &["defaultMode"]));
    for (index, source) in object::list(source, &["sources"]).iter().enumerate() {
        let path = format!("{path}.sources[{index}]");
        let kinds =
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle"];
        let set: Vec<&str> =
            kinds.into_iter().filter(|kind| object::at(source, &[kind]).is_some()).collect();
        if 1 < set.len() {
            errors.forbidden(path.clone(), "may not specify more than 1 volume type per source");
        }
        for kind in set {
            let (path, value) = (format!("{path}.{kind}"), &source[kind]);
            match kind {
                "secret" | "configMap" => {
                    if object::text(value, &["name"]).is_empty() {
                        errors.required(format!("{path}.name"), "");
                    }
                    files(errors, &path, value);
                }
                "downwardAPI" => downward(errors, &path, value),
                "serviceAccountToken" => {
                    let seconds = object::integer(value, &["expirationSeconds"]).unwrap_or(3600);
                    let field = format!("{path}.expirationSeconds");
                    if seconds < 600 {
                        errors.invalid(
                            field,
                            seconds,
                            "may not specify a duration less than 10 minutes",
                        );
                    } else if u32::try_from(seconds).is_err() {
                        errors.invalid(
                            field,
                            seconds,
                            "may not specify a duration larger than 2^32 seconds",
                        );
                    }
                    if object::text(value, &["path"]).is_empty() {
                        errors.required(format!("{path}.path"), "");
                    }
                }
                _ => {}
            }
        }
    }
}

fn downward(errors: &mut Errors, path: &str, source: &Value) {
    files_of(errors, path, source, &["path"]);
}

fn files(errors: &mut Errors, path: &str, source: &Value) {
    files_of(errors, path, source, &["key", "path"]);
}

fn files_of(errors: &mut Errors, path: &str, source: &Value, needed: &[&str]) {
    mode(errors, &format!("{path}.defaultMode"), object::integer(source, &["defaultMode"]));
    for (index, item) in object::list(source, &["items"]).iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        for key in needed {
            if object::text(item, &[key]).is_empty() {
                errors.required(format!("{path}.{key}"), "");
            }
        }
        relative(errors, &format!("{path}.path"), object::text(item, &["path"]));
        mode(errors, &format!("{path}.mode"), object::integer(item, &["mode"]));
    }
}

fn mode(errors: &mut Errors, path: &str, mode: Option<i64>) {
    if let Some(mode) = mode
        && !(0..=MODE_MAX).contains(&mode)
    {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
