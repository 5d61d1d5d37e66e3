//! Blobs: GET and DELETE (distribution-spec end-2, end-10).

use std::time::Duration;

use blob_store::Blob;
use http::{HeaderValue, Method, Response, StatusCode, header};
use oci_model::{Digest, ErrorCode};

use crate::body::{Body, Part};
use crate::bytes::{BlobBytes, BucketBytes, BucketError, Stretch};
use crate::manifests::DIGEST_HEADER;
use crate::metadata::{BlobState, Change, ChangeError};
use crate::range::{self, Wanted};
use crate::refusal::Refusal;
use crate::service::{Answer, Call, blocking, empty, header_value};

/// How often it is noted that somebody was told of a blob in the bucket. Shorter than any time
/// after which an unneeded blob goes.
const SEEN_EVERY: Duration = Duration::from_secs(600);

/// The blob or a part of it.
pub(crate) async fn get(call: &Call<'_>, digest: &Digest) -> Answer {
    let size =
        call.service.metadata.linked(&call.repository, digest)?.ok_or_else(|| unknown(digest))?;
    let held = hold(call, digest, size).await?;
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
    if let Some(url) = elsewhere(call, &held).await? {
        return Ok(redirected(&url));
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
    if call.method == Method::HEAD {
        // Nothing is promised to the connection, or asked of a bucket, for a body that is not sent.
        return Ok(response);
    }
    *response.body_mut() = match held {
        Held::File(blob) => {
            let (file, spans) = (blob.into_file(), call.spans.clone());
            match parts {
                None => Body::file(file, first, length, spans),
                Some(parts) => Body::parts(file, parts, spans),
            }
        }
        Held::Object(bucket, key) => {
            let stream = match parts {
                None if length == 0 => return Ok(response),
                None => bucket.read(&key, size, first..first + length).await,
                Some(parts) => {
                    let parts = parts.into_iter().map(|part| match part {
                        Part::Text(text) => Stretch::Text(text),
                        Part::File { first, size } => Stretch::Part(first..first + size),
                    });
                    bucket.read_all(&key, size, parts.collect()).await
                }
            };
            Body::remote(stream.map_err(|error| lost(digest, error))?, length)
        }
    };
    Ok(response)
}

/// A blob that somebody was told of.
enum Held<'a> {
    File(Blob),
    Object(&'a BucketBytes, String),
}

/// Makes sure that the blob stays for a while: whoever sees it may rely on it.
async fn hold<'a>(call: &'a Call<'_>, digest: &Digest, size: u64) -> Result<Held<'a>, Refusal> {
    let wrong = |found: u64| {
        tracing::error!(%digest, expected = size, found, "blob has the wrong size");
        unknown(digest)
    };
    let bucket = match &call.service.bytes {
        BlobBytes::Local(store) => {
            let (store, wanted) = (store.clone(), *digest);
            let blob = blocking(move || {
                store.touch(&wanted)?;
                store.open_blob(&wanted)
            })
            .await??;
            return if blob.size() == size {
                Ok(Held::File(blob))
            } else {
                Err(wrong(blob.size()))
            };
        }
        BlobBytes::Bucket(bucket) => bucket,
    };
    let row = call.service.metadata.blob(digest)?.ok_or_else(|| unknown(digest))?;
    if row.size != size {
        return Err(wrong(row.size));
    }
    let stamp = call.stamp();
    let seen_ago = Duration::from_millis(stamp.at.saturating_sub(row.last_seen));
    if row.state != BlobState::Live || seen_ago >= SEEN_EVERY {
        match call.service.metadata.submit(Change::SeeBlob(*digest), stamp).await {
            Ok(_) => {}
            Err(ChangeError::Missing(_)) => return Err(unknown(digest)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Held::Object(bucket, row.key))
}

/// Where the client reads the blob itself, if it is one of those that do. Not for HEAD: some
/// clients lose the headers on the way.
async fn elsewhere(call: &Call<'_>, held: &Held<'_>) -> Result<Option<String>, Refusal> {
    let Held::Object(bucket, key) = held else { return Ok(None) };
    let Some(redirect) = bucket.redirect().filter(|_| call.method == Method::GET) else {
        return Ok(None);
    };
    let address = call.exchange.peer.address;
    if !redirect.clients.iter().any(|network| network.contains(address)) {
        return Ok(None);
    }
    Ok(Some(bucket.bucket().presigned(key, redirect.lifetime).await?))
}

/// A redirect that keeps the method and the range. Nobody may keep it: the URL ends.
fn redirected(url: &str) -> Response<Body> {
    let mut response = empty(StatusCode::TEMPORARY_REDIRECT);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, header_value(url));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What a client learns if the object of a blob cannot be read.
fn lost(digest: &Digest, error: BucketError) -> Refusal {
    if let BucketError::Missing { key } = &error {
        tracing::error!(%digest, key, "the object of a blob is not in the bucket");
        return unknown(digest);
    }
    error.into()
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
