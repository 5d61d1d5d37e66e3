//! Who asks, and what they may do.

mod authority;
mod certificate;
mod client_address;
mod compact;
mod federation;
mod identity;
mod key_ring;
mod lockout;
mod options;
mod policy;
mod robots;
mod scope;
mod token;

pub use self::federation::{
    ClaimRule, ForeignTokens, Issuer, IssuerError, KeyLocation, KeyRequest, KeySource,
    KeySourceError,
};
pub use self::key_ring::TokenAlgorithm;
pub use self::options::{Clock, IdentityOptions, RefreshBinding};
pub(crate) use self::policy::covers;
pub use self::policy::{AccessRule, Holder, Role};
pub use self::robots::{
    ROBOT_LIFE, Robot, RobotError, RobotRight, RobotSecret, add_robot, list_robots, remove_robot,
    rotate_robot,
};
pub use self::token::TokenOptions;

pub(crate) use self::authority::{
    Authority, AuthorityError, Login, LoginError, authorization, decode_basic, issuer_unavailable,
    too_many_failures,
};
pub(crate) use self::identity::{Identity, Principal, ROBOT_PREFIX};
pub(crate) use self::lockout::Attempt;
pub(crate) use self::scope::Scope;
pub(crate) use self::token::{Refresh, SERVICE, TokenError};

#[cfg(test)]
mod tests;
