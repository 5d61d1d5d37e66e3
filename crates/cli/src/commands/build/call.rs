//! `shipway build --call` and `--check`: what a Dockerfile can be asked without building it.
//!
//! The texts and documents are those of docker buildx.

use std::collections::BTreeSet;
use std::process::ExitCode;

use base64::Engine as _;
use clap::Args;
use dockerfile::{Dockerfile, DockerfileError, Draft, PlanOptions, Requirement, Span, Warning};
use serde_json::{Value, json};

use crate::build::{self, Prepared, Subject};
use crate::exit::Failure;
use crate::output;

/// What is to be done with the Dockerfile.
#[derive(Args, Debug)]
pub(crate) struct CallFlags {
    /// Only check the Dockerfile (as --call=check)
    #[arg(long)]
    check: bool,
    /// What to do: build, check, outline (what the target takes from its caller) or targets;
    /// with ,format=json for scripts
    #[arg(long, value_name = "METHOD", default_value = "build")]
    call: String,
}

/// A question about a Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    method: Method,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Check,
    Outline,
    Targets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl CallFlags {
    /// The question; `None` builds. `outputs` is what `-o` says: `json` asks for a document.
    pub(crate) fn read(&self, outputs: &[String]) -> Result<Option<Call>, Failure> {
        let bad = |reason: &str| Failure::usage(format!("--call {:?}: {reason}", self.call));
        let (method, options) = self.call.split_once(',').unwrap_or((&self.call, ""));
        let method = match method {
            "build" | "" => None,
            "check" | "lint" => Some(Method::Check),
            "outline" => Some(Method::Outline),
            "targets" => Some(Method::Targets),
            _ => return Err(bad("want build, check, outline or targets")),
        };
        let method = match (method, self.check) {
            (None | Some(Method::Check), true) => Some(Method::Check),
            (Some(_), true) => return Err(bad("--check asks for something else")),
            (method, false) => method,
        };
        let mut format = if outputs == ["json"] { Format::Json } else { Format::Text };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            format = match option {
                "format=json" => Format::Json,
                "format=text" => Format::Text,
                _ => return Err(bad("want format=json or format=text")),
            };
        }
        Ok(method.map(|method| Call { method, format }))
    }
}

/// Answers the question.
pub(crate) fn run(call: Call, subject: &Subject, file: &Prepared) -> Result<ExitCode, Failure> {
    match call.method {
        Method::Check => {
            let report = Report::of(subject, file)?;
            match call.format {
                Format::Text => output::raw(report.text(&file.name).as_bytes()),
                Format::Json => output::json(&report.json(&file.name))?,
            }
            Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Method::Outline => {
            let mut draft = Draft::new(&file.file, build::plan_options(subject, file))
                .map_err(build::dockerfile_failure)?;
            supply_nothing(&mut draft).map_err(build::dockerfile_failure)?;
            let outline = draft.outline().map_err(build::dockerfile_failure)?;
            match call.format {
                Format::Text => output::raw(outline_text(&outline).as_bytes()),
                Format::Json => output::json(&outline_json(&outline, &file.file))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Method::Targets => {
            let targets = file.file.targets();
            match call.format {
                Format::Text => output::raw(targets_text(&targets).as_bytes()),
                Format::Json => output::json(&targets_json(&targets, &file.file))?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Bases are not looked up: what they would add is not worth a network.
fn supply_nothing(draft: &mut Draft) -> Result<(), DockerfileError> {
    let nothing = oci_model::ImageConfig::default();
    loop {
        let bases = draft.unresolved_bases();
        if bases.is_empty() {
            return Ok(());
        }
        for base in &bases {
            draft.supply_base(base, &nothing)?;
        }
    }
}

/// Findings that a build prints when it fails before it has a plan.
pub(crate) fn text_warnings(file: &Prepared) -> Vec<String> {
    let warnings = file.file.text_warnings();
    warnings.iter().map(|warning| build::warning_line(&file.name, warning)).collect()
}

/// What the checks found.
struct Report<'a> {
    file: &'a Dockerfile,
    warnings: BTreeSet<Warning>,
    error: Option<DockerfileError>,
}

impl<'a> Report<'a> {
    /// Checks the target, or every stage if the caller names none.
    fn of(subject: &Subject, file: &'a Prepared) -> Result<Self, Failure> {
        let mut report = Self { file: &file.file, warnings: BTreeSet::new(), error: None };
        let options = build::plan_options(subject, file);
        if options.target.is_some() {
            report.add(options);
            return Ok(report);
        }
        let mut seen = BTreeSet::new();
        for number in (0..file.file.targets().len()).rev() {
            if !seen.contains(&number) {
                let target = Some(number.to_string());
                seen.extend(report.add(PlanOptions { target, ..options.clone() }));
            }
        }
        Ok(report)
    }

    /// Checks one target and says which stages it needs.
    fn add(&mut self, options: PlanOptions) -> Vec<usize> {
        match Draft::new(self.file, options) {
            Ok(draft) => {
                let numbers = draft.stage_numbers();
                let (warnings, error) = draft.lint();
                self.warnings.extend(warnings);
                self.error = self.error.take().or(error);
                numbers
            }
            Err(error) => {
                self.warnings.extend(self.file.text_warnings());
                self.error.get_or_insert(error);
                Vec::new()
            }
        }
    }

    fn is_clean(&self) -> bool {
        self.warnings.is_empty() && self.error.is_none()
    }

    fn text(&self, name: &str) -> String {
        let mut text = match self.warnings.len() {
            0 if self.error.is_some() => String::new(),
            0 => "Check complete, no warnings found.\n".to_owned(),
            1 => "Check complete, 1 warning has been found!\n".to_owned(),
            several => format!("Check complete, {several} warnings have been found!\n"),
        };
        for warning in &self.warnings {
            text.push_str(&format!(
                "\nWARNING: {} - {}\n{}\n{}",
                warning.rule.name(),
                url(warning),
                warning.text,
                excerpt(name, self.file.text(), warning.span),
            ));
        }
        if let Some(error) = &self.error {
            text.push_str(&format!("\nERROR: {error}\n"));
            if let Some(span) = error.span() {
                text.push_str(&excerpt(name, self.file.text(), span));
            }
        }
        text
    }

    fn json(&self, name: &str) -> Value {
        let warnings: Vec<Value> = self
            .warnings
            .iter()
            .map(|warning| {
                json!({
                    "ruleName": warning.rule.name(),
                    "description": warning.rule.description(),
                    "url": url(warning),
                    "detail": warning.text,
                    "location": location(warning.span),
                })
            })
            .collect();
        let mut document = json!({
            "warnings": warnings,
            "sources": [{
                "filename": name,
                "language": "Dockerfile",
                "data": source(self.file),
            }],
        });
        if let Some(error) = &self.error {
            let mut failed = json!({ "message": error.to_string() });
            if let Some(span) = error.span() {
                failed["location"] = location(span);
            }
            document["buildError"] = failed;
        }
        document
    }
}

/// Where docker explains a check.
fn url(warning: &Warning) -> String {
    let mut kebab = String::new();
    let name = warning.rule.name();
    for (at, c) in name.char_indices() {
        // The words of `JSONArgs` are `json` and `args`.
        let next_is_lower = name[at + c.len_utf8()..].starts_with(|c: char| c.is_lowercase());
        let after_lower = name[..at].ends_with(|c: char| c.is_lowercase());
        if c.is_uppercase() && 0 < at && (after_lower || next_is_lower) {
            kebab.push('-');
        }
        kebab.extend(c.to_lowercase());
    }
    format!("https://docs.docker.com/go/dockerfile/rule/{kebab}/")
}

/// Lines around a place, as docker shows them: four more, two of them before a single line.
fn excerpt(name: &str, text: &str, span: Span) -> String {
    const RULE: &str = "--------------------\n";
    let lines: Vec<&str> = text.lines().collect();
    let index = |line: u32| usize::try_from(line).unwrap_or(usize::MAX);
    let (first, last) = (index(span.line), index(span.line_end).min(lines.len()));
    if first == 0 || lines.len() < first {
        return String::new();
    }
    let (mut start, mut end) = (first, last);
    let padding = if first == last { 4 } else { 2 };
    let mut added = 0;
    while added < padding && (1 < start || end < lines.len()) {
        if 1 < start {
            start -= 1;
            added += 1;
        }
        if end < lines.len() {
            end += 1;
            added += 1;
        }
    }
    let mut shown = format!("{name}:{first}\n{RULE}");
    for number in start..=end {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let line = format!(" {number:3} | {mark} {}", lines[number - 1]);
        shown.push_str(line.trim_end());
        shown.push('\n');
    }
    shown + RULE
}

fn location(span: Span) -> Value {
    json!({ "ranges": [{ "start": { "line": span.line }, "end": { "line": span.line_end } }] })
}

fn source(file: &Dockerfile) -> String {
    base64::engine::general_purpose::STANDARD.encode(file.text())
}

fn outline_text(outline: &dockerfile::Outline) -> String {
    let mut text = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.clone().unwrap_or_else(|| "(default)".to_owned());
        let mut rows = vec![vec!["TARGET:".to_owned(), name]];
        rows.extend(outline.description.clone().map(|text| vec!["DESCRIPTION:".into(), text]));
        text.push_str(&table(&rows, 1));
        text.push('\n');
    }
    let mut section = |heading: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            let heading = heading.iter().map(|&word| word.to_owned()).collect();
            let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
            text.push_str(&table(&rows, 3));
            text.push('\n');
        }
    };
    let args = outline.args.iter().map(|arg| {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        vec![arg.name.clone(), or_empty(&arg.value), or_empty(&arg.description)]
    });
    section(&["BUILD ARG", "VALUE", "DESCRIPTION"], args.collect());
    let required = |mount: &dockerfile::OutlineMount| {
        let required = mount.requirement == Requirement::Required;
        vec![mount.id.clone(), if required { "true".to_owned() } else { String::new() }]
    };
    section(&["SECRET", "REQUIRED"], outline.secrets.iter().map(required).collect());
    section(&["SSH", "REQUIRED"], outline.agents.iter().map(required).collect());
    section(&["CACHE"], outline.caches.iter().map(|cache| vec![cache.id.clone()]).collect());
    text
}

fn outline_json(outline: &dockerfile::Outline, file: &Dockerfile) -> Value {
    let args = outline.args.iter().map(|arg| {
        let mut value = json!({ "name": arg.name, "location": location(arg.span) });
        set(&mut value, "description", arg.description.as_deref());
        set(&mut value, "value", arg.value.as_deref());
        value
    });
    let mounts = |mounts: &[dockerfile::OutlineMount]| -> Vec<Value> {
        let one = |mount: &dockerfile::OutlineMount| {
            let mut value = json!({ "name": mount.id, "location": location(mount.span) });
            if mount.requirement == Requirement::Required {
                value["required"] = Value::Bool(true);
            }
            value
        };
        mounts.iter().map(one).collect()
    };
    let caches = outline.caches.iter();
    let caches = caches.map(|cache| json!({ "ID": cache.id, "location": location(cache.span) }));
    let mut document = json!({
        "args": args.collect::<Vec<_>>(),
        "secrets": mounts(&outline.secrets),
        "ssh": mounts(&outline.agents),
        "cache": caches.collect::<Vec<_>>(),
        "sources": [source(file)],
    });
    set(&mut document, "name", outline.name.as_deref());
    set(&mut document, "description", outline.description.as_deref());
    document
}

fn set(document: &mut Value, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        document[key] = text.into();
    }
}

fn targets_text(targets: &[dockerfile::TargetSummary]) -> String {
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for target in targets {
        let name = match (&target.name, target.is_default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            // Nobody can ask for it by name.
            (None, false) => continue,
        };
        rows.push(vec![name, target.description.clone().unwrap_or_default()]);
    }
    table(&rows, 3)
}

fn targets_json(targets: &[dockerfile::TargetSummary], file: &Dockerfile) -> Value {
    let one = |target: &dockerfile::TargetSummary| {
        let mut value = json!({ "base": target.base, "location": location(target.span) });
        set(&mut value, "name", target.name.as_deref());
        set(&mut value, "description", target.description.as_deref());
        set(&mut value, "platform", target.platform.as_deref());
        if target.is_default {
            value["default"] = Value::Bool(true);
        }
        value
    };
    json!({ "targets": targets.iter().map(one).collect::<Vec<_>>(), "sources": [source(file)] })
}

/// Columns as wide as their widest cell and `gap` blanks.
fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0) + gap).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(check: bool, call: &str) -> CallFlags {
        CallFlags { check, call: call.to_owned() }
    }

    #[test]
    fn calls_are_read_as_buildx_reads_them() {
        let read = |flags: CallFlags, output: &[&str]| {
            let outputs: Vec<String> = output.iter().map(|&text| text.to_owned()).collect();
            flags.read(&outputs).ok().map(|call| call.map(|call| (call.method, call.format)))
        };
        use Format::{Json, Text};
        use Method::{Check, Outline, Targets};
        assert_eq!(read(flags(false, "build"), &[]), Some(None));
        assert_eq!(read(flags(true, "build"), &[]), Some(Some((Check, Text))));
        assert_eq!(read(flags(false, "lint"), &[]), Some(Some((Check, Text))));
        assert_eq!(read(flags(false, "outline,format=json"), &[]), Some(Some((Outline, Json))));
        assert_eq!(read(flags(false, "targets"), &["json"]), Some(Some((Targets, Json))));
        assert_eq!(read(flags(false, "subrequests.describe"), &[]), None);
        assert_eq!(read(flags(true, "outline"), &[]), None);
        assert_eq!(read(flags(false, "outline,format=xml"), &[]), None);
    }

    #[test]
    fn excerpts_show_four_more_lines() {
        let text = "1\n2\n3\n4\n5\n6\n7\n8\n";
        let shown = |line, line_end| {
            let text = excerpt("F", text, Span { line, line_end, column: 1 });
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            let lines = text.lines().filter(|line| line.contains('|')).map(words);
            lines.collect::<Vec<_>>().join(",")
        };
        assert_eq!(shown(4, 4), "2 | 2,3 | 3,4 | >>> 4,5 | 5,6 | 6");
        assert_eq!(shown(1, 1), "1 | >>> 1,2 | 2,3 | 3,4 | 4,5 | 5");
        assert_eq!(shown(8, 8), "4 | 4,5 | 5,6 | 6,7 | 7,8 | >>> 8");
        assert_eq!(shown(3, 4), "2 | 2,3 | >>> 3,4 | >>> 4,5 | 5");
    }

    #[test]
    fn every_check_has_an_address() {
        let url = |rule| url(&Warning { span: Span::line(1), rule, text: String::new() });
        let last = |rule| url(rule).trim_end_matches('/').rsplit('/').next().map(str::to_owned);
        for (rule, expected) in [
            (dockerfile::Rule::JSONArgsRecommended, "json-args-recommended"),
            (dockerfile::Rule::FromAsCasing, "from-as-casing"),
            (dockerfile::Rule::UndefinedArgInFrom, "undefined-arg-in-from"),
        ] {
            assert_eq!(last(rule).as_deref(), Some(expected));
        }
    }
}
