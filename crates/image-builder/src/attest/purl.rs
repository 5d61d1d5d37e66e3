//! Package URLs (package-url specification).

use oci_model::{Platform, Reference};

/// Writes `pkg:TYPE/NAMESPACE/NAME@VERSION?KEY=VALUE`; empty parts are left out, qualifiers are
/// sorted by key.
pub(crate) fn purl(
    kind: &str,
    namespace: &str,
    name: &str,
    version: &str,
    qualifiers: &[(&str, &str)],
) -> String {
    let mut text = format!("pkg:{kind}");
    for part in namespace.split('/').filter(|part| !part.is_empty()) {
        text.push('/');
        encode(&mut text, part, "");
    }
    text.push('/');
    encode(&mut text, name, "");
    if !version.is_empty() {
        text.push('@');
        encode(&mut text, version, "");
    }
    let mut qualifiers: Vec<&(&str, &str)> =
        qualifiers.iter().filter(|(_, value)| !value.is_empty()).collect();
    qualifiers.sort();
    for (number, (key, value)) in qualifiers.into_iter().enumerate() {
        text.push(if number == 0 { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        encode(&mut text, value, ":");
    }
    text
}

/// An image as BuildKit names it among the materials of its provenance.
pub(crate) fn image(reference: &Reference, platform: Option<&Platform>) -> String {
    let mut plain = reference.clone();
    if reference.digest().is_some() && reference.tag().is_none() {
        // Without a version the digest says which.
        plain = plain.with_default_tag();
    }
    let familiar = plain.familiar();
    let name = familiar.split('@').next().unwrap_or(&familiar);
    let last_slash = name.rfind('/').map_or(0, |at| at + 1);
    let (name, version) = match name[last_slash..].rfind(':') {
        Some(colon) => (&name[..last_slash + colon], &name[last_slash + colon + 1..]),
        None => (name, ""),
    };
    let (namespace, name) = name.rsplit_once('/').unwrap_or(("", name));
    let digest = reference.digest().map(ToString::to_string).unwrap_or_default();
    let platform = platform.map(ToString::to_string).unwrap_or_default();
    purl("docker", namespace, name, version, &[("digest", &digest), ("platform", &platform)])
}

fn encode(text: &mut String, part: &str, allowed: &str) {
    for byte in part.bytes() {
        let character = char::from(byte);
        if byte.is_ascii_alphanumeric() || b".-_~".contains(&byte) || allowed.contains(character) {
            text.push(character);
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_characters_are_encoded() {
        let deb = purl(
            "deb",
            "debian",
            "g++",
            "4:12.2.0-3+b1",
            &[("distro", "debian-12"), ("arch", "amd64")],
        );
        assert_eq!(deb, "pkg:deb/debian/g%2B%2B@4%3A12.2.0-3%2Bb1?arch=amd64&distro=debian-12");
        assert_eq!(purl("npm", "@scope", "a", "1.0.0", &[]), "pkg:npm/%40scope/a@1.0.0");
        assert_eq!(
            purl("golang", "github.com/a/b", "c", "v1", &[("x", "")]),
            "pkg:golang/github.com/a/b/c@v1"
        );
    }

    #[test]
    fn images_have_familiar_names() {
        let of = |text: &str, platform: Option<&str>| {
            let platform = platform.map(|text| text.parse::<Platform>().expect("a platform"));
            image(&text.parse().expect("a reference"), platform.as_ref())
        };
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            of("alpine:3.20", Some("linux/amd64")),
            "pkg:docker/alpine@3.20?platform=linux%2Famd64"
        );
        assert_eq!(of("me/app:1", None), "pkg:docker/me/app@1");
        assert_eq!(of("localhost:5000/a/b:2", None), "pkg:docker/localhost%3A5000/a/b@2");
        assert_eq!(of(&format!("a:1@{digest}"), None), format!("pkg:docker/a@1?digest={digest}"));
    }
}
