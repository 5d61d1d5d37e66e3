//! kill -9 while clients write: what was acknowledged is there afterwards.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use cluster_control_plane::ControlPlane;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::cluster::{kube_client, options};

/// Set for the process that is killed: its state directory.
const VICTIM: &str = "SHIPWAY_TEST_CRASH_STATE";

/// Not a test of its own: the server process of the test below, which runs this binary again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim_serves_until_it_is_killed() {
    let Ok(state_dir) = std::env::var(VICTIM) else { return };
    let _running = ControlPlane::start(options(&PathBuf::from(state_dir))).await.expect("starts");
    tell_that_it_serves();
    std::future::pending::<()>().await;
}

/// The line by which the victim says that it serves.
const SERVES: &str = "victim serves";

#[expect(clippy::print_stdout, reason = "the test that started this process reads it")]
fn tell_that_it_serves() {
    // The test harness may have begun a line.
    println!("\n{SERVES}");
}

/// Acknowledged writes of a round before its server is killed, with others under way.
const WRITES_BEFORE_THE_KILL: usize = 60;

async fn create(client: &kube::Client, name: &str) -> Option<u64> {
    let request = http::Request::post("/api/v1/namespaces/default/configmaps")
        .header("content-type", "application/json")
        .body(json!({"metadata": {"name": name}}).to_string().into_bytes())
        .expect("request");
    let stored: Value = client.request(request).await.ok()?;
    stored["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// Longest wait for the victim, also on a machine with much else to do. It is killed then.
const VICTIM_MAX: Duration = Duration::from_secs(120);

/// Starts the victim and waits until it serves.
async fn start_victim(state_dir: &std::path::Path) -> Child {
    let mut victim = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "crash::victim_serves_until_it_is_killed", "--nocapture"])
        .env(VICTIM, state_dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(victim.stdout.take().expect("piped")).lines();
    let until_it_serves = async {
        while let Some(line) = lines.next_line().await.expect("readable") {
            if line == SERVES {
                return true;
            }
        }
        false
    };
    let serves = tokio::time::timeout(VICTIM_MAX, until_it_serves).await;
    assert_eq!(serves, Ok(true), "the server did not come up");
    victim
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_and_revisions_only_grow() {
    let dir = tempfile::tempdir().expect("tempdir");
    let kubeconfig = dir.path().join("cluster/kubeconfig");
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for round in 0..5 {
        let mut victim = start_victim(dir.path()).await;
        let client = kube_client(&kubeconfig).await;
        let newest = acknowledged.iter().map(|(_, revision)| *revision).max().unwrap_or(0);
        let (done, mut written) = tokio::sync::mpsc::channel(1024);
        for writer in 0..8 {
            let (client, done) = (client.clone(), done.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    let name = format!("r{round}-w{writer}-{n}");
                    let Some(revision) = create(&client, &name).await else { return };
                    if done.send((name, revision)).await.is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for _ in 0..WRITES_BEFORE_THE_KILL {
            let next = tokio::time::timeout(VICTIM_MAX, written.recv()).await;
            acknowledged.push(next.expect("the server answers").expect("acknowledged"));
        }
        victim.kill().await.expect("killed and reaped");
        while let Some(last) = written.recv().await {
            acknowledged.push(last);
        }
        let revisions =
            acknowledged.iter().filter(|(name, _)| name.starts_with(&format!("r{round}-")));
        for (name, revision) in revisions {
            assert!(newest < *revision, "{name}: {revision} after {newest}");
        }
    }
    let running = ControlPlane::start(options(dir.path())).await.expect("starts again");
    let client = kube_client(&running.kubeconfig).await;
    let request = http::Request::get("/api/v1/namespaces/default/configmaps")
        .body(Vec::new())
        .expect("request");
    let list: Value = client.request(request).await.expect("list");
    let stored: std::collections::HashMap<String, String> = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| {
            let text = |key: &str| item["metadata"][key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("resourceVersion"))
        })
        .collect();
    for (name, revision) in &acknowledged {
        assert_eq!(stored.get(name), Some(&revision.to_string()), "{name}");
    }
}
