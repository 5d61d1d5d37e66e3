//! `RUN --mount`: the CSV options, before and after variable expansion.

use crate::error::DockerfileError;
use crate::instruction::Requirement;
use crate::suggest::closest;

mod csv;
mod resolve;
#[cfg(test)]
mod tests;

pub(crate) use resolve::MountPlace;

/// One `--mount` as written: options in order, values not yet expanded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountTemplate {
    /// Options in the order written.
    pub(crate) options: Vec<MountOption>,
    /// Stage, named context or image given with `from`; never expanded.
    pub(crate) from: Option<String>,
}

impl MountTemplate {
    /// The `from` option.
    #[must_use]
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }
}

/// `key` or `key=value` of a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MountOption {
    /// The field as written, for messages.
    pub(crate) field: String,
    /// Key in lower case.
    pub(crate) key: String,
    /// Value, if there was a `=`.
    pub(crate) value: Option<String>,
}

/// The kinds of mounts a RUN can ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret of the caller.
    Secret,
    /// The agent of the caller.
    Ssh,
}

impl MountKind {
    /// Every name, for suggestions.
    pub(crate) const NAMES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

    /// The name in `type=`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    fn parse(text: &str) -> Result<Self, DockerfileError> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "bind" => Self::Bind,
            "cache" => Self::Cache,
            "tmpfs" => Self::Tmpfs,
            "secret" => Self::Secret,
            "ssh" => Self::Ssh,
            unknown => {
                let message = format!("unsupported mount type {text:?}");
                return Err(DockerfileError::syntax(message)
                    .suggesting(closest(unknown, Self::NAMES.iter().copied())));
            }
        })
    }
}

/// A mount with every option decided.
///
/// `S` is what `from` became: the plan fills in where the files come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mount<S> {
    /// Files of the context, a stage or an image, below `target`.
    Bind {
        /// Where the files come from.
        source: S,
        /// Path inside the source, absolute.
        source_path: String,
        /// Absolute path in the container.
        target: String,
        /// Whether the step may write; writes are discarded.
        access: Access,
    },
    /// A directory that outlives the build, below `target`.
    Cache {
        /// Identity of the cache, namespace prefix not included.
        id: String,
        /// Absolute path in the container.
        target: String,
        /// What a second user of the cache does.
        sharing: Sharing,
        /// Whether the step may write.
        access: Access,
        /// Files that seed an empty cache.
        seed: Option<S>,
        /// Path inside the cache that is mounted, absolute; never outside through a link.
        source_path: String,
        /// Mode of the directory when it is created (12 bits).
        mode: u32,
        /// Owner of the directory when it is created.
        uid: u32,
        /// Group of the directory when it is created.
        gid: u32,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Absolute path in the container.
        target: String,
        /// Most bytes it may hold; `None` leaves it to the kernel.
        bytes_max: Option<u64>,
    },
    /// A secret as a file, as an environment variable, or both.
    Secret {
        /// Identity the caller gave the secret.
        id: String,
        /// Absolute path of the file, if a file is wanted.
        target: Option<String>,
        /// Name of the environment variable, if one is wanted.
        env: Option<String>,
        /// Whether a missing secret fails the build.
        requirement: Requirement,
        /// Mode of the file (12 bits).
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
    },
    /// The agent socket of the caller.
    Ssh {
        /// Identity the caller gave the agent.
        id: String,
        /// Absolute path of the socket.
        target: String,
        /// Whether a missing agent fails the build.
        requirement: Requirement,
        /// Mode of the socket (12 bits).
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
    },
}

/// Whether a mount can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Access {
    /// Writes fail.
    ReadOnly,
    /// Writes succeed.
    ReadWrite,
}

/// What happens when two steps want the same cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Sharing {
    /// Both use it at once.
    Shared,
    /// The second gets a new one.
    Private,
    /// The second waits.
    Locked,
}
