//! What a serving registry does with signals and with files that change.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use registry_server::Running;
use tokio::signal::unix::{Signal, SignalKind, signal};
use toml::{Table, Value};

use super::config::Effective;
use super::serve::{self, ServeArgs};
use crate::exit::Failure;
use crate::globals::Globals;

/// Keys of `[registry]` that count without a restart.
const LIVE: [&str; 10] = [
    "access",
    "anonymous",
    "auth",
    "htpasswd",
    "namespaces",
    "rates",
    "tls",
    "tls-cert",
    "tls-key",
    "identity",
];

/// What somebody asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGHUP.
    Reload,
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM, by which service managers and kubelets stop a process.
    Terminate,
}

/// The signals of a server.
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
            _ = self.interrupt.recv() => Request::Interrupt,
            _ = self.terminate.recv() => Request::Terminate,
        }
    }

    /// Waits for another signal to stop.
    pub(super) async fn stop_again(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What tells one version of a file from the next: inode, size, time of change.
type Stamp = Option<(u64, u64, i64, i64)>;

/// Lets a changed configuration count.
pub(super) struct Reloader {
    args: ServeArgs,
    globals: Globals,
    /// What counts now.
    values: Table,
    stamp: Stamp,
}

impl Reloader {
    pub(super) fn new(args: ServeArgs, globals: Globals, effective: Effective) -> Self {
        let stamp = args.config.as_deref().and_then(stamp);
        Self { args, globals, values: effective.values, stamp }
    }

    /// Reads the configuration again if its file changed, and the certificates if theirs did.
    pub(super) async fn look(&mut self, running: &Running) {
        let now = self.args.config.as_deref().and_then(stamp);
        if now != self.stamp {
            return self.reload(running).await;
        }
        match running.refresh_certificates() {
            Ok(true) => tracing::info!("new certificates count from now on"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the certificates stay as they were"),
        }
    }

    /// Reads the configuration and the files that it names again. With any mistake in them
    /// everything stays as it was.
    pub(super) async fn reload(&mut self, running: &Running) {
        // The same mistake is told once per version of the file.
        self.stamp = self.args.config.as_deref().and_then(stamp);
        match self.try_reload(running).await {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(failure) => {
                let why = failure.text();
                tracing::error!(why, "the configuration stays as it was");
            }
        }
    }

    async fn try_reload(&mut self, running: &Running) -> Result<(), Failure> {
        let effective = Effective::gather(self.args.config.as_deref(), &self.args.keys)?;
        let options = serve::options(effective.config, &self.globals)?;
        running.reload(options).await?;
        for key in waiting(&self.values, &effective.values) {
            tracing::warn!(key = format!("registry.{key}"), "the new value needs a restart");
        }
        self.values = effective.values;
        Ok(())
    }
}

fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

/// The keys that differ and do not count before a restart.
fn waiting(old: &Table, new: &Table) -> Vec<String> {
    let value = |table: &Table, key: &str| -> Option<Value> { table.get(key).cloned() };
    let mut keys: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| !LIVE.contains(&key.as_str()) && value(old, key) != value(new, key));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_change_while_serving_waits_for_a_restart() {
        let table = |text: &str| text.parse::<Table>().expect("TOML");
        let old = table("address = \"a\"\nanonymous = \"none\"\nauth = \"basic\"");
        let new = table("address = \"b\"\nanonymous = \"pull\"\nexternal-url = \"u\"");
        assert_eq!(waiting(&old, &new), ["address", "external-url"]);
        assert!(waiting(&old, &old).is_empty());
    }
}
