//! Who asks, and what they may do.

mod authority;
mod identity;
mod policy;
mod scope;
mod token;

pub use self::policy::{AccessRule, Holder, Role};

pub(crate) use self::authority::{Authority, decode_basic};
pub(crate) use self::identity::{Identity, Principal};
pub(crate) use self::scope::{Access, Scope};
pub(crate) use self::token::{ACCESS_LIFE, SERVICE, TokenError, TokenService};

#[cfg(test)]
mod tests;
