//! Cells of pods: the aggregate status, ready counts and restarts of upstream's pod printer.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, text_or};
use crate::object::{at, condition, human_duration, integer, is_deleting, list, name, text, time};

/// The row condition of a finished pod, which lets clients hide it.
pub(super) fn row_condition(pod: &Value) -> Option<Value> {
    let phase = text(pod, &["status", "phase"]);
    match phase {
        "Succeeded" | "Failed" => Some(json!({
            "type": "Completed", "status": "True", "reason": phase,
            "message": "The pod has completed.",
        })),
        _ => None,
    }
}

/// What the containers add up to.
#[derive(Default)]
struct Totals {
    containers: usize,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Totals {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += integer(status, &["restartCount"]).unwrap_or(0);
        let ended = time(status, &["lastState", "terminated", "finishedAt"]);
        self.last_restart = self.last_restart.max(ended);
    }
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let main = list(pod, &["spec", "containers"]);
    let mut totals = Totals { containers: main.len(), ..Totals::default() };
    let status = status(pod, &mut totals);
    let restarts = match totals.last_restart {
        Some(at) if 0 < totals.restarts => {
            format!("{} ({} ago)", totals.restarts, human_duration(now.duration_since(at)))
        }
        _ => totals.restarts.to_string(),
    };
    let gates = list(pod, &["spec", "readinessGates"]);
    let met = gates
        .iter()
        .filter(|gate| {
            condition(pod, text(gate, &["conditionType"]))
                .is_some_and(|condition| text(condition, &["status"]) == "True")
        })
        .count();
    let gates =
        if gates.is_empty() { "<none>".to_owned() } else { format!("{met}/{}", gates.len()) };
    let address = match text(pod, &["status", "podIP"]) {
        "" => list(pod, &["status", "podIPs"]).first().map_or("", |ip| text(ip, &["ip"])),
        ip => ip,
    };
    vec![
        json!(name(pod)),
        json!(format!("{}/{}", totals.ready, totals.containers)),
        json!(status),
        json!(restarts),
        age(pod, now),
        json!(if address.is_empty() { "<none>" } else { address }),
        text_or(pod, &["spec", "nodeName"], "<none>"),
        text_or(pod, &["status", "nominatedNodeName"], "<none>"),
        json!(gates),
    ]
}

/// The STATUS cell; fills the totals on the way, because which containers count depends on how far
/// initialisation got.
fn status(pod: &Value, totals: &mut Totals) -> String {
    let mut reason = match text(pod, &["status", "reason"]) {
        "" => text(pod, &["status", "phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    let gated = condition(pod, "PodScheduled")
        .is_some_and(|condition| text(condition, &["reason"]) == "SchedulingGated");
    if gated {
        reason = "SchedulingGated".to_owned();
    }
    let initializing = init_status(pod, totals);
    let initialized = condition(pod, "Initialized")
        .is_some_and(|condition| text(condition, &["status"]) == "True");
    match initializing {
        Some(init) if !initialized => reason = init,
        _ => {
            // Restarts of finished init containers no longer count, those of sidecars do.
            let running = main_status(pod, totals, &mut reason);
            if running && reason == "Completed" {
                let ready = condition(pod, "Ready")
                    .is_some_and(|condition| text(condition, &["status"]) == "True");
                reason = if ready { "Running" } else { "NotReady" }.to_owned();
            }
        }
    }
    if is_deleting(pod) {
        if text(pod, &["status", "reason"]) == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    reason
}

/// `Init:…` while an init container is unfinished.
fn init_status(pod: &Value, totals: &mut Totals) -> Option<String> {
    let specs = list(pod, &["spec", "initContainers"]);
    let restartable = |status: &Value| {
        specs.iter().any(|spec| {
            text(spec, &["name"]) == text(status, &["name"])
                && text(spec, &["restartPolicy"]) == "Always"
        })
    };
    totals.containers +=
        specs.iter().filter(|spec| text(spec, &["restartPolicy"]) == "Always").count();
    let mut sidecars = Totals::default();
    let mut unfinished = None;
    for (index, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        totals.count_restarts(status);
        let sidecar = restartable(status);
        if sidecar {
            sidecars.count_restarts(status);
        }
        if let Some(ended) = at(status, &["state", "terminated"]) {
            let code = integer(ended, &["exitCode"]).unwrap_or(0);
            if code == 0 {
                continue;
            }
            let why = match (text(ended, &["reason"]), integer(ended, &["signal"]).unwrap_or(0)) {
                ("", 0) => format!("ExitCode:{code}"),
                ("", signal) => format!("Signal:{signal}"),
                (reason, _) => reason.to_owned(),
            };
            unfinished = Some(format!("Init:{why}"));
            break;
        }
        if sidecar && at(status, &["started"]) == Some(&Value::Bool(true)) {
            if at(status, &["ready"]) == Some(&Value::Bool(true)) {
                totals.ready += 1;
            }
            continue;
        }
        let waiting = text(status, &["state", "waiting", "reason"]);
        unfinished = Some(if waiting.is_empty() || waiting == "PodInitializing" {
            format!("Init:{index}/{}", specs.len())
        } else {
            format!("Init:{waiting}")
        });
        break;
    }
    if unfinished.is_none() {
        totals.restarts = sidecars.restarts;
        totals.last_restart = sidecars.last_restart;
    }
    unfinished
}

/// Scans the main containers last to first; the first one decides. True when one runs.
fn main_status(pod: &Value, totals: &mut Totals, reason: &mut String) -> bool {
    let mut running = false;
    for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
        totals.count_restarts(status);
        let waiting = text(status, &["state", "waiting", "reason"]);
        let ended = at(status, &["state", "terminated"]);
        if !waiting.is_empty() {
            *reason = waiting.to_owned();
        } else if let Some(ended) = ended {
            let signal = integer(ended, &["signal"]).unwrap_or(0);
            *reason = match text(ended, &["reason"]) {
                "" if signal != 0 => format!("Signal:{signal}"),
                "" => format!("ExitCode:{}", integer(ended, &["exitCode"]).unwrap_or(0)),
                why => why.to_owned(),
            };
        } else if at(status, &["ready"]) == Some(&Value::Bool(true))
            && at(status, &["state", "running"]).is_some()
        {
            running = true;
            totals.ready += 1;
        }
    }
    running
}
