//! Where the time and the bytes of a build went.

use std::time::Duration;

use serde::Serialize;

use super::model::{Model, State, size};

/// Steps and layers named in the text.
const NAMED_MAX: usize = 3;
/// A step that took less is not worth a word in the text.
const WORTH_NAMING: Duration = Duration::from_millis(50);

/// Facts about a finished build, as `--progress=json` and `--metadata-file` show them.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// Wall time of the whole build.
    milliseconds: u64,
    steps_executed: usize,
    steps_cached: usize,
    /// Every step, in the order in which they began.
    steps: Vec<StepSummary>,
    /// Wall time in which at least one step ran.
    steps_milliseconds: u64,
    resolve: WorkSummary,
    fetch: WorkSummary,
    unpack: WorkSummary,
    compress: CompressSummary,
    push: WorkSummary,
    /// Blobs that registries had already.
    push_existed: usize,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StepSummary {
    title: String,
    line: u32,
    line_end: u32,
    cached: bool,
    milliseconds: u64,
    layer_bytes: Option<u64>,
}

/// One kind of work: overlapping pieces count once.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkSummary {
    milliseconds: u64,
    count: usize,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CompressSummary {
    /// Sum over all layers: reading what changed, compressing and storing it.
    milliseconds: u64,
    tar_bytes: u64,
    bytes: u64,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Summary {
    /// What the events of a build add up to.
    pub(crate) fn of(model: &Model, now: Duration) -> Self {
        let work = |tally: super::model::Tally| WorkSummary {
            milliseconds: milliseconds(tally.busy.total(now)),
            count: tally.count,
            bytes: tally.bytes,
        };
        let steps: Vec<StepSummary> = model
            .entries
            .iter()
            .filter_map(|entry| {
                let (line, line_end) = entry.lines?;
                Some(StepSummary {
                    title: entry.title.clone(),
                    line,
                    line_end,
                    cached: entry.state == State::Cached,
                    milliseconds: milliseconds(entry.elapsed(now)),
                    layer_bytes: entry.layer_bytes,
                })
            })
            .collect();
        Self {
            milliseconds: milliseconds(now),
            steps_executed: steps.iter().filter(|step| !step.cached).count(),
            steps_cached: steps.iter().filter(|step| step.cached).count(),
            steps,
            steps_milliseconds: milliseconds(model.running.busy.total(now)),
            resolve: work(model.resolve),
            fetch: work(model.fetch),
            unpack: work(model.unpack),
            compress: CompressSummary {
                milliseconds: milliseconds(model.compress_time),
                tar_bytes: model.tar_bytes,
                bytes: model.blob_bytes,
            },
            push: work(model.push),
            push_existed: model.push_existed,
        }
    }

    /// The same for people; empty lines are left out.
    pub(crate) fn text(&self) -> Vec<String> {
        let seconds = |milliseconds: u64| format!("{:.1}s", milliseconds as f64 / 1000.0);
        let mut time = vec![format!("steps {}", seconds(self.steps_milliseconds))];
        for (name, work) in [
            ("look-up", self.resolve),
            ("fetch", self.fetch),
            ("unpack", self.unpack),
            ("push", self.push),
        ] {
            if 0 < work.count {
                time.push(format!("{name} {}", seconds(work.milliseconds)));
            }
        }
        if 0 < self.compress.tar_bytes {
            time.push(format!("compress {}", seconds(self.compress.milliseconds)));
        }
        let mut lines =
            vec![format!("time:    {} of {}", time.join(", "), { seconds(self.milliseconds) })];
        let mut bytes = Vec::new();
        if 0 < self.fetch.count {
            bytes.push(format!("{} in", size(self.fetch.bytes)));
        }
        if 0 < self.compress.tar_bytes {
            let (tar, blob) = (size(self.compress.tar_bytes), size(self.compress.bytes));
            bytes.push(format!("{tar} of new layers compressed to {blob}"));
        }
        if 0 < self.push.count || 0 < self.push_existed {
            let existed = match self.push_existed {
                0 => String::new(),
                existed => format!(" ({existed} blobs were there)"),
            };
            bytes.push(format!("{} out{existed}", size(self.push.bytes)));
        }
        if !bytes.is_empty() {
            lines.push(format!("bytes:   {}", bytes.join(", ")));
        }
        let mut slowest: Vec<&StepSummary> = self.steps.iter().collect();
        slowest.retain(|step| milliseconds(WORTH_NAMING) <= step.milliseconds);
        slowest.sort_by_key(|step| std::cmp::Reverse(step.milliseconds));
        let named = slowest.iter().take(NAMED_MAX);
        let named: Vec<String> = named
            .map(|step| format!("{} {}", seconds(step.milliseconds), brief(&step.title)))
            .collect();
        if !named.is_empty() {
            lines.push(format!("slowest: {}", named.join("; ")));
        }
        let mut largest: Vec<(u64, &StepSummary)> =
            self.steps.iter().filter_map(|step| Some((step.layer_bytes?, step))).collect();
        largest.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let named = largest.iter().take(NAMED_MAX);
        let named: Vec<String> =
            named.map(|(bytes, step)| format!("{} {}", size(*bytes), brief(&step.title))).collect();
        if !named.is_empty() {
            lines.push(format!("largest: {}", named.join("; ")));
        }
        lines
    }
}

/// A title that leaves room for others on its line.
fn brief(title: &str) -> String {
    console::truncate_str(title, 48, "…").into_owned()
}
