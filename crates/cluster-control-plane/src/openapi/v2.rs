//! The version 2 document in protobuf (gnostic `openapi.v2.Document`).

/// `/openapi/v2`.
pub fn document() -> Vec<u8> {
    Vec::new()
}
