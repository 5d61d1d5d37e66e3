//! The node's own credentials, where the node is this machine.

use std::path::{Path, PathBuf};

use clap::Args;
use credentials::cloud::CloudProvider;
use credentials::provider::is_config_file;
use credentials::{NodeFileKind, SearchDirs, node_file_candidates};
use image_policy::ImageMirror;
use operator::explain::{NodeFile, NodeSide, Provider, read_providers};

use super::read_file;
use crate::commands::up::record::{Lock, NodeRecord, Record};
use crate::exit::Failure;
use crate::globals::Globals;

/// Where the node has its credentials.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    /// A docker config file of the node (config.json or .dockercfg), in the node's order;
    /// repeatable [default: those of the `shipway up` that runs here]
    #[arg(long = "node-config", value_name = "FILE")]
    node_configs: Vec<PathBuf>,
    /// The node's configuration of exec credential providers, a file or a directory of files
    #[arg(long, value_name = "PATH")]
    credential_provider_config: Option<PathBuf>,
}

/// The `shipway up` that runs here.
pub(super) struct Machine {
    /// `host:port` of its API server.
    pub(super) api_address: String,
    /// Its administrator's kubeconfig.
    pub(super) kubeconfig: PathBuf,
    node: NodeRecord,
}

/// What is known about the node.
pub(super) struct NodeFacts {
    pub(super) side: NodeSide,
    pub(super) insecure_registries: Vec<String>,
}

/// The machine of the state directory, if it runs and we may know.
pub(super) fn running_machine(globals: &Globals) -> Option<Machine> {
    let state_dir = globals.state_dir();
    let record = Record::read(&state_dir).ok()??;
    // The lock can be had when nobody runs; who may not open it, asks as somebody else.
    if !matches!(Lock::take(&state_dir), Ok(None)) {
        return None;
    }
    Some(Machine {
        api_address: record.api_address,
        kubeconfig: record.kubeconfig,
        node: record.node,
    })
}

/// Reads the node's files: those of the flags, else those of the machine if the cluster is its.
pub(super) fn facts(
    args: &NodeArgs,
    machine: Option<&Machine>,
    is_of_machine: bool,
) -> Result<NodeFacts, Failure> {
    let machine = machine.filter(|_| is_of_machine);
    let insecure_registries =
        machine.map(|machine| machine.node.insecure_registries.clone()).unwrap_or_default();
    let is_told = !args.node_configs.is_empty() || args.credential_provider_config.is_some();
    if !is_told && machine.is_none() {
        let why = "it is another machine; --node-config and --credential-provider-config tell";
        let side = NodeSide::Unknown { why: why.to_owned() };
        return Ok(NodeFacts { side, insecure_registries });
    }
    let mut files = Vec::new();
    for path in &args.node_configs {
        let bytes = read_file(path)?;
        files.push(NodeFile { path: path.display().to_string(), kind: kind_of(path), bytes });
    }
    if let Some(machine) = machine.filter(|_| !is_told) {
        files = files_of(&machine.node.search_dirs());
    }
    let (mut providers, mut providers_unread) = (Vec::new(), None);
    let of_machine = machine.and_then(|machine| machine.node.credential_provider_config.clone());
    if let Some(path) = &args.credential_provider_config {
        providers = providers_at(path).map_err(|reason| {
            Failure::usage(format!("the configuration of credential providers {reason}"))
        })?;
    } else if let Some(path) = &of_machine {
        // The node goes on with what it has read before.
        match providers_at(path) {
            Ok(read) => providers = read,
            Err(reason) => providers_unread = Some(reason),
        }
    }
    let clouds = machine.map(|machine| clouds_of(&machine.node)).unwrap_or_default();
    let mirrors = machine.map(|machine| machine.node.mirrors.clone()).unwrap_or_default();
    let mirrors = mirrors.into_iter().map(|(from, to)| ImageMirror { from, to }).collect();
    let is_shipway = machine.is_some();
    let side = NodeSide::Known { files, providers, providers_unread, clouds, mirrors, is_shipway };
    Ok(NodeFacts { side, insecure_registries })
}

/// The clouds that a node asks itself.
fn clouds_of(node: &NodeRecord) -> Vec<CloudProvider> {
    node.cloud_credentials.iter().filter_map(|name| name.parse().ok()).collect()
}

/// The providers of a configuration file, or of all those of a directory in order of names; the
/// error names the file.
fn providers_at(path: &Path) -> Result<Vec<Provider>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files.clear();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            if !is_dir && is_config_file(&entry.file_name().to_string_lossy()) {
                files.push(entry.path());
            }
        }
        files.sort();
    }
    let mut providers = Vec::new();
    for file in files {
        let bytes = read_file(&file).map_err(|failure| failure.text())?;
        let read = read_providers(&String::from_utf8_lossy(&bytes))
            .map_err(|reason| format!("{}: {reason}", file.display()))?;
        providers.extend(read);
    }
    Ok(providers)
}

fn kind_of(path: &Path) -> NodeFileKind {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(".dockercfg") => NodeFileKind::DockerCfg,
        _ => NodeFileKind::ConfigJson,
    }
}

/// The files that exist and can be read, in the node's order.
fn files_of(dirs: &SearchDirs) -> Vec<NodeFile> {
    node_file_candidates(dirs)
        .into_iter()
        .filter_map(|(path, kind)| {
            let bytes = read_file(&path).ok()?;
            Some(NodeFile { path: path.display().to_string(), kind, bytes })
        })
        .collect()
}
