//! Error codes of the distribution API (OCI distribution-spec, "Error Codes").

use serde::{Deserialize, Serialize};

/// Why a registry refused, as the `code` of an error entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Blob unknown to the repository.
    BlobUnknown,
    /// Blob upload broken.
    BlobUploadInvalid,
    /// Blob upload unknown.
    BlobUploadUnknown,
    /// Digest malformed, unsupported or not that of the content.
    DigestInvalid,
    /// Manifest points to content that is not there.
    ManifestBlobUnknown,
    /// Manifest malformed.
    ManifestInvalid,
    /// Manifest unknown to the repository.
    ManifestUnknown,
    /// Repository name malformed.
    NameInvalid,
    /// Repository unknown.
    NameUnknown,
    /// Content length is not what was promised.
    SizeInvalid,
    /// Tag name malformed.
    TagInvalid,
    /// Not authenticated.
    Unauthorized,
    /// Authenticated, but not allowed.
    Denied,
    /// Operation not supported.
    Unsupported,
    /// Too many requests.
    TooManyRequests,
    /// Range of an upload does not continue it.
    RangeInvalid,
    /// The `n` or `last` of a list is wrong.
    PaginationNumberInvalid,
    /// The server cannot answer now; a later request may succeed.
    Unavailable,
    /// The server failed.
    Unknown,
}

impl ErrorCode {
    const ALL: [(Self, &'static str); 19] = [
        (Self::BlobUnknown, "BLOB_UNKNOWN"),
        (Self::BlobUploadInvalid, "BLOB_UPLOAD_INVALID"),
        (Self::BlobUploadUnknown, "BLOB_UPLOAD_UNKNOWN"),
        (Self::DigestInvalid, "DIGEST_INVALID"),
        (Self::ManifestBlobUnknown, "MANIFEST_BLOB_UNKNOWN"),
        (Self::ManifestInvalid, "MANIFEST_INVALID"),
        (Self::ManifestUnknown, "MANIFEST_UNKNOWN"),
        (Self::NameInvalid, "NAME_INVALID"),
        (Self::NameUnknown, "NAME_UNKNOWN"),
        (Self::SizeInvalid, "SIZE_INVALID"),
        (Self::TagInvalid, "TAG_INVALID"),
        (Self::Unauthorized, "UNAUTHORIZED"),
        (Self::Denied, "DENIED"),
        (Self::Unsupported, "UNSUPPORTED"),
        (Self::TooManyRequests, "TOOMANYREQUESTS"),
        (Self::RangeInvalid, "RANGE_INVALID"),
        (Self::PaginationNumberInvalid, "PAGINATION_NUMBER_INVALID"),
        (Self::Unavailable, "UNAVAILABLE"),
        (Self::Unknown, "UNKNOWN"),
    ];

    /// The code on the wire, such as `MANIFEST_UNKNOWN`.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(code, _)| *code == self).map_or("UNKNOWN", |(_, text)| text)
    }

    /// The code of a text on the wire; [`ErrorCode::Unknown`] for one that no spec names.
    pub fn from_wire(text: &str) -> Self {
        Self::ALL.iter().find(|(_, name)| *name == text).map_or(Self::Unknown, |(code, _)| *code)
    }
}

/// The JSON body of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One or more reasons.
    #[serde(default)]
    pub errors: Vec<ErrorEntry>,
}

/// One reason of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// The code as text; see [`ErrorCode::from_wire`].
    #[serde(default)]
    pub code: String,
    /// Text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Anything else the server wants to say.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

impl ErrorBody {
    /// A body with one reason.
    pub fn one(code: ErrorCode, message: impl Into<String>, detail: serde_json::Value) -> Self {
        let entry = ErrorEntry { code: code.as_str().to_owned(), message: message.into(), detail };
        Self { errors: vec![entry] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips_and_others_are_unknown() {
        for (code, text) in ErrorCode::ALL {
            assert_eq!(code.as_str(), text);
            assert_eq!(ErrorCode::from_wire(text), code);
        }
        assert_eq!(ErrorCode::from_wire("IM_A_TEAPOT"), ErrorCode::Unknown);
    }
}
