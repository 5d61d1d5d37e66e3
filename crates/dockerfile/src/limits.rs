//! Every bound this crate enforces, in one place.
//!
//! A Dockerfile is untrusted input: in a shared builder it comes from a tenant, so nothing may
//! grow or loop without one of these numbers stopping it.

/// Longest physical line, in bytes (64 KiB less one).
///
/// Source: BuildKit's scanner limit, which it reports as `dockerfile line greater than max
/// allowed size of 65535`.
pub const LINE_BYTES_MAX: usize = 65_535;

/// Largest Dockerfile that is parsed, in bytes (16 MiB).
pub const DOCKERFILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most instructions in one file, triggers included.
///
/// A layer or history entry each; image tools refuse far smaller numbers (Docker: 127 layers).
pub const INSTRUCTIONS_MAX: usize = 20_000;

/// Most stages in one file.
pub const STAGES_MAX: usize = 1_000;

/// Largest result of expanding one word, in bytes (1 MiB).
///
/// `ENV a=$a$a` repeated thirty times would otherwise ask for gigabytes. Linux refuses single
/// environment strings above 128 KiB, so nothing that can run is lost.
pub const EXPANSION_BYTES_MAX: usize = 1024 * 1024;

/// Deepest nesting of `${…}` inside the word of another `${…}`.
pub const EXPANSION_DEPTH_MAX: u32 = 64;

/// Most work of one shell pattern: pattern characters times value characters.
pub const PATTERN_WORK_MAX: usize = 16 * 1024 * 1024;

/// Total size of the environment of one stage, in bytes (1 MiB).
///
/// Linux refuses to start a process with more than about 2 MiB of arguments and environment.
pub const ENVIRONMENT_BYTES_MAX: usize = 1024 * 1024;

/// Most ports one EXPOSE range may name: the whole port space.
pub const EXPOSED_PORTS_MAX: usize = 65_536;

/// Most patterns of one ignore file.
pub const IGNORE_PATTERNS_MAX: usize = 10_000;

/// Most `--build-context` redirections followed for one name.
pub const NAMED_CONTEXT_DEPTH_MAX: u32 = 10;

/// Most memory the variable parts of a plan may take together, in bytes (64 MiB).
pub const PLAN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most known words that are compared with an unknown one for a suggestion.
pub const SUGGESTION_CANDIDATES_MAX: usize = 128;
