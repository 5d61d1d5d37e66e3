//! Many pods at once: turns, shared pulls, progress, outages; and the rows of the pull path.

use futures_util::future::join_all;

use super::super::super::queue::OverRate;
use super::super::outages::Ending;
use super::*;

const IF_NOT_PRESENT: PullPolicy = PullPolicy::IfNotPresent;

impl Fixture {
    fn pass(&self, time: Duration) {
        *self.time.lock().expect("time") += time;
    }

    /// Waits until so many events have such a text.
    async fn until_told(&self, count: usize, text: &str) {
        let wait = async {
            loop {
                let next = self.told.notified();
                let told = self.events.lock().expect("events").clone();
                if told.iter().filter(|event| event.contains(text)).count() >= count {
                    return;
                }
                next.await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(30), wait).await;
        told.unwrap_or_else(|_| panic!("{text} is not in {:?}", self.take_events()));
    }

    /// Waits until so many pulls have reached the registry.
    async fn until_calls(&self, count: usize) {
        while self.calls.lock().expect("calls").len() < count {
            tokio::task::yield_now().await;
        }
    }

    /// Pulls all images at once, each for a pod of its own; returns how many were refused.
    async fn ensure_all(&self, images: &[String]) -> Vec<NotYet> {
        let uids: Vec<String> = (0..images.len()).map(|n| n.to_string()).collect();
        let pulls = uids
            .iter()
            .zip(images)
            .map(|(uid, image)| self.ensure_for(uid, image, PullPolicy::Always, &[]));
        join_all(pulls).await.into_iter().filter_map(Result::err).collect()
    }
}

fn serial() -> PullLimits {
    PullLimits { serialize_image_pulls: Some(true), registry_pull_qps: 0, ..PullLimits::default() }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("r.example/app{n}:1")).collect()
}

/// kubelet-images.md 15.7, row P2.
#[tokio::test]
async fn p2_present_image_without_verification_is_just_present() {
    let knobs = Knobs { verification: VerificationPolicy::NeverVerify, ..Knobs::default() };
    let fixture = fixture_with(&[("anonymous", "ok")], knobs);
    fixture.ensure(IMAGE, IF_NOT_PRESENT, &[]).await.expect("pulled");
    fixture.take_events();
    fixture.ensure(IMAGE, IF_NOT_PRESENT, &[]).await.expect("present");
    let text = format!("Normal Pulled: Container image \"{IMAGE}\" already present on machine");
    assert_eq!(fixture.take_events(), [text]);
    assert_eq!(fixture.calls().len(), 1);
}

/// kubelet-images.md 15.7, row P6.
#[tokio::test]
async fn p6_damaged_image_cannot_be_inspected() {
    let fixture = fixture(&[]);
    let blobs = &fixture.images.store.blobs;
    let damaged = blobs.put(b"no manifest").expect("blob");
    blobs.set_ref(&format!("images/{IMAGE}").parse().expect("name"), &[damaged]).expect("ref");
    let refused = fixture.ensure(IMAGE, IF_NOT_PRESENT, &[]).await.expect_err("refused");
    assert_eq!(refused.waiting.reason, "ImageInspectError");
    assert!(refused.waiting.message.starts_with("Failed to inspect image \"\": "));
    assert_eq!(
        fixture.take_events(),
        [
            format!("Warning InspectFailed: {}", refused.waiting.message),
            "Warning Failed: Error: ImageInspectError".to_owned()
        ]
    );
    assert_eq!(fixture.calls(), Vec::<String>::new());
}

/// kubelet-images.md 15.7, rows P9, P10 and P11.
#[tokio::test]
async fn p9_to_p11_texts_of_the_registry_become_reasons() {
    for (answer, reason, message) in [
        (
            "RegistryUnavailable: refused",
            "RegistryUnavailable",
            format!("image pull failed for {IMAGE} because the registry is unavailable: refused"),
        ),
        (
            "SignatureValidationFailed",
            "SignatureValidationFailed",
            format!("image pull failed for {IMAGE} because the signature validation failed"),
        ),
        ("rpc error: code = Unknown desc = z", "ErrImagePull", "z".to_owned()),
        (
            "rpc error: code = NotFound desc = z",
            "ErrImagePull",
            "rpc error: code = NotFound desc = z".to_owned(),
        ),
    ] {
        let fixture = fixture(&[("anonymous", answer)]);
        let refused = fixture.ensure(IMAGE, IF_NOT_PRESENT, &[]).await.expect_err("refused");
        // The event has the registry's own words, without the prefix that says nothing.
        let error = if message == "z" { "z" } else { answer };
        assert_eq!((refused.waiting.reason.as_str(), refused.waiting.message), (reason, message));
        assert_eq!(
            fixture.take_events(),
            [
                format!("Normal Pulling: Pulling image \"{IMAGE}\""),
                format!("Warning Failed: Failed to pull image \"{IMAGE}\": {error}"),
                format!("Warning Failed: Error: {reason}"),
            ]
        );
        let refused = fixture.ensure(IMAGE, IF_NOT_PRESENT, &[]).await.expect_err("backs off");
        assert_eq!(refused.waiting.reason, "ImagePullBackOff");
    }
}

/// kubelet-images.md 15.7, row P12: the pull alone, and with the time in the queue.
#[tokio::test]
async fn p12_both_durations_are_told() {
    let gate = Arc::new(Semaphore::new(0));
    let knobs = Knobs {
        limits: serial(),
        gate: Some(Arc::clone(&gate)),
        takes: Duration::from_micros(1_234_500),
        ..Knobs::default()
    };
    let fixture = fixture_with(&[("anonymous", "ok")], knobs);
    let first = fixture.ensure_for("a", "r.example/a:1", PullPolicy::Always, &[]);
    let second = async {
        fixture.until_calls(1).await;
        fixture.ensure_for("b", "r.example/b:1", PullPolicy::Always, &[]).await
    };
    let open = async {
        fixture.until_told(2, "Pulling").await;
        fixture.pass(Duration::from_millis(31));
        gate.add_permits(2);
    };
    let (first, second, ()) = tokio::join!(first, second, open);
    let size = first.expect("image").bytes;
    second.expect("image");
    let text = format!(
        "Normal Pulled: Successfully pulled image \"r.example/b:1\" in 1.234s (2.5s including waiting). Image size: {size} bytes."
    );
    assert_eq!(fixture.take_events().last(), Some(&text));
}

/// kubelet-images.md 15.7, rows P13, P14 and P15.
#[tokio::test]
async fn p13_to_p15_windows_double_survive_a_success_and_are_forgotten() {
    let fixture = fixture(&[("good", "ok"), ("bad", "boom")]);
    let window = async || {
        let failed = fixture.ensure(IMAGE, PullPolicy::Always, &["bad"]).await.expect_err("fails");
        assert_eq!(failed.waiting.reason, "ErrImagePull");
        let waits = fixture.ensure(IMAGE, PullPolicy::Always, &["bad"]).await.expect_err("waits");
        assert_eq!(waits.waiting.reason, "ImagePullBackOff");
        waits.retry_in
    };
    let mut windows = Vec::new();
    for _ in 0..7 {
        let length = window().await;
        windows.push(length.as_secs());
        fixture.pass(length);
    }
    assert_eq!(windows, [10, 20, 40, 80, 160, 300, 300], "P13");
    fixture.ensure(IMAGE, PullPolicy::Always, &["good"]).await.expect("a success");
    assert_eq!(window().await, Duration::from_secs(300), "P14");
    fixture.pass(Duration::from_secs(601));
    assert_eq!(window().await, Duration::from_secs(10), "P15");
}

/// kubelet-images.md 15.7, row P16.
#[tokio::test]
async fn p16_pulls_beyond_the_rate_fail_when_configured_so() {
    let limits = PullLimits {
        serialize_image_pulls: Some(false),
        over_rate: OverRate::Fail,
        ..PullLimits::default()
    };
    let fixture = fixture_with(&[("anonymous", "ok")], Knobs { limits, ..Knobs::default() });
    let failures = fixture.ensure_all(&names(12)).await;
    assert_eq!(failures.len(), 2);
    for failure in failures {
        let waiting = (failure.waiting.reason.as_str(), failure.waiting.message.as_str());
        assert_eq!(waiting, ("ErrImagePull", "pull QPS exceeded"));
    }
    assert_eq!(fixture.calls().len(), 10);
}

/// Ours by default: the same twelve wait instead (kubelet-images.md 14, pain 7).
#[tokio::test]
async fn pulls_beyond_the_rate_wait_by_default() {
    let limits = PullLimits { registry_pull_qps: 1000, ..PullLimits::default() };
    let knobs = Knobs { limits, real_time: true, ..Knobs::default() };
    let fixture = fixture_with(&[("anonymous", "ok")], knobs);
    assert_eq!(fixture.ensure_all(&names(12)).await, []);
    assert_eq!(fixture.calls().len(), 12);
}

/// kubelet-images.md 3.2: one at a time, first come first served.
#[tokio::test]
async fn serial_pulls_are_made_in_the_order_of_their_arrival() {
    let knobs = Knobs { limits: serial(), ..Knobs::default() };
    let fixture = fixture_with(&[("anonymous", "ok")], knobs);
    let images = names(8);
    let pulls = images.iter().enumerate().map(|(n, image)| {
        let fixture = &fixture;
        async move {
            fixture.until_told(n, "Pulling").await;
            fixture.ensure_for(&n.to_string(), image, PullPolicy::Always, &[]).await
        }
    });
    assert!(join_all(pulls).await.iter().all(Result::is_ok));
    let expected: Vec<String> = images.iter().map(|image| format!("{image} anonymous")).collect();
    assert_eq!(fixture.calls(), expected);
}

#[tokio::test]
async fn pods_that_want_one_image_share_its_pull_and_each_has_its_events() {
    let gate = Arc::new(Semaphore::new(0));
    let knobs = Knobs { gate: Some(Arc::clone(&gate)), ..Knobs::default() };
    let fixture = fixture_with(&[("anonymous", "ok"), ("a", "ok")], knobs);
    let uids: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let pulls = uids.iter().enumerate().map(|(n, uid)| {
        let users: &[&str] = if n % 2 == 0 { &[] } else { &["a"] };
        fixture.ensure_for(uid, IMAGE, PullPolicy::Always, users)
    });
    let open = async {
        fixture.until_told(50, "Pulling image").await;
        gate.add_permits(2);
    };
    let (pulled, ()) = tokio::join!(join_all(pulls), open);
    assert!(pulled.into_iter().all(|pulled| pulled.is_ok()));
    let mut calls = fixture.calls();
    calls.sort();
    assert_eq!(calls, [format!("{IMAGE} a"), format!("{IMAGE} anonymous")], "each proves itself");
    let events = fixture.take_events();
    let with = |text: &str| events.iter().filter(|event| event.contains(text)).count();
    assert_eq!((with("Pulling image"), with("Successfully pulled")), (50, 50));
}

#[tokio::test]
async fn failure_of_a_shared_pull_is_everybodys_and_the_next_one_is_new() {
    let gate = Arc::new(Semaphore::new(0));
    let knobs = Knobs { gate: Some(Arc::clone(&gate)), ..Knobs::default() };
    let fixture = fixture_with(&[("anonymous", "boom")], knobs);
    let images = [IMAGE.to_owned(), IMAGE.to_owned()];
    let open = async {
        fixture.until_told(2, "Pulling image").await;
        gate.add_permits(2);
    };
    let (refused, ()) = tokio::join!(fixture.ensure_all(&images), open);
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|refused| refused.waiting.message == "boom"));
    assert_eq!(fixture.calls().len(), 1);
    fixture.pass(Duration::from_secs(10));
    fixture.ensure_for("0", IMAGE, IF_NOT_PRESENT, &[]).await.expect_err("fails");
    assert_eq!(fixture.calls().len(), 1);
}

#[tokio::test]
async fn pull_ends_when_the_last_pod_that_waits_for_it_goes() {
    let knobs = Knobs::default();
    let dropped = Arc::clone(&knobs.dropped);
    let fixture = fixture_with(&[("anonymous", "hang")], knobs);
    let mut first = Box::pin(fixture.ensure_for("a", IMAGE, IF_NOT_PRESENT, &[]));
    let mut second = Box::pin(fixture.ensure_for("b", IMAGE, PullPolicy::Always, &[]));
    let joined = async {
        fixture.until_told(2, "Pulling image").await;
        fixture.until_calls(1).await;
    };
    tokio::select! {
        _ = &mut first => panic!("it hangs"),
        _ = &mut second => panic!("it hangs"),
        () = joined => {}
    }
    drop(first);
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "b still waits");
    drop(second);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    let intents = fixture._dir.path().join("image_manager/pulling");
    let no_intent = async {
        // Files are removed by threads that nobody waits for.
        while std::fs::read_dir(&intents).expect("a directory").next().is_some() {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), no_intent).await;
    ended.expect("no intent stays behind");
    assert_eq!(fixture.calls().len(), 1);
}

#[tokio::test]
async fn long_pull_tells_its_progress_and_whoever_waits_its_place() {
    let gate = Arc::new(Semaphore::new(0));
    let limits = PullLimits { progress_after: Duration::from_millis(1), ..serial() };
    let knobs = Knobs { limits, gate: Some(Arc::clone(&gate)), ..Knobs::default() };
    let fixture = fixture_with(&[("anonymous", "ok")], knobs);
    let first = fixture.ensure_for("a", "r.example/a:1", PullPolicy::Always, &[]);
    let second = async {
        fixture.until_calls(1).await;
        fixture.ensure_for("b", "r.example/b:1", PullPolicy::Always, &[]).await
    };
    let waits = "Normal PullProgress: Waiting to pull image \"r.example/b:1\": place 1 in the queue of this node";
    let runs =
        "Normal PullProgress: Pulling image \"r.example/a:1\": waiting for the registry for 0s";
    let watch = async {
        fixture.until_told(1, waits).await;
        fixture.until_told(1, runs).await;
        gate.add_permits(2);
    };
    let (first, second, ()) = tokio::join!(first, second, watch);
    first.expect("image");
    second.expect("image");
}

#[tokio::test]
async fn pull_that_receives_nothing_is_ended_and_backs_off() {
    let limits = PullLimits { stall_time: Duration::from_millis(20), ..PullLimits::default() };
    let knobs = Knobs { limits, real_time: true, ..Knobs::default() };
    let fixture = fixture_with(&[("anonymous", "hang")], knobs);
    let refused = fixture.ensure(IMAGE, IF_NOT_PRESENT, &[]).await.expect_err("stalls");
    assert_eq!(refused.waiting.reason, "ErrImagePull");
    assert_eq!(refused.waiting.message, "pull stalled: the registry sent nothing for 20ms");
    let refused = fixture.ensure(IMAGE, IF_NOT_PRESENT, &[]).await.expect_err("backs off");
    assert_eq!(refused.waiting.reason, "ImagePullBackOff");
}

/// kubelet-images.md 3.1 and 14, pain 3: no storm in an outage and none after it.
#[tokio::test]
async fn registry_that_is_down_is_asked_by_one_probe_and_lets_all_go_when_it_is_back() {
    const PODS: usize = 200;
    const IMAGES: usize = 20;
    let limits = PullLimits { registry_pull_qps: 0, ..PullLimits::default() };
    let knobs = Knobs { limits, ..Knobs::default() };
    let (down, probes) = (Arc::clone(&knobs.down), Arc::clone(&knobs.probes));
    down.store(true, Ordering::SeqCst);
    let fixture = fixture_with(&[("anonymous", "ok")], knobs);
    let images: Vec<String> = names(IMAGES).into_iter().cycle().take(PODS).collect();
    let mut held = Vec::new();
    for _ in 0..3 {
        held = fixture.ensure_all(&images).await;
        assert_eq!(held.len(), PODS);
        fixture.pass(Duration::from_secs(300));
    }
    for (held, image) in held.iter().zip(&images) {
        let text = format!(
            "failed to resolve reference \"{image}\": cannot reach registry r.example: connection refused"
        );
        assert_eq!((held.waiting.reason.as_str(), &held.waiting.message), ("ErrImagePull", &text));
    }
    // Those that were under way when it was found out, and nobody since.
    let asked = fixture.calls().len();
    assert!(asked <= IMAGES, "{asked} pulls asked a registry that is down");
    assert!(probes.load(Ordering::SeqCst) > 0);

    down.store(false, Ordering::SeqCst);
    let again = images.iter().zip(&held).enumerate().map(async |(n, (image, held))| {
        let uid = n.to_string();
        let outage = held.outage.as_ref().expect("an outage is to blame");
        assert_eq!(fixture.images.outages.end_of(outage).await, Ending::Recovery);
        fixture.images.forget_back_off(&uid, image);
        fixture.ensure_for(&uid, image, IF_NOT_PRESENT, &[]).await
    });
    assert!(join_all(again).await.into_iter().all(|pulled| pulled.is_ok()));
    // Whoever is let go after a pull of his image has ended proves access again by himself.
    assert!(fixture.calls().len() <= PODS);
}

#[tokio::test]
async fn rate_limit_holds_back_those_with_the_same_credentials() {
    let fixture = fixture(&[("a", "429"), ("b", "ok")]);
    let limited = fixture.ensure_for("1", IMAGE, IF_NOT_PRESENT, &["a"]).await.expect_err("429");
    assert_eq!(limited.waiting.message, "unexpected status: 429 Too Many Requests");
    let other = fixture.ensure_for("2", "r.example/b:1", IF_NOT_PRESENT, &["a"]).await;
    assert_eq!(
        other.expect_err("held back").waiting.message,
        "failed to resolve reference \"r.example/b:1\": registry r.example asks for patience"
    );
    fixture.ensure_for("3", IMAGE, IF_NOT_PRESENT, &["b"]).await.expect("another account");
    assert_eq!(fixture.calls(), [format!("{IMAGE} a"), format!("{IMAGE} b")]);
    assert!(limited.outage.is_some(), "the limit is to blame");
}

#[tokio::test]
async fn registry_is_asked_again_after_the_patience_it_asked_for() {
    let knobs = Knobs { patience: Duration::from_millis(1), ..Knobs::default() };
    let fixture = fixture_with(&[("a", "429")], knobs);
    let limited = fixture.ensure_for("1", IMAGE, IF_NOT_PRESENT, &["a"]).await.expect_err("429");
    let outage = limited.outage.expect("the limit is to blame");
    // Too short to let anybody go before his window ends.
    assert_eq!(fixture.images.outages.end_of(&outage).await, Ending::Unclear);
    fixture.pass(Duration::from_secs(10));
    fixture.ensure_for("1", IMAGE, IF_NOT_PRESENT, &["a"]).await.expect_err("asks again");
    assert_eq!(fixture.calls(), [format!("{IMAGE} a"), format!("{IMAGE} a")]);
}
