use std::io::Write as _;

use blob_store::{BlobStore, Lease};
use layers::UnpackedLayers;

use super::*;
use crate::images::store::LocalImage;

/// A node's store with small images; each image has one layer of its own and one shared by all.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: ImageStore,
    pub(crate) inventory: std::sync::Arc<Inventory>,
}

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

pub(crate) fn place() -> Place {
    let dir = tempfile::tempdir().expect("tempdir");
    let directories = Directories::new(&dir.path().join("node"));
    let store = ImageStore::new(
        BlobStore::open(dir.path().join("blobs")).expect("blobs"),
        UnpackedLayers::open(&dir.path().join("layers")).expect("layers"),
    )
    .with_notes(ImageNotes::open(directories.image_notes()));
    let inventory = Inventory::new(store.clone(), directories, BLOB_DELAY).into();
    Place { dir, store, inventory }
}

/// A tar archive of one file, without the help of a writer: header, content, two empty blocks.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    header[263..265].copy_from_slice(b"00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().div_ceil(512) * 512 + 1024, 0);
    tar
}

impl Place {
    fn put(&self, lease: &Lease, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        if !lease.add(&digest).expect("a lease") {
            let mut ingest = self.store.blobs.ingest().expect("an ingest").guarded_by(lease);
            ingest.write_all(bytes).expect("a write");
            ingest.commit(&digest).expect("a commit");
        }
        digest
    }

    /// What a pull leaves behind: blobs under a lease, the name, the unpacked layers.
    pub(crate) fn pull(&self, name: &str, content: &str) -> LocalImage {
        let lease = self.store.blobs.lease().expect("a lease");
        let tars = [tar("shared", b"shared by all"), tar("own", content.as_bytes())];
        let layers = tars.each_ref().map(|tar| (self.put(&lease, tar), tar.len()));
        let diff_ids = layers.map(|(digest, _)| format!("\"{digest}\"")).join(",");
        let platform = oci_model::Platform::host();
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{{"User":"7"}},"rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#,
            platform.architecture
        );
        let config_digest = self.put(&lease, config.as_bytes());
        let layers = layers
            .map(|(digest, size)| {
                format!(
                    r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{size}}}"#
                )
            })
            .join(",");
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[{layers}]}}"#,
            config.len()
        );
        let root = self.put(&lease, manifest.as_bytes());
        let reference: Reference = name.parse().expect("a reference");
        let image = self.store.read(&reference, root).expect("readable").expect("complete");
        self.store.remember(&reference, &image).expect("a name");
        drop(lease);
        self.store.root_directories(&image).expect("unpacked");
        image
    }

    /// Notes a container of the image as a start does.
    pub(crate) fn run(&self, uid: &str, image: &LocalImage) {
        let directories = Directories::new(&self.dir.path().join("node"));
        let pod = serde_json::json!({"metadata": {"namespace": "ns", "name": uid, "uid": uid}});
        let pod = serde_json::from_value(pod).expect("a pod");
        directories.store_pod(uid, &pod).expect("a pod");
        let record = crate::directories::RunRecord {
            id: uid.to_owned(),
            restart_count: 0,
            image: "as written".to_owned(),
            image_id: image.id.clone(),
            stop_signal: "SIGTERM".to_owned(),
            log: "log".into(),
            termination_message: "message".into(),
            layers: image.config.rootfs.diff_ids.iter().map(|id| id.0.to_string()).collect(),
            process: container_runtime::Process::new(vec!["true".to_owned()]),
        };
        std::fs::create_dir_all(directories.run(uid, "c", 0)).expect("a directory");
        directories.store_run(uid, "c", &record).expect("a record");
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let list = self.inventory.list(now()).expect("a list");
        list.iter().flat_map(|image| image.stored.tags()).collect()
    }

    fn files(&self, path: &str) -> usize {
        std::fs::read_dir(self.dir.path().join(path)).expect("a directory").count()
    }
}

fn blobs(place: &Place) -> usize {
    place.files("blobs/sha256")
}

fn trees(place: &Place) -> usize {
    place.files("layers/trees/sha256")
}

#[test]
fn images_are_listed_once_with_names_digests_and_uses() {
    let place = place();
    let image = place.pull("r.example/app:1", "one");
    place.pull("r.example/app:2", "one");
    place.pull("other.example/app", "one");
    place.run("p1", &image);
    let list = place.inventory.list(now()).expect("a list");
    let [listed] = &list[..] else { panic!("one image, not {}", list.len()) };
    assert_eq!(
        listed.stored.tags(),
        ["other.example/app:latest", "r.example/app:1", "r.example/app:2"]
    );
    let digested = |name: &str| format!("{name}@{}", image.root);
    let digests = [digested("other.example/app"), digested("r.example/app")];
    assert_eq!(listed.stored.repo_digests(), digests);
    assert_eq!(listed.id(), image.config_digest().to_string());
    assert_eq!(listed.stored.facts.user, "7");
    assert_eq!(listed.stored.facts.bytes, image.bytes);
    assert_eq!(Vec::from_iter(&listed.used_by), ["ns/p1"]);
    assert!(listed.last_used.is_some() && listed.unpacked_bytes > 0);
}

#[test]
fn image_volume_of_a_pod_counts_as_use() {
    let place = place();
    drop(place.pull("docker.io/library/data:1", "one"));
    let pod = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "v", "uid": "v"},
        "spec": {"containers": [], "volumes": [{"name": "d", "image": {"reference": "data:1"}}]}});
    let directories = Directories::new(&place.dir.path().join("node"));
    directories.store_pod("v", &serde_json::from_value(pod).expect("a pod")).expect("a pod");
    let list = place.inventory.list(now()).expect("a list");
    assert_eq!(Vec::from_iter(&list[0].used_by), ["ns/v"]);
}

/// kubelet-images.md 10: RemoveImage by id removes every tag.
#[test]
fn removal_by_name_takes_the_name_and_by_id_the_image() {
    let place = place();
    drop(place.pull("r.example/keep", "keep"));
    drop(place.pull("r.example/app:1", "one"));
    let id = place.pull("r.example/app:2", "one").config_digest();
    let remove = |what: &str| place.inventory.remove(what, Removal::Unused, now());
    let removed = remove("r.example/app:1").expect("removed");
    assert_eq!((removed.names, removed.id), (vec!["r.example/app:1".to_owned()], None));
    assert_eq!((blobs(&place), trees(&place)), (3 + 4, 3));
    drop(place.pull("r.example/app:3", "one"));
    let removed = remove(&id.encoded()[..12]).expect("removed");
    assert_eq!(removed.names, ["r.example/app:2", "r.example/app:3"]);
    assert_eq!(removed.id, Some(id.to_string()));
    assert!(removed.freed_bytes > 0 && removed.waiting_bytes == 0);
    // Manifest, config, own layer and shared layer of the other image.
    assert_eq!((blobs(&place), trees(&place)), (4, 2));
    assert!(matches!(remove("r.example/app:3"), Err(InventoryError::Absent { .. })));
    assert!(matches!(remove("sha256:zz"), Err(InventoryError::Absent { .. })));
    assert_eq!(place.names(), ["r.example/keep:latest"]);
}

#[test]
fn image_in_use_goes_only_by_force_and_its_trees_stay() {
    let place = place();
    let image = place.pull("r.example/app:1", "one");
    place.run("p1", &image);
    drop(image);
    let remove = |removal| place.inventory.remove("r.example/app:1", removal, now());
    let error = remove(Removal::Unused).expect_err("in use");
    assert_eq!(error.to_string(), "image r.example/app:1 is in use by ns/p1");
    remove(Removal::Forced).expect("removed");
    assert_eq!((blobs(&place), trees(&place)), (0, 2));
}

#[test]
fn image_in_the_hands_of_a_start_is_not_removed_even_by_force() {
    let place = place();
    let image = place.pull("r.example/app:1", "one");
    let error = place.inventory.remove("r.example/app:1", Removal::Forced, now());
    assert!(matches!(error, Err(InventoryError::InUse { .. })));
    drop(image);
    place.inventory.remove("r.example/app:1", Removal::Unused, now()).expect("removed");
}

#[test]
fn pins_hold_until_they_are_taken_away_and_survive_a_restart() {
    let place = place();
    drop(place.pull("docker.io/library/app:1", "one"));
    assert_eq!(place.inventory.list(now()).expect("a list")[0].pin, None);
    assert_eq!(
        place.inventory.pin(&["app:1"], now()).expect("pinned"),
        ["docker.io/library/app:1"]
    );
    let directories = Directories::new(&place.dir.path().join("node"));
    let store = place.store.clone().with_notes(ImageNotes::open(directories.image_notes()));
    let again = Inventory::new(store, directories, BLOB_DELAY);
    assert_eq!(again.list(now()).expect("a list")[0].pin, Some(Pin::Person));
    let refused = again.remove("app:1", Removal::Unused, now()).expect_err("pinned");
    assert!(matches!(refused, InventoryError::Pinned { .. }), "{refused}");
    assert!(again.is_pinned("app:1", now()).expect("here"));
    assert_eq!(again.unpin(&["app:1"], now()).expect("unpinned"), ["docker.io/library/app:1"]);
    assert!(!again.is_pinned("app:1", now()).expect("here"));
    assert_eq!(again.unpin(&["app:1"], now()).expect("here"), [""; 0], "it had no pin");
    again.remove("app:1", Removal::Unused, now()).expect("removed");
    assert!(again.pin(&["app:1"], now()).is_err());
}

#[test]
fn pins_change_for_all_names_or_none() {
    let place = place();
    drop(place.pull("docker.io/library/app:1", "one"));
    let is_absent =
        |error: &InventoryError| matches!(error, InventoryError::Absent { what } if what == "no");
    let refused = place.inventory.pin(&["app:1", "no"], now()).expect_err("absent");
    assert!(is_absent(&refused), "{refused}");
    assert_eq!(place.inventory.list(now()).expect("a list")[0].pin, None);
    place.inventory.pin(&["app:1"], now()).expect("pinned");
    let refused = place.inventory.unpin(&["app:1", "no"], now()).expect_err("absent");
    assert!(is_absent(&refused), "{refused}");
    assert_eq!(place.inventory.list(now()).expect("a list")[0].pin, Some(Pin::Person));
    // A pin may outlive its image.
    place.inventory.remove("app:1", Removal::Forced, now()).expect("removed");
    place.inventory.unpin(&["app:1"], now()).expect_err("absent");
    place.inventory.notes.pin("docker.io/library/app:1").expect("noted");
    let unpinned = place.inventory.unpin(&["app:1"], now()).expect("unpinned");
    assert_eq!(unpinned, ["docker.io/library/app:1"]);
}

#[test]
fn image_that_the_node_did_not_fetch_is_local() {
    let place = place();
    let image = place.pull("r.example/app:1", "one");
    // As the builder names what it made.
    let built = "images/r.example/built:1".parse().expect("a name");
    place.store.blobs.set_ref(&built, &place.pull("r.example/x:1", "two").digests).expect("a ref");
    let moved = "images/r.example/app:1".parse().expect("a name");
    let pin = |index: usize| place.inventory.list(now()).expect("a list")[index].pin;
    let of = |root| {
        let list = place.inventory.list(now()).expect("a list");
        list.iter().position(|image| image.stored.roots().any(|known| known == root)).expect("it")
    };
    assert_eq!(pin(of(image.root)), None);
    let other = place.store.find(&"r.example/built:1".parse().expect("a name"));
    let other = other.expect("an answer").expect("an image");
    assert_eq!(pin(of(other.root)), Some(Pin::Local));
    // A build gives the name of a pulled image to something else.
    place.store.blobs.set_ref(&moved, &other.digests).expect("a ref");
    assert_eq!(pin(of(other.root)), Some(Pin::Local));
}

/// A client of the registry on this machine was told lately that a blob is there.
#[test]
fn blob_that_somebody_else_used_lately_waits() {
    let place = place();
    let image = place.pull("r.example/app:1", "one");
    let layer = image.layers[1].digest;
    drop(image);
    let path = place.store.blobs.path(&layer);
    let file = std::fs::File::options().write(true).open(&path).expect("a blob");
    let later = SystemTime::now() + USE_GRANULARITY * 2;
    file.set_modified(later).expect("a time");
    let removed = place.inventory.remove("r.example/app:1", Removal::Unused, now());
    let removed = removed.expect("removed");
    assert!(removed.waiting_bytes > 0);
    assert_eq!((blobs(&place), trees(&place)), (1, 0));
    assert_eq!(place.inventory.free_waiting().expect("an answer"), 0);
    file.set_modified(SystemTime::now() - BLOB_DELAY * 2).expect("a time");
    assert_eq!(place.inventory.free_waiting().expect("freed"), removed.waiting_bytes);
    assert_eq!(blobs(&place), 0);
    assert_eq!(place.inventory.free_waiting().expect("nothing"), 0);
}

#[test]
fn usage_counts_blobs_layers_and_the_disk() {
    let place = place();
    let empty = place.inventory.usage().expect("usage");
    assert_eq!((empty.used_bytes, empty.inodes_used), (0, 0));
    drop(place.pull("r.example/app:1", "one"));
    let usage = place.inventory.usage().expect("usage");
    assert!(usage.used_bytes > 4 * 1024 && usage.inodes_used == 4 + 2, "{usage:?}");
    assert!(usage.capacity_bytes > usage.available_bytes && usage.path.ends_with("blobs"));
}

/// Whoever asks for an image either gets all of it, until it lets go, or is told that it is absent.
#[test]
fn removal_never_takes_a_part_of_what_a_start_was_given() {
    let place = place();
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            let reference: Reference = "r.example/app:1".parse().expect("a reference");
            for turn in 0..60 {
                let found = place.store.find(&reference).expect("an answer");
                let image = match found {
                    Some(image) => image,
                    None => place.pull("r.example/app:1", "one"),
                };
                let lowers = place.store.root_directories(&image).expect("all layers");
                for lower in lowers {
                    assert!(std::fs::read_dir(lower).is_ok(), "turn {turn}");
                }
            }
        });
        while !starter.is_finished() {
            match place.inventory.remove("r.example/app:1", Removal::Forced, now()) {
                Ok(_) | Err(InventoryError::Absent { .. } | InventoryError::InUse { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        starter.join().expect("no start failed");
    });
}

#[test]
fn prune_takes_local_images_only_when_told_and_pinned_ones_never() {
    let place = place();
    drop(place.pull("r.example/app:1", "1"));
    drop(place.pull("r.example/pinned:1", "2"));
    place.inventory.pin(&["r.example/pinned:1"], now()).expect("pinned");
    place.run("p", &place.pull("r.example/used:1", "3"));
    let built = place.pull("r.example/x:1", "4").digests;
    place.store.blobs.set_ref(&"images/r.example/x:2".parse().expect("it"), &built).expect("it");
    let tags = |images: &[NodeImage]| -> Vec<String> {
        images.iter().flat_map(|image| image.stored.tags()).collect()
    };
    let (planned, sum) = place.inventory.prune(Scope::Fetched, Mode::Plan, now()).expect("a plan");
    assert_eq!((tags(&planned), sum), (vec!["r.example/app:1".to_owned()], Removed::default()));
    assert_eq!(place.names().len(), 5);
    let (gone, sum) = place.inventory.prune(Scope::Fetched, Mode::Apply, now()).expect("done");
    assert_eq!(tags(&gone), ["r.example/app:1"]);
    assert!(sum.freed_bytes > 0);
    let (gone, _) = place.inventory.prune(Scope::All, Mode::Apply, now()).expect("done");
    assert_eq!(tags(&gone), ["r.example/x:1", "r.example/x:2"]);
    let mut left = place.names();
    left.sort();
    assert_eq!(left, ["r.example/pinned:1", "r.example/used:1"]);
}
