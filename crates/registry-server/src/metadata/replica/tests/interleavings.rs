//! Random interleavings of changes on several replicas whose bucket fails at random.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Replicas at once.
const REPLICAS: usize = 3;

/// One step of one client.
#[derive(Clone, Debug)]
enum Step {
    /// Uploads a blob that nobody else uploads.
    Add,
    /// Creates a tag, if it is free.
    Claim(u8),
    /// Moves a tag.
    Move(u8),
    /// Removes a tag.
    Drop(u8),
    /// Reads what it did last.
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Add),
        3 => (0..4u8).prop_map(Step::Claim),
        2 => (0..3u8).prop_map(Step::Move),
        1 => (0..3u8).prop_map(Step::Drop),
        2 => Just(Step::Look),
    ]
}

fn claimed(tag: u8) -> String {
    format!("claimed{tag}")
}

/// A way to the bucket that fails now and then, and once in a while for good.
fn shaky(bucket: &Memory, seed: u64) -> Arc<View> {
    let mut random = fastrand::Rng::with_seed(seed);
    bucket.view(move |action, key| match random.u32(..100) {
        0..6 => Fault::Lost,
        6..12 => Fault::AnswerLost,
        // Between the entry and the tables.
        12..16 if action == "create" && key.starts_with("log/") => Fault::Dies,
        _ => Fault::Fine,
    })
}

/// A client of one replica: what it was told is done.
#[derive(Default)]
struct Told {
    blobs: Vec<String>,
    /// Tag and manifest.
    claims: Vec<(String, String)>,
}

async fn client(index: usize, steps: Vec<Step>, bucket: Memory, seed: u64, pace: Pace) -> Told {
    let mut told = Told::default();
    let mut directory = directory();
    let mut life = 0;
    let mut replica: Option<(Arc<View>, Metadata)> = None;
    for (number, step) in steps.into_iter().enumerate() {
        let content = format!("{index} {number}");
        // Whoever died comes back, with its directory or without.
        let (view, metadata) = loop {
            match replica.take() {
                Some((view, metadata)) if !view.is_dead() => break (view, metadata),
                Some((_, metadata)) => {
                    close(metadata).await;
                    if life % 2 == 0 {
                        directory = super::directory();
                    }
                }
                None => {}
            }
            life += 1;
            let view =
                shaky(&bucket, seed.wrapping_mul(31).wrapping_add((index * 1000 + life) as u64));
            if let Ok(metadata) = try_join(directory.path(), &view, pace).await {
                replica = Some((view, metadata));
            }
        };
        match step {
            Step::Add => {
                if metadata.change(add(&content)).await.is_ok() {
                    told.blobs.push(content);
                }
            }
            Step::Claim(tag) => {
                let change = put(&claimed(tag), &content, Some(Expected::Nothing), Vec::new());
                if metadata.change(change).await.is_ok() {
                    told.claims.push((claimed(tag), content));
                }
            }
            // What comes of these two is only compared between replicas.
            Step::Move(tag) => {
                let _ = metadata.change(put(&format!("t{tag}"), &content, None, Vec::new())).await;
            }
            Step::Drop(tag) => {
                let tag = Tag::new(&format!("t{tag}")).expect("a tag");
                let _ = metadata.change(Change::DeleteTag(repository(), tag)).await;
            }
            Step::Look => {
                if let (Some(last), Ok(())) = (told.blobs.last(), metadata.current().await) {
                    assert!(has_blob(&metadata, last), "{last} is not there");
                }
            }
        }
        replica = Some((view, metadata));
    }
    if let Some((_, metadata)) = replica {
        close(metadata).await;
    }
    told
}

async fn check(steps: [Vec<Step>; REPLICAS], seed: u64) {
    let bucket = Memory::default();
    // One that removes what it can and trusts nothing, one as in life.
    let patient = Pace { snapshot_entries: 4, pause_first: Duration::ZERO, ..Pace::default() };
    let pace = if seed.is_multiple_of(2) { THRIFTY } else { patient };
    let mut clients = tokio::task::JoinSet::new();
    for (index, steps) in steps.into_iter().enumerate() {
        clients.spawn(client(index, steps, bucket.clone(), seed, pace));
    }
    let told = clients.join_all().await;
    let ends = [directory(), directory()];
    let end = join(ends[0].path(), &bucket.reliable(), THRIFTY).await;
    let mut owners = BTreeMap::new();
    for told in told {
        for blob in told.blobs {
            assert!(has_blob(&end, &blob), "blob {blob} was acknowledged");
        }
        for (tag, content) in told.claims {
            assert_eq!(by_tag(&end, &tag), Some(Digest::of(content.as_bytes())), "{tag}");
            assert_eq!(owners.insert(tag, content), None, "two were first");
        }
    }
    // Whichever snapshot a replica begins with.
    let first = rows(&end);
    close(end).await;
    for newest in bucket.keys(snapshot::SNAPSHOTS).into_iter().rev() {
        let again = directory();
        let again = join(again.path(), &bucket.reliable(), HASTY).await;
        assert_eq!(rows(&again), first);
        bucket.remove(&newest);
        // One of which the keeper died may have lost its log already.
        let log = bucket.keys(entry::LOG);
        let next = bucket.keys(snapshot::SNAPSHOTS).pop();
        let next = next.and_then(|key| entry::sequence(snapshot::SNAPSHOTS, &key));
        if !log.contains(&entry::key(next.unwrap_or(1))) {
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_agree_and_lose_nothing_whatever_fails(
        one in proptest::collection::vec(step(), 1..14),
        two in proptest::collection::vec(step(), 1..14),
        three in proptest::collection::vec(step(), 1..14),
        seed: u64,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(check([one, two, three], seed));
    }
}
