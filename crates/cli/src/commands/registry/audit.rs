//! `shipway registry audit`: checks and reads the files of an audit log.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use registry_server::{AuditError, AuditOptions, AuditRecord, read_audit_log};
use serde::Serialize;

use super::config::shape::{Size, settings};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

settings! {
    /// Who did what, as JSON lines, each with the hash of the one before.
    struct AuditConfig {
        /// Write the audit log.
        enabled: bool = "false",
        /// Directory of its files.
        directory: Option<PathBuf> = "registry/audit in the state directory",
        /// Size from which on a file is closed and another begun.
        file_size: Option<Size> = "64MiB",
        /// Record every so many pulls of a manifest.
        pulls_every: Option<u64> = "no pulls",
    }
}

impl AuditConfig {
    /// What the keys say.
    pub(super) fn options(&self, default: PathBuf) -> Option<AuditOptions> {
        self.enabled.then(|| {
            let mut options = AuditOptions::new(self.directory.clone().unwrap_or(default));
            if let Some(size) = self.file_size {
                options.file_bytes_max = size.0.max(1);
            }
            options.pulls_every = self.pulls_every;
            options
        })
    }
}

#[derive(Args, Debug)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Subcommand, Debug)]
enum AuditVerb {
    /// Check that no line was changed, removed or inserted
    Verify(AuditVerifyArgs),
    /// Print the records that match
    Query(AuditQueryArgs),
}

#[derive(Args, Debug)]
struct AuditVerifyArgs {
    /// Directory of the log [default: registry/audit in the state directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Hash that the last line must have, from an earlier run
    #[arg(long, value_name = "HASH")]
    head: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct AuditQueryArgs {
    /// Directory of the log [default: registry/audit in the state directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Only this action, such as push, delete, login_failed
    #[arg(long)]
    action: Option<String>,
    /// Only what this user did
    #[arg(long)]
    actor: Option<String>,
    /// Only this repository and those below it
    #[arg(long)]
    repository: Option<String>,
    /// Only from this time on, such as 2026-11-21T10:00:00Z, or the beginning of one
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What `audit verify` prints.
#[derive(Serialize)]
struct VerifiedReport {
    lines: u64,
    head: String,
}

/// Runs the verb.
pub(super) fn run(args: &AuditArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let default = globals.state_dir().join("registry/audit");
    match &args.verb {
        AuditVerb::Verify(args) => verify(args, default),
        AuditVerb::Query(args) => query(args, default),
    }
}

fn explain(error: AuditError) -> Failure {
    let kind = match &error {
        AuditError::File { .. } => Kind::NotFound,
        AuditError::Broken { .. } => Kind::Failed,
    };
    Failure::new(kind, error)
}

fn verify(args: &AuditVerifyArgs, default: PathBuf) -> Result<ExitCode, Failure> {
    let directory = args.directory.clone().unwrap_or(default);
    let verified = read_audit_log(&directory, |_| {}).map_err(explain)?;
    if let Some(expected) = &args.head
        && *expected != verified.head
    {
        let text = format!("the audit log ends with {}, not with {expected}", verified.head);
        return Err(Failure::new(Kind::Failed, anyhow::anyhow!("{text}"))
            .hint("lines were added since, or the end was cut off: compare with a copy"));
    }
    let report = VerifiedReport { lines: verified.lines, head: verified.head };
    match args.output.output {
        OutputFormat::Json => output::json(&report)?,
        OutputFormat::Text => {
            output::line(&format!("{} lines are whole; head {}", report.lines, report.head));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn query(args: &AuditQueryArgs, default: PathBuf) -> Result<ExitCode, Failure> {
    let directory = args.directory.clone().unwrap_or(default);
    let mut found = Vec::new();
    read_audit_log(&directory, |record| {
        if matches(record, args) {
            found.push(record.clone());
        }
    })
    .map_err(explain)?;
    match args.output.output {
        OutputFormat::Json => output::json(&found)?,
        OutputFormat::Text => found.iter().for_each(|record| output::line(&describe(record))),
    }
    Ok(ExitCode::SUCCESS)
}

fn matches(record: &AuditRecord, args: &AuditQueryArgs) -> bool {
    let below = |prefix: &str, name: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    args.action.as_ref().is_none_or(|action| record.action == *action)
        && args.actor.as_ref().is_none_or(|actor| record.actor == *actor)
        && args.repository.as_ref().is_none_or(|prefix| {
            record.repository.as_ref().is_some_and(|name| below(prefix, name))
        })
        // Times of one form and one zone sort as text.
        && args.since.as_ref().is_none_or(|since| since.as_str() <= record.at.as_str())
}

fn describe(record: &AuditRecord) -> String {
    let actor = if record.actor.is_empty() { "-" } else { &record.actor };
    let mut text = format!("{} {actor} {}", record.at, record.action);
    if let Some(repository) = &record.repository {
        text.push(' ');
        text.push_str(repository);
        if let Some(tag) = &record.tag {
            text.push(':');
            text.push_str(tag);
        }
    }
    for (word, value) in [
        ("", &record.digest),
        ("was ", &record.old_digest),
        ("from ", &record.client),
        ("", &record.detail),
    ] {
        if let Some(value) = value {
            text.push_str(&format!(" {word}{value}"));
        }
    }
    text
}
