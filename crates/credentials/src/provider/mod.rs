//! Exec credential providers from the kubelet's side: which programs may be asked for which
//! image, what they are asked, what their answers mean and how long those are kept (KEP-2133,
//! KEP-4412; kubelet-images.md 9).
//!
//! | file | job |
//! |---|---|
//! | `config` | `CredentialProviderConfig`: strict decoding, merging of several files |
//! | `validate` | the rules for its fields |
//! | `match_image` | patterns of `matchImages`, with the texts of Go's URL parser |
//! | `duration` | Go's durations |
//! | `protocol` | the request for a provider's standard input, and its answer |
//! | `cache` | answers that are kept |
//! | `stderr` | what a failed program said, fit for an event |
//!
//! Pure: the caller reads files, runs programs, asks for tokens and says what time it is.

mod cache;
mod config;
mod duration;
mod match_image;
mod protocol;
mod stderr;
mod validate;

pub use self::cache::{AccountKey, ProviderCache};
pub use self::config::{
    CacheType, ConfigDocument, Provider, ProviderConfigError, TokenAttributes, is_config_file,
    providers_of,
};
pub use self::match_image::matches as image_matches;
pub use self::protocol::{
    AccountClaim, Answer, AnswerError, CacheKeyType, SkipReason, claimed_annotations, request,
};
pub use self::stderr::stderr_line;
