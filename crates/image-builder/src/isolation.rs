//! Which way of running commands this machine permits, and the engine for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use container_runtime::{Isolation, Mode, UserNamespace, probe_isolation};

use crate::builder::IsolationChoice;
use crate::error::StepError;
use crate::layer_source::blocking;
use crate::run::root_tree::RootTree;
use crate::run::sandbox::SandboxKind;
use crate::session::mode_name;

/// How commands run.
#[derive(Debug)]
pub(crate) enum Engine {
    /// In namespaces over an overlay mount.
    Sandbox { kind: SandboxKind, mode: Mode, reason: String },
    /// In one root file system, one after the other.
    RootTree { tree: Arc<tokio::sync::Mutex<RootTree>>, mode: Mode, reason: String },
}

impl Engine {
    /// Probes the machine and takes the best way that the caller allows.
    pub(crate) async fn choose(
        choice: &IsolationChoice,
        directory: &Path,
        scratch: &Path,
    ) -> Result<Self, StepError> {
        let probe_in = directory.to_owned();
        let found = blocking(move || {
            probe_isolation(&probe_in)
                .map_err(|error| StepError::layer("cannot find out how RUN can work here", error))
        })
        .await?;
        let (wanted, keep): (Vec<Mode>, Option<&[PathBuf]>) = match choice {
            IsolationChoice::Auto { in_place } => {
                let order = [Mode::Overlay, Mode::UserNamespace, Mode::InPlace, Mode::Chroot];
                (order.to_vec(), in_place.as_deref())
            }
            IsolationChoice::Exactly { mode, keep } => (vec![*mode], Some(keep)),
        };
        let mut refused: Vec<(Mode, String)> =
            found.refused.iter().map(|refusal| (refusal.mode, refusal.reason.clone())).collect();
        for mode in wanted {
            if mode == Mode::InPlace && keep.is_none() {
                let reason = "the root of this process is not an executor image".to_owned();
                refused.push((mode, reason));
                continue;
            }
            if mode == Mode::None || !found.permitted.contains(&mode) {
                continue;
            }
            let reason = explain(&mut refused, |better| better < mode);
            match Self::of_mode(mode, &found, keep.unwrap_or_default(), scratch, reason) {
                Ok(engine) => return Ok(engine),
                Err(reason) => refused.push((mode, reason)),
            }
        }
        let reason = match choice {
            IsolationChoice::Exactly { mode: Mode::None, .. } => {
                "the caller asked for no isolation".to_owned()
            }
            IsolationChoice::Exactly { mode, .. } => explain(&mut refused, |one| one == *mode),
            IsolationChoice::Auto { .. } => explain(&mut refused, |_| true),
        };
        Err(StepError::NoIsolation { reason })
    }

    fn of_mode(
        mode: Mode,
        found: &Isolation,
        keep: &[PathBuf],
        scratch: &Path,
        reason: String,
    ) -> Result<Self, String> {
        let sandbox = |users, fresh_proc| {
            let kind = SandboxKind { users, fresh_proc };
            Self::Sandbox { kind, mode, reason: reason.clone() }
        };
        let root_tree = |tree| {
            let tree = Arc::new(tokio::sync::Mutex::new(tree));
            Self::RootTree { tree, mode, reason: reason.clone() }
        };
        Ok(match mode {
            Mode::Overlay => sandbox(UserNamespace::Host, true),
            Mode::UserNamespace => {
                let users = if rustix::process::geteuid().is_root() {
                    UserNamespace::Identity
                } else {
                    UserNamespace::CallerAsRoot
                };
                sandbox(users, found.fresh_proc)
            }
            Mode::InPlace => {
                let may_chroot = found.permitted.contains(&Mode::Chroot);
                root_tree(RootTree::in_place(keep, may_chroot)?)
            }
            Mode::Chroot => root_tree(RootTree::below(scratch.join("root"))),
            Mode::None => return Err("the caller asked for no isolation".to_owned()),
        })
    }

    /// Whether only one stage can use it at a time.
    pub(crate) fn is_single_root(&self) -> bool {
        matches!(self, Self::RootTree { .. })
    }

    /// Name of the mode and why no better one is used.
    pub(crate) fn describe(&self) -> (&'static str, String) {
        match self {
            Self::Sandbox { mode, reason, .. } | Self::RootTree { mode, reason, .. } => {
                (mode_name(*mode), reason.clone())
            }
        }
    }
}

/// Why some modes are not used, the best first, in one line.
fn explain(refused: &mut [(Mode, String)], wanted: impl Fn(Mode) -> bool) -> String {
    refused.sort_by_key(|(mode, _)| *mode);
    let of_interest = refused.iter().filter(|(mode, _)| wanted(*mode));
    let lines = of_interest.map(|(mode, reason)| format!("{}: {reason}", mode_name(*mode)));
    lines.collect::<Vec<String>>().join("; ")
}
