//! Pods that exist: what their node met and said counts beside the registry's answers.

use super::*;

const OWN: &str = "spec.containers{app}";

/// A pod on node `one` that waits for the next pull.
fn waiting_pod(reason: &str, message: &str) -> Value {
    let mut pod = pod(&image(), &["s"]);
    pod["metadata"]["uid"] = json!("new");
    pod["spec"]["nodeName"] = json!("one");
    pod["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    pod["status"] = json!({"containerStatuses": [{
        "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
    }]});
    pod
}

fn event(uid: &str, reason: &str, text: &str, count: i32, seconds: i64) -> Value {
    let at = jiff::Timestamp::from_second(NOW - seconds).expect("a time").to_string();
    json!({
        "metadata": {"name": format!("{reason}{uid}{seconds}"), "namespace": "team"},
        "involvedObject": {"name": "app", "fieldPath": OWN, "uid": uid},
        "reason": reason, "message": text, "count": count, "type": "Warning",
        "lastTimestamp": at,
    })
}

fn failed(error: &str) -> Value {
    event("new", "Failed", &format!("Failed to pull image {:?}: {error}", image()), 1, 4)
}

/// A world in which the registry opens the image to `user`, and the pod's secret is jane's.
fn world(user: &'static str, events: Vec<Value>) -> World {
    World {
        registry: FakeRegistry { opens_to: vec![user], refusal: None },
        cluster: FakeCluster {
            secrets: vec![docker("s", &config(REGISTRY, "jane"))],
            events,
            ..FakeCluster::default()
        },
        ..World::default()
    }
}

/// kubelet-images.md 3.1: the back-off holds a failure that no answer of a registry shows.
#[test]
fn what_the_node_met_is_not_overruled_by_a_registry_that_answers() {
    let full = "write /state/blobs/x: No space left on device (os error 28)";
    let waiting = waiting_pod("ImagePullBackOff", "Back-off pulling image");
    for (error, fix) in [
        (full, "free space on node one"),
        ("tls: failed to verify certificate: x509: unknown authority", "on node one: let the"),
        ("dial tcp: lookup r.example: no such host", "on node one: check that"),
        ("layer 2 does not match its digest", "look into the log of node one"),
    ] {
        let found = world("jane", vec![failed(error)]).explain(&waiting, Source::Cluster);
        assert_eq!(found.verdict, Verdict::Unknown, "{error}");
        assert!(found.next.provided.contains(&"what failed on the node is over".to_owned()));
        let cause = found.cause.expect("a cause");
        assert_eq!(cause.code, "node-failed");
        assert!(cause.text.contains(error), "{}", cause.text);
        assert!(cause.text.contains("the next one comes in 6 s"), "{}", cause.text);
        assert!(cause.fix.contains(fix), "{}", cause.fix);
    }
    let node = NodeSide::Known {
        files: Vec::new(),
        providers: Vec::new(),
        providers_unread: None,
        clouds: Vec::new(),
        mirrors: Vec::new(),
        is_shipway: true,
    };
    let ours = World { node: Some(node), ..world("jane", vec![failed(full)]) };
    let command = ours.explain(&waiting, Source::Cluster).cause.and_then(|cause| cause.command);
    assert_eq!(command.as_deref(), Some("shipway node prune"));
    // Events are gone after an hour, and the status still says it.
    let message = format!("Back-off pulling image {:?}: ErrImagePull: {full}", image());
    for (reason, message) in [("ImagePullBackOff", message.as_str()), ("ErrImagePull", full)] {
        let waiting = waiting_pod(reason, message);
        let cause = world("jane", Vec::new()).explain(&waiting, Source::Cluster).cause;
        assert_eq!(cause.map(|cause| cause.code), Some("node-failed".to_owned()), "{reason}");
    }
    // Another image's failure, and a container that runs.
    let other = event("new", "Failed", "Failed to pull image \"x\": disk quota exceeded", 1, 4);
    let found = world("jane", vec![other]).explain(&waiting, Source::Cluster);
    assert_eq!(found.verdict, Verdict::Pulls);
    let mut running = waiting.clone();
    running["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    let found = world("jane", vec![failed(full)]).explain(&running, Source::Cluster);
    assert_eq!(found.verdict, Verdict::Pulls);
}

/// A secret that was mended: the answer of now counts, and the old one is told.
#[test]
fn a_refusal_that_is_over_is_remarked_and_no_more() {
    let waiting = waiting_pod("ImagePullBackOff", "Back-off pulling image");
    for error in ["r.example:5000: 401 Unauthorized", "not found", "pull QPS exceeded"] {
        let found = world("jane", vec![failed(error)]).explain(&waiting, Source::Cluster);
        assert_eq!((found.verdict, found.cause), (Verdict::Pulls, None), "{error}");
        let remark = found.remarks.iter().find(|remark| remark.code == "last-attempt-failed");
        let text = &remark.expect("a remark").text;
        assert!(text.contains(error) && text.ends_with("the next one comes in 6 s"), "{text}");
    }
}

/// kubelet-images.md 8: who asks the registry has not the image, or wants a proof; and the image
/// may have come since, for every pod or for another one.
#[test]
fn a_node_that_refused_this_pod_and_has_the_image_now_may_start_it() {
    let waiting = waiting_pod("ImagePullBackOff", "Back-off pulling image");
    let explain = |on: &str, events: Vec<Value>| {
        let mut world = world("john", events);
        world.cluster.nodes = vec![NodeImages { node: on.to_owned(), names: vec![image()] }];
        let found = world.explain(&waiting, Source::Cluster);
        let cause = found.cause.expect("a cause");
        assert_eq!(cause.code, "wrong-credential");
        (found.verdict, cause.text)
    };
    let mut earlier = failed("401 Unauthorized");
    earlier["involvedObject"]["uid"] = json!("old");
    let (since, already) = ("it had it not, or wanted a proof", "has the image already");
    for (on, events, verdict, said) in [
        ("one", vec![failed("401 Unauthorized")], Verdict::Unknown, Some(since)),
        ("one", vec![failed("403 Forbidden")], Verdict::Unknown, Some(since)),
        // Another node's image does not help a pod that has its node.
        ("two", vec![failed("401 Unauthorized")], Verdict::Fails, None),
        ("two", vec![failed("404 Not Found")], Verdict::Fails, None),
        // These refuse no credential.
        ("one", vec![failed("404 Not Found")], Verdict::Unknown, Some(already)),
        ("one", vec![failed("429 Too Many Requests")], Verdict::Unknown, Some(already)),
        // Of a pod of that name before, and of none.
        ("one", vec![earlier], Verdict::Unknown, Some(already)),
        ("one", Vec::new(), Verdict::Unknown, Some(already)),
    ] {
        let (found, text) = explain(on, events.clone());
        assert_eq!(found, verdict, "{on} {events:?}");
        for part in [since, already] {
            assert_eq!(text.contains(part), said == Some(part), "{on} {events:?}: {text}");
        }
        let is_timed = text.ends_with("was refused; the next one comes in 6 s");
        assert_eq!(is_timed, said == Some(since), "{text}");
    }
}

/// Who may not read the node knows at least that it had nothing for this pod when it was refused.
#[test]
fn a_refused_pod_fails_where_the_node_may_not_be_read() {
    let mut waiting = waiting_pod("ImagePullBackOff", "Back-off pulling image");
    waiting["spec"]["imagePullSecrets"] = json!([]);
    for (error, verdict) in
        [("401 Unauthorized", Verdict::Fails), ("404 Not Found", Verdict::Unknown)]
    {
        let mut world = world("john", vec![failed(error)]);
        world.cluster.forbidden = true;
        world.registry.refusal = Some(AnswerKind::Unauthorized);
        let found = world.explain(&waiting, Source::Cluster);
        assert_eq!(found.verdict, verdict, "{error}: {found:#?}");
    }
}

#[test]
fn events_of_an_earlier_pod_of_that_name_do_not_count() {
    let text = format!("Failed to pull image {:?}: 401 Unauthorized", image());
    let events = vec![
        event("old", "Failed", &text, 7, 300),
        event("new", "Failed", &text, 1, 4),
        event("static", "Failed", &text, 1, 5),
    ];
    let mut waiting = waiting_pod("ErrImagePull", "401");
    let counted = |pod: &Value| {
        let world = world("john", events.clone());
        let subject = Subject::of_object(pod, "team", Source::Cluster).expect("a subject");
        let report = World::of(vec![subject], &world);
        let present = report.subjects[0].images[0].present.clone().expect("a live pod");
        let shown = text_of(&report);
        (present.attempts, present.next_attempt_seconds, shown.contains("; 1 failed pull;"))
    };
    assert_eq!(counted(&waiting), (Some(1), Some(6), true));
    // A static pod's events name another uid than its mirror's.
    waiting["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": "static"});
    assert_eq!(counted(&waiting), (Some(2), Some(16), false));
}

fn text_of(report: &Report) -> String {
    text(report, Colour::Off)
}

/// kubelet-images.md 14, 12: what a plugin said is in the cause, and progress is shown.
#[test]
fn what_the_node_said_of_a_provider_is_quoted() {
    let said =
        "Failed getting credential from external registry credential provider: exit status 1";
    let progress = format!("Pulling image {:?}: 3 MiB of 9 MiB", image());
    let events = vec![
        event("new", "PullProgress", &progress, 1, 9),
        event("new", "CredentialProviderFailed", "an older one", 1, 8),
        event("new", "CredentialProviderFailed", said, 1, 5),
    ];
    let provider = Provider { name: "p".to_owned(), match_images: vec![REGISTRY.to_owned()] };
    let node = Some(known(Vec::new(), vec![provider]));
    let world = World { node, ..world("john", events) };
    let found = world.explain(&waiting_pod("ErrImagePull", "401"), Source::Cluster);
    let cause = found.cause.expect("a cause");
    assert_eq!(cause.code, "provider-decides");
    assert!(cause.text.contains(said) && !cause.text.contains("older"), "{}", cause.text);
    let reasons: Vec<String> =
        found.present.expect("a live pod").events.into_iter().map(|event| event.reason).collect();
    assert_eq!(reasons, ["PullProgress", "CredentialProviderFailed", "CredentialProviderFailed"]);
}
