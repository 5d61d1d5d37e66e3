//! OpenAPI: as much as clients act on.
//!
//! Version 3 tells kubectl that every kind validates fields on the server. Version 2, in protobuf,
//! is what kubectl before 1.29 downloads before `create -f` and `apply`.

mod schemas;
mod v2;
mod v3;

pub use v2::document as v2_document;
pub use v3::{document as v3_document, index as v3_index};

/// Content type of the version 2 document. The `@` of the request's type is not legal in a media
/// type, so it is not in the answer.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
