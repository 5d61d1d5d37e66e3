//! The kubelet's rules for the fields of `CredentialProviderConfig` (kubelet-images.md 9.1).

use std::collections::BTreeSet;
use std::time::Duration;

use super::config::{CacheType, Provider, RawProvider, RawTokenAttributes, TokenAttributes};
use super::{duration, match_image};

const API_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];
const CACHE_TYPES: [&str; 2] = ["ServiceAccount", "Token"];
/// Longest name and longest prefix of an annotation key, in bytes.
const KEY_NAME_BYTES_MAX: usize = 63;
const KEY_PREFIX_BYTES_MAX: usize = 253;

/// All providers, if none breaks a rule; else the aggregated violations.
pub(super) fn check(raw: Vec<RawProvider>) -> Result<Vec<Provider>, String> {
    let mut violations = Violations::default();
    if raw.is_empty() {
        violations.add("providers: Required value: at least 1 item in plugins is required");
    }
    let checked: Vec<Option<Provider>> =
        raw.into_iter().map(|provider| check_one(provider, &mut violations)).collect();
    match violations.aggregate() {
        Some(text) => Err(text),
        // Without a violation nothing was left out.
        None => Ok(checked.into_iter().flatten().collect()),
    }
}

#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn add(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.0.contains(&text) {
            self.0.push(text);
        }
    }

    /// One text as it is, several as `[a, b]`.
    fn aggregate(self) -> Option<String> {
        match self.0.as_slice() {
            [] => None,
            [only] => Some(only.clone()),
            several => Some(format!("[{}]", several.join(", "))),
        }
    }
}

fn check_one(raw: RawProvider, violations: &mut Violations) -> Option<Provider> {
    check_name(&raw.name, violations);
    if raw.api_version.is_empty() {
        violations.add("providers.apiVersion: Required value");
    } else if !API_VERSIONS.contains(&raw.api_version.as_str()) {
        violations.add(unsupported("providers.apiVersion", &raw.api_version, &API_VERSIONS));
    }
    if raw.match_images.is_empty() {
        violations.add(
            "providers.matchImages: Required value: at least 1 item in matchImages is required",
        );
    }
    for pattern in &raw.match_images {
        if let Some(error) = match_image::parse_error(pattern) {
            violations.add(format!(
                "providers.matchImages: Invalid value: {pattern:?}: match image is invalid: {error}"
            ));
        }
    }
    let keep = match raw.default_cache_duration {
        None => {
            violations.add("providers.defaultCacheDuration: Required value");
            None
        }
        Some(keep) => match Duration::try_from(keep) {
            Ok(keep) => Some(keep),
            Err(_) => {
                violations.add(format!(
                    "providers.defaultCacheDuration: Invalid value: {:?}: \
                     defaultCacheDuration must be greater than or equal to 0",
                    duration::text(keep)
                ));
                None
            }
        },
    };
    let token_attributes = match raw.token_attributes {
        None => None,
        Some(raw_attributes) => Some(check_tokens(raw_attributes, &raw.api_version, violations)?),
    };
    Some(Provider {
        name: raw.name,
        match_images: raw.match_images,
        default_cache_duration: keep?,
        api_version: raw.api_version,
        args: raw.args,
        env: raw.env,
        token_attributes,
    })
}

fn check_name(name: &str, violations: &mut Violations) {
    let mut refuse = |reason: &str| {
        violations
            .add(format!("providers.name: Invalid value: {name:?}: provider name cannot {reason}"));
    };
    if name.contains('/') {
        refuse("contain '/'");
    }
    if name.contains(' ') {
        refuse("contain spaces");
    }
    if name == "." {
        refuse("be '.'");
    }
    if name == ".." {
        refuse("be '..'");
    }
    // The kubelet lets it pass here and fails on the program, which is then a directory.
    if name.is_empty() {
        violations.add("providers.name: Required value");
    }
}

fn check_tokens(
    raw: RawTokenAttributes,
    api_version: &str,
    violations: &mut Violations,
) -> Option<TokenAttributes> {
    let at = |name: &str| format!("providers.tokenAttributes.{name}");
    if raw.audience.is_empty() {
        violations.add(at("serviceAccountTokenAudience: Required value"));
    }
    if raw.require_service_account.is_none() {
        violations.add(at("requireServiceAccount: Required value"));
    }
    if api_version != API_VERSIONS[0] {
        violations.add(format!(
            "providers.tokenAttributes: Forbidden: tokenAttributes is only supported for {} API version",
            API_VERSIONS[0]
        ));
    }
    if raw.require_service_account == Some(false) && !raw.required_annotations.is_empty() {
        violations.add(at(
            "requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be \
             false when requiredServiceAccountAnnotationKeys is set",
        ));
    }
    check_keys(&at("requiredServiceAccountAnnotationKeys"), &raw.required_annotations, violations);
    check_keys(&at("optionalServiceAccountAnnotationKeys"), &raw.optional_annotations, violations);
    let both: BTreeSet<&String> =
        raw.required_annotations.iter().filter(|k| raw.optional_annotations.contains(k)).collect();
    if !both.is_empty() {
        let keys: Vec<String> = both.iter().map(|key| format!("{key:?}")).collect();
        violations.add(format!(
            "providers.tokenAttributes: Invalid value: [{}]: annotation keys cannot be both \
             required and optional",
            keys.join(",")
        ));
    }
    let cache_type = match raw.cache_type.as_str() {
        "ServiceAccount" => Some(CacheType::ServiceAccount),
        "Token" => Some(CacheType::Token),
        "" => {
            violations.add(at(
                "cacheType: Required value: cacheType is required to be set when tokenAttributes \
                 is specified. Supported values are: ServiceAccount, Token",
            ));
            None
        }
        other => {
            violations.add(unsupported(&at("cacheType"), other, &CACHE_TYPES));
            None
        }
    };
    Some(TokenAttributes {
        audience: raw.audience,
        cache_type: cache_type?,
        require_service_account: raw.require_service_account?,
        required_annotations: raw.required_annotations,
        optional_annotations: raw.optional_annotations,
    })
}

fn check_keys(path: &str, keys: &[String], violations: &mut Violations) {
    let mut seen = BTreeSet::new();
    for key in keys {
        for reason in qualified_name_errors(&key.to_lowercase()) {
            violations.add(format!("{path}: Invalid value: {key:?}: {reason}"));
        }
        if !seen.insert(key) {
            violations.add(format!("{path}: Duplicate value: {key:?}"));
        }
    }
}

/// What is wrong with `[prefix/]name`, in the words of upstream's `IsQualifiedName`.
fn qualified_name_errors(key: &str) -> Vec<String> {
    const NAME_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', \
        and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
        '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    const PREFIX_RULE: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower \
        case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
        character (e.g. 'example.com', regex used for validation is \
        '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    const SHAPE_RULE: &str = "a qualified name must consist of alphanumeric characters, '-', '_' \
        or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
        'my.name',  or '123-abc', regex used for validation is \
        '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' \
        (e.g. 'example.com/MyName')";
    let mut errors = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else if prefix.len() > KEY_PREFIX_BYTES_MAX {
                errors.push(format!(
                    "prefix part must be no more than {KEY_PREFIX_BYTES_MAX} characters"
                ));
            } else if !is_subdomain(prefix) {
                errors.push(PREFIX_RULE.to_owned());
            }
            name
        }
        _ => return vec![SHAPE_RULE.to_owned()],
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > KEY_NAME_BYTES_MAX {
        errors.push(format!("name part must be no more than {KEY_NAME_BYTES_MAX} characters"));
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = [name.bytes().next(), name.bytes().last()];
    if !name.bytes().all(inner) || !ends.iter().flatten().all(|b| b.is_ascii_alphanumeric()) {
        errors.push(NAME_RULE.to_owned());
    }
    errors
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| {
        let ends = [label.bytes().next(), label.bytes().last()];
        !label.is_empty()
            && ends.iter().flatten().all(|b| *b != b'-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

fn unsupported(path: &str, value: &str, supported: &[&str]) -> String {
    let supported: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
    format!("{path}: Unsupported value: {value:?}: supported values: {}", supported.join(", "))
}
