//! Blobs: GET and DELETE (distribution-spec end-2, end-10).

use http::{HeaderValue, Response, StatusCode, header};
use oci_model::{Digest, ErrorCode};

use crate::body::Body;
use crate::manifests::DIGEST_HEADER;
use crate::metadata::{Change, ChangeError};
use crate::range::{self, Wanted};
use crate::refusal::Refusal;
use crate::service::{Answer, Call, blocking, empty, header_value};

/// The blob or a part of it.
pub(crate) async fn get(call: &Call<'_>, digest: &Digest) -> Answer {
    let size =
        call.service.metadata.linked(&call.repository, digest)?.ok_or_else(|| unknown(digest))?;
    let (store, wanted) = (call.service.store.clone(), *digest);
    let blob = blocking(move || {
        // Whoever sees the blob may rely on it: it is not collected for a while.
        store.touch(&wanted)?;
        store.open_blob(&wanted)
    })
    .await??;
    if blob.size() != size {
        tracing::error!(%digest, expected = size, found = blob.size(), "blob has the wrong size");
        return Err(unknown(digest));
    }
    let text = digest.to_string();
    let entity_tag = format!("\"{text}\"");
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(DIGEST_HEADER, header_value(&text));
    headers.insert(header::ETAG, header_value(&entity_tag));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=31536000, immutable"));
    if call.has_already(&entity_tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let (first, length) = match range::wanted(call.header(header::RANGE), size) {
        Wanted::Whole => (0, size),
        Wanted::Part { first, last } => {
            let content_range = format!("bytes {first}-{last}/{size}");
            headers.insert(header::CONTENT_RANGE, header_value(&content_range));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            (first, last - first + 1)
        }
        Wanted::Unsatisfiable => {
            let text = format!("the blob has {size} bytes");
            return Err(Refusal::new(ErrorCode::RangeInvalid, text)
                .with_header(header::CONTENT_RANGE, header_value(&format!("bytes */{size}"))));
        }
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    *response.body_mut() = Body::file(blob.into_file(), first, length, call.spans.clone());
    Ok(response)
}

/// Takes the blob out of this repository; others keep it.
pub(crate) async fn delete(call: &Call<'_>, digest: Digest) -> Answer {
    let change = Change::DeleteBlob(call.repository.clone(), digest);
    match call.service.metadata.change(change).await {
        Ok(()) => Ok(empty(StatusCode::ACCEPTED)),
        Err(ChangeError::Unknown) => Err(unknown(&digest)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn unknown(digest: &Digest) -> Refusal {
    Refusal::new(ErrorCode::BlobUnknown, "blob unknown to the repository")
        .with_detail(serde_json::json!({ "digest": digest }))
}
