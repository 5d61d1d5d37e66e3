//! Kubernetes' pure image rules: default pull policy, pull decision, back-off, admission, texts.
//!
//! Every function takes plain values and returns plain values: no I/O, no clock, no Kubernetes
//! types. The node performs what [`decide`] says; the API server applies what [`admission`] says;
//! `shipway explain` asks both what would happen.

#![forbid(unsafe_code)]

pub mod admission;
mod back_off;
pub mod collection;
mod decision;
mod duration;
pub mod event;
mod mirror;
mod policy;
mod rate;
pub mod verification;

pub use back_off::{BACK_OFF_INITIAL, BACK_OFF_MAX, BackOff};
pub use decision::{
    Decision, Presence, PullFailure, Refusal, WaitingReason, aggregate_errors, back_off_waiting,
    decide, is_failed_pull, pull_failure,
};
pub use duration::go_duration;
pub use event::{Event, EventType, Waiting};
pub use mirror::{ImageMirror, LOCAL_REGISTRY, mirrored};
pub use policy::{InvalidImageName, PullPolicy, image_with_default_tag, supported_policies_text};
pub use rate::TokenBucket;
