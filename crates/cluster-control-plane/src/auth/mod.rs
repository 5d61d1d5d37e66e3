//! Identity and permission: certificates, tokens, who a request is from, and what it may do.

pub mod authorize;
pub mod kubeconfig;
pub mod pki;
pub(crate) mod reviews;
pub mod tokens;
