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
pub(super) use self::identity::region_of_environment;

use super::label::Region;
use super::{CloudError, Method, Performer, Request};
use crate::Secret;

/// A signed question "who am I" (`GetCallerIdentity`) for somebody else to ask.
pub(super) fn signed_caller_identity(
    performer: &dyn Performer,
    region: &Region,
    url: &str,
    header: (&'static str, &str),
) -> Result<Request, CloudError> {
    let name = region.as_str();
    let chain = identity::Chain { performer, region: name, profile: None, allow_processes: false };
    let (credentials, _) = chain.find()?;
    let endpoint = Partition::of_region(name).sts(region);
    let request = Request::to_cloud(Method::Post, url).header(header.0, Secret::new(header.1));
    Ok(sigv4::signed(request, &endpoint, &credentials, performer.now()))
}

/// The name of the provider in errors.
const PROVIDER: &str = "ecr";
