//! Blobs: GET and DELETE (distribution-spec end-2, end-10).

use http::{HeaderValue, Method, Response, StatusCode, header};
use oci_model::{Digest, ErrorCode};

use crate::body::{Body, Part};
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
    let mut parts = None;
    let (first, length) = match range::wanted(asked(call, &entity_tag), size) {
        Wanted::Whole => (0, size),
        Wanted::Part { first, last } => {
            let content_range = format!("bytes {first}-{last}/{size}");
            headers.insert(header::CONTENT_RANGE, header_value(&content_range));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            (first, last - first + 1)
        }
        Wanted::Parts(ranges) => {
            let boundary = uuid::Uuid::new_v4().simple().to_string();
            let content_type = format!("multipart/byteranges; boundary={boundary}");
            headers.insert(header::CONTENT_TYPE, header_value(&content_type));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let (several, length) = multipart(&ranges, size, &boundary);
            parts = Some(several);
            (0, length)
        }
        Wanted::Unsatisfiable => {
            let text = format!("the blob has {size} bytes");
            return Err(Refusal::new(ErrorCode::RangeInvalid, text)
                .with_header(header::CONTENT_RANGE, header_value(&format!("bytes */{size}"))));
        }
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    // Nothing is promised to the connection for a body that is not sent.
    if call.method != Method::HEAD {
        let (file, spans) = (blob.into_file(), call.spans.clone());
        *response.body_mut() = match parts {
            None => Body::file(file, first, length, spans),
            Some(parts) => Body::parts(file, parts, spans),
        };
    }
    Ok(response)
}

/// The ranges that count: only a GET has any (RFC 9110, section 14.2), and only of the blob that
/// the client has a part of (section 13.1.5).
fn asked<'a>(call: &'a Call<'_>, entity_tag: &str) -> Option<&'a str> {
    if call.method != Method::GET {
        return None;
    }
    match call.header(header::IF_RANGE) {
        Some(condition) if condition != entity_tag => None,
        _ => call.header(header::RANGE),
    }
}

/// The body of a `multipart/byteranges` answer (RFC 9110, section 14.6) and its size.
fn multipart(ranges: &[(u64, u64)], size: u64, boundary: &str) -> (Vec<Part>, u64) {
    let mut parts = Vec::with_capacity(ranges.len() * 2 + 1);
    let mut length = 0;
    for (index, (first, last)) in ranges.iter().enumerate() {
        let line = if index == 0 { "" } else { "\r\n" };
        let head = format!(
            "{line}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
        );
        length += head.len() as u64 + (last - first + 1);
        parts.push(Part::Text(head.into()));
        parts.push(Part::File { first: *first, size: last - first + 1 });
    }
    let end = format!("\r\n--{boundary}--\r\n");
    length += end.len() as u64;
    parts.push(Part::Text(end.into()));
    (parts, length)
}

/// Takes the blob out of this repository; others keep it.
pub(crate) async fn delete(call: &Call<'_>, digest: Digest) -> Answer {
    let change = Change::DeleteBlob(call.repository.clone(), digest);
    match call.service.metadata.submit(change, call.stamp()).await {
        Ok(_) => Ok(empty(StatusCode::ACCEPTED)),
        Err(ChangeError::Unknown) => Err(unknown(&digest)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn unknown(digest: &Digest) -> Refusal {
    Refusal::new(ErrorCode::BlobUnknown, "blob unknown to the repository")
        .with_detail(serde_json::json!({ "digest": digest }))
}
