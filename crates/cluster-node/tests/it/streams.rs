//! Logs, exec and attach through the API server.

use std::time::Duration;

use futures_util::{AsyncBufReadExt, TryStreamExt};
use kube::api::{AttachParams, LogParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::Cluster;
use crate::{Outcome, tests};

tests![
    row_79_log_is_followed_to_its_end,
    row_81_exec_keeps_streams_and_exit_code_apart,
    row_81_exec_takes_stdin_to_its_end,
    row_81_attach_sees_what_comes_next,
];

async fn row_79_log_is_followed_to_its_end() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run(
            "talks",
            "for i in 1 2 3; do echo line $i; sleep 0.2; done",
            json!({"restartPolicy": "Never"}),
        )
        .await?;
    cluster
        .until("talks", "to run", |pod| {
            pod.is_some_and(|pod| crate::fixture::container_of(pod, "c")["containerID"].is_string())
        })
        .await?;
    let follow = LogParams { follow: true, ..LogParams::default() };
    let stream = cluster.pods().log_stream("talks", &follow).await?;
    let lines: Vec<String> = stream.lines().try_collect().await?;
    assert_eq!(lines, ["line 1", "line 2", "line 3"]);
    let tail = LogParams { tail_lines: Some(1), timestamps: true, ..LogParams::default() };
    let text = cluster.pods().logs("talks", &tail).await?;
    assert!(text.starts_with("20") && text.ends_with("Z line 3\n"), "{text}");
    cluster.stop().await
}

async fn row_81_exec_keeps_streams_and_exit_code_apart() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster.run("box", "sleep 600", json!({"terminationGracePeriodSeconds": 1})).await?;
    cluster.until_phase("box", "Running").await?;
    let parameters = AttachParams::default();
    let mut process = cluster
        .pods()
        .exec("box", ["sh", "-c", "echo out; echo err >&2; exit 3"], &parameters)
        .await?;
    let (mut stdout, mut stderr) =
        (process.stdout().ok_or("stdout")?, process.stderr().ok_or("stderr")?);
    let status = process.take_status().ok_or("status")?;
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).await?;
    stderr.read_to_string(&mut err).await?;
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    let status = status.await.ok_or("no status")?;
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    assert_eq!(causes.first().and_then(|cause| cause.message.as_deref()), Some("3"));

    let mut missing = cluster.pods().exec("box", ["/no/such"], &parameters).await?;
    let status = missing.take_status().ok_or("status")?.await.ok_or("no status")?;
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    assert_eq!(causes.first().and_then(|cause| cause.message.as_deref()), Some("127"));
    cluster.stop().await
}

async fn row_81_exec_takes_stdin_to_its_end() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster.run("box", "sleep 600", json!({"terminationGracePeriodSeconds": 1})).await?;
    cluster.until_phase("box", "Running").await?;
    let parameters = AttachParams::default().stdin(true).stderr(false);
    let mut process = cluster.pods().exec("box", ["head", "-n", "2"], &parameters).await?;
    let mut stdin = process.stdin().ok_or("stdin")?;
    let mut stdout = process.stdout().ok_or("stdout")?;
    stdin.write_all(b"a\nb\nc\n").await?;
    stdin.flush().await?;
    let mut out = String::new();
    stdout.read_to_string(&mut out).await?;
    assert_eq!(out, "a\nb\n");
    cluster.stop().await
}

async fn row_81_attach_sees_what_comes_next() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run(
            "asks",
            "read line; echo got $line",
            json!({"restartPolicy": "Never", "container": {"stdin": true, "stdinOnce": true}}),
        )
        .await?;
    cluster.until_phase("asks", "Running").await?;
    let parameters = AttachParams::default().stdin(true);
    let mut process = cluster.pods().attach("asks", &parameters).await?;
    let mut stdin = process.stdin().ok_or("stdin")?;
    let mut stdout = process.stdout().ok_or("stdout")?;
    stdin.write_all(b"hello\n").await?;
    stdin.flush().await?;
    let mut out = String::new();
    tokio::time::timeout(Duration::from_secs(30), stdout.read_to_string(&mut out)).await??;
    assert_eq!(out, "got hello\n");
    cluster.until_phase("asks", "Succeeded").await?;
    cluster.stop().await
}
