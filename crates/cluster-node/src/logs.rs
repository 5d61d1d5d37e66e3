//! Container logs: CRI's format, `kubectl logs` options, rotation (mini-kubernetes.md 8.9).

pub(crate) mod follow;
pub(crate) mod format;
pub(crate) mod rotation;

pub(crate) use format::tail_text;
