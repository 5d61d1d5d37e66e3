//! What survives the end of the process, the sudden one included. The child is this test binary
//! again, told what to do by an environment variable.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use oci_model::Digest;
use registry_server::RegistryServer;

use crate::{Fixture, options};

const STATE: &str = "REGISTRY_SERVER_CHILD_STATE";

/// How often the registry is killed.
const KILLS: usize = 12;

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = Fixture::over(options(directory.path())).await;
    let digest = registry.push_image("a/b", "v1", "layer").await;
    let loose = registry.push_blob("a/b", b"loose").await;
    registry.registry.shutdown().await;
    let registry = Fixture::over(options(directory.path())).await;
    for path in [
        "/v2/a/b/manifests/v1".to_owned(),
        format!("/v2/a/b/manifests/{digest}"),
        format!("/v2/a/b/blobs/{}", Digest::of(b"layer")),
        format!("/v2/a/b/blobs/{loose}"),
        "/v2/a/b/tags/list".to_owned(),
    ] {
        assert_eq!(registry.get(&path).await.status.as_u16(), 200, "{path}");
    }
    let refs = options(directory.path()).store.refs("registry/").expect("refs");
    assert_eq!(refs.len(), 1);
    assert_eq!(refs[0].0.as_str(), format!("registry/a/b@{digest}"));
}

/// Not a test: a registry that serves until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_process() {
    let Some(state) = std::env::var_os(STATE) else { return };
    let registry = RegistryServer::bind(options(state.as_ref())).await.expect("a registry");
    let mut out = std::io::stdout().lock();
    writeln!(out, "serving {}", registry.url()).and_then(|()| out.flush()).expect("a pipe");
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_registry_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut expected = Vec::new();
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "restart::child_process", "--nocapture", "--quiet"])
            .env(STATE, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("serving ").map(str::to_owned))
            .expect("a serving child");
        let client = crate::PlainClient::new(url);
        let images = push_until_killed(&client, &mut child, round).await;
        expected.extend(images);
        child.wait().expect("its end");
    }
    let registry = Fixture::over(options(directory.path())).await;
    for path in &expected {
        let reply = registry.get(path).await;
        assert_eq!(reply.status.as_u16(), 200, "{path}");
        if let Some((_, digest)) = path.split_once("/blobs/") {
            assert_eq!(Digest::of(&reply.body).to_string(), digest);
        }
    }
    assert!(expected.len() > KILLS);
}

/// Pushes images and kills the registry in the middle; returns the paths that were acknowledged.
async fn push_until_killed(
    client: &crate::PlainClient,
    child: &mut std::process::Child,
    round: usize,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for image in 0..20 {
        let layer = format!("layer {round} {image}");
        let steps = client.push(&format!("r{round}"), &format!("t{image}"), &layer);
        for (step, request) in steps.into_iter().enumerate() {
            if image == 2 + round % 3 && step == round % 3 {
                // While the request is on its way.
                let (_, reply) = tokio::join!(
                    async {
                        tokio::task::yield_now().await;
                        child.kill().expect("a kill");
                    },
                    client.try_send(request.clone())
                );
                if reply.is_some_and(|status| status == 201) {
                    acknowledged.push(request.stored);
                }
                return acknowledged;
            }
            assert_eq!(client.try_send(request.clone()).await, Some(201));
            acknowledged.push(request.stored);
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_goes_with_and_without_a_running_registry() {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = Fixture::over(options(directory.path())).await;
    registry.push_image("a", "v1", "layer").await;
    registry.push_blob("a", b"loose").await;
    registry.push_blob("b", b"loose too").await;
    let store = options(directory.path()).store;
    let state = directory.path().join("registry");
    let collect = |mode| blob_store::CollectOptions {
        now: std::time::SystemTime::now() + std::time::Duration::from_secs(5),
        delay: std::time::Duration::ZERO,
        upload_idle_max: registry_server::UPLOAD_IDLE_MAX,
        mode,
    };
    let plan = collect(blob_store::CollectMode::Plan);
    let planned =
        registry_server::collect_garbage(&state, &store, &plan, |_, _| {}).await.expect("a plan");
    assert_eq!((planned.blobs, planned.kept_blobs), (2, 2));
    registry.registry.shutdown().await;
    let apply = collect(blob_store::CollectMode::Apply);
    let done =
        registry_server::collect_garbage(&state, &store, &apply, |_, _| {}).await.expect("a run");
    assert_eq!(done, planned);
    let registry = Fixture::over(options(directory.path())).await;
    assert_eq!(registry.get("/v2/a/manifests/v1").await.status.as_u16(), 200);
    let loose = Digest::of(b"loose");
    assert_eq!(registry.get(&format!("/v2/a/blobs/{loose}")).await.status.as_u16(), 404);
    registry.push_blob("a", b"loose").await;
}
