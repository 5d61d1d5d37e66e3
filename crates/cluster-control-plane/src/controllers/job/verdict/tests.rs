use super::super::TRACKING;
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("a time of this century")
}

fn job(spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": "j"}, "spec": {
        "parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
        "template": {"spec": {"restartPolicy": "Never"}},
    }, "status": {"startTime": object::format_time(at(0))}});
    json_patch::merge(&mut job["spec"], &spec);
    job
}

fn pod(uid: &str, phase: &str, end: i64) -> Arc<Value> {
    let finished = object::format_time(at(end));
    Arc::new(json!({
        "metadata": {"uid": uid, "name": uid, "finalizers": [TRACKING]},
        "spec": {"nodeName": "n"},
        "status": {
            "phase": phase,
            "containerStatuses": [{"state": {"terminated": {"finishedAt": finished}}}],
        },
    }))
}

/// The pod after the job's controller has seen it counted.
fn released(pod: &Arc<Value>) -> Arc<Value> {
    let mut pod = Value::clone(pod);
    object::remove(&mut pod, &["metadata", "finalizers"]);
    Arc::new(pod)
}

fn condition_types(plan: &Plan) -> Vec<&str> {
    object::list(&plan.status, &["conditions"])
        .iter()
        .map(|condition| object::text(condition, &["type"]))
        .collect()
}

fn after(job: &Value, plan: &Plan) -> Value {
    let mut job = job.clone();
    object::set(&mut job, &["status"], plan.status.clone());
    job
}

#[test]
fn fresh_job_starts_its_pods_and_its_clock() {
    let mut job = job(json!({"parallelism": 3, "completions": 5}));
    object::set(&mut job, &["status"], json!({}));
    let plan = decide(&job, &[], at(7));
    assert_eq!(plan.create, 3);
    assert_eq!(plan.status["startTime"], object::format_time(at(7)));
    assert_eq!(plan.status["active"], 3);
}

// kubelet-images.md 15.10, J1; mini-kubernetes.md 14, row 61.
#[test]
fn success_is_decided_first_and_completed_once_counted() {
    let job = job(json!({}));
    let done = pod("a", "Succeeded", 5);
    let first = decide(&job, std::slice::from_ref(&done), at(6));
    assert_eq!(first.end, Some(End::Stopping));
    assert_eq!(condition_types(&first), ["SuccessCriteriaMet"]);
    assert_eq!(first.status["uncountedTerminatedPods"], json!({"succeeded": ["a"]}));
    assert!(first.status.get("succeeded").is_none());
    let job = after(&job, &first);
    let second = decide(&job, &[released(&done)], at(7));
    assert_eq!(second.end, Some(End::Finished));
    assert_eq!(condition_types(&second), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!(second.status["succeeded"], 1);
    assert_eq!(second.status["completionTime"], object::format_time(at(7)));
    assert_eq!(second.status["conditions"][1]["reason"], "CompletionsReached");
}

// A crash between the status write and the release of the pod changes nothing.
#[test]
fn pod_is_counted_once_whatever_is_repeated() {
    let mut job = job(json!({"completions": 2}));
    let done = pod("a", "Succeeded", 5);
    for _ in 0..3 {
        let plan = decide(&job, std::slice::from_ref(&done), at(6));
        assert_eq!(plan.status["uncountedTerminatedPods"], json!({"succeeded": ["a"]}));
        assert_eq!(plan.create, 1);
        job = after(&job, &plan);
    }
    for _ in 0..3 {
        let plan = decide(&job, &[released(&done)], at(6));
        assert_eq!(plan.status["succeeded"], 1);
        job = after(&job, &plan);
    }
    // The pod is deleted by hand; what was counted stays counted.
    assert_eq!(decide(&job, &[], at(9)).status["succeeded"], 1);
}

// kubelet-images.md 15.10, J2; mini-kubernetes.md 14, row 60.
#[test]
fn failures_over_the_limit_end_the_job() {
    for (limit, failures, ends) in [(0, 1, true), (1, 1, false), (1, 2, true), (6, 6, false)] {
        let pods: Vec<_> = (0..failures).map(|n| pod(&format!("p{n}"), "Failed", n)).collect();
        let job = job(json!({"backoffLimit": limit}));
        let plan = decide(&job, &pods, at(9));
        assert_eq!(plan.end.is_some(), ends, "limit {limit}, failures {failures}");
        if ends {
            assert_eq!(condition_types(&plan), ["FailureTarget"]);
            let pods: Vec<_> = pods.iter().map(released).collect();
            let plan = decide(&after(&job, &plan), &pods, at(10));
            assert_eq!(condition_types(&plan), ["FailureTarget", "Failed"]);
            assert_eq!(plan.status["failed"], failures);
            for condition in object::list(&plan.status, &["conditions"]) {
                assert_eq!(condition["status"], "True");
                assert_eq!(condition["reason"], "BackoffLimitExceeded");
                assert_eq!(condition["message"], "Job has reached the specified backoff limit");
            }
            assert!(plan.status.get("completionTime").is_none());
        }
    }
}

#[test]
fn running_pods_are_stopped_before_a_failed_job_is_finished() {
    let job = job(json!({"backoffLimit": 0, "parallelism": 2, "completions": 2}));
    let pods = [pod("a", "Failed", 1), pod("b", "Running", 0)];
    let plan = decide(&job, &pods, at(2));
    assert_eq!(plan.end, Some(End::Stopping));
    let again = decide(&after(&job, &plan), &[released(&pods[0]), pods[1].clone()], at(3));
    assert_eq!(again.end, Some(End::Stopping));
}

// kubelet-images.md 15.10, J7: 10, 20, 40 ... 600 seconds; a success resets.
#[test]
fn pause_doubles_with_each_failure_up_to_ten_minutes() {
    let job = job(json!({"backoffLimit": 50}));
    let pauses = [(1_i64, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 320), (7, 600), (20, 600)];
    for (failures, pause) in pauses {
        let pods: Vec<_> = (0..failures).map(|n| pod(&format!("p{n}"), "Failed", n)).collect();
        let last = failures - 1;
        let plan = decide(&job, &pods, at(last));
        assert_eq!((plan.create, plan.look_again), (0, Some(Duration::from_secs(pause))));
        let plan = decide(&job, &pods, at(last + i64::try_from(pause).expect("small")));
        assert_eq!((plan.create, plan.look_again), (1, None));
    }
    let job = self::job(json!({"completions": 3}));
    let pods = [pod("a", "Failed", 1), pod("b", "Succeeded", 2)];
    assert_eq!(decide(&job, &pods, at(2)).create, 1);
}

#[test]
fn restarts_count_when_the_policy_is_on_failure() {
    let spec = |limit: i64| json!({"backoffLimit": limit, "template": {"spec": {"restartPolicy": "OnFailure"}}});
    let pod = |restarts: i64| {
        Arc::new(json!({
            "metadata": {"uid": "a", "finalizers": [TRACKING]},
            "status": {"phase": "Running", "containerStatuses": [{"restartCount": restarts}]},
        }))
    };
    for (limit, restarts, ends) in [(0, 0, false), (0, 1, true), (2, 1, false), (2, 2, true)] {
        let plan = decide(&job(spec(limit)), &[pod(restarts)], at(1));
        assert_eq!(plan.end.is_some(), ends, "limit {limit}, restarts {restarts}");
    }
}

#[test]
fn deadline_counts_from_the_start() {
    let job = job(json!({"activeDeadlineSeconds": 30}));
    let running = [pod("a", "Running", 0)];
    let plan = decide(&job, &running, at(29));
    assert_eq!((plan.end, plan.look_again), (None, Some(Duration::from_secs(2))));
    let plan = decide(&job, &running, at(30));
    assert_eq!(plan.status["conditions"][0]["reason"], "DeadlineExceeded");
    assert_eq!(plan.end, Some(End::Stopping));
}

/// A pod whose image does not exist: it stays pending, whatever time passes.
fn without_image(uid: &str) -> Arc<Value> {
    let mut pod = Value::clone(&pod(uid, "Pending", 0));
    let waiting = json!([{"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
    object::set(&mut pod, &["status", "containerStatuses"], waiting);
    Arc::new(pod)
}

// kubelet-images.md 15.10, J4: a pod that cannot pull its image is not a failure.
#[test]
fn pod_without_its_image_keeps_the_job_waiting_for_ever() {
    let plan = decide(&job(json!({"backoffLimit": 1})), &[without_image("a")], at(100_000_000));
    assert_eq!((plan.create, plan.end, plan.look_again), (0, None, None));
    assert_eq!(plan.status["active"], 1);
    assert_eq!(object::integer(&plan.status, &["failed"]).unwrap_or(0), 0);
    assert!(condition_types(&plan).is_empty());
}

// kubelet-images.md 15.10, J5.
#[test]
fn deadline_of_the_job_ends_the_wait_for_an_image() {
    let job = job(json!({"backoffLimit": 1, "activeDeadlineSeconds": 60}));
    let waiting = decide(&job, &[without_image("a")], at(59));
    assert_eq!((waiting.end, waiting.look_again), (None, Some(Duration::from_secs(2))));
    let over = decide(&job, &[without_image("a")], at(60));
    assert_eq!(over.end, Some(End::Stopping));
    let condition = &over.status["conditions"][0];
    assert_eq!(condition["type"], "FailureTarget");
    assert_eq!(condition["reason"], "DeadlineExceeded");
    assert_eq!(condition["message"], "Job was active longer than specified deadline");
}

// kubelet-images.md 15.10, J6; that the node fails such a pod is a test of the node.
#[test]
fn deadline_of_the_pod_makes_the_missing_image_a_failure_that_counts() {
    let job = job(json!({"backoffLimit": 1, "template": {"spec": {"activeDeadlineSeconds": 60}}}));
    // Such a pod was never ready, and no container of it ended.
    let late = |uid: &str, start: i64| {
        let mut pod = Value::clone(&without_image(uid));
        object::set(&mut pod, &["status", "phase"], "Failed");
        object::set(&mut pod, &["status", "reason"], "DeadlineExceeded");
        let since = object::format_time(at(start));
        let ready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": since}]);
        object::set(&mut pod, &["status", "conditions"], ready);
        Arc::new(pod)
    };
    let (a, b) = (late("a", 0), late("b", 60));
    let first = decide(&job, std::slice::from_ref(&a), at(60));
    assert_eq!((first.end, first.create, first.look_again), (None, 1, None), "at once");
    let waiting = decide(&after(&job, &first), &[a.clone(), without_image("b")], at(119));
    assert_eq!((waiting.end, waiting.create), (None, 0));
    let second = decide(&after(&job, &waiting), &[a.clone(), b.clone()], at(120));
    assert_eq!((second.end, second.create), (Some(End::Stopping), 0));
    let released = [released(&a), released(&b)];
    let last = decide(&after(&job, &second), &released, at(121));
    assert_eq!(last.end, Some(End::Finished));
    assert_eq!(last.status["failed"], 2);
    assert_eq!(last.status["conditions"][1]["reason"], "BackoffLimitExceeded");
}

#[test]
fn suspended_job_discards_its_pods_and_forgets_its_start() {
    let suspended = job(json!({"suspend": true, "parallelism": 2, "completions": 2}));
    let pods = [pod("a", "Running", 0), pod("b", "Succeeded", 1)];
    let plan = decide(&suspended, &pods, at(2));
    assert_eq!(plan.discard, [0]);
    assert!(plan.status.get("startTime").is_none());
    assert_eq!(plan.status["conditions"][0]["reason"], "JobSuspended");
    let mut resumed = after(&suspended, &plan);
    resumed["spec"]["suspend"] = json!(false);
    let plan = decide(&resumed, &[], at(5));
    assert_eq!(plan.status["conditions"][0]["status"], "False");
    assert_eq!(plan.status["startTime"], object::format_time(at(5)));
}

#[test]
fn pod_deleted_in_mid_run_is_a_failure_and_replaced() {
    let mut deleted = Value::clone(&pod("a", "Running", 0));
    object::set(&mut deleted, &["metadata", "deletionTimestamp"], object::format_time(at(1)));
    let plan = decide(&job(json!({})), &[Arc::new(deleted)], at(20));
    assert_eq!(plan.status["uncountedTerminatedPods"], json!({"failed": ["a"]}));
    assert_eq!(plan.create, 1);
}

#[test]
fn indexed_job_completes_when_every_index_did() {
    let job = job(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2}));
    let pod = |uid: &str, index: &str| {
        let mut pod = Value::clone(&pod(uid, "Succeeded", 1));
        let key = super::super::INDEX;
        object::set(&mut pod, &["metadata", "annotations", key], index);
        Arc::new(pod)
    };
    let plan = decide(&job, &[pod("a", "1")], at(2));
    assert_eq!((plan.create, plan.end), (1, None));
    assert_eq!(plan.status["completedIndexes"], "1");
    let plan = decide(&job, &[pod("a", "1"), pod("b", "0")], at(2));
    assert_eq!(plan.status["completedIndexes"], "0,1");
    assert_eq!(condition_types(&plan), ["SuccessCriteriaMet"]);
}
