//! `shipway registry check-config` and `config-schema`.

use std::path::PathBuf;
use std::process::ExitCode;

use blob_store::BlobStore;
use clap::Args;
use toml::{Table, Value};

use super::config::{Effective, KeyFlags, Origin, json_schema, markdown};
use super::serve;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output;

/// What stands for a part of a value that may be secret.
const REDACTED: &str = "****";

#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    /// The file; without it only variables and flags are checked
    #[arg(env = "SHIPWAY_CONFIG", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print what counts after variables and flags, without credentials in URLs
    #[arg(long)]
    show_effective: bool,
    #[command(flatten)]
    keys: KeyFlags,
}

#[derive(Args, Debug)]
pub(super) struct ConfigSchemaArgs {
    /// Print the documentation instead
    #[arg(long)]
    markdown: bool,
}

/// Checks a file, completely, without starting anything.
pub(super) fn check(args: &CheckConfigArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let effective = Effective::gather(args.file.as_deref(), &args.keys)
        .map_err(|error| Failure::new(Kind::Usage, error))?;
    // What `serve` would make of it, but nothing in the state directory.
    let environment = |error: std::io::Error| Failure::new(Kind::Environment, error);
    let place = tempfile::tempdir().map_err(environment)?;
    let store =
        BlobStore::open(place.path()).map_err(|error| Failure::new(Kind::Environment, error))?;
    serve::options_over(store, effective.config.clone(), globals)?;
    if args.show_effective {
        output::line(show(&effective).trim_end());
    } else {
        output::line("the settings are right");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the schema of the file.
pub(super) fn schema(args: &ConfigSchemaArgs) -> Result<ExitCode, Failure> {
    if args.markdown {
        output::line(markdown().trim_end());
    } else {
        output::json(&json_schema())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings as TOML; a comment says which are not from the file.
fn show(effective: &Effective) -> String {
    let mut values = Value::Table(effective.values.clone());
    redact(&mut values);
    let mut document = Table::new();
    document.insert("registry".to_owned(), values);
    let mut text = toml::to_string_pretty(&document).unwrap_or_default();
    for (key, origin) in &effective.origins {
        let from = match origin {
            Origin::Variable => "a variable",
            Origin::Flag => "a flag",
        };
        text.push_str(&format!("# {key}: from {from}\n"));
    }
    text
}

/// Takes user names, passwords and queries out of every URL.
fn redact(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(safe) = without_secrets(text) {
                *text = safe;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| redact(value)),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

fn without_secrets(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, format!("?{REDACTED}")),
        None => (rest, String::new()),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{REDACTED}@{host}"),
        None => authority.to_owned(),
    };
    Some(format!("{scheme}://{authority}{path}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        for (text, expected) in [
            ("https://u:p@h:1/a/b?token=x", Some("https://****@h:1/a/b?****")),
            ("https://h", Some("https://h")),
            ("https://u@h", Some("https://****@h")),
            ("/a/file?x", None),
        ] {
            assert_eq!(without_secrets(text).as_deref(), expected, "{text}");
        }
    }
}
