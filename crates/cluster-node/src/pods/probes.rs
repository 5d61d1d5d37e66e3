//! The state machine of one probe (mini-kubernetes.md 8.3); running the probe is
//! `crate::prober`'s job.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// Which of the three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// The word that begins the text of an `Unhealthy` event.
    pub(crate) fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
}

/// Timing and thresholds with the API's defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cadence {
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    success_threshold: u32,
    failure_threshold: u32,
}

impl Cadence {
    /// Reads a probe; unset or zero fields take the defaults of the API.
    pub(crate) fn of(probe: &Probe) -> Self {
        let positive = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        Cadence {
            initial_delay: Duration::from_secs(positive(probe.initial_delay_seconds, 0).into()),
            period: Duration::from_secs(positive(probe.period_seconds, 10).into()),
            timeout: Duration::from_secs(positive(probe.timeout_seconds, 1).into()),
            success_threshold: positive(probe.success_threshold, 1),
            failure_threshold: positive(probe.failure_threshold, 3),
        }
    }
}

/// Counts outcomes until a threshold is crossed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeMachine {
    cadence: Cadence,
    /// The result that counts now; `None` before the first threshold was crossed.
    result: Option<Passed>,
    run: u32,
    run_of: Option<Passed>,
}

/// Whether a probe passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    Yes,
    No,
}

impl ProbeMachine {
    pub(crate) fn new(cadence: Cadence) -> Self {
        ProbeMachine { cadence, result: None, run: 0, run_of: None }
    }

    /// Takes one outcome; returns the new result when it changed.
    pub(crate) fn observe(&mut self, outcome: Passed) -> Option<Passed> {
        if self.run_of == Some(outcome) {
            self.run = self.run.saturating_add(1);
        } else {
            self.run_of = Some(outcome);
            self.run = 1;
        }
        let threshold = match outcome {
            Passed::Yes => self.cadence.success_threshold,
            Passed::No => self.cadence.failure_threshold,
        };
        if self.run < threshold || self.result == Some(outcome) {
            return None;
        }
        self.result = Some(outcome);
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` and `-` are outcomes; `Y`, `N` and `.` what each one changed the result to.
    fn check(success: i32, failure: i32, outcomes: &str, expected: &str) {
        let probe = Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        };
        let mut machine = ProbeMachine::new(Cadence::of(&probe));
        let changes: String = outcomes
            .chars()
            .map(|c| match machine.observe(if c == '+' { Passed::Yes } else { Passed::No }) {
                Some(Passed::Yes) => 'Y',
                Some(Passed::No) => 'N',
                None => '.',
            })
            .collect();
        assert_eq!(changes, expected, "{outcomes}");
    }

    /// mini-kubernetes.md 14, row 69.
    #[test]
    fn row_69_result_changes_only_at_a_threshold() {
        check(1, 3, "++--+---+", "Y......NY");
        check(2, 1, "+++-+-++", ".Y.N...Y");
        check(1, 1, "-+-", "NYN");
        check(3, 3, "--+--+++", ".......Y");
    }

    #[test]
    fn unset_and_zero_fields_take_the_defaults() {
        let cadence = Cadence::of(&Probe { period_seconds: Some(0), ..Probe::default() });
        assert_eq!(cadence.period, Duration::from_secs(10));
        assert_eq!(cadence.timeout, Duration::from_secs(1));
        assert_eq!(cadence.initial_delay, Duration::ZERO);
        assert_eq!((cadence.success_threshold, cadence.failure_threshold), (1, 3));
    }
}
