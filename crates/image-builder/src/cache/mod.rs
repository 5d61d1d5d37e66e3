//! The step cache: what a step made, found again by what it did and read.
//!
//! # Keys
//! Every step has several ([`key`]). Its *chain key* is known before anything ran: what it does,
//! the chain key of the step before it, those of the stages it reads, digests of what it reads
//! of the context. A hit on it brings the layers of all steps below along, so that a stage whose
//! last step is known executes nothing, and stages only it would read are not built at all
//! ([`lookahead`]). Its *content keys* are known when the step's turn comes: the same with the
//! files below and the files read by their content. They hit when something earlier was executed
//! again with an equal result. Secrets, proxies and times are in no key.
//!
//! # Places
//! On this machine one file per key ([`local`]). Elsewhere one document of all records
//! ([`document`]): behind a tag of a registry ([`remote`]), in an OCI layout ([`layout`]), or in
//! the config of an image ([`inline`]). One read answers all questions of a build.

pub(crate) mod document;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod inline;
pub(crate) mod key;
pub(crate) mod layout;
pub(crate) mod local;
pub(crate) mod lookahead;
pub(crate) mod mounts;
pub(crate) mod place;
pub(crate) mod prune;
pub(crate) mod record;
pub(crate) mod remote;
pub(crate) mod shelf;
