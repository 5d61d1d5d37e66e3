//! The control loops. They use the public API through [`crate::client::Client`], never storage.

mod bootstrap;
mod children;
mod deployment;
mod garbage;
mod job;
mod namespaces;
mod queue;
mod reconcile;
mod recorder;
mod replicas;
mod scheduler;
mod volumes;

use std::path::PathBuf;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::deployment::DeploymentController;
use self::garbage::{Collector, PodCollector};
use self::job::JobController;
use self::namespaces::{Furnisher, Terminator};
use self::replicas::ReplicaController;
use self::scheduler::Scheduler;
use self::volumes::VolumeController;
use crate::client::Client;

/// What the controllers need to know about this cluster.
pub struct ControllerOptions {
    /// Name of the one node pods are bound to.
    pub node_name: String,
    /// CA certificate of the API in PEM, published in each namespace as `kube-root-ca.crt`.
    pub ca_certificate_pem: String,
    /// Directory under which the local-path class places volumes; only the node writes there.
    pub volumes_dir: PathBuf,
}

/// Creates what every cluster starts with (namespaces, default class, service accounts), before
/// the first request is served.
///
/// # Errors
/// Whatever the API answers to a write that should succeed.
pub async fn bootstrap(
    client: &Client,
    options: &ControllerOptions,
) -> Result<(), crate::error::ApiError> {
    bootstrap::bootstrap(&client.named("kube-controller-manager"), options).await
}

/// Runs every controller until `stop` is cancelled.
pub async fn run(client: Client, options: ControllerOptions, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    let ca = &options.ca_certificate_pem;
    tasks.spawn(reconcile::run(client.clone(), Scheduler::new(&client), stop.clone()));
    tasks.spawn(reconcile::run(client.clone(), Furnisher::new(&client, ca), stop.clone()));
    tasks.spawn(reconcile::run(client.clone(), Terminator::new(&client), stop.clone()));
    tasks.spawn(reconcile::run(client.clone(), JobController::new(&client), stop.clone()));
    let sets = ReplicaController::of_replica_sets(&client);
    tasks.spawn(reconcile::run(client.clone(), sets, stop.clone()));
    let replication = ReplicaController::of_replication_controllers(&client);
    tasks.spawn(reconcile::run(client.clone(), replication, stop.clone()));
    let deployments = DeploymentController::new(&client);
    tasks.spawn(reconcile::run(client.clone(), deployments, stop.clone()));
    tasks.spawn(reconcile::run(client.clone(), Collector::new(&client), stop.clone()));
    tasks.spawn(reconcile::run(client.clone(), PodCollector::new(&client), stop.clone()));
    let volumes = VolumeController::new(&client, &options.volumes_dir, &options.node_name);
    tasks.spawn(reconcile::run(client.clone(), volumes, stop.clone()));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller died");
        }
    }
}

#[cfg(test)]
mod tests;
