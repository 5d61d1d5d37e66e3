//! The report for people.

use std::fmt::Write as _;

use super::report::{
    CandidateReport, EventReport, ImageReport, Remark, Report, SubjectReport, Verdict,
};

/// Whether the text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// With escape sequences of terminals.
    On,
    /// Plain.
    Off,
}

impl Colour {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::On => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Off => text.to_owned(),
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn verdict(self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Pulls => self.paint("32", "would be pulled"),
            Verdict::Unknown => self.paint("33", "cannot be told"),
            Verdict::Fails => self.paint("31", "would not be pulled"),
        }
    }
}

/// Width of labels, in characters.
const LABEL: usize = 13;

/// The whole report; it ends in a line break.
pub fn text(report: &Report, colour: Colour) -> String {
    let mut out = String::new();
    for (at, subject) in report.subjects.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        of_subject(subject, colour, &mut out);
    }
    out
}

/// What comes from outside must not steer a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn line(label: &str, value: &str, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "    {label:<LABEL$}{value}");
}

fn of_subject(subject: &SubjectReport, colour: Colour, out: &mut String) {
    let title = match subject.source.as_str() {
        "commandLine" => String::new(),
        "cluster" => format!(
            "{}/{} in namespace {}",
            subject.kind.to_lowercase(),
            subject.name,
            subject.namespace
        ),
        path => format!(
            "{}/{} in namespace {} ({path})",
            subject.kind.to_lowercase(),
            subject.name,
            subject.namespace
        ),
    };
    if !title.is_empty() {
        let _ = writeln!(out, "{}", colour.bold(&clean(&title)));
    }
    if !subject.pull_secrets.is_empty() {
        let secrets: Vec<String> = subject
            .pull_secrets
            .iter()
            .map(|secret| {
                let by = match secret.named_by {
                    "serviceAccount" => ", by the service account",
                    "commandLine" => ", by the command line",
                    _ => "",
                };
                format!("{} ({}{by})", secret.name, secret.state)
            })
            .collect();
        let _ = writeln!(out, "  pull secrets: {}", clean(&secrets.join(", ")));
    }
    for remark in &subject.remarks {
        let _ = writeln!(out, "  {}", remark_line(remark, colour));
    }
    for image in &subject.images {
        of_image(image, colour, out);
    }
}

fn remark_line(remark: &Remark, colour: Colour) -> String {
    let object = remark.object.as_ref().map_or_else(String::new, |object| format!("{object}: "));
    let code = colour.dim(&format!("[{}]", remark.code));
    format!("{} {code}", clean(&format!("{object}{}", remark.text)))
}

fn of_image(image: &ImageReport, colour: Colour, out: &mut String) {
    let role = match image.role {
        "imageVolume" => "image volume ",
        "initContainer" => "init container ",
        "ephemeralContainer" => "ephemeral container ",
        "image" => "image",
        _ => "container ",
    };
    let head = format!("{role}{}: {}", image.name, image.image);
    let _ = writeln!(out, "  {}", colour.bold(&clean(&head)));
    let verdict = match &image.cause {
        Some(cause) => format!(
            "{}: {} {}",
            colour.verdict(image.verdict),
            clean(&cause.text),
            colour.dim(&format!("[{}]", cause.code))
        ),
        None => colour.verdict(image.verdict),
    };
    line("verdict", &verdict, out);
    if let Some(cause) = &image.cause {
        line("do", &clean(&cause.fix), out);
        if let Some(command) = &cause.command {
            line("", &format!("$ {}", clean(command)), out);
        }
    }
    match &image.reference {
        Some(reference) => {
            let mut text = reference.normalised.clone();
            if reference.asked != reference.normalised {
                let _ = write!(text, " (the runtime is asked for {})", reference.asked);
            }
            line("stands for", &clean(&text), out);
        }
        None => line("stands for", "nothing: it does not parse", out),
    }
    if let Some(meant) = &image.meant {
        line("meant", &format!("perhaps {}", clean(meant)), out);
    }
    let policy = format!("{} ({})", image.policy.effective, image.policy.why);
    line("policy", &clean(&policy), out);
    of_candidates(image, out);
    for (at, remark) in image.remarks.iter().enumerate() {
        line(if at == 0 { "note" } else { "" }, &remark_line(remark, colour), out);
    }
    of_present(image, out);
    of_next(image, out);
}

fn of_candidates(image: &ImageReport, out: &mut String) {
    for (at, candidate) in image.candidates.iter().enumerate() {
        let text = format!("{}. {}", at + 1, candidate_line(candidate));
        line(if at == 0 { "credentials" } else { "" }, &clean(&text), out);
    }
    let answer = said(image.anonymous.answer.kind, &image.anonymous.answer.text);
    if image.candidates.is_empty() {
        let text = match image.anonymous.tried {
            true => format!("none: the registry is asked without any, and {answer}"),
            false => "none is looked for".to_owned(),
        };
        line("credentials", &clean(&text), out);
    } else {
        let text = format!(
            "never without a credential, as there are candidates (without any the registry {})",
            answer.trim_start_matches("it ")
        );
        line("", &clean(&text), out);
    }
    if let Some(allowance) = &image.anonymous.answer.allowance {
        line("", &format!("pulls left without a credential: {}", clean(allowance)), out);
    }
}

fn candidate_line(candidate: &CandidateReport) -> String {
    let user = match candidate.user.as_deref() {
        Some("") => "no user".to_owned(),
        Some(user) => format!("user {user}"),
        None => "a token".to_owned(),
    };
    let end = match (&candidate.expires, candidate.expired) {
        (Some(end), true) => format!(", expired {end}"),
        (Some(end), false) => format!(", good until {end}"),
        (None, _) => String::new(),
    };
    let turn = if candidate.tried { "" } else { "not reached; " };
    let answer = said(candidate.answer.kind, &candidate.answer.text);
    let left = candidate
        .answer
        .allowance
        .as_ref()
        .map_or_else(String::new, |left| format!(" (pulls left: {left})"));
    format!(
        "{user}, key {:?} of {}{end}: {turn}{answer}{left}",
        candidate.key,
        candidate.origin.title()
    )
}

fn said(kind: &str, text: &str) -> String {
    match kind {
        "opens" => "it opens the image".to_owned(),
        "notAsked" => "it was not asked".to_owned(),
        _ => format!("it says: {text}"),
    }
}

fn of_present(image: &ImageReport, out: &mut String) {
    let Some(present) = &image.present else { return };
    let mut text = match &present.waiting {
        Some(waiting) if waiting.message.is_empty() => format!("waits: {}", waiting.reason),
        Some(waiting) => format!("waits: {}: {}", waiting.reason, waiting.message),
        None if present.started => "has started".to_owned(),
        None => "has no state yet".to_owned(),
    };
    if let Some(attempts) = present.attempts {
        let noun = if attempts == 1 { "pull" } else { "pulls" };
        let _ = write!(text, "; {attempts} failed {noun}");
    }
    match present.next_attempt_seconds {
        Some(0) => text.push_str("; the next may start now"),
        Some(seconds) => {
            let _ = write!(text, "; the next in {seconds} s");
        }
        None => {}
    }
    line("now", &clean(&text), out);
    for event in &present.events {
        line("", &clean(&event_line(event)), out);
    }
}

fn of_next(image: &ImageReport, out: &mut String) {
    for (at, event) in image.next.events.iter().enumerate() {
        line(if at == 0 { "next events" } else { "" }, &clean(&event_line(event)), out);
    }
    if let Some(waiting) = &image.next.waiting {
        line("then waits", &clean(&waiting.reason), out);
    }
    for (at, condition) in image.next.provided.iter().enumerate() {
        line(if at == 0 { "provided" } else { "" }, &clean(condition), out);
    }
}

fn event_line(event: &EventReport) -> String {
    format!("{} {}: {}", event.event_type, event.reason, event.message)
}
