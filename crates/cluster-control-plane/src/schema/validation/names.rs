//! The grammars of names, keys and values, with upstream's texts (apimachinery `validation`).

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const PORT_NAME_MAX: usize = 15;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
    'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
    or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and \
    must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
    '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
    '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an \
    optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or \
    '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
    '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str = "a valid environment variable name must consist of alphabetic characters, \
    digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or \
    'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')";

/// What a grammar says about a text: nothing, or why not.
pub(super) type Complaints = Vec<String>;

fn too_long(characters_max: usize) -> String {
    format!("must be no more than {characters_max} characters")
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

fn is_name_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    ends && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A DNS-1123 subdomain: most names.
pub(super) fn subdomain(text: &str) -> Complaints {
    let mut complaints = Vec::new();
    if SUBDOMAIN_MAX < text.len() {
        complaints.push(too_long(SUBDOMAIN_MAX));
    }
    if !text.split('.').all(is_label_text) {
        complaints.push(SUBDOMAIN.to_owned());
    }
    complaints
}

/// A DNS-1123 label: namespaces, containers, volumes.
pub(super) fn label(text: &str) -> Complaints {
    let mut complaints = Vec::new();
    if LABEL_MAX < text.len() {
        complaints.push(too_long(LABEL_MAX));
    }
    if !is_label_text(text) {
        complaints.push(LABEL.to_owned());
    }
    complaints
}

/// A label or annotation key, a finalizer.
pub(super) fn qualified(text: &str) -> Complaints {
    let mut complaints = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                complaints.push("prefix part must be non-empty".to_owned());
            } else {
                complaints.extend(
                    subdomain(prefix).into_iter().map(|text| format!("prefix part {text}")),
                );
            }
            *name
        }
        _ => return vec![QUALIFIED.to_owned()],
    };
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_owned());
    } else if LABEL_MAX < name.len() {
        complaints.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_name_text(name) {
        complaints.push(NAME_PART.to_owned());
    }
    complaints
}

/// A label's value.
pub(super) fn label_value(text: &str) -> Complaints {
    let mut complaints = Vec::new();
    if LABEL_MAX < text.len() {
        complaints.push(too_long(LABEL_MAX));
    }
    if !text.is_empty() && !is_name_text(text) {
        complaints.push(LABEL_VALUE.to_owned());
    }
    complaints
}

/// A key of a ConfigMap or Secret.
pub(super) fn config_key(text: &str) -> Complaints {
    let mut complaints = Vec::new();
    if SUBDOMAIN_MAX < text.len() {
        complaints.push(too_long(SUBDOMAIN_MAX));
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || !text.bytes().all(known) {
        complaints.push(CONFIG_KEY.to_owned());
    }
    complaints.extend(dots(text));
    complaints
}

fn dots(text: &str) -> Option<String> {
    match text {
        "." | ".." => Some(format!("must not be '{text}'")),
        text if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an environment variable.
pub(super) fn environment(text: &str) -> Complaints {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let starts = text.bytes().next().is_some_and(|byte| known(byte) && !byte.is_ascii_digit());
    let mut complaints = Vec::new();
    if !starts || !text.bytes().all(known) {
        complaints.push(ENV_NAME.to_owned());
    }
    complaints.extend(dots(text));
    complaints
}

/// The name of a port.
pub(super) fn port_name(text: &str) -> Complaints {
    let mut complaints = Vec::new();
    if PORT_NAME_MAX < text.len() {
        complaints.push(too_long(PORT_NAME_MAX));
    }
    if !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        complaints.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        complaints.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        complaints.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        complaints.push("must not begin or end with a hyphen".to_owned());
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    // mini-kubernetes.md 14, row 20.
    #[test]
    fn name_grammars_accept_and_refuse_as_upstream() {
        let long = |count: usize| "a".repeat(count);
        type Row = (fn(&str) -> Complaints, &'static str, Vec<String>, Vec<String>);
        let rows: [Row; 6] = [
            (
                subdomain,
                "subdomain",
                vec!["a".into(), "a.b-c".into(), "0".into(), long(253)],
                vec![
                    "".into(),
                    "A".into(),
                    "a-".into(),
                    ".a".into(),
                    "a..b".into(),
                    "a_b".into(),
                    long(254),
                ],
            ),
            (
                label,
                "label",
                vec!["a".into(), "a-0".into(), long(63)],
                vec!["".into(), "a.b".into(), "-a".into(), "a-".into(), long(64)],
            ),
            (
                qualified,
                "qualified",
                vec!["a".into(), "A_b.c".into(), "example.com/x".into(), format!("a/{}", long(63))],
                vec![
                    "".into(),
                    "/a".into(),
                    "a/".into(),
                    "a/b/c".into(),
                    "Ex/a".into(),
                    long(64),
                    "-a".into(),
                ],
            ),
            (
                label_value,
                "value",
                vec!["".into(), "a".into(), "A.b_c".into()],
                vec!["-".into(), "a b".into(), long(64)],
            ),
            (
                config_key,
                "key",
                vec![".dockerconfigjson".into(), "a-B_c.d".into(), "-".into()],
                vec!["".into(), ".".into(), "..".into(), "..a".into(), "a/b".into(), long(254)],
            ),
            (
                environment,
                "env",
                vec!["A".into(), "_a".into(), "my.env-name".into()],
                vec!["".into(), "1a".into(), "a b".into(), "a=b".into(), "..".into()],
            ),
        ];
        for (grammar, name, good, bad) in rows {
            for text in good {
                assert_eq!(grammar(&text), Complaints::new(), "{name} {text}");
            }
            for text in bad {
                assert!(!grammar(&text).is_empty(), "{name} {text}");
            }
        }
        assert!(port_name("http").is_empty() && !port_name("80").is_empty());
    }
}
