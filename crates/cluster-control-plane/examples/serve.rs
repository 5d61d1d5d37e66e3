//! Runs the control plane alone, without a node, for trying it with kubectl:
//! `cargo run -p cluster-control-plane --example serve -- STATE_DIR [ADDRESS]`.

use std::path::PathBuf;

use cluster_control_plane::{ControlPlane, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let state_dir = PathBuf::from(arguments.next().ok_or("usage: serve STATE_DIR [ADDRESS]")?);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let running = ControlPlane::start(Options {
        node_socket: state_dir.join("node/kubelet.sock"),
        state_dir,
        listen,
        hosts: Vec::new(),
        node_name: "shipway".to_owned(),
        switches: cluster_control_plane::admission::Switches::default(),
    })
    .await?;
    tracing::info!(kubeconfig = %running.kubeconfig.display(), address = %running.address, "serving");
    tokio::signal::ctrl_c().await?;
    running.shutdown().await;
    Ok(())
}
