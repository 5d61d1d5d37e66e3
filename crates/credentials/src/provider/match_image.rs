//! Patterns of `matchImages`: matched as keys of config files are, refused with Go's texts.

use crate::keyring::Target;

/// Whether a pattern matches an image without tag and digest (kubelet-images.md 9.1). Unlike a key
/// of a config file it has no scheme, and `index.docker.io` means nothing.
pub fn matches(pattern: &str, image: &str) -> bool {
    // Query and fragment are no part of what Go compares.
    let pattern = pattern.split(['?', '#']).next().unwrap_or(pattern);
    match (Target::parse(pattern), Target::parse(image)) {
        (Some(pattern), Some(image)) => pattern.matches(&image),
        _ => false,
    }
}

/// Why Go could not parse `https://` and the pattern as a URL; `None` if it can.
pub(super) fn parse_error(pattern: &str) -> Option<String> {
    let reason = if pattern.chars().any(|c| c.is_ascii_control()) {
        Some("net/url: invalid control character in URL".to_owned())
    } else {
        url_error(pattern)
    }?;
    Some(format!("parse {:?}: {reason}", format!("https://{pattern}")))
}

fn url_error(pattern: &str) -> Option<String> {
    let rest = pattern.split('#').next().unwrap_or(pattern);
    let rest = rest.split('?').next().unwrap_or(rest);
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    port_error(host).or_else(|| host_error(host)).or_else(|| escape_error(path))
}

fn port_error(host: &str) -> Option<String> {
    let after_host = match host.strip_prefix('[') {
        Some(rest) => match rest.rsplit_once(']') {
            Some((_, after)) => after,
            None => return Some("missing ']' in host".to_owned()),
        },
        None => host.rfind(':').map_or("", |colon| &host[colon..]),
    };
    let is_port = after_host.is_empty()
        || after_host
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    (!is_port).then(|| format!("invalid port {after_host:?} after host"))
}

fn host_error(host: &str) -> Option<String> {
    if let Some(error) = escape_error(host) {
        return Some(error);
    }
    if let Some(at) = host.find('%') {
        // A host has no escapes but those of bytes beyond ASCII, which no registry has.
        return Some(format!("invalid URL escape {:?}", &host[at..at + 3]));
    }
    let allowed = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:[]<>\"".contains(c)
    };
    let wrong = host.chars().find(|c| !allowed(*c))?;
    Some(format!("invalid character {:?} in host name", wrong.to_string()))
}

/// The first `%` that no two hexadecimal digits follow.
fn escape_error(text: &str) -> Option<String> {
    let wrong = text.match_indices('%').map(|(at, _)| &text[at..]).find(|rest| {
        let hex = rest.bytes().skip(1).take(2);
        hex.clone().count() < 2 || !hex.clone().all(|b| b.is_ascii_hexdigit())
    })?;
    let shown: String = wrong.chars().take(3).collect();
    Some(format!("invalid URL escape {shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unparsable_patterns_are_refused_in_gos_words() {
        for (pattern, expected) in [
            ("registry.example.com", None),
            ("*.dkr.ecr.*.amazonaws.com", None),
            ("registry.example.com:8080/path", None),
            ("[::1]:5000", None),
            ("%invalid%", Some(r#"parse "https://%invalid%": invalid URL escape "%in""#)),
            ("%41.example", Some(r#"parse "https://%41.example": invalid URL escape "%41""#)),
            ("a b", Some(r#"parse "https://a b": invalid character " " in host name"#)),
            ("a:b", Some(r#"parse "https://a:b": invalid port ":b" after host"#)),
            ("a:*", Some(r#"parse "https://a:*": invalid port ":*" after host"#)),
            ("[::1", Some(r#"parse "https://[::1": missing ']' in host"#)),
            ("a/%zz", Some(r#"parse "https://a/%zz": invalid URL escape "%zz""#)),
            (
                "a/%\u{20ac}",
                Some("parse \"https://a/%\u{20ac}\": invalid URL escape \"%\u{20ac}\""),
            ),
        ] {
            assert_eq!(parse_error(pattern).as_deref(), expected, "{pattern}");
        }
    }

    /// kubelet-images.md 15.4 and 9.1: the matcher of config files, for which `/*` matches nothing.
    #[test]
    fn patterns_match_as_keys_of_config_files_do() {
        for (pattern, image, expected) in [
            ("*.example.com", "registry.example.com/app", true),
            ("*.example.com", "a.b.example.com/app", false),
            ("registry.example.com/team", "registry.example.com/team/app", true),
            ("registry.example.com/*", "registry.example.com/app", false),
            ("registry.example.com", "registry.example.com:5000/app", false),
            ("registry.example.com:5000", "registry.example.com:5000/app", true),
            ("*.io", "docker.io/library/nginx", true),
            ("registry.example.com?x", "registry.example.com/app", true),
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
    }
}
