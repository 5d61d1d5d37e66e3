//! Namespaces: prefixes of repository names with policies of their own.
//!
//! The policies come from the configuration. They are stored with the metadata (a change like any
//! other), and every change is judged by the stored ones: so replicas whose files differ for a
//! moment still agree on every answer.

pub(crate) mod glob;
mod namespace;
mod quantity;
mod quota;
pub(crate) mod retention;
mod upkeep;

pub use self::glob::{Glob, GlobError};
pub(crate) use self::namespace::Policies;
pub use self::namespace::{ImmutableTags, Namespace, NamespaceError, RetentionRule};
pub use self::quantity::{ByteSize, QuantityError, Span};
pub(crate) use self::quota::{Meter, enter, leave, over_quota};
pub use self::retention::Verdict;
pub(crate) use self::upkeep::{
    Pulls, RepositoryPlan, apply_retention, plan_retention, settle_policies, upkeep,
};
