//! The object as a whole: a secret's type and data, and the JSON document.

use serde_json::{Map, Value};

use super::code::Code;
use super::{Auths, Content, Findings, Home, has_helpers};
use crate::base64_go::{self, Padding};
use crate::config_file::{field, parse_config_json, parse_dockercfg};
use crate::{NodeFileKind, PullSecret, SecretKind};

/// Finds the bytes of a secret that count; findings if the kubelet would not read any.
pub(super) fn of_secret<'a>(
    secret: &'a PullSecret,
    findings: &mut Findings,
) -> Option<Content<'a>> {
    let Some(kind) = SecretKind::of_type(&secret.kind) else {
        let meant = [SecretKind::DockerConfigJson, SecretKind::DockerCfg]
            .into_iter()
            .find(|kind| secret.data.contains_key(kind.data_key()));
        let shown = if secret.kind.is_empty() { "Opaque" } else { &secret.kind };
        let (text, fix) = match meant {
            Some(kind) => (
                format!(
                    "its type is {shown}, so the kubelet ignores it in silence although it has \
                     the key {:?}",
                    kind.data_key()
                ),
                format!(
                    "delete it and create it again with type {}; the type of a secret cannot be \
                     changed",
                    kind.type_name()
                ),
            ),
            None => (
                format!("its type is {shown}, so the kubelet ignores it in silence"),
                "create it with kubectl create secret docker-registry".to_owned(),
            ),
        };
        findings.object(Code::WrongSecretType, text, fix);
        return None;
    };
    let Some(bytes) = secret.data.get(kind.data_key()).filter(|bytes| !bytes.is_empty()) else {
        let state = if secret.data.contains_key(kind.data_key()) { "is empty" } else { "missing" };
        let other = secret.data.keys().find(|key| key.as_str() != kind.data_key());
        let instead = other.map(|key| format!("; it has {key:?}")).unwrap_or_default();
        findings.object(
            Code::MissingDataKey,
            format!(
                "its type is {}, and the key {:?} that the kubelet reads is {state}{instead}",
                kind.type_name(),
                kind.data_key()
            ),
            format!("put the text under data[{:?}]", kind.data_key()),
        );
        return None;
    };
    let kind = match kind {
        SecretKind::DockerConfigJson => NodeFileKind::ConfigJson,
        SecretKind::DockerCfg => NodeFileKind::DockerCfg,
    };
    Some(Content { kind, bytes, home: Home::Secret })
}

/// Reads the document; its entries if there are any to look at.
pub(super) fn check(content: &Content<'_>, findings: &mut Findings) -> Option<Auths> {
    let text = String::from_utf8_lossy(content.bytes);
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => {
            findings.object(
                Code::ByteOrderMark,
                "it begins with a byte order mark, which the kubelet takes for a syntax error",
                "save it as UTF-8 without a byte order mark",
            );
            rest
        }
        None => &text,
    };
    let document = match serde_json::from_str(text) {
        Ok(Value::Object(document)) => document,
        Ok(Value::Null) => Map::new(),
        Ok(_) | Err(_) => {
            not_an_object(content, text, findings);
            return None;
        }
    };
    match content.kind {
        NodeFileKind::ConfigJson => of_config_json(content, &document, findings),
        NodeFileKind::DockerCfg => of_dockercfg(content, document, findings),
    }
}

fn not_an_object(content: &Content<'_>, text: &str, findings: &mut Findings) {
    if is_base64_of_object(text) {
        findings.object(
            Code::DoubleBase64,
            "it is encoded in base64 twice: decoded once it is still base64, not JSON",
            "encode it once: kubectl create secret does it, and stringData takes plain text",
        );
        return;
    }
    let error = match content.kind {
        NodeFileKind::ConfigJson => parse_config_json(content.bytes),
        NodeFileKind::DockerCfg => parse_dockercfg(content.bytes),
    };
    let reason = error.err().map(|error| error.to_string()).unwrap_or_default();
    let code = if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        Code::WrongShape
    } else {
        Code::NotJson
    };
    let consequence = match content.home {
        Home::File => "the kubelet skips the file and searches on in the next place",
        Home::Secret => "every pull of a pod that names it fails",
    };
    findings.object(
        code,
        format!("it is not {}: {reason}; {consequence}", content.format_name()),
        "write it anew, for instance with kubectl create secret docker-registry",
    );
}

fn is_base64_of_object(text: &str) -> bool {
    let text = text.trim();
    let padding = if text.ends_with('=') { Padding::Required } else { Padding::None };
    base64_go::decode(text.as_bytes(), padding)
        .is_ok_and(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).is_ok())
}

fn of_config_json(
    content: &Content<'_>,
    document: &Map<String, Value>,
    findings: &mut Findings,
) -> Option<Auths> {
    let has_helpers = has_helpers(document);
    let entries = match field(document, "auths") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(entries)) => entries.clone(),
        Some(_) => {
            let error = parse_config_json(content.bytes).err();
            let reason = error.map(|error| error.to_string()).unwrap_or_default();
            findings.object(
                Code::WrongShape,
                format!("\"auths\" is no JSON object: {reason}"),
                "\"auths\" maps registries to entries: {\"auths\":{\"registry.example.com\":{…}}}",
            );
            return None;
        }
    };
    if !entries.is_empty() {
        if has_helpers {
            findings.object(
                Code::HelpersIgnored,
                "credsStore and credHelpers are ignored by the kubelet; only \"auths\" counts",
                "nothing, if \"auths\" has a user and password for every registry",
            );
        }
        return Some(Auths { entries, has_helpers });
    }
    let hides = match content.home {
        Home::File => ", and as the first readable file it hides all that come after it",
        Home::Secret => "",
    };
    if has_helpers {
        findings.object(
            Code::HelpersOnly,
            format!(
                "it names credential helpers only (credsStore, credHelpers), which the kubelet \
                 never asks: it holds no credential for it{hides}"
            ),
            "put user and password in: kubectl create secret docker-registry, or log in with a \
             configuration without credsStore",
        );
    } else if document.values().any(looks_like_entry) {
        findings.object(
            Code::LegacyText,
            format!(
                "it is a bare map of registries, as .dockercfg has it, without \"auths\": the \
                 kubelet finds no entry in it{hides}"
            ),
            "wrap it: {\"auths\": …}; or use type kubernetes.io/dockercfg with the key .dockercfg",
        );
    } else {
        findings.object(
            Code::NoEntries,
            format!("it has no entries{hides}"),
            "add an entry under \"auths\", or remove it",
        );
    }
    None
}

fn of_dockercfg(
    content: &Content<'_>,
    document: Map<String, Value>,
    findings: &mut Findings,
) -> Option<Auths> {
    let is_config_json = field(&document, "auths").is_some_and(|auths| match auths {
        Value::Object(auths) => !looks_like_fields(auths),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            false
        }
    });
    if is_config_json {
        findings.object(
            Code::ConfigJsonText,
            "it is the text of a config.json: the kubelet takes \"auths\" for the name of a \
             registry and finds no other entry",
            match content.home {
                Home::File => "call the file config.json",
                Home::Secret => {
                    "create it again with type kubernetes.io/dockerconfigjson and the key \
                     .dockerconfigjson"
                }
            },
        );
        return None;
    }
    if document.is_empty() {
        findings.object(Code::NoEntries, "it has no entries", "add an entry, or remove it");
        return None;
    }
    Some(Auths { entries: document, has_helpers: false })
}

/// Whether a value is an entry rather than a setting.
fn looks_like_entry(value: &Value) -> bool {
    value.as_object().is_some_and(looks_like_fields)
}

fn looks_like_fields(map: &Map<String, Value>) -> bool {
    ["auth", "username", "password", "identitytoken"]
        .iter()
        .any(|name| field(map, name).is_some_and(Value::is_string))
}
