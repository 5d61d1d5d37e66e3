//! Request bodies: limits and formats.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::error::{ApiError, Reason};
use crate::wire;

/// Largest request body in bytes (3 MiB, upstream's limit).
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Longest time a body may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);

/// Reads a whole body.
///
/// # Errors
/// 413 over the limit, 504 when it does not arrive, 400 when the connection breaks.
pub(super) async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    let limited = Limited::new(body, BODY_BYTES_MAX);
    let collected = tokio::time::timeout(BODY_TIME_MAX, limited.collect())
        .await
        .map_err(|_| ApiError::new(Reason::Timeout, "Timeout: the request body did not arrive"))?;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {BODY_BYTES_MAX}"),
        )),
        Err(error) => Err(ApiError::bad_request(format!("cannot read the request body: {error}"))),
    }
}

/// The media type of the body, lower case, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|media| media.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

/// Decodes the body of a create, update or delete.
///
/// # Errors
/// 415 for a type we do not read, 400 for bytes that are not of that type.
pub(super) fn decode(media_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    match media_type {
        "" | "application/json" => json(body),
        "application/yaml" | "text/yaml" => yaml(body),
        wire::PROTOBUF => wire::decode_protobuf(body),
        other => Err(unsupported(other)),
    }
}

/// Parses JSON.
///
/// # Errors
/// 400 with the position.
pub(super) fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type JSON): {error}"
        ))
    })
}

/// Parses YAML, of which JSON is a part.
///
/// # Errors
/// 400 with the position.
pub(super) fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::bad_request("the request body is not UTF-8"))?;
    serde_saphyr::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: {error}")))
}

fn unsupported(media_type: &str) -> ApiError {
    tracing::debug!(media_type, "refused a body type");
    ApiError::new(
        Reason::UnsupportedMediaType,
        "the body of the request was in an unknown format - accepted media types include: \
         application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_give_the_same_object() {
        let expected = serde_json::json!({"kind": "Pod", "spec": {"n": 1, "on": true}});
        assert_eq!(
            decode("application/yaml", b"kind: Pod\nspec:\n  n: 1\n  on: true\n").expect("yaml"),
            expected
        );
        assert_eq!(
            decode("application/json", expected.to_string().as_bytes()).expect("json"),
            expected
        );
    }

    #[test]
    fn unknown_types_and_broken_bytes_are_told_apart() {
        assert_eq!(decode("text/html", b"{}").expect_err("type").reason.code(), 415);
        assert_eq!(decode("application/json", b"{").expect_err("bytes").reason.code(), 400);
    }
}
