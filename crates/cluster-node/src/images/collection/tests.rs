use std::sync::Mutex;

use image_policy::collection::CollectionSettings;

use super::*;
use crate::events::Lanes;
use crate::images::inventory::tests::{Place, place};

/// Any use of the disk is too much, and no image too young.
fn greedy() -> CollectionSettings {
    CollectionSettings {
        high_percent: 1,
        low_percent: 0,
        minimum_age: Duration::ZERO,
        maximum_age: Duration::ZERO,
    }
}

struct Case {
    collector: Collector,
    events: Lanes,
    left: Arc<Mutex<Vec<usize>>>,
}

fn case(place: &Place, settings: &CollectionSettings, up_for: Duration) -> Case {
    let (recorder, events) = Recorder::new();
    let left: Arc<Mutex<Vec<usize>>> = Arc::default();
    let told = Arc::clone(&left);
    let collector = Collector {
        removed: Box::new(move |roots, _| told.lock().expect("told").push(roots.len())),
        inventory: Arc::clone(&place.inventory),
        recorder,
        node_name: "n".to_owned(),
        options: CollectionOptions {
            policy: CollectionPolicy::new(settings).expect("a policy"),
            pressure: Some(PressureThreshold::Percent(100)),
            ..CollectionOptions::default()
        },
        began: Timestamp::now() - up_for,
        pressure: watch::Sender::new(false),
    };
    Case { collector, events, left }
}

fn soon() -> Timestamp {
    Timestamp::now() + Duration::from_secs(1)
}

/// kubelet-images.md 10 and row G4 through the disk: the real store, the real file system.
#[test]
fn space_pass_removes_what_nobody_uses_and_tells_of_the_shortfall() {
    let place = place();
    for (name, content) in [("r.example/unused:1", "1"), ("r.example/pinned:1", "2")] {
        drop(place.pull(name, content));
    }
    place.run("exited", &place.pull("r.example/used:1", "3"));
    let built = place.pull("r.example/x:1", "4").digests;
    place
        .store
        .blobs
        .set_ref(&"images/r.example/built:1".parse().expect("it"), &built)
        .expect("it");
    let in_hand = place.pull("r.example/starting:1", "5");
    place.inventory.pin(&["r.example/pinned:1"], Timestamp::now()).expect("pinned");
    let mut case = case(&place, &greedy(), Duration::ZERO);
    let error = case.collector.collect(soon()).expect_err("the disk holds more than images");
    let mut names = place.names();
    names.sort();
    assert_eq!(
        names,
        [
            "r.example/built:1",
            "r.example/pinned:1",
            "r.example/starting:1",
            "r.example/used:1",
            "r.example/x:1"
        ]
    );
    assert_eq!(*case.left.lock().expect("told"), [4], "the unused image is gone, records may go");
    let note = case.events.take().expect("an event");
    assert_eq!((note.reason.as_str(), note.warning), ("FreeDiskSpaceFailed", true));
    assert_eq!(note.object.kind.as_deref(), Some("Node"));
    assert!(
        note.message.starts_with("Insufficient free disk space on the node's image filesystem (")
    );
    assert_eq!(note.message, error.to_string());
    for name in ["r.example/used:1", "r.example/pinned:1"] {
        let reference = name.parse().expect("a name");
        let image = place.store.find(&reference).expect("an answer").expect("it stays");
        place.store.root_directories(&image).expect("usable");
    }
    drop(in_hand);
}

/// Frees `bytes` on a node with three unused images, given from the least recently used to the most
/// recently used one; returns the images that are left, in that order, and how much was freed.
fn free_of_three(by_last_use: [&str; 3], bytes: u64) -> (Vec<&str>, u64) {
    let place = place();
    let name = |content: &str| format!("r.example/app:{content}");
    let pulled = by_last_use.map(|content| place.pull(&name(content), content));
    let now = soon();
    // An image in hand is in use, and each look notes that: one image fewer each time.
    for (hours_ago, image) in [3_u64, 2, 1].into_iter().zip(pulled) {
        let look = now - Duration::from_secs(3600 * hours_ago);
        place.inventory.list(look).expect("a list");
        drop(image);
    }
    let images = place.inventory.list(now).expect("a list");
    let case = case(&place, &greedy(), Duration::ZERO);
    let mut collected = Collected::default();
    case.collector.free_space(&images, bytes, now, &mut collected).expect("freed");
    let names = place.names();
    let left = by_last_use.into_iter().filter(|content| names.contains(&name(content)));
    (left.collect(), collected.freed_bytes + collected.waiting_bytes)
}

/// kubelet-images.md 15.10, rows G1 and G3: no more goes than is needed.
#[test]
fn space_pass_stops_when_enough_is_freed() {
    let (left, one) = free_of_three(["1", "2", "3"], 1);
    assert_eq!(left, ["2", "3"]);
    assert_eq!(free_of_three(["1", "2", "3"], one).0, ["2", "3"], "just enough");
    // The images are listed in the order of their ids, which is the same whoever was used first.
    assert_eq!(free_of_three(["3", "1", "2"], one + 1).0, ["2"], "one byte short");
}

/// kubelet-images.md 15.10, rows G5 and G6 through the disk.
#[test]
fn young_images_stay_and_old_ones_go_when_the_node_is_up_long_enough() {
    let hour = Duration::from_secs(3600);
    let settings = CollectionSettings { high_percent: 100, maximum_age: hour, ..greedy() };
    let place = place();
    drop(place.pull("r.example/app:1", "1"));
    let young = case(&place, &settings, hour / 2);
    assert_eq!(young.collector.collect(soon()).expect("done"), Collected::default());
    let old = case(&place, &settings, hour * 2);
    assert_eq!(old.collector.collect(soon()).expect("done").names, ["r.example/app:1"]);
    drop(place.pull("r.example/app:1", "1"));
    let minutes = CollectionSettings { minimum_age: Duration::from_secs(120), ..greedy() };
    let kept = case(&place, &minutes, Duration::ZERO);
    assert!(kept.collector.collect(soon()).is_err());
    assert_eq!(place.names(), ["r.example/app:1"]);
}

#[test]
fn short_disk_is_a_condition_and_all_unused_images_go() {
    let place = place();
    drop(place.pull("r.example/app:1", "1"));
    let settings = CollectionSettings { high_percent: 100, ..greedy() };
    let case = case(&place, &settings, Duration::ZERO);
    assert_eq!(case.collector.collect(soon()).expect("off"), Collected::default());
    let strain = case.collector.look(Strain::default(), soon());
    assert!(*case.collector.pressure.borrow() && strain.is_strained());
    assert_eq!(place.names(), [""; 0]);
    drop(place.pull("r.example/app:1", "1"));
    case.collector.look(strain, soon());
    assert_eq!(place.names(), ["r.example/app:1"], "not at every look");
}

#[test]
fn pressure_lasts_five_minutes_longer_than_the_shortage() {
    let at = |second| Timestamp::from_second(second).expect("in range");
    let short = Strain::default().after(true, at(1000));
    assert!(short.is_due(at(1000)));
    let relieved = Strain { relieved: Some(at(1000)), ..short };
    assert!(!relieved.after(true, at(1059)).is_due(at(1059)));
    assert!(relieved.after(true, at(1060)).is_due(at(1060)));
    assert!(!relieved.after(false, at(1060)).is_due(at(1060)));
    assert!(relieved.after(false, at(1299)).is_strained());
    assert!(!relieved.after(false, at(1300)).is_strained());
}

#[test]
fn layers_of_a_name_that_moved_go_when_they_are_old() {
    let place = place();
    drop(place.pull("r.example/app:1", "old"));
    let moved = place.pull("r.example/app:1", "new");
    let layers = || place.store.layers.list().expect("layers").len();
    assert_eq!(layers(), 3);
    let later = Timestamp::now() + Duration::from_secs(1800);
    assert_eq!(place.inventory.free_loose_layers(later).expect("freed"), 0);
    let later = Timestamp::now() + Duration::from_secs(7200);
    assert!(place.inventory.free_loose_layers(later).expect("freed") > 0);
    assert_eq!(layers(), 2);
    place.store.root_directories(&moved).expect("whole");
}
