//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use container_runtime::State as RunState;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;

use super::{Context, Refusal, find, plain};
use crate::logs::follow::{PIECES_MAX, stream};
use crate::logs::format::LogOptions;

/// Answers a request for a log.
pub(super) async fn answer(
    State(context): State<Context>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let options = options(&query, Timestamp::now()).map_err(Refusal::bad_request)?;
    let (uid, found, spec) = find(&context, &namespace, &pod, None, &container)?;
    let id = run_id(&found, &pod, &spec.name, options.previous).map_err(Refusal::bad_request)?;
    let shared = &context.shared;
    let run =
        shared.directories.runs(&uid, &spec.name).into_iter().find(|run| run.id == id).ok_or_else(
            || {
                Refusal::not_found(format!(
                    "the log of container \"{container}\" of pod \"{pod}\" is gone"
                ))
            },
        )?;
    let runner = shared
        .runtime
        .container(&run.id)
        .filter(|runner| matches!(runner.state(), Ok(RunState::Running { .. })));
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let stop = context.stop.clone();
    tokio::spawn(async move {
        let failure = sender.clone();
        tokio::select! {
            result = stream(run.log, options, runner, sender) => {
                if let Err(error) = result {
                    let _ = failure.send(Err(error)).await;
                }
            }
            () = stop.stopped() => {}
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let mut response = plain(StatusCode::OK, String::new());
    *response.body_mut() = Body::from_stream(pieces);
    Ok(response)
}

fn options(query: &HashMap<String, String>, now: Timestamp) -> Result<LogOptions, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        match query.get(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| format!("invalid value \"{text}\" for {name}"))
            }
        }
    };
    let flag =
        |name: &str| query.get(name).is_some_and(|text| matches!(text.as_str(), "" | "true" | "1"));
    let since =
        match (query.get("sinceTime").filter(|text| !text.is_empty()), number("sinceSeconds")?) {
            (Some(text), _) => Some(
                text.parse::<Timestamp>()
                    .map_err(|_| format!("invalid value \"{text}\" for sinceTime"))?,
            ),
            (None, Some(seconds)) => {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                Some(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
            }
            (None, None) => None,
        };
    Ok(LogOptions {
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        tail_lines: number("tailLines")?,
        since,
        limit_bytes: number("limitBytes")?,
    })
}

/// Which run of a container a request is about.
fn run_id(pod: &Pod, pod_name: &str, name: &str, previous: bool) -> Result<String, String> {
    let status = pod.status.as_ref().and_then(|status| {
        let init = status.init_container_statuses.iter().flatten();
        let apps = status.container_statuses.iter().flatten();
        let ephemeral = status.ephemeral_container_statuses.iter().flatten();
        init.chain(apps).chain(ephemeral).find(|status| status.name == name)
    });
    let waiting = |reason: &str| {
        format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: {reason}")
    };
    let Some(status) = status else { return Err(waiting("ContainerCreating")) };
    let last = terminated_id(status.last_state.as_ref());
    if previous {
        return last.ok_or_else(|| {
            format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found")
        });
    }
    current_id(status).or(last).ok_or_else(|| {
        let reason = status
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref())
            .and_then(|waiting| waiting.reason.as_deref());
        waiting(match reason {
            Some("ErrImagePull") => "image can't be pulled",
            Some("ImagePullBackOff") => "trying and failing to pull image",
            Some(reason) => reason,
            None => "ContainerCreating",
        })
    })
}

fn current_id(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    if state.running.is_some() {
        return strip(status.container_id.as_deref());
    }
    terminated_id(Some(state))
}

fn terminated_id(state: Option<&k8s_openapi::api::core::v1::ContainerState>) -> Option<String> {
    strip(state?.terminated.as_ref()?.container_id.as_deref())
}

fn strip(id: Option<&str>) -> Option<String> {
    id?.strip_prefix("shipway://").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(state: serde_json::Value, last: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": []}, "status": {
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "containerID": "shipway://now", "state": state, "lastState": last}]}}))
        .expect("pod")
    }

    /// mini-kubernetes.md 14, row 79.
    #[test]
    fn row_79_run_is_chosen_by_the_status() {
        let ended = |id: &str| json!({"terminated": {"exitCode": 0, "containerID": format!("shipway://{id}")}});
        let running = json!({"running": {}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let choose = |state: &serde_json::Value, last: &serde_json::Value, previous| {
            run_id(&pod(state.clone(), last.clone()), "p", "c", previous)
        };
        assert_eq!(choose(&running, &json!({}), false), Ok("now".into()));
        assert_eq!(choose(&ended("a"), &json!({}), false), Ok("a".into()));
        assert_eq!(choose(&waiting("CrashLoopBackOff"), &ended("b"), false), Ok("b".into()));
        assert_eq!(choose(&running, &ended("b"), true), Ok("b".into()));
        assert_eq!(
            choose(&running, &json!({}), true),
            Err("previous terminated container \"c\" in pod \"p\" not found".into())
        );
        for (reason, text) in [
            ("ContainerCreating", "ContainerCreating"),
            ("ErrImagePull", "image can't be pulled"),
            ("ImagePullBackOff", "trying and failing to pull image"),
            ("CreateContainerConfigError", "CreateContainerConfigError"),
        ] {
            let expected = format!("container \"c\" in pod \"p\" is waiting to start: {text}");
            assert_eq!(choose(&waiting(reason), &json!({}), false), Err(expected));
        }
    }

    #[test]
    fn wrong_numbers_and_times_are_refused() {
        let now = Timestamp::UNIX_EPOCH;
        let parse =
            |name: &str, value: &str| options(&[(name.to_owned(), value.to_owned())].into(), now);
        assert!(parse("tailLines", "-1").is_err());
        assert!(parse("sinceTime", "yesterday").is_err());
        assert_eq!(parse("tailLines", "5").map(|options| options.tail_lines), Ok(Some(5)));
        assert_eq!(
            parse("sinceSeconds", "60").map(|options| options.since),
            Ok(Timestamp::from_second(-60).ok())
        );
        assert_eq!(parse("follow", "true").map(|options| options.follow), Ok(true));
    }
}
