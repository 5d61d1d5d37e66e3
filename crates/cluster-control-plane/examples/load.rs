//! Measures the API server with kube-rs over TLS: start, writes, reads, watch latency.
//! `cargo run --release -p cluster-control-plane --example load`.

use std::time::{Duration, Instant};

use cluster_control_plane::{ControlPlane, Options};
use futures_util::{AsyncBufReadExt, TryStreamExt};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/namespaces/default/configmaps";
/// Clients that write at once.
const WRITERS: usize = 16;
/// Writes per client.
const WRITES: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let dir = tempfile::tempdir()?;
    let started = Instant::now();
    let running = ControlPlane::start(Options {
        node_socket: dir.path().join("kubelet.sock"),
        state_dir: dir.path().to_owned(),
        listen: "127.0.0.1:0".parse()?,
        hosts: Vec::new(),
        node_name: "load".to_owned(),
        switches: cluster_control_plane::admission::Switches::default(),
    })
    .await?;
    report("start", started.elapsed());
    let config = kube::config::Kubeconfig::read_from(&running.kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await?;
    let client = kube::Client::try_from(config)?;

    let mut one = Vec::new();
    for n in 0..50 {
        let began = Instant::now();
        create(&client, &format!("one-{n}")).await?;
        one.push(began.elapsed());
    }
    report("create, one client, median", median(&mut one));

    let began = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let client = client.clone();
        async move {
            for n in 0..WRITES {
                create(&client, &format!("w{writer}-{n}")).await?;
            }
            Ok::<_, kube::Error>(())
        }
    });
    futures_util::future::try_join_all(writers).await?;
    let elapsed = began.elapsed();
    report(&format!("{} creates by {WRITERS} clients", WRITERS * WRITES), elapsed);

    let mut gets = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        get(&client, &format!("{PATH}/one-0")).await?;
        gets.push(began.elapsed());
    }
    report("get, median", median(&mut gets));
    let began = Instant::now();
    get(&client, PATH).await?;
    report("list of 850", began.elapsed());

    let request = http::Request::get(format!("{PATH}?watch=1&labelSelector=l")).body(Vec::new())?;
    let mut lines = client.request_stream(request).await?.lines();
    let mut latencies = Vec::new();
    for n in 0..50 {
        let body = json!({"metadata": {"name": format!("watched-{n}"), "labels": {"l": "x"}}});
        let request = http::Request::post(PATH)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())?;
        let began = Instant::now();
        let (line, _) = tokio::join!(lines.try_next(), client.request::<Value>(request));
        line?;
        latencies.push(began.elapsed());
    }
    report("write to watch event, median", median(&mut latencies));
    let status = std::fs::read_to_string("/proc/self/status")?;
    for line in status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
    {
        tracing::info!("{line}");
        report_text(line);
    }
    running.shutdown().await;
    Ok(())
}

async fn create(client: &kube::Client, name: &str) -> Result<Value, kube::Error> {
    let body = json!({"metadata": {"name": name}, "data": {"key": "value"}});
    let request = http::Request::post(PATH)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

async fn get(client: &kube::Client, path: &str) -> Result<Value, kube::Error> {
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

fn median(durations: &mut [Duration]) -> Duration {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().unwrap_or_default()
}

fn report(what: &str, elapsed: Duration) {
    report_text(&format!("{what}: {:.2} ms", elapsed.as_secs_f64() * 1000.0));
}

#[expect(clippy::print_stdout, reason = "a program that reports to a terminal")]
fn report_text(text: &str) {
    println!("{text}");
}
