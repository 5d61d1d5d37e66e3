//! Wire formats other than JSON.

mod protobuf;

use serde_json::Value;

use self::protobuf::DecodeError;
use crate::error::{ApiError, Reason};

/// Content type of Kubernetes protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Decodes a protobuf body (4 magic bytes, then `runtime.Unknown`) to the JSON it stands for.
///
/// # Errors
/// 400 for bytes that are not such a message, 415 for a kind without a descriptor.
pub fn decode_protobuf(body: &[u8]) -> Result<Value, ApiError> {
    protobuf::decode(body).map_err(|refused| match refused {
        DecodeError::Malformed(_) => ApiError::bad_request(refused.to_string()),
        DecodeError::UnknownKind { .. } => {
            ApiError::new(Reason::UnsupportedMediaType, refused.to_string())
        }
    })
}
