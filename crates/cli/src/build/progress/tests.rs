use std::collections::BTreeMap;

use dockerfile::Span;
use image_builder::{
    BuildEvent, CacheDecision, KeyKind, OutputStream, PushEnd, StepEnd, StepNumber,
};
use serde_json::Value;

use super::model::{Model, State, printable, size};
use super::terminal::{Canvas, End, frame};
use super::{Duration, JsonEvent, Summary, json, plain, raw_json};

const STEP: StepNumber = StepNumber { stage: 1, step: 0 };
const OTHER: StepNumber = StepNumber { stage: 2, step: 3 };

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn started(step: StepNumber, title: &str) -> BuildEvent {
    BuildEvent::StepStarted { step, title: title.to_owned(), span: Span::line(7) }
}

fn output(step: StepNumber, text: &str) -> BuildEvent {
    BuildEvent::StepOutput { step, stream: OutputStream::Stdout, bytes: text.as_bytes().to_vec() }
}

fn finished(step: StepNumber, how: StepEnd) -> BuildEvent {
    BuildEvent::StepFinished { step, how, layer_bytes: Some(2_500_000), duration: ms(1) }
}

/// One event of every kind.
fn every_event() -> Vec<BuildEvent> {
    let text = || "x".to_owned();
    let events = vec![
        BuildEvent::Planned { steps: 3 },
        BuildEvent::Isolation { mode: "overlay", reason: text() },
        BuildEvent::StageStarted { stage: 0, title: text() },
        BuildEvent::StageReady { stage: 0, duration: ms(1) },
        started(STEP, "t"),
        output(STEP, "t"),
        finished(STEP, StepEnd::Cached),
        BuildEvent::Cache {
            step: STEP,
            decision: CacheDecision::Hit { from: text(), by: KeyKind::Chain },
        },
        BuildEvent::Cache {
            step: STEP,
            decision: CacheDecision::Miss { nearest: None, differences: vec![text()] },
        },
        BuildEvent::StepFailed { step: STEP, reason: text() },
        BuildEvent::StepCancelled { step: STEP },
        BuildEvent::LayerWritten { digest: text(), tar_bytes: 2, bytes: 1, duration: ms(1) },
        BuildEvent::Resolving { reference: text() },
        BuildEvent::Resolved { reference: text(), duration: ms(1) },
        BuildEvent::Fetching { what: text(), from: text(), bytes: Some(1) },
        BuildEvent::FetchAdvanced { what: text(), bytes: 1 },
        BuildEvent::Fetched { what: text(), bytes: 1, duration: ms(1) },
        BuildEvent::Unpacking { what: text() },
        BuildEvent::Unpacked { what: text(), duration: ms(1) },
        BuildEvent::ImageReady { digest: text() },
        BuildEvent::Pushing { reference: text() },
        BuildEvent::PushingBlob { what: text(), to: text(), bytes: 1 },
        BuildEvent::PushAdvanced { what: text(), to: text(), bytes: 1 },
        BuildEvent::PushedBlob { what: text(), to: text(), how: PushEnd::Sent },
        BuildEvent::Pushed { reference: text(), digest: text() },
        BuildEvent::Warning(text()),
    ];
    // Whoever adds an event has to add it here, above and to the page.
    for event in &events {
        match event {
            BuildEvent::Planned { .. }
            | BuildEvent::Isolation { .. }
            | BuildEvent::StageStarted { .. }
            | BuildEvent::StageReady { .. }
            | BuildEvent::StepStarted { .. }
            | BuildEvent::StepOutput { .. }
            | BuildEvent::StepFinished { .. }
            | BuildEvent::Cache { .. }
            | BuildEvent::StepFailed { .. }
            | BuildEvent::StepCancelled { .. }
            | BuildEvent::LayerWritten { .. }
            | BuildEvent::Resolving { .. }
            | BuildEvent::Resolved { .. }
            | BuildEvent::Fetching { .. }
            | BuildEvent::FetchAdvanced { .. }
            | BuildEvent::Fetched { .. }
            | BuildEvent::Unpacking { .. }
            | BuildEvent::Unpacked { .. }
            | BuildEvent::ImageReady { .. }
            | BuildEvent::Pushing { .. }
            | BuildEvent::PushingBlob { .. }
            | BuildEvent::PushAdvanced { .. }
            | BuildEvent::PushedBlob { .. }
            | BuildEvent::Pushed { .. }
            | BuildEvent::Warning(_) => {}
        }
    }
    events
}

/// Events of the page: their names with fields and types.
fn documented() -> BTreeMap<String, BTreeMap<String, String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/progress-events.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let mut events: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("### `") {
            current = name.trim_end_matches('`').to_owned();
            events.entry(current.clone()).or_default();
        } else if let Some(row) = line.strip_prefix("| `") {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            let (field, kind) = (cells.next().expect("a field"), cells.next().expect("a type"));
            events.get_mut(&current).expect("an event").insert(field, kind);
        }
    }
    events
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[test]
fn the_page_describes_every_event_and_field_that_is_written() {
    let mut lines: Vec<String> =
        every_event().iter().map(|event| json::line(&JsonEvent::from(event))).collect();
    let summary = Summary::of(&Model::default(), ms(1));
    lines.push(json::line(&JsonEvent::Summary(&summary)));
    lines.push(json::line(&JsonEvent::Error {
        text: "x",
        exit_code: 1,
        file: Some("x"),
        line: Some(1),
        line_end: Some(1),
        command_exit_code: Some(1),
        hint: Some("x"),
    }));
    let mut documented = documented();
    let mut seen = std::collections::BTreeSet::new();
    for line in lines {
        let Value::Object(mut fields) = serde_json::from_str(&line).expect("JSON") else {
            panic!("{line} is no object");
        };
        let time = fields.remove("time").expect("a time");
        let time = time.as_str().expect("a string").parse::<jiff::Timestamp>();
        assert!(time.is_ok(), "{line}");
        let name = fields.remove("event").expect("a name");
        let name = name.as_str().expect("a string");
        seen.insert(name.to_owned());
        let mut page =
            documented.get(name).cloned().unwrap_or_else(|| panic!("{name} is not described"));
        for (field, value) in fields {
            let types = page.remove(&field).unwrap_or_else(|| panic!("{name}.{field}"));
            assert!(types.split(" or ").any(|one| one == kind(&value)), "{name}.{field}: {types}");
        }
        assert!(page.is_empty(), "{name} has no {page:?}");
    }
    documented.retain(|name, _| !seen.contains(name));
    assert!(documented.is_empty(), "never written: {documented:?}");
}

#[test]
fn every_event_that_buildkit_knows_is_a_line_of_its_status_stream() {
    let mut names = raw_json::Names::default();
    let mut keys = std::collections::BTreeSet::new();
    for event in every_event() {
        for line in names.lines(&event) {
            let Value::Object(fields) = serde_json::from_str(&line).expect("JSON") else {
                panic!("{line} is no object");
            };
            keys.extend(fields.keys().cloned());
        }
    }
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["logs", "statuses", "vertexes", "warnings"]);
}

fn canvas(columns: usize, rows: usize) -> Canvas {
    Canvas { columns, rows, colour: false }
}

fn model(events: &[(u64, BuildEvent)]) -> Model {
    let mut model = Model::default();
    for (at, event) in events {
        model.take(event, ms(*at));
    }
    model
}

#[test]
fn running_steps_show_their_last_lines_and_times_at_the_right_edge() {
    let model = model(&[
        (0, BuildEvent::Planned { steps: 4 }),
        (0, started(STEP, "[a 2/3] RUN make")),
        (100, started(OTHER, "[b 2/2] RUN test")),
        (200, output(STEP, "one\ntwo\nthr")),
        (250, finished(OTHER, StepEnd::Cached)),
    ]);
    let lines = frame(&model, ms(1300), None, canvas(40, 20));
    let expected = [
        "[+] Building 1.3s (1/4)",
        " => [a 2/3] RUN make                1.3s",
        " => => # one",
        " => => # two",
        " => => # thr",
        " => CACHED [b 2/2] RUN test         0.1s",
    ];
    // The time is one column from the title at least and ends in the last column.
    assert_eq!(lines, expected);
}

#[test]
fn a_view_never_has_more_lines_or_columns_than_the_terminal() {
    let mut events = vec![(0, BuildEvent::Planned { steps: 60 })];
    for step in 0..30 {
        let number = StepNumber { stage: 0, step };
        events.push((0, started(number, &format!("[x {step}/60] RUN {}", "wide 界 ".repeat(40)))));
        if step < 20 {
            events.push((1, finished(number, StepEnd::Executed)));
        } else {
            events.push((1, output(number, &"line\n".repeat(50))));
        }
    }
    let model = model(&events);
    for (columns, rows) in [(80, 24), (20, 5), (200, 100), (1, 1), (7, 3)] {
        let lines = frame(&model, ms(5000), None, canvas(columns, rows));
        assert!(lines.len() < rows.max(2), "{} lines on {rows} rows", lines.len());
        for line in &lines {
            let width = console::measure_text_width(line);
            assert!(width <= columns.max(6), "{width} of {columns}: {line}");
        }
    }
}

#[test]
fn what_runs_is_shown_before_what_is_done() {
    let mut events = Vec::new();
    for step in 0..20 {
        let number = StepNumber { stage: 0, step };
        events.push((0, started(number, &format!("step {step}."))));
        if step != 3 {
            events.push((1, finished(number, StepEnd::Executed)));
        }
    }
    let lines = frame(&model(&events), ms(10), None, canvas(60, 8)).join("\n");
    assert!(lines.contains("step 3.") && lines.contains("step 19."), "{lines}");
    assert!(!lines.contains("step 0."), "{lines}");
}

#[test]
fn transfers_show_bytes_and_rate_while_they_run_and_the_sum_afterwards() {
    let what = "sha256:0123456789abcdef".to_owned();
    let mut model = model(&[
        (
            0,
            BuildEvent::Fetching {
                what: what.clone(),
                from: "r/a:1".into(),
                bytes: Some(4_000_000),
            },
        ),
        (1000, BuildEvent::FetchAdvanced { what: what.clone(), bytes: 2_000_000 }),
    ]);
    let lines = frame(&model, ms(1000), None, canvas(70, 20));
    assert!(lines[1].starts_with(" => fetch r/a:1 2.00MB"), "{lines:?}");
    let moving = " => => sha256:0123456789ab 2.00MB / 4.00MB 2.00MB/s";
    assert!(lines[2].starts_with(moving) && lines[2].ends_with("1.0s"), "{lines:?}");
    model.take(&BuildEvent::Fetched { what, bytes: 4_000_000, duration: ms(2000) }, ms(2000));
    let lines = frame(&model, ms(3000), None, canvas(70, 20));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with(" => fetch r/a:1 4.00MB") && lines[1].ends_with("2.0s"));
}

#[test]
fn colours_are_only_there_when_asked_for() {
    let model = model(&[(0, started(STEP, "t")), (1, finished(STEP, StepEnd::Executed))]);
    let plain = frame(&model, ms(1), Some(End::Finished), canvas(40, 9)).concat();
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let colour = Canvas { colour: true, ..canvas(40, 9) };
    let painted = frame(&model, ms(1), Some(End::Finished), colour).concat();
    assert!(painted.contains("\u{1b}[34m"), "{painted:?}");
}

#[test]
fn the_end_says_how_it_ended_and_marks_what_was_cancelled() {
    let mut model = model(&[
        (0, started(STEP, "[a] RUN x")),
        (0, started(OTHER, "[b] RUN y")),
        (5, BuildEvent::StepFailed { step: STEP, reason: "exit".into() }),
    ]);
    model.stop(State::Cancelled, ms(10));
    let lines = frame(&model, ms(10), Some(End::Failed), canvas(60, 9));
    assert!(lines[0].ends_with("(2/2) FAILED"), "{lines:?}");
    assert!(lines[1].starts_with(" => ERROR [a] RUN x"), "{lines:?}");
    assert!(lines[2].starts_with(" => CANCELED [b] RUN y"), "{lines:?}");
}

#[test]
fn plain_lines_are_numbered_and_complete() {
    let mut model = Model::default();
    let mut lines = Vec::new();
    for (at, event) in [
        (0, started(STEP, "[a 2/4] RUN make")),
        (123, output(STEP, "hel")),
        (124, output(STEP, "lo\nprogress 1%\rprogress 2%\n\u{1b}[31mred\u{1b}[0m no end")),
        (130, started(OTHER, "[b 2/2] COPY x y")),
        (140, finished(OTHER, StepEnd::Cached)),
        (400, finished(STEP, StepEnd::Executed)),
    ] {
        let changes = model.take(&event, ms(at));
        lines.extend(plain::lines(&model, &changes));
    }
    let expected = [
        "#1 [a 2/4] RUN make",
        "#1 0.124 hello",
        "#1 0.124 progress 2%",
        "#2 [b 2/2] COPY x y",
        "#2 CACHED",
        "#1 0.400 red no end",
        "#1 DONE 0.4s",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn output_cannot_move_the_cursor() {
    for (text, expected) in [
        ("a\u{1b}[2Jb", "ab"),
        ("10%\r50%\r100%\r", "100%"),
        ("a\tb\u{7}\u{8}c", "a    bc"),
        ("\u{1b}]0;title\u{7}x", "x"),
    ] {
        assert_eq!(printable(text), expected, "{text:?}");
    }
}

#[test]
fn sizes_are_short_and_decimal() {
    for (bytes, expected) in [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.00kB"),
        (12_345, "12.3kB"),
        (999_600, "1.00MB"),
        (123_456_789, "123MB"),
        (825_000_000_000, "825GB"),
    ] {
        assert_eq!(size(bytes), expected);
    }
}

#[test]
fn a_summary_counts_overlapping_work_once_and_names_the_slowest() {
    let layer = |what: &str, from| BuildEvent::Fetching { what: what.into(), from, bytes: Some(5) };
    let fetched = |what: &str| BuildEvent::Fetched { what: what.into(), bytes: 5, duration: ms(9) };
    let model = model(&[
        (0, layer("a", "r".to_owned())),
        (10, layer("b", "r".to_owned())),
        (20, fetched("a")),
        (30, fetched("b")),
        (30, started(STEP, "[a] RUN slow")),
        (40, started(OTHER, "[b] RUN quick")),
        (41, finished(OTHER, StepEnd::Cached)),
        (530, finished(STEP, StepEnd::Executed)),
    ]);
    let summary = Summary::of(&model, ms(600));
    let value = serde_json::to_value(&summary).expect("JSON");
    assert_eq!(value["fetch"], serde_json::json!({"milliseconds": 30, "count": 2, "bytes": 10}));
    assert_eq!((&value["stepsExecuted"], &value["stepsCached"]), (&1.into(), &1.into()));
    assert_eq!(value["stepsMilliseconds"], 500);
    let text = summary.text();
    assert!(text.contains(&"time:    steps 0.5s, fetch 0.0s of 0.6s".to_owned()), "{text:?}");
    assert!(text.contains(&"slowest: 0.5s [a] RUN slow".to_owned()), "{text:?}");
    assert!(text.iter().any(|line| line.starts_with("largest: 2.50MB [a] RUN slow")), "{text:?}");
}
