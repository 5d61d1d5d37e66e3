//! What namespaces need from time to time: retention, an emptied trash, pull times.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oci_model::{Digest, Repository};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::namespace::Policies;
use super::retention::{Verdict, judge};
use crate::metadata::{
    COARSE, Change, ChangeError, EmptyTrash, Metadata, MetadataError, Reply, Retain, Stamp,
};
use crate::service::Service;

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(600);

/// Rounds between two runs of the retention rules: an hour.
const ROUNDS_OF_RETENTION: u32 = 6;

/// Pulls that are remembered between two rounds; what comes beyond is not recorded.
const PULLS_MAX: usize = 20_000;

/// Pulls that wait to be written down: at most one per manifest and hour.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<HashMap<(Repository, Digest), Pull>>);

#[derive(Clone, Copy, Debug)]
struct Pull {
    at: u64,
    written: bool,
}

impl Pulls {
    /// Notes a pull at `now`, in milliseconds since 1970.
    pub(crate) fn note(&self, repository: &Repository, digest: &Digest, now: u64) {
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = pulls.get_mut(&(repository.clone(), *digest)) {
            if pull.at.saturating_add(COARSE) <= now {
                *pull = Pull { at: now, written: false };
            }
        } else if pulls.len() < PULLS_MAX {
            pulls.insert((repository.clone(), *digest), Pull { at: now, written: false });
        }
    }

    /// What is to be written; what is older than an hour is forgotten.
    fn take(&self, now: u64) -> Vec<(Repository, Digest, u64)> {
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        pulls.retain(|(repository, digest), pull| {
            if !pull.written {
                pull.written = true;
                taken.push((repository.clone(), *digest, pull.at));
            }
            now < pull.at.saturating_add(COARSE)
        });
        taken
    }

    /// Writes down what waits.
    pub(crate) async fn write(&self, metadata: &Metadata) -> Result<(), ChangeError> {
        let taken = self.take(Stamp::system().at);
        if taken.is_empty() {
            return Ok(());
        }
        metadata.change(Change::RecordPulls(taken)).await
    }
}

/// Stores the namespaces of the configuration if they are not those that are stored.
///
/// # Errors
/// [`ChangeError`]
pub(crate) async fn settle_policies(
    metadata: &Metadata,
    configured: &Policies,
) -> Result<(), ChangeError> {
    if metadata.policies()?.is_some_and(|stored| *stored == *configured) {
        return Ok(());
    }
    let namespaces = configured.configured().iter().map(|namespace| (**namespace).clone());
    metadata.change(Change::SetPolicies(namespaces.collect())).await
}

/// What the retention rules say about one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryPlan {
    pub(crate) repository: String,
    pub(crate) tags: Vec<Verdict>,
    /// Manifests without a kept tag.
    pub(crate) manifests: Vec<Verdict>,
}

/// What the rules say now about the repositories below a prefix; those without rules are left out.
pub(crate) fn plan_retention(
    metadata: &Metadata,
    prefix: &str,
    now: u64,
) -> Result<Vec<RepositoryPlan>, MetadataError> {
    let policies = metadata.policies()?.unwrap_or_default();
    let mut plans = Vec::new();
    for repository in metadata.repositories_below(prefix)? {
        let namespace = policies.of(&repository);
        if namespace.retention.is_empty() {
            continue;
        }
        let view = metadata.retention_view(&repository)?;
        let judged = judge(namespace, &repository, &view, now);
        if !judged.tags.is_empty() || !judged.manifests.is_empty() {
            let (tags, manifests) = (judged.tags, judged.manifests);
            plans.push(RepositoryPlan { repository, tags, manifests });
        }
    }
    Ok(plans)
}

/// What a run of the retention rules removed: tags and digests by repository.
pub(crate) type Removed = BTreeMap<String, Vec<String>>;

/// Carries out plans; what the rules keep by now stays.
pub(crate) async fn apply_retention(
    metadata: &Metadata,
    plans: &[RepositoryPlan],
    stamp: &Stamp,
) -> Result<Removed, ChangeError> {
    let mut removed = Removed::new();
    for plan in plans {
        let Ok(repository) = Repository::new(&plan.repository) else { continue };
        let all = plan.tags.iter().chain(&plan.manifests);
        let planned: Vec<String> =
            all.filter(|verdict| !verdict.keep).map(|verdict| verdict.name.clone()).collect();
        if planned.is_empty() {
            continue;
        }
        let change = Change::Retain(Retain { repository, planned });
        if let Reply::Retained { mut tags, manifests } =
            metadata.submit(change, stamp.clone()).await?
        {
            tags.extend(manifests);
            if !tags.is_empty() {
                removed.insert(plan.repository.clone(), tags);
            }
        }
    }
    Ok(removed)
}

/// Looks after namespaces until stopped.
pub(crate) async fn upkeep(service: std::sync::Arc<Service>, mut stopped: watch::Receiver<bool>) {
    let mut rounds = 0_u32;
    loop {
        let is_over = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => true,
            () = tokio::time::sleep(ROUND) => false,
        };
        if let Err(error) = service.pulls.write(&service.metadata).await {
            tracing::warn!(%error, "times of pulls were not written down");
        }
        if is_over {
            return;
        }
        rounds += 1;
        if let Err(error) = round(&service.metadata, rounds).await {
            tracing::warn!(%error, "namespaces were not looked after");
        }
    }
}

async fn round(metadata: &Metadata, rounds: u32) -> Result<(), ChangeError> {
    let stamp = Stamp::system();
    if rounds.is_multiple_of(ROUNDS_OF_RETENTION) {
        let plans = plan_retention(metadata, "", stamp.at)?;
        let removed = apply_retention(metadata, &plans, &stamp).await?;
        for (repository, names) in removed {
            tracing::info!(repository, ?names, "retention removed what no rule keeps");
        }
    }
    if metadata.has_old_trash(stamp.at)? {
        metadata.change(Change::EmptyTrash(EmptyTrash::default())).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_written_down_once_an_hour() {
        let pulls = Pulls::default();
        let repository = Repository::new("team/app").expect("a name");
        let digest = Digest::of(b"m");
        let mut times = Vec::new();
        for minute in [0, 1, 20, 59, 60, 61, 121, 122] {
            let now = minute * 60_000;
            pulls.note(&repository, &digest, now);
            times.extend(pulls.take(now).into_iter().map(|(_, _, at)| at / 60_000));
        }
        assert_eq!(times, [0, 60, 121]);
        assert_eq!(pulls.take(u64::MAX), []);
        assert!(pulls.0.lock().expect("a lock").is_empty());
    }
}
