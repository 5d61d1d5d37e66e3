//! Resources → cgroup values and the OOM score (mini-kubernetes.md 8.6).

use k8s_openapi::api::core::v1::{Container, Pod};

use super::quantity;

/// Length of a CPU accounting period in microseconds.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

/// Limits of one container; `None` = unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// cgroup v1 shares, 2 to 262144.
    pub(crate) cpu_shares: u64,
    /// Microseconds of CPU per [`CPU_PERIOD_US`].
    pub(crate) cpu_quota_us: Option<u64>,
    /// `memory.max`.
    pub(crate) memory_bytes: Option<u64>,
    /// `oom_score_adj`, -997 to 1000.
    pub(crate) oom_score_adj: i32,
}

/// Computes the limits of one container of a pod.
pub(crate) fn limits(pod: &Pod, container: &Container, node_memory_bytes: u64) -> Limits {
    let resources = container.resources.as_ref();
    let get =
        |limits: bool, name: &str| -> Option<i128> {
            resources
                .and_then(|resources| {
                    if limits { resources.limits.as_ref() } else { resources.requests.as_ref() }
                })
                .and_then(|map| map.get(name))
                .and_then(|quantity| quantity::milli(&quantity.0))
                .filter(|value| *value > 0)
        };
    let cpu_request = get(false, "cpu").or_else(|| get(true, "cpu")).unwrap_or(0);
    let memory_request = get(false, "memory").or_else(|| get(true, "memory")).unwrap_or(0) / 1000;
    let quota = get(true, "cpu").map(|milli| {
        u64::try_from(milli * i128::from(CPU_PERIOD_US) / 1000).unwrap_or(u64::MAX).max(1000)
    });
    Limits {
        cpu_shares: shares(u64::try_from(cpu_request).unwrap_or(u64::MAX)),
        cpu_quota_us: quota,
        memory_bytes: get(true, "memory").and_then(|milli| u64::try_from(milli / 1000).ok()),
        oom_score_adj: oom_score_adj(qos_class(pod), memory_request, node_memory_bytes),
    }
}

fn shares(milli_cpu: u64) -> u64 {
    milli_cpu.saturating_mul(1024).checked_div(1000).unwrap_or(0).clamp(2, 262_144)
}

fn oom_score_adj(qos: &str, memory_request: i128, node_memory_bytes: u64) -> i32 {
    match qos {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let node = i128::from(node_memory_bytes.max(1));
            let score = 1000 - 1000 * memory_request / node;
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The pod's QoS class as the API server stored it; `BestEffort` when it says nothing.
pub(crate) fn qos_class(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.qos_class.as_deref()).unwrap_or("BestEffort")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        resources: serde_json::Value,
        qos: &str,
        expected: (u64, Option<u64>, Option<u64>, i32),
    ) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]},
            "status": {"qosClass": qos},
        }))
        .expect("pod");
        let got = limits(&pod, &pod.spec.as_ref().expect("spec").containers[0], 1 << 30);
        let got = (got.cpu_shares, got.cpu_quota_us, got.memory_bytes, got.oom_score_adj);
        assert_eq!(got, expected, "{resources}");
    }

    /// mini-kubernetes.md 14, row 74.
    #[test]
    fn row_74_limits_become_cgroup_values() {
        check(json!({}), "BestEffort", (2, None, None, 1000));
        check(
            json!({"limits": {"cpu": "500m", "memory": "64Mi"}}),
            "Guaranteed",
            (512, Some(50_000), Some(64 << 20), -997),
        );
        check(
            json!({"requests": {"cpu": "1", "memory": "512Mi"}}),
            "Burstable",
            (1024, None, None, 500),
        );
        check(json!({"limits": {"cpu": "1m"}}), "Burstable", (2, Some(1000), None, 999));
        check(json!({"requests": {"memory": "1Gi"}}), "Burstable", (2, None, None, 3));
        check(json!({"requests": {"cpu": "1000"}}), "Burstable", (262_144, None, None, 999));
    }
}
