//! Who did what.

use std::path::{Path, PathBuf};

use http::Method;
use registry_server::{AuditOptions, AuditRecord, read_audit_log};

use crate::{Fixture, MANIFEST, basic};

fn records(directory: &Path) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    read_audit_log(directory, |record| records.push(record.clone())).expect("a whole chain");
    records
}

async fn audited(pulls_every: Option<u64>) -> (Fixture, PathBuf) {
    let mut registry = Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        registry_server::add_user(&users, "alice", "correct horse").expect("a user");
        options.users = Some(users);
        let audit = AuditOptions::new(directory.join("audit"));
        options.operations.audit = Some(AuditOptions { pulls_every, ..audit });
    })
    .await;
    registry.login(basic("alice", "correct horse"));
    let directory = registry.directory.as_ref().expect("a directory").path().join("audit");
    (registry, directory)
}

#[tokio::test]
async fn changes_logins_and_refusals_are_written_down_in_a_chain() {
    let (mut registry, directory) = audited(None).await;
    registry.get("/v2/").await;
    let first = registry.push_image("team/app", "v1", "one").await;
    let second = registry.push_image("team/app", "v1", "two").await;
    registry.get("/v2/team/app/manifests/v1").await;
    registry.delete("/v2/team/app/manifests/v1").await;
    registry.delete(&format!("/v2/team/app/manifests/{first}")).await;
    registry.login(basic("alice", "battery staple"));
    registry.send(Method::GET, "/v2/", &[("x-request-id", "wrong-1")], "").await;
    let Fixture { registry: running, directory: kept, .. } = registry;
    running.shutdown().await;
    let records = records(&directory);
    let line = |record: &AuditRecord| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let name = |digest: &Option<String>| match digest {
            Some(digest) if *digest == first.to_string() => "first",
            Some(digest) if *digest == second.to_string() => "second",
            Some(_) => "?",
            None => "-",
        };
        format!(
            "{} {} {}:{} {} was {}",
            record.actor,
            record.action,
            text(&record.repository),
            text(&record.tag),
            name(&record.digest),
            name(&record.old_digest)
        )
    };
    let changes: Vec<_> = records.iter().filter(|record| record.repository.is_some()).collect();
    assert_eq!(
        changes.iter().map(|record| line(record)).collect::<Vec<_>>(),
        [
            "alice push team/app:v1 first was -",
            "alice push team/app:v1 second was first",
            "alice delete team/app:v1 - was second",
            "alice delete team/app: first was -",
        ]
    );
    assert!(records.iter().any(|record| record.action == "login" && record.actor == "alice"));
    let failed = records.iter().find(|record| record.action == "login_failed").expect("a failure");
    assert_eq!((failed.request.as_str(), failed.client.as_deref()), ("wrong-1", Some("127.0.0.1")));
    // CVE-2025-48374: no secret in what is written.
    let text = std::fs::read_to_string(directory.join("audit.log")).expect("the log");
    assert!(!text.contains("horse") && !text.contains("staple") && !text.contains("YWxpY2U6"));
    drop(kept);
}

#[tokio::test]
async fn what_happened_before_the_log_was_switched_on_or_lost_is_caught_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut options = crate::options(directory.path());
    let registry = Fixture::over(options.clone()).await;
    registry.push_image("a", "v1", "layer").await;
    registry.registry.shutdown().await;
    let audit = directory.path().join("audit");
    options.operations.audit = Some(AuditOptions::new(audit.clone()));
    for round in 0..2 {
        let registry = Fixture::over(options.clone()).await;
        registry.push_image("a", &format!("round{round}"), "layer").await;
        registry.registry.shutdown().await;
    }
    let tags: Vec<_> = records(&audit).into_iter().filter_map(|record| record.tag).collect();
    assert_eq!(tags, ["v1", "round0", "round1"], "each once, in order");
}

#[tokio::test]
async fn a_change_that_was_refused_leaves_no_record() {
    let (registry, directory) = audited(None).await;
    let manifest = crate::image_manifest("never uploaded");
    let reply = registry.put_manifest("a", "v1", MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 400);
    registry.registry.shutdown().await;
    assert!(records(&directory).iter().all(|record| record.action != "push"));
}

#[tokio::test]
async fn pulls_are_sampled() {
    let (registry, directory) = audited(Some(3)).await;
    registry.push_image("a", "v1", "layer").await;
    for _ in 0..7 {
        registry.get("/v2/a/manifests/v1").await;
    }
    registry.registry.shutdown().await;
    let pulls = records(&directory).into_iter().filter(|record| record.action == "pull");
    assert_eq!(pulls.count(), 3, "the first, the fourth and the seventh");
}

#[tokio::test]
async fn what_went_with_a_repository_and_what_came_back_is_written_down_one_by_one() {
    let registry = Fixture::with(|options, directory| {
        options.operations.audit = Some(AuditOptions::new(directory.join("audit")));
    })
    .await;
    let image = registry.push_image("team/app", "v1", "one").await.to_string();
    let deleted = registry.delete("/v2/_shipway/repositories?repository=team/app").await;
    assert!(deleted.status.is_success(), "{deleted:?}");
    let path = "/v2/_shipway/trash/restore?repository=team/app&tag=v1";
    let path = format!("{path}&digest={image}");
    let back = registry.send(Method::POST, &path, &[], "").await;
    assert!(back.status.is_success(), "{back:?}");
    let Fixture { registry: running, directory: kept, .. } = registry;
    running.shutdown().await;
    let kept = kept.expect("a directory");
    let all = records(&kept.path().join("audit"));
    let changes = all.iter().filter(|record| record.repository.is_some());
    let lines: Vec<_> = changes
        .map(|record| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let what = [&record.tag, &record.digest, &record.old_digest].map(text);
            let line = format!("{} {} ({})", record.action, what.join(" "), text(&record.detail));
            line.replace(&image, "image")
        })
        .collect();
    assert_eq!(
        lines,
        [
            "push v1 image  ()",
            "delete v1  image (repository)",
            "delete  image  (repository)",
            "delete_repository    ()",
            "restore  image  ()",
            "restore v1 image  ()",
        ]
    );
}
