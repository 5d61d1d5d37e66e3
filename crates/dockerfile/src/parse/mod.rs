//! One logical line to one typed instruction.

use crate::error::DockerfileError;
use crate::instruction::{
    ArgDeclaration, CommandLine, Device, FromClause, Heredoc, Instruction, KeyValueForm, KeyValues,
    Network, OnBuild, Requirement, Run, Security,
};
use crate::mount::MountTemplate;
use crate::suggest::closest;
use crate::words::{
    JsonForm, cut_keyword, is_blank, json_form, split_blanks, split_flags, split_words,
};

mod duration;
mod flags;
mod healthcheck;
#[cfg(test)]
mod tests;
mod transfer;

use flags::{FlagKind, Flags};

/// Every keyword, for suggestions.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The text of one instruction, cut into keyword, flags and arguments.
pub(super) struct Call<'a> {
    keyword: &'static str,
    flags: Vec<String>,
    arguments: &'a str,
    heredocs: Vec<Heredoc>,
    escape: char,
}

/// Parses one instruction.
///
/// # Errors
/// Whatever is wrong with it, not yet placed in the file.
pub(crate) fn parse_instruction(
    text: &str,
    heredocs: Vec<Heredoc>,
    escape: char,
) -> Result<Instruction, DockerfileError> {
    let (word, rest) = cut_keyword(text);
    let upper = word.to_uppercase();
    let Some(keyword) = KEYWORDS.into_iter().find(|keyword| *keyword == upper) else {
        return Err(DockerfileError::syntax(format!("unknown instruction: {upper}"))
            .suggesting(closest(word, KEYWORDS)));
    };
    if keyword == "ONBUILD" {
        return on_build(rest, heredocs, escape);
    }
    let (flags, arguments) = split_flags(rest);
    let call = Call { keyword, flags, arguments, heredocs, escape };
    match keyword {
        "ADD" => transfer::add(call).map(Instruction::Add),
        "ARG" => arg(&call).map(Instruction::Arg),
        "CMD" => call.plain_command().map(Instruction::Cmd),
        "COPY" => transfer::copy(call).map(Instruction::Copy),
        "ENTRYPOINT" => call.plain_command().map(Instruction::Entrypoint),
        "ENV" => key_values(&call).map(Instruction::Env),
        "EXPOSE" => expose(&call).map(Instruction::Expose),
        "FROM" => from(&call).map(Instruction::From),
        "HEALTHCHECK" => healthcheck::parse(&call).map(Instruction::Healthcheck),
        "LABEL" => key_values(&call).map(Instruction::Label),
        "MAINTAINER" => call.one_text().map(Instruction::Maintainer),
        "RUN" => run(call).map(Instruction::Run),
        "SHELL" => shell(&call).map(Instruction::Shell),
        "STOPSIGNAL" => call.one_text().map(Instruction::StopSignal),
        "USER" => call.one_text().map(Instruction::User),
        "VOLUME" => volume(&call).map(Instruction::Volume),
        _ => call.one_text().map(Instruction::Workdir),
    }
}

impl Call<'_> {
    fn at_least_one(&self) -> DockerfileError {
        DockerfileError::syntax(format!("{} requires at least one argument", self.keyword))
    }

    fn parse_flags(&self, known: &[(&'static str, FlagKind)]) -> Result<Flags, DockerfileError> {
        Flags::parse(&self.flags, known)
    }

    /// Exec form or shell form; nothing is the empty exec form.
    fn command(&self) -> Result<CommandLine, DockerfileError> {
        Ok(match json_form(self.arguments) {
            JsonForm::Strings(strings) => CommandLine::Exec(strings),
            JsonForm::NotStrings => return Err(not_strings()),
            JsonForm::Text if self.arguments.is_empty() => CommandLine::Exec(Vec::new()),
            JsonForm::Text => CommandLine::Shell(self.arguments.to_owned()),
        })
    }

    fn plain_command(&self) -> Result<CommandLine, DockerfileError> {
        self.parse_flags(&[])?;
        self.command()
    }

    fn one_text(&self) -> Result<String, DockerfileError> {
        self.parse_flags(&[])?;
        if self.arguments.is_empty() {
            let message = format!("{} requires exactly one argument", self.keyword);
            return Err(DockerfileError::syntax(message));
        }
        Ok(self.arguments.to_owned())
    }

    /// A JSON array or words between blanks.
    fn list(&self) -> Result<Vec<String>, DockerfileError> {
        Ok(match json_form(self.arguments) {
            JsonForm::Strings(strings) => strings,
            JsonForm::NotStrings => return Err(not_strings()),
            JsonForm::Text => split_blanks(self.arguments),
        })
    }

    fn blank_names(&self) -> DockerfileError {
        DockerfileError::syntax(format!("{} names can not be blank", self.keyword))
    }
}

fn not_strings() -> DockerfileError {
    DockerfileError::syntax(
        "when using JSON array syntax, arrays must be comprised of strings only",
    )
}

fn from(call: &Call<'_>) -> Result<FromClause, DockerfileError> {
    let flags = call.parse_flags(&[("platform", FlagKind::Text)])?;
    let mut words = split_blanks(call.arguments).into_iter();
    let wrong_count = || DockerfileError::syntax("FROM requires either one or three arguments");
    let base = words.next().ok_or_else(wrong_count)?;
    let rest: Vec<String> = words.collect();
    let (name, as_keyword) = match rest.as_slice() {
        [] => (None, None),
        [keyword, name] if keyword.eq_ignore_ascii_case("as") => {
            check_stage_name(name)?;
            (Some(name.clone()), Some(keyword.clone()))
        }
        _ => return Err(wrong_count()),
    };
    Ok(FromClause { base, name, as_keyword, platform: flags.text("platform") })
}

fn check_stage_name(name: &str) -> Result<(), DockerfileError> {
    let lower = name.to_lowercase();
    let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
        && lower
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
    if valid {
        return Ok(());
    }
    Err(DockerfileError::syntax(format!(
        "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
    )))
}

fn arg(call: &Call<'_>) -> Result<Vec<ArgDeclaration>, DockerfileError> {
    call.parse_flags(&[])?;
    let words = split_words(call.arguments, call.escape);
    if words.is_empty() {
        return Err(call.at_least_one());
    }
    let mut declarations = Vec::with_capacity(words.len());
    for word in words {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
            None => (word, None),
        };
        if name.is_empty() {
            return Err(call.blank_names());
        }
        declarations.push(ArgDeclaration { name, default });
    }
    Ok(declarations)
}

fn key_values(call: &Call<'_>) -> Result<KeyValues, DockerfileError> {
    call.parse_flags(&[])?;
    let words = split_words(call.arguments, call.escape);
    let Some(first) = words.first() else { return Err(call.at_least_one()) };
    if !first.contains('=') {
        let Some(end) = call.arguments.find(is_blank) else {
            let message = format!("{} must have two arguments", call.keyword);
            return Err(DockerfileError::syntax(message));
        };
        let (name, value) = call.arguments.split_at(end);
        let pair = (name.to_owned(), value.trim_start_matches(is_blank).to_owned());
        return Ok(KeyValues { pairs: vec![pair], form: KeyValueForm::Legacy });
    }
    let mut pairs = Vec::with_capacity(words.len());
    for word in &words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(DockerfileError::syntax(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            )));
        };
        if name.is_empty() {
            return Err(call.blank_names());
        }
        pairs.push((name.to_owned(), value.to_owned()));
    }
    Ok(KeyValues { pairs, form: KeyValueForm::Equals })
}

fn expose(call: &Call<'_>) -> Result<Vec<String>, DockerfileError> {
    call.parse_flags(&[])?;
    let mut ports = split_blanks(call.arguments);
    if ports.is_empty() {
        return Err(call.at_least_one());
    }
    ports.sort();
    Ok(ports)
}

fn volume(call: &Call<'_>) -> Result<Vec<String>, DockerfileError> {
    call.parse_flags(&[])?;
    let volumes = call.list()?;
    if volumes.is_empty() {
        return Err(call.at_least_one());
    }
    if volumes.iter().any(|volume| volume.trim().is_empty()) {
        return Err(DockerfileError::syntax("VOLUME specified can not be an empty string"));
    }
    Ok(volumes)
}

fn shell(call: &Call<'_>) -> Result<Vec<String>, DockerfileError> {
    call.parse_flags(&[])?;
    match json_form(call.arguments) {
        JsonForm::Strings(words) if words.is_empty() => Err(call.at_least_one()),
        JsonForm::Strings(words) => Ok(words),
        JsonForm::NotStrings => Err(not_strings()),
        JsonForm::Text if call.arguments.is_empty() => Err(call.at_least_one()),
        JsonForm::Text => {
            Err(DockerfileError::syntax("SHELL requires the arguments to be in JSON form"))
        }
    }
}

fn run(call: Call<'_>) -> Result<Run, DockerfileError> {
    let flags = call.parse_flags(&[
        ("mount", FlagKind::List),
        ("network", FlagKind::Text),
        ("security", FlagKind::Text),
        ("device", FlagKind::List),
    ])?;
    let command = call.command()?;
    if command == CommandLine::Exec(Vec::new()) {
        return Err(call.at_least_one());
    }
    let mounts = flags.list("mount");
    let mounts = mounts.iter().map(|mount| MountTemplate::parse(mount));
    let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
    let network = match flags.text("network").as_deref() {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => {
            let error = DockerfileError::syntax(format!("network {other:?} is not valid"));
            return Err(error.suggesting(closest(other, ["default", "none", "host"])));
        }
    };
    let security = match flags.text("security").as_deref() {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => {
            let error = DockerfileError::syntax(format!("security {other:?} is not valid"));
            return Err(error.suggesting(closest(other, ["sandbox", "insecure"])));
        }
    };
    let devices = flags.list("device");
    let devices = devices.iter().map(|device| parse_device(device));
    let devices = devices.collect::<Result<Vec<_>, _>>()?;
    Ok(Run { command, heredocs: call.heredocs, mounts, network, security, devices })
}

/// `name`, `name,required`, `name=…,required=false`.
fn parse_device(text: &str) -> Result<Device, DockerfileError> {
    let invalid = |why: &str| DockerfileError::syntax(format!("invalid device {text:?}: {why}"));
    let mut name = None;
    let mut requirement = Requirement::Optional;
    for (index, field) in text.split(',').enumerate() {
        match field.split_once('=') {
            Some(("required", value)) => match value {
                "true" | "1" => requirement = Requirement::Required,
                "false" | "0" => requirement = Requirement::Optional,
                _ => return Err(invalid("required must be true or false")),
            },
            Some(("name", value)) if name.is_none() => name = Some(value.to_owned()),
            None if field == "required" => requirement = Requirement::Required,
            // A CDI name holds a `=` itself: vendor.com/class=name.
            Some((class, _)) if index == 0 && class.contains('/') => name = Some(field.to_owned()),
            None if index == 0 => name = Some(field.to_owned()),
            Some((key, _)) => return Err(invalid(&format!("unexpected key '{key}'"))),
            None => return Err(invalid(&format!("unexpected value '{field}'"))),
        }
    }
    match name {
        Some(name) if !name.is_empty() => Ok(Device { name, requirement }),
        Some(_) | None => Err(invalid("device name is required")),
    }
}

fn on_build(
    rest: &str,
    heredocs: Vec<Heredoc>,
    escape: char,
) -> Result<Instruction, DockerfileError> {
    if rest.starts_with("--") {
        Flags::parse(&split_flags(rest).0, &[])?;
    }
    let (keyword, _) = cut_keyword(rest);
    match keyword.to_uppercase().as_str() {
        "" => return Err(DockerfileError::syntax("ONBUILD requires at least one argument")),
        "ONBUILD" => {
            return Err(DockerfileError::syntax(
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ));
        }
        forbidden @ ("FROM" | "MAINTAINER") => {
            let message = format!("{forbidden} isn't allowed as an ONBUILD trigger");
            return Err(DockerfileError::syntax(message));
        }
        _ => {}
    }
    let mut trigger = rest.to_owned();
    for heredoc in &heredocs {
        trigger.push('\n');
        trigger.push_str(&heredoc.body);
        trigger.push_str(&heredoc.name);
    }
    let instruction = Box::new(parse_instruction(rest, heredocs, escape)?);
    Ok(Instruction::OnBuild(OnBuild { trigger, instruction }))
}
