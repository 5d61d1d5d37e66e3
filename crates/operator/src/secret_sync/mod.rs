//! `shipway secret sync`: one source of registry credentials, kept as a pull secret of one name in
//! many namespaces and on their service accounts.
//!
//! ```text
//! config file or secret ─content→ Content ┐
//!                                          ├─plan→ steps ─reconcile→ the cluster
//! namespaces, secrets, accounts ─observed→ ┘
//! ```
//! [`plan`] is pure: what is wanted and what is seen give the writes to make. [`Reconciler`] sees,
//! plans and writes, once or for as long as it runs. What a sync made carries its label or its
//! annotation; nothing else is ever changed or removed.

mod content;
mod observed;
mod permissions;
mod plan;
mod reconcile;
mod selector;
mod source;
mod told;
mod watch;

pub use content::{Content, ContentError, Skipped, unanswered};
pub use observed::{AccountState, NamespaceState, Observed, SecretState, Version};
pub use permissions::permissions;
pub use plan::{
    Accounts, BadScope, Desired, Elsewhere, Plan, Problem, Scope, Step, StepKind, plan,
};
pub use reconcile::{Reconciler, Report, SyncError, Told};
pub use selector::{BadSelector, parse_selector};
pub use source::{SourceError, SourceSecret, Sourced};
pub use told::{step_line, step_object};

/// Label of every secret that a sync made; the value is the sync's name.
pub const OWNER_LABEL: &str = "shipway.dev/secret-sync";
/// Annotation of those secrets: which content they hold, comparable between namespaces. It is
/// derived by many rounds of hashing, so that it is of no help in guessing a password.
pub const CONTENT_ANNOTATION: &str = "shipway.dev/secret-sync-content";
/// Prefix of the annotation of a service account to which a sync added its secret; the sync's name
/// follows.
pub const ACCOUNT_ANNOTATION_PREFIX: &str = "secret-sync.shipway.dev/";
/// Name under which writes are recorded in `metadata.managedFields`.
pub const FIELD_MANAGER: &str = "shipway-secret-sync";
/// Type of the secrets.
pub const SECRET_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// Key of their content.
pub const SECRET_KEY: &str = ".dockerconfigjson";
