//! The key of one entry: what the kubelet makes of it.

use super::Findings;
use super::code::Code;
use crate::glob;
use crate::keyring::{normalise_key, split_authority, split_host_port};

/// Names of Docker Hub that no normalised image name has.
const HUB_SPELLINGS: [&str; 7] = [
    "registry-1.docker.io",
    "registry.docker.io",
    "auth.docker.io",
    "hub.docker.com",
    "registry.hub.docker.com",
    "docker.com",
    "*.docker.io",
];

/// A key as it may be shown: user information and query masked.
pub fn shown(written: &str) -> String {
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let (scheme, rest) = match written.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme}://"), rest),
        Some(_) | None => (String::new(), written),
    };
    let (rest, query) = match rest.split_once(['?', '#']) {
        Some((rest, _)) => (rest, "?****"),
        None => (rest, ""),
    };
    let (authority, path) = split_authority(rest);
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => ("****@", host),
        None => ("", authority),
    };
    format!("{scheme}{user}{host}{path}{query}")
}

/// Checks a key; what it is normalised to, unless the kubelet ignores its entry.
pub(super) fn check(written: &str, findings: &mut Findings) -> Option<String> {
    let shown = shown(written);
    let Some(normalised) = normalise_key(written) else {
        findings.entry(
            Code::KeyIgnored,
            written,
            format!("{shown:?} is no registry, and the kubelet leaves its entry out{}", {
                if written.trim() != written { ": there are blanks around it" } else { "" }
            }),
            "a key is HOST[:PORT][/PATH], such as registry.example.com:5000/team",
        );
        return None;
    };
    let scheme = shown.split_once("://").map(|(scheme, _)| scheme);
    if let Some(scheme) = scheme.filter(|scheme| !matches!(*scheme, "http" | "https")) {
        findings.entry(
            Code::KeySchemeInCapitals,
            written,
            format!(
                "{scheme}:// is taken for a part of the name, so that {shown:?} matches nothing"
            ),
            "write the host alone",
        );
        return Some(normalised);
    }
    check_spelling(written, &normalised, findings);
    let (authority, path) = split_authority(&normalised);
    check_host(written, authority, path, findings);
    check_path(written, authority, path, findings);
    Some(normalised)
}

/// What is lost on the way to the normalised key.
fn check_spelling(written: &str, normalised: &str, findings: &mut Findings) {
    let shown = shown(written);
    let rest = written.split_once("://").map_or(written, |(_, rest)| rest);
    if rest.contains(['?', '#']) {
        findings.entry(
            Code::KeyQuery,
            written,
            format!(
                "the kubelet drops what follows ? or #, so that {shown:?} means {normalised:?}"
            ),
            "use * as a wildcard for a part of a host label",
        );
    }
    let before_query = rest.split(['?', '#']).next().unwrap_or(rest);
    if split_authority(before_query).0.contains('@') {
        findings.entry(
            Code::KeyUserInfo,
            written,
            format!("the user in {shown:?} is dropped; it means {normalised:?}"),
            "put user and password into the entry; whoever sees keys sees what stands in them",
        );
    }
}

fn check_host(written: &str, authority: &str, path: &str, findings: &mut Findings) {
    let shown = shown(written);
    let (host, port) = split_host_port(authority);
    let has_capitals = host.chars().any(char::is_uppercase);
    let is_bare_word = !host.contains(['.', '*', '[']) && port.is_empty();
    if has_capitals && !is_bare_word {
        findings.entry(
            Code::KeyHostInCapitals,
            written,
            format!("hosts are compared as they are written, and images name {:?}", {
                host.to_ascii_lowercase()
            }),
            "write the host in lower case",
        );
    } else if has_capitals {
        // Images can name it, and in lower case it would be an account of Docker Hub.
        findings.entry(
            Code::KeyHostInCapitals,
            written,
            format!(
                "hosts are compared as they are written: {shown:?} is for images that are written \
                 {authority}/… with the same capitals"
            ),
            "the registry's full name, with its domain or port",
        );
    }
    if matches!(port, "443" | "80") {
        findings.entry(
            Code::KeyDefaultPort,
            written,
            format!("{shown:?} matches only images that are written with :{port} too"),
            "leave the port out, if the images have none",
        );
    }
    if host.split('.').any(|label| glob::matches(label, "x").is_none()) && !host.starts_with('[') {
        findings.entry(
            Code::KeyGlobMalformed,
            written,
            format!("the wildcard pattern of {shown:?} cannot be read, so that it matches nothing"),
            "close the bracket, or use *",
        );
    }
    if host.starts_with('[') && port.is_empty() {
        findings.entry(
            Code::KeyAddressWithoutPort,
            written,
            format!("{shown:?} has no port; an IPv6 address matches only with one"),
            "write the port",
        );
    }
    if HUB_SPELLINGS.contains(&host) {
        findings.entry(
            Code::KeyHubSpelling,
            written,
            format!("images of Docker Hub are called docker.io/…, which {shown:?} does not match"),
            "https://index.docker.io/v1/, or docker.io",
        );
    } else if host == "index.docker.io" && matches!(path, "/access-token" | "/refresh-token") {
        findings.entry(
            Code::KeyDesktopToken,
            written,
            format!("{shown:?} is a token of Docker Desktop's own, which the kubelet cannot use"),
            "leave it out, and add an access token under https://index.docker.io/v1/",
        );
    } else if host == "index.docker.io" && !path.is_empty() && !is_bare_version(path) {
        findings.entry(
            Code::KeyHubSpelling,
            written,
            format!(
                "the name index.docker.io works without a path only; {shown:?} matches nothing"
            ),
            format!("docker.io{path}"),
        );
    }
    if is_bare_word && !has_capitals && host != "localhost" {
        findings.entry(
            Code::KeyHostWithoutDot,
            written,
            format!(
                "no image can name the host {host:?}: without a dot or port it is read as a \
                 repository of Docker Hub"
            ),
            "the registry's full name, with its domain or port",
        );
    } else if host == "*" && port.is_empty() {
        findings.entry(
            Code::KeyHostWithoutDot,
            written,
            "* stands for one label, so that this matches no host with a dot",
            "*.example.com for each domain",
        );
    }
}

fn is_bare_version(path: &str) -> bool {
    matches!(path, "/v1" | "/v2")
}

fn check_path(written: &str, authority: &str, path: &str, findings: &mut Findings) {
    let shown = shown(written);
    if path.is_empty() {
        return;
    }
    if is_bare_version(path) {
        findings.entry(
            Code::KeyVersionWithoutSlash,
            written,
            format!("{shown:?} lacks a slash at its end, so that {path} is taken for a repository"),
            match authority {
                "index.docker.io" => "https://index.docker.io/v1/".to_owned(),
                other => other.to_owned(),
            },
        );
        return;
    }
    if path.contains('*') {
        findings.entry(
            Code::KeyPathGlob,
            written,
            format!("paths know no wildcards, so that {shown:?} matches nothing"),
            format!("{authority}{}", path.split('*').next().unwrap_or("").trim_end_matches('/')),
        );
        return;
    }
    if path.contains([':', '@']) {
        findings.entry(
            Code::KeyTag,
            written,
            format!(
                "keys are compared with images without tag and digest; {shown:?} matches nothing"
            ),
            "leave the tag or digest out",
        );
        return;
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        findings.entry(
            Code::KeyPathInCapitals,
            written,
            format!("repositories have no capitals, so that {shown:?} matches nothing"),
            "write the path in lower case",
        );
    }
    if path.ends_with('/') {
        findings.entry(
            Code::KeyTrailingSlash,
            written,
            format!("{shown:?} means what is below {path}, not the repository {:?}", {
                path.trim_matches('/')
            }),
            "leave the slash at the end out, if the repository itself is meant",
        );
    } else {
        findings.entry(
            Code::KeyRawPrefix,
            written,
            format!("{shown:?} is compared as text: it is also tried for {authority}{path}-other"),
            format!("{authority}{path}/ for what is below it only"),
        );
    }
}
