//! Namespaces: prefixes of repository names with policies of their own.
//!
//! The policies come from the configuration. They are stored with the metadata (a change like any
//! other), and every change is judged by the stored ones: so replicas whose files differ for a
//! moment still agree on every answer.

pub(crate) mod glob;
#[expect(dead_code, reason = "the changes of the metadata judge by it")]
mod namespace;
mod quantity;

pub use self::glob::{Glob, GlobError};
pub(crate) use self::namespace::Policies;
pub use self::namespace::{ImmutableTags, Namespace, NamespaceError, RetentionRule};
pub use self::quantity::{ByteSize, QuantityError, Span};
