//! One entry: user, password, `auth`, tokens.

use serde_json::{Map, Value};

use super::code::Code;
use super::{Findings, key};
use crate::RegistryAuth;
use crate::base64_go::{self, CorruptInput, Padding};
use crate::config_file::{ConfigFileError, decode_auth, field, read_entry};

/// Checks an entry; whether the kubelet can read it.
pub(super) fn check(
    written: &str,
    value: &Value,
    has_helpers: bool,
    findings: &mut Findings,
) -> bool {
    let empty = Map::new();
    let map = value.as_object().unwrap_or(&empty);
    let text = |name: &str| field(map, name).and_then(Value::as_str).unwrap_or_default();
    match read_entry(value) {
        Err(error) => {
            malformed(written, &error, text("auth"), findings);
            false
        }
        Ok(auth) => {
            readable(written, &auth, has_helpers, map, findings);
            true
        }
    }
}

fn malformed(written: &str, error: &ConfigFileError, auth: &str, findings: &mut Findings) {
    const ENCODE: &str = "printf %s 'USER:PASSWORD' | base64 -w0";
    let shown = key::shown(written);
    match error {
        ConfigFileError::Base64(CorruptInput(at)) => {
            let why = match auth.as_bytes().get(*at) {
                _ if auth.contains(':') => "it looks like user:password that was not encoded",
                Some(b'-' | b'_') => "it is of the URL-safe alphabet, which the kubelet refuses",
                Some(b' ' | b'\t') => "there is a blank",
                Some(b'=') => "the padding is wrong",
                Some(_) => "no base64 stands there",
                None => "it is cut off",
            };
            findings.entry(
                Code::AuthNotBase64,
                written,
                format!("\"auth\" of {shown:?} is not base64 at byte {at}: {why}"),
                ENCODE,
            );
        }
        ConfigFileError::NoColon if is_base64_of_pair(auth) => findings.entry(
            Code::AuthDoubleBase64,
            written,
            format!("\"auth\" of {shown:?} is encoded in base64 twice"),
            format!("encode it once: {ENCODE}"),
        ),
        ConfigFileError::NoColon => findings.entry(
            Code::AuthWithoutColon,
            written,
            format!("\"auth\" of {shown:?} has no colon once decoded: it is no user:password"),
            ENCODE,
        ),
        ConfigFileError::Shape { .. } | ConfigFileError::Syntax(_) => findings.entry(
            Code::WrongValueType,
            written,
            format!("entry {shown:?} has a value of the wrong type: {error}"),
            "username, password, email and auth are strings",
        ),
    }
}

/// Whether `auth` decodes to base64 of `user:password`.
fn is_base64_of_pair(auth: &str) -> bool {
    let padding = |text: &[u8]| {
        if text.trim_ascii().ends_with(b"=") { Padding::Required } else { Padding::None }
    };
    base64_go::decode(auth.as_bytes(), padding(auth.as_bytes()))
        .ok()
        .and_then(|once| String::from_utf8(once).ok())
        .is_some_and(|once| decode_auth(once.trim()).is_ok())
}

fn readable(
    written: &str,
    auth: &RegistryAuth,
    has_helpers: bool,
    map: &Map<String, Value>,
    findings: &mut Findings,
) {
    let RegistryAuth::Basic { username, password, .. } = auth else { return };
    let shown = key::shown(written);
    let text = |name: &str| field(map, name).and_then(Value::as_str).unwrap_or_default();
    let mut has_token = false;
    for (name, code) in [
        ("identitytoken", Code::IdentityTokenIgnored),
        ("registrytoken", Code::RegistryTokenIgnored),
    ] {
        if !text(name).is_empty() {
            has_token = true;
            findings.entry(
                code,
                written,
                format!(
                    "the kubelet ignores \"{name}\" of {shown:?} and tries the user and password \
                     beside it{}",
                    if password.is_empty() { ", which are empty" } else { "" }
                ),
                "log in with a user and a password or access token instead",
            );
        }
    }
    match (username.is_empty(), password.is_empty()) {
        (true, true) if !has_token => findings.entry(
            Code::EmptyEntry,
            written,
            format!(
                "entry {shown:?} is empty{}: the kubelet tries an empty user and password, and \
                 then no anonymous pull, not even of a public image",
                if has_helpers { ", as docker writes it beside a helper" } else { "" }
            ),
            "give it a user and a password, or remove it",
        ),
        (false, true) if !has_token => findings.entry(
            Code::EmptyPassword,
            written,
            format!("entry {shown:?} has a user and no password"),
            "give it a password",
        ),
        (true, false) => findings.entry(
            Code::EmptyUserName,
            written,
            format!("entry {shown:?} has a password and no user"),
            "give it a user name; registries that take any user still want one",
        ),
        (true | false, _) => {}
    }
    let has_margin = |text: &str| text.trim() != text;
    if password.satisfies(|text| text.ends_with(['\n', '\r'])) {
        findings.entry(
            Code::AuthTrailingNewline,
            written,
            format!("the password of {shown:?} ends with a line break, as echo adds one"),
            "encode without it: printf %s 'USER:PASSWORD' | base64 -w0",
        );
    } else if password.satisfies(has_margin) || has_margin(username) {
        findings.entry(
            Code::AuthTrailingNewline,
            written,
            format!("user or password of {shown:?} begins or ends with a blank"),
            "remove it, unless it belongs to the password",
        );
    }
    let overridden = |written: &str, used: &str| !written.is_empty() && written != used;
    if !text("auth").is_empty()
        && (overridden(text("username"), username)
            || password.satisfies(|used| overridden(text("password"), used)))
    {
        findings.entry(
            Code::AuthOverridesFields,
            written,
            format!(
                "\"auth\" of {shown:?} differs from \"username\" and \"password\" beside it, \
                 and \"auth\" wins"
            ),
            "remove \"auth\", or make them agree",
        );
    }
}
