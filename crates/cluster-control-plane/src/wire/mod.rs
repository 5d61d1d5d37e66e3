//! Wire formats other than JSON.

use serde_json::Value;

use crate::error::{ApiError, Reason};

/// Content type of Kubernetes protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Decodes a protobuf body (4 magic bytes, then `runtime.Unknown`) to the JSON it stands for.
///
/// # Errors
/// 400 for bytes that are not such a message, 415 for a kind without a descriptor.
pub fn decode_protobuf(body: &[u8]) -> Result<Value, ApiError> {
    let _ = body;
    Err(ApiError::new(
        Reason::UnsupportedMediaType,
        "protobuf bodies are not served yet",
    ))
}
