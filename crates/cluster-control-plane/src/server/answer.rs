//! Answers: bodies, headers, errors.

use std::convert::Infallible;
use std::io::Write as _;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::error::ApiError;

/// The body of every answer.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub(super) type Answer = Response<AnswerBody>;

/// Bodies from this size are compressed for clients that take gzip (upstream's threshold).
const GZIP_FROM_BYTES: usize = 128 * 1024;

pub(super) fn full(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer of a status and a body of a type.
pub(super) fn of_type(status: StatusCode, content_type: &'static str, body: AnswerBody) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &Value) -> Answer {
    of_type(status, "application/json", full(value.to_string()))
}

/// A text answer.
pub(super) fn text(status: StatusCode, text: &'static str) -> Answer {
    of_type(status, "text/plain; charset=utf-8", full(text))
}

/// A refusal as `Status`.
pub(super) fn error(error: &ApiError) -> Answer {
    let status =
        StatusCode::from_u16(error.reason.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &error.to_status());
    if let Some(seconds) = error.retry_after_seconds {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds one `Warning` header per text (RFC 7234, code 299).
pub(super) fn warn(response: &mut Answer, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let clean: String = quoted.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{clean}\"")) {
            response.headers_mut().append("warning", value);
        }
    }
}

/// A JSON answer, compressed when it is large and the client takes gzip.
pub(super) fn json_for(accept_encoding: &str, status: StatusCode, value: &Value) -> Answer {
    json_text_for(accept_encoding, status, value.to_string())
}

/// The same for JSON that is text already.
pub(super) fn json_text_for(accept_encoding: &str, status: StatusCode, text: String) -> Answer {
    let takes_gzip = accept_encoding.split(',').any(|coding| coding.trim().starts_with("gzip"));
    if text.len() < GZIP_FROM_BYTES || !takes_gzip {
        return of_type(status, "application/json", full(text));
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory does not fail; should it, the plain text is a correct answer too.
    match encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()) {
        Ok(compressed) => {
            let mut response = of_type(status, "application/json", full(compressed));
            let headers = response.headers_mut();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            response
        }
        Err(_) => of_type(status, "application/json", full(text)),
    }
}
