//! Amazon ECR: the account's identity (`identity`), signed (`sigv4`), exchanged for a registry
//! token (`ecr`).
//!
//! | file | job |
//! |---|---|
//! | `endpoints` | registry hosts, partitions, and the API of each |
//! | `sigv4` | signatures of requests (Signature Version 4) |
//! | `identity` | the chain of places where credentials of an account may be |
//! | `profile` | `~/.aws/config` and `~/.aws/credentials` |
//! | `metadata` | EC2 instance metadata, ECS and EKS pod identity |
//! | `sts`, `sso` | tokens exchanged for credentials |
//! | `ecr` | credentials exchanged for a registry token |

mod ecr;
mod endpoints;
mod identity;
mod metadata;
mod profile;
mod sigv4;
mod sso;
mod sts;
#[cfg(test)]
mod tests;

pub use self::ecr::{EcrOptions, EcrRequest, credential};
pub use self::endpoints::{EcrHost, Partition};

/// The name of the provider in errors.
const PROVIDER: &str = "ecr";
