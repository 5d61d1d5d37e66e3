use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;

use super::*;
use crate::events::Lanes;
use crate::images::inventory::tests::{Place, place};
use crate::images::inventory::{Pin, Removal};

const NAME: &str = "r.example/app:1";

struct Case {
    place: Arc<Place>,
    keeper: Keeper,
    memory: Memory,
    calls: Arc<Mutex<Vec<String>>>,
    is_down: Arc<AtomicBool>,
    events: Lanes,
}

fn case(list: &str, refresh: Duration) -> Case {
    let place = Arc::new(place());
    let (calls, is_down): (Arc<Mutex<Vec<String>>>, Arc<AtomicBool>) = Default::default();
    let (recorder, events) = Recorder::new();
    let file = place.dir.path().join("kept");
    std::fs::write(&file, list).expect("a list");
    let (registry, asked, down) = (Arc::clone(&place), Arc::clone(&calls), Arc::clone(&is_down));
    let fetch: Fetch = Box::new(move |reference| {
        asked.lock().expect("calls").push(reference.to_string());
        if reference.registry() == "slow.example" {
            return std::future::pending().boxed();
        }
        let answer = match down.load(Ordering::SeqCst) {
            true => Err("registry is down".to_owned()),
            false => {
                registry.pull(&reference.to_string(), "content");
                Ok(())
            }
        };
        async move { answer }.boxed()
    });
    let inventory = Arc::clone(&place.inventory);
    let keeper = Keeper { fetch, inventory, recorder, node_name: "n".into(), file, refresh };
    Case { place, keeper, memory: Memory::default(), calls, is_down, events }
}

impl Case {
    async fn look(&mut self, second: u64) -> usize {
        let now = Duration::from_secs(second);
        self.keeper.look(&mut self.memory, now);
        while let Some(Some((name, result))) = self.memory.flights.next().now_or_never() {
            self.keeper.landed(&mut self.memory, name, result, now);
        }
        std::mem::take(&mut *self.calls.lock().expect("calls")).len()
    }

    fn pin(&self) -> Option<Pin> {
        self.place.inventory.list(Timestamp::now()).expect("a list").first().and_then(|i| i.pin)
    }
}

#[test]
fn list_has_one_image_per_line_and_tells_what_is_wrong() {
    let (list, wrong) = parse("# base\nnginx  # web\n\n r.example/a@sha256:x\nnginx:latest\nA b\n");
    assert_eq!(
        list.iter().map(Reference::to_string).collect::<Vec<_>>(),
        ["docker.io/library/nginx:latest"]
    );
    assert_eq!(wrong.len(), 2);
    assert!(wrong[0].starts_with("line 4: image \"r.example/a@sha256:x\": "), "{wrong:?}");
}

#[test]
fn list_that_cannot_be_read_or_understood_is_told_beforehand() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("list");
    let problems = || KeptImages { file: Some(file.clone()), ..KeptImages::default() }.problems();
    let [problem] = &problems()[..] else { panic!("{:?}", problems()) };
    assert!(problem.starts_with(&format!("cannot read {}: No such file", file.display())));
    std::fs::write(&file, "nginx\nA b\n").expect("a list");
    let [problem] = &problems()[..] else { panic!("{:?}", problems()) };
    assert!(problem.starts_with(&format!("{}: line 2: image \"A b\": ", file.display())));
    assert_eq!(KeptImages::default().problems(), Vec::<String>::new());
}

#[tokio::test]
async fn listed_image_is_pulled_pinned_and_pulled_again_after_its_removal() {
    let mut case = case(NAME, Duration::ZERO);
    assert_eq!(case.look(0).await, 1);
    assert_eq!(case.pin(), Some(Pin::KeptList));
    assert_eq!(case.look(5).await, 0);
    case.place.inventory.remove(NAME, Removal::Unused, Timestamp::now()).expect_err("pinned");
    case.place.inventory.remove(NAME, Removal::Forced, Timestamp::now()).expect("removed");
    assert_eq!(case.look(10).await, 1);
    std::fs::write(&case.keeper.file, "").expect("a list");
    assert_eq!(case.look(15).await, 0);
    assert_eq!(case.pin(), Some(Pin::KeptList), "perhaps it is being written");
    assert_eq!(case.look(17).await, 0);
    assert_eq!(case.pin(), None, "no longer listed");
    std::fs::remove_file(&case.keeper.file).expect("gone");
    case.look(20).await;
    case.look(25).await;
    assert_eq!(case.events.take().expect("an event").reason, "InvalidKeptImages");
    assert!(case.events.take().is_none(), "told once");
}

#[tokio::test]
async fn missing_image_is_shown_told_and_tried_again_with_back_off() {
    let mut case = case(NAME, Duration::ZERO);
    case.is_down.store(true, Ordering::SeqCst);
    let mut tries = Vec::new();
    for second in (0..100).step_by(5) {
        if case.look(second).await > 0 {
            tries.push(second);
        }
    }
    assert_eq!(tries, [0, 10, 30, 70]);
    let event = case.events.take().expect("an event");
    assert_eq!(event.reason, "FailedToKeepImage");
    assert!(event.message.contains("registry is down; next try in 10s"), "{}", event.message);
    let missing = case.place.inventory.missing();
    assert_eq!(missing, [(NAME.to_owned(), "registry is down".to_owned())]);
    case.is_down.store(false, Ordering::SeqCst);
    assert_eq!(case.look(150).await, 1);
    assert_eq!(case.place.inventory.missing(), []);
}

#[tokio::test]
async fn tag_is_looked_up_again_and_a_digest_is_not() {
    let mut case = case(NAME, Duration::from_secs(3600));
    assert_eq!(case.look(0).await, 1);
    assert_eq!(case.look(3595).await, 0);
    assert_eq!(case.look(3600).await, 1);
    let list = case.place.inventory.list(Timestamp::now()).expect("a list");
    let digested = list[0].stored.repo_digests()[0].clone();
    std::fs::write(&case.keeper.file, digested).expect("a list");
    assert_eq!(case.look(9000).await, 0);
    assert_eq!(case.look(20_000).await, 0);
}

#[tokio::test]
async fn list_that_is_too_long_leaves_the_last_one_in_force() {
    let mut case = case(NAME, Duration::ZERO);
    assert_eq!(case.look(0).await, 1);
    let long = "r.example/other:1\n".repeat(LIST_BYTES_MAX as usize / 18 + 1);
    std::fs::write(&case.keeper.file, long).expect("a list");
    assert_eq!(case.look(5).await, 0);
    assert_eq!(case.pin(), Some(Pin::KeptList));
    let event = case.events.take().expect("an event");
    assert!(event.message.ends_with("it is longer than 1048576 bytes"), "{}", event.message);
}

#[tokio::test]
async fn pull_that_does_not_end_holds_up_no_other() {
    let mut case = case(&format!("slow.example/a:1\n{NAME}"), Duration::ZERO);
    assert_eq!(case.look(0).await, 2);
    assert_eq!(case.pin(), Some(Pin::KeptList));
    case.place.inventory.remove(NAME, Removal::Forced, Timestamp::now()).expect("removed");
    assert_eq!(case.look(5).await, 1, "the slow one is not begun twice");
}
