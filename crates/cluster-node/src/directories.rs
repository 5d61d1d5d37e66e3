//! Where the node keeps what.
//!
//! | path below the node's directory | content |
//! |---|---|
//! | `pods/<uid>/pod.json` | the pod as last seen, for orphans |
//! | `pods/<uid>/volumes/<name>` | a volume |
//! | `pods/<uid>/image-volumes.json` | what its image volumes stand for |
//! | `pods/<uid>/etc/` | hosts, hostname, resolv.conf |
//! | `pods/<uid>/containers/<name>/<restart>/` | record, overlay directories, termination message |
//! | `containers/<id>/` | the runtime's |
//! | `image_manager/` | pull records, and pins and arrivals of images |
//! | `logs/<namespace>_<pod>_<uid>/<container>/<restart>.log` | output in CRI's log format |

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

/// The directories of one node.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    root: PathBuf,
}

/// What is known about one run of a container beside what the runtime knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// Name in the runtime.
    pub(crate) id: String,
    pub(crate) restart_count: i32,
    /// Image text of the spec.
    pub(crate) image: String,
    /// Digested reference.
    pub(crate) image_id: String,
    /// Signal that asks it to end.
    pub(crate) stop_signal: String,
    pub(crate) log: PathBuf,
    /// File mounted at `terminationMessagePath`.
    pub(crate) termination_message: PathBuf,
    /// Unpacked layers that the run uses, those of its image volumes included.
    pub(crate) layers: Vec<String>,
    /// The process as the runtime was told, for `exec`.
    pub(crate) process: container_runtime::Process,
}

impl Directories {
    pub(crate) fn new(root: &Path) -> Self {
        Directories { root: root.to_owned() }
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    pub(crate) fn volume(&self, uid: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(name)
    }

    pub(crate) fn etc(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc")
    }

    pub(crate) fn container(&self, uid: &str, name: &str) -> PathBuf {
        self.pod(uid).join("containers").join(name)
    }

    pub(crate) fn run(&self, uid: &str, name: &str, restart: i32) -> PathBuf {
        self.container(uid, name).join(restart.to_string())
    }

    /// Directory of all logs of a pod.
    pub(crate) fn pod_logs(&self, namespace: &str, pod: &str, uid: &str) -> PathBuf {
        self.root.join("logs").join(format!("{namespace}_{pod}_{uid}"))
    }

    /// What the node remembers about its images.
    pub(crate) fn image_notes(&self) -> PathBuf {
        self.root.join("image_manager").join("images.json")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("kubelet.sock")
    }

    /// UIDs of the pods that have a directory.
    pub(crate) fn pods(&self) -> Vec<String> {
        names(&self.root.join("pods"))
    }

    /// Writes down a pod, so that it can be ended when the API server no longer knows it.
    pub(crate) fn store_pod(&self, uid: &str, pod: &Pod) -> io::Result<()> {
        fs::create_dir_all(self.pod(uid))?;
        write_json(&self.pod(uid).join("pod.json"), pod)
    }

    /// The pod as last seen.
    pub(crate) fn load_pod(&self, uid: &str) -> Option<Pod> {
        read_json(&self.pod(uid).join("pod.json"))
    }

    pub(crate) fn store_run(&self, uid: &str, name: &str, record: &RunRecord) -> io::Result<()> {
        write_json(&self.run(uid, name, record.restart_count).join("run.json"), record)
    }

    /// Writes down what a pod's image volumes stand for: digested references by volume.
    pub(crate) fn store_image_volumes(
        &self,
        uid: &str,
        images: &BTreeMap<String, String>,
    ) -> io::Result<()> {
        write_json(&self.pod(uid).join("image-volumes.json"), images)
    }

    /// What the pod's image volumes stood for when they were first pulled.
    pub(crate) fn load_image_volumes(&self, uid: &str) -> BTreeMap<String, String> {
        read_json(&self.pod(uid).join("image-volumes.json")).unwrap_or_default()
    }

    /// The runs of a container of which a record exists, oldest first.
    pub(crate) fn runs(&self, uid: &str, name: &str) -> Vec<RunRecord> {
        let mut runs: Vec<RunRecord> = names(&self.container(uid, name))
            .iter()
            .filter_map(|restart| restart.parse::<i32>().ok())
            .filter_map(|restart| read_json(&self.run(uid, name, restart).join("run.json")))
            .collect();
        runs.sort_by_key(|run| run.restart_count);
        runs
    }

    /// Names of the containers of a pod of which the node has a record.
    pub(crate) fn containers(&self, uid: &str) -> Vec<String> {
        names(&self.pod(uid).join("containers"))
    }

    /// Container ids of all runs of all pods.
    pub(crate) fn known_containers(&self) -> std::collections::BTreeSet<String> {
        self.pods()
            .iter()
            .flat_map(|uid| {
                self.containers(uid)
                    .into_iter()
                    .flat_map(|name| self.runs(uid, &name))
                    .map(|run| run.id)
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

/// Names of the entries of a directory; none if it does not exist.
fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let staged = path.with_extension("tmp");
    fs::write(&staged, serde_json::to_vec(value)?)?;
    fs::rename(staged, path)
}

/// Durable when this returns: an image must not outlive the note on whose it is.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("tmp");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&staged)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    match path.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
