//! Why a request was refused, and the response that says so.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use oci_model::{ErrorBody, ErrorCode};

use crate::body::Body;

/// A refusal: status, code, text and headers (distribution-spec, "Error Codes").
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    detail: serde_json::Value,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal with the usual status of its code.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = match code {
            ErrorCode::BlobUnknown
            | ErrorCode::BlobUploadUnknown
            | ErrorCode::ManifestUnknown
            | ErrorCode::NameUnknown => StatusCode::NOT_FOUND,
            ErrorCode::BlobUploadInvalid
            | ErrorCode::DigestInvalid
            | ErrorCode::ManifestBlobUnknown
            | ErrorCode::ManifestInvalid
            | ErrorCode::NameInvalid
            | ErrorCode::SizeInvalid
            | ErrorCode::TagInvalid
            | ErrorCode::PaginationNumberInvalid => StatusCode::BAD_REQUEST,
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::Denied => StatusCode::FORBIDDEN,
            ErrorCode::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status,
            code,
            message: message.into(),
            detail: serde_json::Value::Null,
            headers: Vec::new(),
        }
    }

    /// There is nothing at this path.
    pub(crate) fn not_found() -> Self {
        Self::new(ErrorCode::Unsupported, "no such endpoint").with_status(StatusCode::NOT_FOUND)
    }

    /// The path is longer than any that means something.
    pub(crate) fn uri_too_long() -> Self {
        Self::new(ErrorCode::Unsupported, "request target is too long")
            .with_status(StatusCode::URI_TOO_LONG)
    }

    /// The head of the request is larger than any that means something.
    pub(crate) fn head_too_large() -> Self {
        Self::new(ErrorCode::Unsupported, "request head is too large")
            .with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    }

    /// The path does not know this method.
    pub(crate) fn method() -> Self {
        Self::new(ErrorCode::Unsupported, "the operation is unsupported here")
    }

    /// The server is at fault; the cause goes to the log, not to the client.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        let mut causes = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push_str(": ");
            causes.push_str(&cause.to_string());
            source = cause.source();
        }
        tracing::error!(error = causes, "request failed");
        Self::new(ErrorCode::Unknown, "the registry failed; its log says why")
    }

    /// The disk is full: a client may retry later.
    pub(crate) fn no_space() -> Self {
        tracing::warn!("no space left on the disk of the registry");
        Self::new(ErrorCode::Unknown, "no space left on the disk of the registry")
            .with_status(StatusCode::INSUFFICIENT_STORAGE)
    }

    /// The server is shutting down or has more to write than it can queue.
    pub(crate) fn unavailable(message: &str) -> Self {
        Self::new(ErrorCode::Unavailable, message)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = detail;
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same challenge for one more scope (distribution token specification), if it is one.
    pub(crate) fn asking_also(mut self, scope: &str) -> Self {
        for (name, value) in &mut self.headers {
            let Ok(challenge) = value.to_str() else { continue };
            let Some((before, rest)) = challenge.split_once("scope=\"") else { continue };
            let Some((first, after)) = rest.split_once('"') else { continue };
            let more = HeaderValue::from_str(&format!("{before}scope=\"{first} {scope}\"{after}"));
            if let (true, Ok(more)) = (*name == header::WWW_AUTHENTICATE, more) {
                *value = more;
            }
        }
        self
    }

    /// Whether it says that there is no such upload.
    pub(crate) fn is_unknown_upload(&self) -> bool {
        self.code == ErrorCode::BlobUploadUnknown
    }

    /// Its status.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> &'static str {
        self.code.as_str()
    }

    /// The response with the JSON body of the spec.
    pub(crate) fn into_response(self) -> Response<Body> {
        let body = ErrorBody::one(self.code, self.message, self.detail);
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        let length = http_body::Body::size_hint(response.body()).exact().unwrap_or_default();
        *response.status_mut() = self.status;
        // For the log and the counts.
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        // Said here, so that a HEAD has it too.
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}
