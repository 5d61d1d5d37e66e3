//! Why a build failed: one variant per thing a caller can do about it.

use std::io;
use std::path::PathBuf;

use dockerfile::Span;
use oci_model::Platform;

use crate::archive::ExtractError;
use crate::owners::OwnerError;
use crate::transfer::TransferError;
use crate::tree::TreeError;

/// Why a build has no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step failed; its author can do something about it.
    #[error("{title}")]
    Step {
        /// `[stage 2/5] RUN make`.
        title: String,
        /// Where it was written.
        span: Span,
        /// Why.
        source: Box<StepError>,
    },
    /// A base or another image of the file cannot be had.
    #[error("cannot resolve image {reference}")]
    Image {
        /// The image.
        reference: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image cannot be pushed.
    #[error("cannot push {reference}")]
    Push {
        /// The image.
        reference: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An image has no manifest for the platform.
    #[error("image {reference} is not for {platform}; it is for {offered}")]
    Platform {
        /// The image.
        reference: String,
        /// The platform wanted.
        platform: Platform,
        /// What it is for.
        offered: String,
    },
    /// An output could not be written.
    #[error("cannot write {}", path.display())]
    Output {
        /// The output.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The builder's own directory or store failed.
    #[error("cannot use the builder's state: {what}")]
    State {
        /// What of it.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A cache cannot be read or written.
    #[error("cannot use the cache {place}")]
    Cache {
        /// Where it is.
        place: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request cannot be met as it is.
    #[error("{0}")]
    Request(String),
    /// The caller cancelled the build.
    #[error("the build was cancelled")]
    Cancelled,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The command ended with another code than 0.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Exit {
        /// The command.
        command: String,
        /// Its code, or 128 plus the signal that ended it.
        code: i32,
    },
    /// The command could not be started.
    #[error(transparent)]
    Start(#[from] container_runtime::StepError),
    /// A source is not in the context, stage or image.
    #[error("failed to compute cache key: {0}")]
    Source(String),
    /// The copy itself failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A user or group is unknown.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A tree could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// An archive could not be unpacked.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// Something remote could not be fetched.
    #[error("cannot fetch {url}: {reason}")]
    Fetch {
        /// What.
        url: String,
        /// Why not.
        reason: String,
    },
    /// A layer could not be written, read or unpacked.
    #[error("{what}")]
    Layer {
        /// What was attempted, with the object.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Commands cannot run here.
    #[error("RUN is not possible here: {reason}")]
    NoIsolation {
        /// Why, and what would make it possible.
        reason: String,
    },
    /// A secret, agent or cache is not as the mount asks.
    #[error("{0}")]
    Mount(String),
    /// The command is made for another processor.
    #[error("cannot run a command for {platform} on {host}: {reason}")]
    Foreign {
        /// Platform of the command.
        platform: Platform,
        /// This machine.
        host: Platform,
        /// What is missing.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A task of the builder panicked: a defect of ours.
    #[error("a task of the builder panicked")]
    Panicked,
}

/// An error with its causes in one line.
pub(crate) fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Libraries often repeat their cause in their own text.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

impl StepError {
    pub(crate) fn layer(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Layer { what: what.into(), source: source.into() }
    }

    pub(crate) fn io(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.into(), source: source.into() }
    }

    /// What to try next, if there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exit { code: 127, .. } => {
                Some("is the program in the base image? exit code 127 means it was not found")
            }
            Self::Source(_) => Some("check the path below the build context and the ignore file"),
            Self::NoIsolation { .. } => Some(
                "run as root, or allow user namespaces (seccompProfile: Unconfined or \
                 hostUsers: false in a pod)",
            ),
            Self::Foreign { .. } => Some(
                "install an emulator that binfmt_misc knows with flag F (Debian: apt-get install \
                 qemu-user-static binfmt-support), or build on a machine of that platform",
            ),
            _ => None,
        }
    }
}

impl BuildError {
    pub(crate) fn state(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::State { what: what.into(), source: source.into() }
    }

    /// The exit code of the failed command, if a command failed.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Step { source, .. } => match **source {
                StepError::Exit { code, .. } => Some(code),
                _ => None,
            },
            _ => None,
        }
    }
}
