//! Paths of the API to what they mean. No I/O.

use std::borrow::Cow;

use oci_model::{Digest, ErrorCode, Repository, Tag};

use crate::refusal::Refusal;

/// Longest request target, in bytes.
pub(crate) const TARGET_BYTES_MAX: usize = 8 * 1024;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/_oci/ext/discover`
    Extensions,
    /// `/v2/_shipway/…`: what follows
    Admin(String),
    /// `/auth/token`
    Token,
    /// `/auth/jwks.json`
    TokenKeys,
    /// Anything below a repository.
    In(Repository, Target),
}

/// What is asked for in a repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `manifests/<tag or digest>`
    Manifest(ManifestReference),
    /// `blobs/<digest>`
    Blob(Digest),
    /// `blobs/uploads/`
    Uploads,
    /// `blobs/uploads/<id>`
    Upload(String),
    /// `tags/list`
    Tags,
    /// `referrers/<digest>`
    Referrers(Digest),
}

/// How a manifest is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManifestReference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

/// Reads a path. The order of checks is name, then digest or tag (distribution-spec, "Error
/// Codes": the first thing wrong is the one reported).
pub(crate) fn parse(path: &str) -> Result<Route, Refusal> {
    if path.len() > TARGET_BYTES_MAX {
        return Err(Refusal::uri_too_long());
    }
    let path = match percent_encoding::percent_decode_str(path).decode_utf8() {
        Ok(path) => path,
        Err(_) => return Err(Refusal::not_found()),
    };
    match &*path {
        "/v2/" | "/v2" => return Ok(Route::Base),
        "/v2/_catalog" => return Ok(Route::Catalog),
        "/v2/_oci/ext/discover" => return Ok(Route::Extensions),
        "/auth/token" => return Ok(Route::Token),
        "/auth/jwks.json" => return Ok(Route::TokenKeys),
        _ => {}
    }
    let rest = path.strip_prefix("/v2/").ok_or_else(Refusal::not_found)?;
    if let Some(endpoint) = rest.strip_prefix("_shipway/") {
        return Ok(Route::Admin(endpoint.to_owned()));
    }
    // From the right, because a repository may itself be called `a/blobs/uploads`.
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Ok(Route::In(repository(name)?, Target::Tags));
    }
    if let Some(name) =
        rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads"))
    {
        return Ok(Route::In(repository(name)?, Target::Uploads));
    }
    let (head, last) = rest.rsplit_once('/').ok_or_else(Refusal::not_found)?;
    if let Some(name) = head.strip_suffix("/blobs/uploads") {
        return Ok(Route::In(repository(name)?, Target::Upload(last.to_owned())));
    }
    if let Some(name) = head.strip_suffix("/manifests") {
        let repository = repository(name)?;
        return Ok(Route::In(repository, Target::Manifest(manifest_reference(last)?)));
    }
    if let Some(name) = head.strip_suffix("/blobs") {
        return Ok(Route::In(repository(name)?, Target::Blob(digest(last)?)));
    }
    if let Some(name) = head.strip_suffix("/referrers") {
        return Ok(Route::In(repository(name)?, Target::Referrers(digest(last)?)));
    }
    Err(Refusal::not_found())
}

/// Reads a repository name.
pub(crate) fn repository(name: &str) -> Result<Repository, Refusal> {
    Repository::new(name).map_err(|_| {
        Refusal::new(ErrorCode::NameInvalid, format!("{name:?} is not a repository name"))
    })
}

/// Reads a digest.
pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse::<Digest>()
        .map_err(|error| Refusal::new(ErrorCode::DigestInvalid, format!("{text:?}: {error}")))
}

/// Reads a tag.
pub(crate) fn tag(text: &str) -> Result<Tag, Refusal> {
    Tag::new(text).map_err(|_| Refusal::new(ErrorCode::TagInvalid, format!("{text:?} is no tag")))
}

fn manifest_reference(text: &str) -> Result<ManifestReference, Refusal> {
    // A tag has no colon.
    if text.contains(':') {
        return Ok(ManifestReference::Digest(digest(text)?));
    }
    Ok(ManifestReference::Tag(tag(text)?))
}

/// The parameters of a query, percent-decoded. A plus sign stays one, because media types have
/// them and nothing here has spaces.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        Self::with(query.unwrap_or_default(), Cow::Borrowed)
    }

    /// As [`Query::parse`], with spaces for plus signs (`application/x-www-form-urlencoded`).
    pub(crate) fn parse_form(form: &str) -> Self {
        Self::with(form, |text| Cow::Owned(text.replace('+', " ")))
    }

    fn with<'a>(query: &'a str, plus: impl Fn(&'a str) -> Cow<'a, str>) -> Self {
        let decode = |text: &'a str| {
            let text = plus(text);
            percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let pair = |pair: &'a str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        };
        Self(query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect())
    }

    /// The first value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values of a key, in order.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn describe(path: &str) -> String {
        match parse(path) {
            Ok(Route::In(repository, target)) => format!("{repository} {target:?}"),
            Ok(route) => format!("{route:?}"),
            Err(refusal) => format!("{} {}", refusal.status().as_u16(), refusal.code()),
        }
    }

    #[test]
    fn paths_are_read_from_the_right() {
        let digest = DIGEST;
        for (path, expected) in [
            ("/v2/".to_owned(), "Base".to_owned()),
            ("/v2".to_owned(), "Base".to_owned()),
            ("/v2/_catalog".to_owned(), "Catalog".to_owned()),
            ("/v2/_shipway/usage".to_owned(), "Admin(\"usage\")".to_owned()),
            ("/v2/a/tags/list".to_owned(), "a Tags".to_owned()),
            ("/v2/tags/list/tags/list".to_owned(), "tags/list Tags".to_owned()),
            ("/v2/a/b/blobs/uploads/".to_owned(), "a/b Uploads".to_owned()),
            ("/v2/a/b/blobs/uploads".to_owned(), "a/b Uploads".to_owned()),
            ("/v2/a/blobs/uploads/x".to_owned(), "a Upload(\"x\")".to_owned()),
            (format!("/v2/a/blobs/{digest}"), format!("a Blob({digest})")),
            (format!("/v2/a/blobs/sha256%3A{}", &digest[7..]), format!("a Blob({digest})")),
            (
                format!("/v2/blobs/manifests/blobs/{digest}"),
                format!("blobs/manifests Blob({digest})"),
            ),
            (format!("/v2/a/manifests/{digest}"), format!("a Manifest(Digest({digest}))")),
            ("/v2/a/manifests/v1".to_owned(), "a Manifest(Tag(\"v1\"))".to_owned()),
            (format!("/v2/a/referrers/{digest}"), format!("a Referrers({digest})")),
        ] {
            assert_eq!(describe(&path), expected, "{path}");
        }
    }

    #[test]
    fn the_first_thing_wrong_is_reported() {
        for (path, expected) in [
            ("/", "404 UNSUPPORTED"),
            ("/v2/a", "404 UNSUPPORTED"),
            ("/v3/a/tags/list", "404 UNSUPPORTED"),
            ("/v2/A/manifests/!", "400 NAME_INVALID"),
            ("/v2/a//b/tags/list", "400 NAME_INVALID"),
            ("/v2/../tags/list", "400 NAME_INVALID"),
            ("/v2/%2e%2e%2fetc/tags/list", "400 NAME_INVALID"),
            ("/v2/%252e/tags/list", "400 NAME_INVALID"),
            ("/v2/a%00b/tags/list", "400 NAME_INVALID"),
            ("/v2/a\\b/tags/list", "400 NAME_INVALID"),
            ("/v2/a/manifests/sha256:baddigeststring", "400 DIGEST_INVALID"),
            ("/v2/a/manifests/md5:d41d8cd98f00b204e9800998ecf8427e", "400 DIGEST_INVALID"),
            ("/v2/a/manifests/.dot", "400 TAG_INVALID"),
            (
                "/v2/a/blobs/sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
                "400 DIGEST_INVALID",
            ),
        ] {
            assert_eq!(describe(path), expected, "{path}");
        }
        assert_eq!(describe(&format!("/v2/{}/tags/list", "a".repeat(256))), "400 NAME_INVALID");
        assert_eq!(describe(&format!("/v2/{}", "a".repeat(9000))), "414 UNSUPPORTED");
    }

    #[test]
    fn queries_keep_plus_signs_and_forms_do_not() {
        let query = Query::parse(Some("artifactType=application/x+json&n=5&tag=a&tag=b&x"));
        assert_eq!(query.get("artifactType"), Some("application/x+json"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(Query::parse_form("scope=a%3Ab+c").get("scope"), Some("a:b c"));
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic(path in "/v2/\\PC{0,60}") {
            let _ = parse(&path);
        }
    }
}
