//! The agent is killed in the middle of starts, again and again; nothing is lost and nothing is
//! started twice.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::fixture::{Access, Cluster, container_of, node};
use crate::{Outcome, tests};

tests![row_77_pods_survive_an_agent_that_is_killed_in_the_middle_of_starts];

/// First argument of the process that is killed.
const CHILD: &str = "node-child";
/// Kills; the moments spread over what a start takes.
const KILLS: u64 = 12;

/// Runs a node until killed, if this process was started for it.
pub(crate) fn child(args: &[String]) -> Option<ExitCode> {
    let [first, state, kubeconfig, api_server] = args else { return None };
    if first != CHILD {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let api_server = api_server.parse().ok()?;
        let running = node(Path::new(state), Path::new(kubeconfig), api_server, &Access::default())
            .await
            .ok()?;
        std::future::pending::<()>().await;
        running.shutdown().await;
        Some(ExitCode::SUCCESS)
    })
}

fn spawn(cluster: &Cluster) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg(CHILD)
        .args(cluster.node_arguments())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

async fn row_77_pods_survive_an_agent_that_is_killed_in_the_middle_of_starts() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.stop_node().await;
    let runs = cluster.path().join("runs");
    std::fs::create_dir_all(&runs)?;
    let name = |round: u64| format!("p{round}");
    for round in 0..KILLS {
        let mut child = spawn(&cluster)?;
        cluster
            .run(
                &name(round),
                &format!("echo start >> /runs/{round}; sleep 600"),
                json!({"terminationGracePeriodSeconds": 0,
                    "volumes": [{"name": "r", "hostPath": {"path": runs}}],
                    "container": {"volumeMounts": [{"name": "r", "mountPath": "/runs"}]}}),
            )
            .await?;
        // Not a wait for something: the moment of the kill is the input of the test.
        tokio::time::sleep(Duration::from_millis(40 + 25 * round)).await;
        child.kill()?;
        child.wait()?;
    }
    cluster.start_node().await?;
    for round in 0..KILLS {
        let pod = cluster.until_phase(&name(round), "Running").await?;
        assert_eq!(container_of(&pod, "c")["restartCount"], 0, "{round}");
        let wanted = runs.join(round.to_string());
        while !wanted.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(std::fs::read_to_string(wanted)?, "start\n", "{round} was started twice");
    }
    let containers = std::fs::read_dir(cluster.path().join("node/containers"))?.count();
    assert_eq!(containers as u64, KILLS, "containers that nobody knows");
    cluster.stop().await
}
