//! Rotation of container logs: 10 MiB, five files (mini-kubernetes.md 8.9).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::format::files;
use crate::shared::Shared;

/// A log that is larger is renamed.
const LOG_BYTES_MAX: u64 = 10 << 20;
/// Files kept per run of a container, the current one included.
const FILES_MAX: usize = 5;
/// Time between two looks, as in the kubelet.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks at the logs of all running containers from time to time.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let shared = Arc::clone(&shared);
        let round = tokio::task::spawn_blocking(move || rotate_all(&shared)).await;
        if let Err(error) = round {
            tracing::error!(%error, "log rotation panicked");
        }
    }
}

fn rotate_all(shared: &Shared) {
    let Ok(containers) = shared.runtime.list() else { return };
    let running: std::collections::BTreeSet<String> =
        containers.iter().map(|container| container.id().to_owned()).collect();
    for uid in shared.directories.pods() {
        let Some(pod) = shared.directories.load_pod(&uid) else { continue };
        let names = pod.spec.iter().flat_map(|spec| {
            crate::pods::state::all_containers(spec)
                .map(|(container, _)| container.name.clone())
                .collect::<Vec<_>>()
        });
        for name in names {
            let Some(run) = shared.directories.runs(&uid, &name).pop() else { continue };
            let large = fs::metadata(&run.log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX);
            if !large || !running.contains(&run.id) {
                continue;
            }
            let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S%.9f").to_string();
            if let Err(error) = rotate(&run.log, &stamp) {
                tracing::warn!(log = %run.log.display(), %error, "log not rotated");
                continue;
            }
            if let Some(container) = shared.runtime.container(&run.id)
                && let Err(error) = container.reopen_log()
            {
                tracing::debug!(container = run.id, %error, "log not opened anew");
            }
        }
    }
}

/// Renames a log and removes the oldest files beyond the limit.
fn rotate(log: &Path, stamp: &str) -> std::io::Result<()> {
    let mut name = log.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{stamp}"));
    fs::rename(log, log.with_file_name(name))?;
    let rotated = files(log);
    let excess = (rotated.len() + 1).saturating_sub(FILES_MAX);
    for old in rotated.iter().take(excess) {
        fs::remove_file(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_five_files_are_kept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("0.log");
        for round in 0..9 {
            fs::write(&log, format!("{round}")).expect("log");
            rotate(&log, &format!("{round}")).expect("rotation");
        }
        fs::write(&log, "9").expect("log");
        let kept: Vec<String> =
            files(&log).iter().map(|path| fs::read_to_string(path).expect("file")).collect();
        assert_eq!(kept, ["5", "6", "7", "8", "9"]);
    }
}
