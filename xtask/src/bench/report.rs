//! Measurements, and the table in `docs/benchmarks.md`.

use anyhow::{Context as _, Result};

use crate::tidy;

/// What DESIGN.md section 6 promises.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Promise {
    /// In the measurement's own unit.
    AtMost(f64),
    /// Ours divided by theirs.
    RatioAtMost(f64),
    /// Ours divided by theirs, where more is better.
    RatioAtLeast(f64),
    /// Measured to be known.
    None,
}

/// One measured number of ours, with the peer's where there is one.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    work: String,
    unit: &'static str,
    ours: Vec<f64>,
    peer: Option<(String, Vec<f64>)>,
    promise: Promise,
}

impl Measurement {
    /// A number without a peer.
    pub(crate) fn alone(work: &str, unit: &'static str, ours: Vec<f64>, promise: Promise) -> Self {
        Self { work: work.to_owned(), unit, ours, peer: None, promise }
    }

    /// A number beside the peer's, measured by turns.
    pub(crate) fn beside(
        work: &str,
        peer: &str,
        unit: &'static str,
        ours: Vec<f64>,
        theirs: Vec<f64>,
        promise: Promise,
    ) -> Self {
        let peer = Some((peer.to_owned(), theirs));
        Self { work: work.to_owned(), unit, ours, peer, promise }
    }

    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, theirs)| median(&self.ours) / median(theirs))
    }

    fn is_kept(&self) -> bool {
        match self.promise {
            Promise::AtMost(limit) => median(&self.ours) <= limit,
            Promise::RatioAtMost(limit) => self.ratio().is_some_and(|ratio| ratio <= limit),
            Promise::RatioAtLeast(limit) => self.ratio().is_some_and(|ratio| ratio >= limit),
            Promise::None => true,
        }
    }

    /// A row of the table.
    pub(crate) fn line(&self) -> String {
        let (peer, theirs) = match &self.peer {
            Some((name, theirs)) => (name.as_str(), spread(theirs, self.unit)),
            None => ("–", "–".to_owned()),
        };
        let ratio = self.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let promise = match self.promise {
            Promise::AtMost(limit) => format!("≤ {limit} {}", self.unit),
            Promise::RatioAtMost(limit) => format!("≤ {limit} × peer"),
            Promise::RatioAtLeast(limit) => format!("≥ {limit} × peer"),
            Promise::None => "–".to_owned(),
        };
        let verdict = match self.promise {
            Promise::None => "",
            _ if self.is_kept() => "kept",
            _ => "**missed**",
        };
        format!(
            "| {} | {} | {peer} | {theirs} | {ratio} | {promise} | {verdict} |",
            self.work,
            spread(&self.ours, self.unit)
        )
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64], unit: &str) -> String {
    let ordered = sorted(values);
    let (low, high) = (ordered.first(), ordered.last());
    format!(
        "{:.2} {unit} ({:.2}–{:.2}, n={})",
        median(values),
        low.copied().unwrap_or(f64::NAN),
        high.copied().unwrap_or(f64::NAN),
        values.len()
    )
}

const HEAD: &str = "# Benchmarks

Written by `cargo xtask bench`; the scenarios are the files of `benches/`. Median, then the lowest
and highest of n runs; ours and the peer's are measured by turns in one run on one machine.

| work | shipway | peer | peer's | ratio | promise | |
|---|---|---|---|---|---|---|
";

/// Replaces the rows of one scenario and keeps the others.
pub(crate) fn write(scenario: &str, measured: &[Measurement]) -> Result<()> {
    let path = tidy::root().join("docs/benchmarks.md");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let marker = format!("<!-- {scenario} -->");
    let mut rows: Vec<String> = before
        .lines()
        .filter(|line| line.starts_with("| ") && line.ends_with("-->") && !line.ends_with(&marker))
        .map(str::to_owned)
        .collect();
    rows.extend(measured.iter().map(|measurement| format!("{} {marker}", measurement.line())));
    let text = format!("{HEAD}{}\n", rows.join("\n"));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
