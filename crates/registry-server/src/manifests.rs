//! Manifests: GET, PUT, DELETE (distribution-spec end-3, end-7, end-9).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use oci_model::{
    Descriptor, Digest, ErrorCode, Hasher, MANIFEST_BYTES_MAX, Manifest, ManifestError, MediaType,
    RawManifest, Tag,
};

use crate::auth::Role;
use crate::body::{Body, RequestBody, read_whole};
use crate::document;
use crate::metadata::{Change, ChangeError, Child, Expected, NewManifest};
use crate::refusal::Refusal;
use crate::route::{self, ManifestReference};
use crate::service::{Answer, Call, empty, header_value};

/// Tags that one PUT may set (distribution-spec main, end-7b: ten should work).
const TAGS_MAX: usize = 64;

/// Longest media type accepted, in bytes; the four known ones are shorter.
const MEDIA_TYPE_BYTES_MAX: usize = 255;

pub(crate) const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");

/// The manifest's bytes as they were pushed, whatever the client says it accepts: anything else
/// would change its digest.
pub(crate) fn get(call: &Call<'_>, reference: &ManifestReference) -> Answer {
    let found = call.service.metadata.manifest(&call.repository, reference)?;
    let manifest = found.ok_or_else(|| unknown(reference))?;
    call.service.pulls.note(&call.repository, &manifest.digest, call.stamp().at);
    let digest = manifest.digest.to_string();
    let entity_tag = format!("\"{digest}\"");
    let mut response = if call.has_already(&entity_tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = Response::new(Body::from(manifest.bytes.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header_value(manifest.media_type.as_str()));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len()));
        response
    };
    let headers = response.headers_mut();
    headers.insert(DIGEST_HEADER, header_value(&digest));
    headers.insert(header::ETAG, header_value(&entity_tag));
    let caching = match reference {
        ManifestReference::Tag(_) => "no-cache",
        ManifestReference::Digest(_) => "max-age=31536000, immutable",
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    Ok(response)
}

/// Stores a manifest and moves the tags of the request to it.
pub(crate) async fn put(
    call: &Call<'_>,
    reference: ManifestReference,
    body: &mut RequestBody,
) -> Answer {
    let mut tags: Vec<Tag> = call.query.all("tag").map(route::tag).collect::<Result<_, _>>()?;
    if tags.len() > TAGS_MAX {
        return Err(Refusal::new(ErrorCode::TagInvalid, format!("more than {TAGS_MAX} tags"))
            .with_status(StatusCode::URI_TOO_LONG));
    }
    let media_type = content_type(call)?;
    let bytes_max = call.service.limits.manifest_bytes_max.min(MANIFEST_BYTES_MAX);
    let bytes = read_whole(body, bytes_max).await?;
    let manifest = parse(&media_type, &bytes)?;
    let digest = match &reference {
        ManifestReference::Tag(_) => *manifest.digest(),
        ManifestReference::Digest(expected) => {
            check_digest(expected, &bytes)?;
            *expected
        }
    };
    let by_query = tags.clone();
    if let ManifestReference::Tag(tag) = reference {
        tags.push(tag);
    }
    if let Manifest::Image(image) = manifest.parsed()
        && image.layers.iter().any(|layer| layer.media_type.is_nondistributable())
    {
        // image-spec, "Non-Distributable Layers": deprecated.
        call.warnings.add("a layer is non-distributable: clients may be unable to pull this image");
    }
    let expected = if tags.is_empty() || call.allows(Role::Push) {
        expected(call)?
    } else {
        let named = new_tags(call, &digest, &tags)?;
        // Of a manifest that all its tags name already, pushing it again changes nothing.
        let is_new = !named.is_empty();
        if is_new {
            tags = named;
        }
        Some(if is_new { Expected::Nothing } else { Expected::Manifest(digest) })
    };
    let subject = manifest.parsed().subject().map(|subject| subject.digest);
    let mut children = children(manifest.parsed());
    if call.service.sparse_indexes {
        children = only_held(call, children)?;
    }
    let new = NewManifest {
        repository: call.repository.clone(),
        digest,
        media_type: media_type.clone(),
        tags,
        expected,
        children,
        subject: match subject {
            Some(subject) => Some((subject, referrer(&manifest, digest)?)),
            None => None,
        },
        bytes,
        cached: false,
    };
    call.service.metadata.submit(Change::PutManifest(Box::new(new)), call.stamp()).await?;
    tracing::info!(
        repository = %call.repository,
        %digest,
        user = call.principal.name(),
        "manifest stored"
    );
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    let location = format!("/v2/{}/manifests/{digest}", call.repository);
    headers.insert(header::LOCATION, header_value(&location));
    headers.insert(DIGEST_HEADER, header_value(&digest.to_string()));
    if let Some(subject) = subject {
        let name = HeaderName::from_static("oci-subject");
        headers.insert(name, header_value(&subject.to_string()));
    }
    for tag in by_query {
        headers.append(HeaderName::from_static("oci-tag"), header_value(tag.as_str()));
    }
    Ok(response)
}

/// The condition of a PUT. The distribution-spec has none; clients that write one document
/// together, such as a build cache, need it so that nobody's part is lost.
fn expected(call: &Call<'_>) -> Result<Option<Expected>, Refusal> {
    let bad = |text: &str| {
        Refusal::new(ErrorCode::Unsupported, text).with_status(StatusCode::BAD_REQUEST)
    };
    match (call.header(header::IF_MATCH), call.header(header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (None, Some("*")) => Ok(Some(Expected::Nothing)),
        (Some("*"), None) => Ok(Some(Expected::Anything)),
        (Some(tag), None) => {
            let digest = tag.trim_matches('"').parse();
            let digest = digest.map_err(|_| bad("If-Match takes one entity tag, a digest"))?;
            Ok(Some(Expected::Manifest(digest)))
        }
        _ => Err(bad("a PUT takes If-Match, or If-None-Match: *")),
    }
}

/// Those of the tags that do not name the manifest yet, for somebody who may make tags but move
/// none (CVE-2026-31801). That they are new is checked once more when they are made.
fn new_tags(call: &Call<'_>, digest: &Digest, tags: &[Tag]) -> Result<Vec<Tag>, Refusal> {
    let mut new = Vec::new();
    for tag in tags {
        let reference = ManifestReference::Tag(tag.clone());
        match call.service.metadata.manifest(&call.repository, &reference)? {
            None => new.push(tag.clone()),
            Some(manifest) if manifest.digest == *digest => {}
            // The usual refusal of somebody who may not push.
            Some(_) => call.require(Role::Push)?,
        }
    }
    Ok(new)
}

/// Removes a tag, or a manifest with all its tags.
pub(crate) async fn delete(call: &Call<'_>, reference: ManifestReference) -> Answer {
    let change = match &reference {
        ManifestReference::Tag(tag) => Change::DeleteTag(call.repository.clone(), tag.clone()),
        ManifestReference::Digest(digest) => {
            Change::DeleteManifest(call.repository.clone(), *digest)
        }
    };
    match call.service.metadata.submit(change, call.stamp()).await {
        Ok(_) => {
            tracing::info!(
                repository = %call.repository,
                ?reference,
                user = call.principal.name(),
                "manifest deleted"
            );
            Ok(empty(StatusCode::ACCEPTED))
        }
        Err(ChangeError::Unknown) => Err(unknown(&reference)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn unknown(reference: &ManifestReference) -> Refusal {
    let text = match reference {
        ManifestReference::Tag(tag) => tag.to_string(),
        ManifestReference::Digest(digest) => digest.to_string(),
    };
    Refusal::new(ErrorCode::ManifestUnknown, "manifest unknown to the repository")
        .with_detail(serde_json::json!({ "reference": text }))
}

/// The type of the body, without parameters.
fn content_type(call: &Call<'_>) -> Result<MediaType, Refusal> {
    let value = call.header(header::CONTENT_TYPE).unwrap_or_default();
    let value = value.split(';').next().unwrap_or_default().trim();
    if value.is_empty() || value.len() > MEDIA_TYPE_BYTES_MAX {
        return Err(Refusal::new(
            ErrorCode::ManifestInvalid,
            "a manifest needs a Content-Type that says what it is",
        ));
    }
    Ok(MediaType::new(value))
}

fn parse(media_type: &MediaType, bytes: &Bytes) -> Result<RawManifest, Refusal> {
    let invalid = |text: String| Refusal::new(ErrorCode::ManifestInvalid, text);
    document::check_json(bytes).map_err(invalid)?;
    let manifest = RawManifest::parse(Some(media_type), bytes.to_vec()).map_err(|error| {
        let text = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let refusal = Refusal::new(ErrorCode::ManifestInvalid, text);
        match error {
            ManifestError::TooLarge => refusal.with_status(StatusCode::PAYLOAD_TOO_LARGE),
            ManifestError::UnsupportedMediaType(_)
            | ManifestError::MediaTypeMismatch { .. }
            | ManifestError::Ambiguous
            | ManifestError::SchemaVersion(_)
            | ManifestError::Json(_) => refusal,
        }
    })?;
    document::check_sizes(manifest.parsed()).map_err(invalid)?;
    // image-spec, "Image Manifest Property Descriptions": an artifact without a config has to say
    // by itself what it is.
    if let Manifest::Image(image) = manifest.parsed()
        && image.config.media_type == MediaType::OCI_EMPTY
        && image.artifact_type.as_deref().unwrap_or_default().is_empty()
    {
        return Err(invalid("an image with an empty config needs an artifactType".to_owned()));
    }
    Ok(manifest)
}

fn check_digest(expected: &Digest, bytes: &[u8]) -> Result<(), Refusal> {
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    let actual = hasher.finish();
    if actual == *expected {
        return Ok(());
    }
    let text = format!("the manifest has digest {actual}, not {expected}");
    Err(Refusal::new(ErrorCode::DigestInvalid, text))
}

/// What the repository must hold before it may hold the manifest.
pub(crate) fn children(manifest: &Manifest) -> Vec<Child> {
    let child = |descriptor: &Descriptor| match manifest {
        Manifest::Image(_) => Child::Blob(descriptor.digest),
        Manifest::Index(_) => Child::Entry(descriptor.digest),
    };
    manifest.references().map(child).collect()
}

/// The children without entries of an index that the repository does not hold.
fn only_held(call: &Call<'_>, children: Vec<Child>) -> Result<Vec<Child>, Refusal> {
    let metadata = &call.service.metadata;
    let mut held = Vec::with_capacity(children.len());
    for child in children {
        let keeps = match &child {
            Child::Blob(_) => true,
            Child::Entry(digest) => {
                let reference = ManifestReference::Digest(*digest);
                metadata.manifest(&call.repository, &reference)?.is_some()
                    || metadata.linked(&call.repository, digest)?.is_some()
            }
        };
        if keeps {
            held.push(child);
        }
    }
    Ok(held)
}

/// The descriptor by which the manifest is listed at its subject (distribution-spec, "Listing
/// Referrers").
pub(crate) fn referrer(manifest: &RawManifest, digest: Digest) -> Result<Vec<u8>, Refusal> {
    let size = manifest.bytes().len() as u64;
    let mut descriptor = Descriptor::new(manifest.media_type().clone(), digest, size);
    descriptor.artifact_type = manifest.parsed().artifact_type().map(str::to_owned);
    descriptor.annotations = manifest.parsed().annotations().clone();
    serde_json::to_vec(&descriptor).map_err(|error| Refusal::internal(&error))
}
