//! HEALTHCHECK.

use std::time::Duration;

use super::{Call, FlagKind, Flags, duration, not_strings};
use crate::error::DockerfileError;
use crate::instruction::{CommandLine, Healthcheck, HealthcheckTiming};
use crate::words::{JsonForm, json_form};

/// Shortest duration other than zero, as Docker has it.
const DURATION_MIN: Duration = Duration::from_millis(1);

pub(super) fn parse(call: &Call<'_>) -> Result<Healthcheck, DockerfileError> {
    let flags = call.parse_flags(&[
        ("interval", FlagKind::Text),
        ("timeout", FlagKind::Text),
        ("start-period", FlagKind::Text),
        ("start-interval", FlagKind::Text),
        ("retries", FlagKind::Text),
    ])?;
    let end = call.arguments.find(char::is_whitespace).unwrap_or(call.arguments.len());
    let (kind, rest) = call.arguments.split_at(end);
    let rest = rest.trim_start();
    match kind.to_uppercase().as_str() {
        "" => Err(call.at_least_one()),
        "NONE" if rest.is_empty() => Ok(Healthcheck::Disabled),
        "NONE" => Err(DockerfileError::syntax("HEALTHCHECK NONE takes no arguments")),
        "CMD" => {
            let command = match json_form(rest) {
                JsonForm::Strings(words) => CommandLine::Exec(words),
                JsonForm::NotStrings => return Err(not_strings()),
                JsonForm::Text => CommandLine::Shell(rest.to_owned()),
            };
            let empty = match &command {
                CommandLine::Exec(words) => words.is_empty(),
                CommandLine::Shell(line) => line.is_empty(),
            };
            if empty {
                return Err(DockerfileError::syntax("missing command after HEALTHCHECK CMD"));
            }
            Ok(Healthcheck::Command { command, timing: timing(&flags)? })
        }
        unknown => {
            let message = format!("unknown type {unknown:?} in HEALTHCHECK (try CMD)");
            Err(DockerfileError::syntax(message))
        }
    }
}

fn timing(flags: &Flags) -> Result<HealthcheckTiming, DockerfileError> {
    let retries = match flags.text("retries") {
        None => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) if number < 0 => {
                let message = format!("--retries cannot be less than 0 ({number})");
                return Err(DockerfileError::syntax(message));
            }
            Ok(number) => u32::try_from(number).map_err(|_| bad_number(&text))?,
            Err(_) if text.is_empty() => 0,
            Err(_) => return Err(bad_number(&text)),
        },
    };
    Ok(HealthcheckTiming {
        interval: option(flags, "interval")?,
        timeout: option(flags, "timeout")?,
        start_period: option(flags, "start-period")?,
        start_interval: option(flags, "start-interval")?,
        retries,
    })
}

fn bad_number(text: &str) -> DockerfileError {
    DockerfileError::syntax(format!("invalid value for --retries: {text:?} is not a number"))
}

fn option(flags: &Flags, name: &str) -> Result<Duration, DockerfileError> {
    let Some(text) = flags.text(name).filter(|text| !text.is_empty()) else {
        return Ok(Duration::ZERO);
    };
    let invalid = || DockerfileError::syntax(format!("invalid duration {text:?} for --{name}"));
    let too_short =
        || DockerfileError::syntax(format!("Interval {name:?} cannot be less than 1ms"));
    let duration = match text.strip_prefix('-') {
        Some(positive) => match duration::parse(positive) {
            Some(Duration::ZERO) => Duration::ZERO,
            Some(_) => return Err(too_short()),
            None => return Err(invalid()),
        },
        None => duration::parse(&text).ok_or_else(invalid)?,
    };
    if Duration::ZERO < duration && duration < DURATION_MIN {
        return Err(too_short());
    }
    Ok(duration)
}
