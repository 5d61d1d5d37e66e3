//! `config.json` and `.dockercfg` as the kubelet reads them (kubelet `credentialprovider`):
//! no helpers, no tokens, Go's JSON rules.

use serde_json::{Map, Value};

use crate::base64_go::{self, Padding};
use crate::{RegistryAuth, Secret};

/// One registry entry of a file, under the key as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key as written, such as `https://registry.example.com/v2/`.
    pub key: String,
    /// What the entry holds; an empty entry is a credential with empty user and password.
    pub auth: RegistryAuth,
}

/// Why a file or secret could not be read; the texts are Go's, which the kubelet shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFileError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// JSON of the wrong shape.
    #[error("json: cannot unmarshal {found} into Go {place} of type {wanted}")]
    Shape {
        /// What stands there, in Go's words.
        found: &'static str,
        /// Where, in Go's words.
        place: String,
        /// What should stand there, in Go's words.
        wanted: &'static str,
    },
    /// An `auth` value is not base64.
    #[error("{0}")]
    Base64(#[from] base64_go::CorruptInput),
    /// An `auth` value has no colon.
    #[error("unable to parse auth field, must be formatted as base64(username:password)")]
    NoColon,
}

/// Reads `config.json` or the value of `.dockerconfigjson`; `credsStore`, tokens and unknown keys
/// are ignored, as the kubelet does.
///
/// # Errors
/// The first malformed entry fails the whole file.
pub fn parse_config_json(bytes: &[u8]) -> Result<Vec<ConfigEntry>, ConfigFileError> {
    let document = parse_object(bytes, "value", "credentialprovider.DockerConfigJSON")?;
    match field(&document, "auths") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(auths)) => entries(auths),
        Some(other) => Err(ConfigFileError::Shape {
            found: kind_of(other),
            place: "struct field DockerConfigJSON.auths".to_owned(),
            wanted: "credentialprovider.DockerConfig",
        }),
    }
}

/// Reads `.dockercfg` or the value of a `.dockercfg` secret: a bare map of entries.
///
/// # Errors
/// The first malformed entry fails the whole file.
pub fn parse_dockercfg(bytes: &[u8]) -> Result<Vec<ConfigEntry>, ConfigFileError> {
    entries(&parse_object(bytes, "value", "credentialprovider.DockerConfig")?)
}

fn parse_object(
    bytes: &[u8],
    place: &str,
    wanted: &'static str,
) -> Result<Map<String, Value>, ConfigFileError> {
    // Go takes bytes that are no UTF-8 for U+FFFD, one each, and goes on.
    match serde_json::from_str(&String::from_utf8_lossy(bytes)) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(other) => {
            Err(ConfigFileError::Shape { found: kind_of(&other), place: place.to_owned(), wanted })
        }
        Err(error) => Err(ConfigFileError::Syntax(go_syntax_text(bytes, &error))),
    }
}

fn entries(auths: &Map<String, Value>) -> Result<Vec<ConfigEntry>, ConfigFileError> {
    auths
        .iter()
        .map(|(key, value)| Ok(ConfigEntry { key: key.clone(), auth: read_entry(value)? }))
        .collect()
}

/// One entry as the kubelet reads it.
pub(crate) fn read_entry(value: &Value) -> Result<RegistryAuth, ConfigFileError> {
    let empty = Map::new();
    let map = match value {
        Value::Object(map) => map,
        Value::Null => &empty,
        other => {
            return Err(ConfigFileError::Shape {
                found: kind_of(other),
                place: "value".to_owned(),
                wanted: "credentialprovider.dockerConfigEntryWithAuth",
            });
        }
    };
    let text = |name: &str| match field(map, name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(ConfigFileError::Shape {
            found: kind_of(other),
            place: format!("struct field dockerConfigEntryWithAuth.{name}"),
            wanted: "string",
        }),
    };
    let (mut username, mut password) = (text("username")?, text("password")?);
    let (email, auth) = (text("email")?, text("auth")?);
    if !auth.is_empty() {
        (username, password) = decode_auth(&auth)?;
    }
    Ok(RegistryAuth::Basic { username, password: Secret::new(password), email })
}

/// Decodes `base64(username:password)`; split at the first colon.
pub(crate) fn decode_auth(auth: &str) -> Result<(String, String), ConfigFileError> {
    let padding = if auth.trim().ends_with('=') { Padding::Required } else { Padding::None };
    let decoded = base64_go::decode(auth.as_bytes(), padding)?;
    let text = String::from_utf8_lossy(&decoded);
    let (username, password) = text.split_once(':').ok_or(ConfigFileError::NoColon)?;
    Ok((username.to_owned(), password.to_owned()))
}

/// A field by Go's rule: the exact name, else the same name in other case.
pub(crate) fn field<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.get(name).or_else(|| {
        map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    })
}

pub(crate) const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Go's text for the mistakes people make: an empty value, and text that is not JSON.
fn go_syntax_text(bytes: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let is_start = |byte: u8| b"{[\"-0123456789tfn".contains(&byte);
    match bytes.trim_ascii_start().first() {
        // Go reads bytes: a byte order mark is its first one.
        Some(&first) if !is_start(first) => {
            format!("invalid character {} looking for beginning of value", go_quoted(first))
        }
        _ => format!("invalid JSON at line {} column {}", error.line(), error.column()),
    }
}

/// One byte as Go's scanner quotes it.
fn go_quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => r#"'"'"#.to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x20..=0x7e | 0xa1..=0xac | 0xae..=0xff => format!("'{}'", char::from(byte)),
        0x00 => r"'\x00'".to_owned(),
        0x80..=0xa0 | 0xad => format!(r"'\u{byte:04x}'"),
        other => format!(r"'\x{other:02x}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entry: &str, expected: &str) {
        let file = format!(r#"{{"auths":{{"r":{entry}}}}}"#);
        let actual = match parse_config_json(file.as_bytes()) {
            Ok(entries) => match &entries[0].auth {
                RegistryAuth::Basic { username, password, .. } => {
                    format!("{username:?} {:?}", password.expose())
                }
                other => format!("{other:?}"),
            },
            Err(error) => error.to_string(),
        };
        assert_eq!(actual, expected, "{entry}");
    }

    fn auth(value: &str) -> String {
        serde_json::json!({ "auth": value }).to_string()
    }

    #[test]
    fn auth_decodes_as_go_does() {
        check(&auth("Zm9vOmJhcg=="), r#""foo" "bar""#); // A1
        check(&auth("Zm9vOmJhcg"), r#""foo" "bar""#); // A2
        check(&auth("Zm9vOm\nJhcg==\n"), r#""foo" "bar""#); // A3
        check(&auth("Zm9vOmJhcjpiYXo="), r#""foo" "bar:baz""#); // A4
        check(&auth("Zm9vOmJhcgo="), r#""foo" "bar\n""#); // A5
        check(&auth("Og=="), r#""" """#); // A6
        check(&auth("OnBhc3M="), r#""" "pass""#); // A6
        check(&auth("dXNlcjo="), r#""user" """#); // A6
    }

    #[test]
    fn undecodable_auth_says_where() {
        let no_colon = "unable to parse auth field, must be formatted as base64(username:password)";
        check(&auth("dXNlcg=="), no_colon); // A7
        check(&auth("cGFudHM="), no_colon); // A7
        check(&auth("pants"), "illegal base64 data at input byte 4"); // A8
        check(&auth("Zm9vOmJhcg==="), "illegal base64 data at input byte 12"); // A9
        check(&auth("Zm9vOmJhcg="), "illegal base64 data at input byte 11"); // A9
        check(&auth("Zm9vOmJhcg== "), "illegal base64 data at input byte 12"); // A10
        check(&auth(" Zm9vOmJhcg=="), "illegal base64 data at input byte 0"); // A10
        check(&auth("Zm9v_mJhcg=="), "illegal base64 data at input byte 4"); // A11
    }

    #[test]
    fn plain_fields_count_only_without_auth() {
        check(r#"{"username":"u","password":"p","auth":""}"#, r#""u" "p""#); // A12
        check(r#"{"username":"u","password":"p","auth":"Zm9vOmJhcg=="}"#, r#""foo" "bar""#); // A13
        check("{}", r#""" """#); // A14
        check(r#"{"Username":"u","PASSWORD":"p"}"#, r#""u" "p""#);
    }

    #[test]
    fn wrong_types_are_errors_in_gos_words() {
        check(
            r#"{"auth":5}"#,
            "json: cannot unmarshal number into Go struct field dockerConfigEntryWithAuth.auth of type string",
        );
    }

    #[test]
    fn bytes_that_are_no_text_do_not_spoil_the_file() {
        let file =
            b"{\"auths\":{\"r\":{\"username\":\"u\",\"password\":\"p\",\"email\":\"\xff\"}}}";
        assert_eq!(parse_config_json(file).map(|entries| entries.len()), Ok(1));
    }

    #[test]
    fn helper_only_and_empty_files_have_no_entries() {
        for file in ["{}", "null", r#"{"credsStore":"x"}"#, r#"{"auths":null}"#] {
            assert_eq!(parse_config_json(file.as_bytes()), Ok(Vec::new()), "{file}");
        }
    }

    #[test]
    fn each_format_read_as_the_other_gives_no_error() {
        let file = br#"{"auths":{"r":{"auth":"Zm9vOmJhcg=="}}}"#;
        let entries = parse_dockercfg(file).expect("one bogus entry"); // L16
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].key, "auths");
        assert_eq!(parse_config_json(br#"{"r":{"auth":"Zm9vOmJhcg=="}}"#), Ok(Vec::new()));
    }

    #[test]
    fn syntax_errors_are_gos() {
        let text = |bytes: &[u8]| parse_config_json(bytes).map_err(|error| error.to_string());
        assert_eq!(text(b""), Err("unexpected end of JSON input".to_owned()));
        assert_eq!(
            text(b"RnVu"),
            Err("invalid character 'R' looking for beginning of value".to_owned())
        );
        assert_eq!(
            text("\u{feff}{}".as_bytes()),
            Err("invalid character 'ï' looking for beginning of value".to_owned())
        );
        assert_eq!(
            text(b"'x'"),
            Err(r"invalid character '\'' looking for beginning of value".to_owned())
        );
    }
    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(0u8..=255, 0..120)) {
            let _ = parse_config_json(&bytes);
            let _ = parse_dockercfg(&bytes);
        }

        #[test]
        fn arbitrary_entries_never_panic(key in ".{0,20}", auth in ".{0,40}") {
            let text = serde_json::json!({ key: { "auth": auth } }).to_string();
            let _ = parse_dockercfg(text.as_bytes());
        }
    }
}
