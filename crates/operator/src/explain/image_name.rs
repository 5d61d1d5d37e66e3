//! The image text: what it stands for, what the runtime is asked for, and what surprises people.

use image_policy::image_with_default_tag;
use oci_model::{Reference, ReferenceError, TAG_LENGTH_MAX};

use super::report::Remark;

/// First parts of names that people mean as hosts and that are accounts of Docker Hub.
const HOST_LIKE: [&str; 10] =
    ["registry", "harbor", "nexus", "gitlab", "quay", "ghcr", "gcr", "ecr", "acr", "artifactory"];

/// What an image text says.
#[derive(Clone, Debug)]
pub(crate) struct ImageName {
    /// What it stands for; `None` if it does not parse.
    pub(crate) reference: Option<Reference>,
    /// The text that goes to the runtime.
    pub(crate) asked: Option<String>,
    /// Why it does not parse.
    pub(crate) error: Option<ReferenceError>,
    /// What is wrong with it, or may be another thing than was meant.
    pub(crate) remarks: Vec<Remark>,
    /// The text that was probably meant.
    pub(crate) meant: Option<String>,
}

/// Reads an image text.
pub(crate) fn read(image: &str) -> ImageName {
    match image.parse::<Reference>() {
        Ok(reference) => {
            let (remarks, meant) = surprises(image, &reference);
            let asked = image_with_default_tag(image).ok();
            ImageName { reference: Some(reference), asked, error: None, remarks, meant }
        }
        Err(error) => {
            let (remark, meant) = mistake(image, &error);
            let meant = meant.filter(|meant| meant.parse::<Reference>().is_ok());
            ImageName {
                reference: None,
                asked: None,
                error: Some(error),
                remarks: vec![remark],
                meant,
            }
        }
    }
}

/// Which component is wrong, and the text that was probably meant.
fn mistake(image: &str, error: &ReferenceError) -> (Remark, Option<String>) {
    let trimmed = image.trim();
    if trimmed.is_empty() {
        return (Remark::new("name.empty", "the image is empty"), None);
    }
    if trimmed != image {
        let text = "there are blanks before or after the image";
        return (Remark::new("name.blank", text), Some(trimmed.to_owned()));
    }
    if let Some((scheme, rest)) = image.split_once("://") {
        let text = format!("{scheme}:// does not belong into an image: it begins with the host");
        return (Remark::new("name.scheme", text), Some(rest.trim_end_matches('/').to_owned()));
    }
    match error {
        ReferenceError::HexIdentifier(_) => {
            let text = "64 hexadecimal digits are an image ID, which no registry can be asked for";
            return (Remark::new("name.image-id", text), None);
        }
        ReferenceError::NotLowerCase(path) => {
            let lower = path.strip_prefix("library/").unwrap_or(path);
            let text = format!("the repository {lower:?} has upper-case letters");
            let meant = image.replacen(lower, &lower.to_lowercase(), 1);
            return (Remark::new("name.upper-case", text), Some(meant));
        }
        ReferenceError::UpperCaseName => {
            let first = image.split('/').next().unwrap_or(image);
            let text = format!(
                "{first:?} is no host name (_ may not be in one), and as a part of the repository \
                 it may have no upper-case letters"
            );
            let meant = image.replacen(first, &first.to_lowercase(), 1);
            return (Remark::new("name.upper-case", text), Some(meant));
        }
        ReferenceError::NameTooLong => {
            let text = "the repository is longer than 255 characters";
            return (Remark::new("name.too-long", text), None);
        }
        ReferenceError::Digest(error) => {
            let (name, digest) = image.split_once('@').unwrap_or((image, ""));
            let text = format!("the digest {digest:?} is none: {error}");
            let meant = format!("{name}@{}", digest.to_lowercase());
            return (Remark::new("name.digest", text), Some(meant));
        }
        ReferenceError::InvalidFormat => {}
    }
    mistake_of_form(image)
}

/// What breaks the grammar, most telling first.
fn mistake_of_form(image: &str) -> (Remark, Option<String>) {
    let remark = |code, text: &str| Remark::new(code, text);
    if image.contains(char::is_whitespace) {
        let whole = image.split_whitespace().collect::<String>();
        return (remark("name.blank", "there is a blank in the image"), Some(whole));
    }
    if let Some((name, after)) = image.split_once('@') {
        let parts: Vec<&str> = after.splitn(3, ':').collect();
        if let [algorithm, hex, tag] = parts[..] {
            let meant = format!("{name}:{tag}@{algorithm}:{hex}");
            let text = "the tag stands behind the digest; it belongs before the @";
            return (remark("name.order", text), Some(meant));
        }
        let text = format!("{after:?} behind the @ is no digest (sha256: and 64 hex digits)");
        return (Remark::new("name.digest", text), Some(name.to_owned()));
    }
    if image.starts_with('/') || image.ends_with('/') || image.contains("//") {
        let parts: Vec<&str> = image.split('/').filter(|part| !part.is_empty()).collect();
        let text = "a slash begins or ends the image, or two stand together";
        return (remark("name.slash", text), Some(parts.join("/")));
    }
    if let Some(rest) = image.strip_suffix(':') {
        return (remark("name.tag", "nothing stands behind the colon"), Some(rest.to_owned()));
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    if image[..image.len() - last.len()].split('/').skip(1).any(|part| part.contains(':')) {
        let text = "a colon stands in the middle of the path: a port belongs to the host, which \
                    comes first, and a tag to the end";
        return (remark("name.colon", text), None);
    }
    match last.matches(':').count() {
        0 => {}
        1 => {
            let tag = last.split(':').nth(1).unwrap_or_default();
            if oci_model::Tag::new(tag).is_err() {
                let why = if TAG_LENGTH_MAX < tag.len() {
                    format!("is longer than {TAG_LENGTH_MAX} characters")
                } else {
                    "may hold letters, digits, _, . and -, and begins with none of the last two"
                        .to_owned()
                };
                let clean: String = tag
                    .trim_start_matches(['-', '.'])
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' })
                    .take(TAG_LENGTH_MAX)
                    .collect();
                let meant = image[..image.len() - tag.len()].to_owned() + &clean;
                return (Remark::new("name.tag", format!("the tag {tag:?} {why}")), Some(meant));
            }
        }
        _ => {
            let text = "there is more than one colon behind the last slash; one tag is all";
            return (remark("name.colon", text), None);
        }
    }
    let host = image.split('/').next().unwrap_or(image);
    if host.matches(':').count() > 1 {
        let text = "an IPv6 address as host stands in brackets, without a zone";
        return (remark("name.host", text), None);
    }
    if host.ends_with(':') {
        let text = "nothing stands between the host's colon and the slash; a port is digits";
        return (remark("name.host", text), Some(image.replacen(":/", "/", 1)));
    }
    let text = "each part between slashes begins and ends with a letter or digit, and between them \
                stand single . or _, two _, or any number of -";
    (remark("name.separator", text), None)
}

/// What parses, and perhaps as something else than was meant.
fn surprises(image: &str, reference: &Reference) -> (Vec<Remark>, Option<String>) {
    let mut remarks = Vec::new();
    let mut meant = None;
    let tag = reference.tag().map(oci_model::Tag::as_str);
    let first = image.split('/').next().unwrap_or(image);
    let host = first.split([':', '@']).next().unwrap_or(first);
    if !image.contains('/') {
        let is_port = tag.is_some_and(|tag| tag.bytes().all(|byte| byte.is_ascii_digit()));
        if is_port && (host.contains('.') || host == "localhost") {
            let tag = tag.unwrap_or_default();
            remarks.push(Remark::new(
                "name.port-as-tag",
                format!(
                    "without a slash {host:?} is a repository of Docker Hub and {tag} its tag, \
                     not a host and its port"
                ),
            ));
            meant = Some(format!("{host}:{tag}/REPOSITORY"));
        } else if host.contains('.') {
            let text = format!("without a slash {host:?} is a repository of Docker Hub, no host");
            remarks.push(Remark::new("name.host-as-repository", text));
            meant = Some(format!("{host}/REPOSITORY"));
        } else if host == "sha256" && tag.is_some_and(|tag| tag.len() == 64) {
            let text = "a bare digest is the repository sha256 of Docker Hub with a long tag";
            remarks.push(Remark::new("name.bare-digest", text));
            meant = tag.map(|hex| format!("REPOSITORY@sha256:{hex}"));
        }
    } else if reference.registry() == "docker.io" && HOST_LIKE.contains(&host) {
        let text = format!(
            "{host:?} has neither dot nor port: it is an account of Docker Hub and no host"
        );
        remarks.push(Remark::new("name.account-not-host", text));
    }
    if reference.registry().is_empty() {
        let text = format!("{host:?} is no host name (_ may not be in one): all of it is a path");
        remarks.push(Remark::new("name.no-host", text));
    }
    if reference.repository().as_str().starts_with("docker.io/") {
        let text = "docker.io stands twice, and the second one is part of the repository";
        remarks.push(Remark::new("name.doubled-host", text));
        meant = image.strip_prefix("docker.io/").map(str::to_owned);
    }
    if reference.registry().chars().any(char::is_uppercase) {
        let text = "the host has upper-case letters, and keys of credentials are compared with \
                    their case";
        remarks.push(Remark::new("name.host-case", text));
    }
    let port = reference.registry().rsplit_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| !port.ends_with(']') && port.parse::<u16>().is_err()) {
        let text = format!("{} is no port", port.unwrap_or_default());
        remarks.push(Remark::new("name.port", text));
    }
    let path = reference.repository().as_str();
    if reference.registry() != "docker.io" && (path.starts_with("v2/") || path.starts_with("v1/")) {
        let text = format!("{}/ is taken as part of the repository, not of the API", &path[..2]);
        remarks.push(Remark::new("name.api-path", text));
    }
    match (tag, reference.digest()) {
        (Some("latest"), Some(_)) => remarks.push(Remark::new(
            "name.latest-and-digest",
            "the digest alone decides what is pulled, but the tag latest makes the default policy \
             Always",
        )),
        (Some(tag), Some(_)) => remarks.push(Remark::new(
            "name.tag-and-digest",
            format!("the digest alone decides what is pulled; nobody looks at the tag {tag}"),
        )),
        (Some(tag), None) if tag != "latest" && tag.eq_ignore_ascii_case("latest") => {
            let text = format!("the tag {tag} is not latest: tags keep their case");
            remarks.push(Remark::new("name.tag-case", text));
        }
        _ => {}
    }
    (remarks, meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    const D64: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(image: &str, code: &str, meant: Option<&str>) {
        let name = read(image);
        let codes: Vec<&str> = name.remarks.iter().map(|remark| remark.code.as_str()).collect();
        assert_eq!(codes, [code], "{image}");
        assert_eq!(name.meant.as_deref(), meant, "{image}");
    }

    /// kubelet-images.md 15.1, rows R25 to R37, and 1.4.
    #[test]
    fn the_wrong_component_is_named_with_what_was_meant() {
        check("http://h/a", "name.scheme", Some("h/a"));
        let no_host = "my_registry.example.com/app:V1";
        check("My_Registry.example.com/app:V1", "name.upper-case", Some(no_host));
        check("https://registry.example.com/a/", "name.scheme", Some("registry.example.com/a"));
        check("Nginx", "name.upper-case", Some("nginx"));
        check("r.example/team/App:V1", "name.upper-case", Some("r.example/team/app:V1"));
        check("FAILED_IMAGE", "name.upper-case", Some("failed_image"));
        check(" nginx", "name.blank", Some("nginx"));
        check("my image", "name.blank", Some("myimage"));
        check("", "name.empty", None);
        check("nginx:", "name.tag", Some("nginx"));
        check("nginx:-bad", "name.tag", Some("nginx:bad"));
        check("nginx:a+b", "name.tag", Some("nginx:a-b"));
        check(
            &format!("nginx:{}", "a".repeat(129)),
            "name.tag",
            Some(&format!("nginx:{}", "a".repeat(128))),
        );
        check("foo:bar:baz", "name.colon", None);
        check("foo/bar:5000/baz", "name.colon", None);
        check("a//b", "name.slash", Some("a/b"));
        check("/nginx", "name.slash", Some("nginx"));
        check("nginx/", "name.slash", Some("nginx"));
        check("reg:/app", "name.host", Some("reg/app"));
        check("::1/app", "name.host", None);
        for image in ["foo___bar", "foo..bar", "foo.-bar", "-foo", "foo_"] {
            check(image, "name.separator", None);
        }
        check("nginx@sha256:abc", "name.digest", Some("nginx"));
        let swapped = format!("nginx:tag@sha256:{D64}");
        check(&format!("nginx@sha256:{D64}:tag"), "name.order", Some(&swapped));
        check(&format!("nginx@md5:{}", &D64[..32]), "name.digest", None);
        let upper = format!("nginx@sha256:{}", D64.to_uppercase());
        check(&upper, "name.digest", Some(&format!("nginx@sha256:{D64}")));
        check(D64, "name.image-id", None);
        check(&"a".repeat(248), "name.too-long", None);
    }

    /// kubelet-images.md 15.1, rows R4, R9, R11 to R14, R17 to R19, R22 and R23.
    #[test]
    fn names_that_mean_something_else_are_remarked() {
        let port = "registry.example.com:5000";
        check(port, "name.port-as-tag", Some("registry.example.com:5000/REPOSITORY"));
        check("localhost:5000", "name.port-as-tag", Some("localhost:5000/REPOSITORY"));
        let host = "registry.example.com";
        check(host, "name.host-as-repository", Some("registry.example.com/REPOSITORY"));
        check("registry/app:1", "name.account-not-host", None);
        check("registry.example.com:99999/app:1", "name.port", None);
        check("REG/app:1", "name.host-case", None);
        check("nginx:LATEST", "name.tag-case", None);
        check(&format!("nginx:1.25@sha256:{D64}"), "name.tag-and-digest", None);
        check(&format!("nginx:latest@sha256:{D64}"), "name.latest-and-digest", None);
        let meant = format!("REPOSITORY@sha256:{D64}");
        check(&format!("sha256:{D64}"), "name.bare-digest", Some(&meant));
        check("my_registry.example.com/app:1", "name.no-host", None);
        check("docker.io/docker.io/nginx:1", "name.doubled-host", Some("docker.io/nginx:1"));
        check("registry.example.com/v2/app:1", "name.api-path", None);
    }

    #[test]
    fn ordinary_names_have_no_remark() {
        for image in ["nginx", "nginx:1.25", "team/app", "localhost/app", "[::1]:5000/app:v2"] {
            assert_eq!(read(image).remarks, [], "{image}");
        }
        assert_eq!(read("nginx").asked.as_deref(), Some("nginx:latest"), "R1");
    }
}
