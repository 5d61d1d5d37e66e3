//! Where a setting comes from: the file, a variable, a flag; the later wins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde::Deserialize as _;
use toml::{Table, Value};

use super::Config;
use super::check::{self, Problem};
use super::shape::{Shape, Shaped as _};

/// A single value that a flag and a variable can give.
struct Flag {
    /// Of keys, from `[registry]` on.
    path: Vec<String>,
    /// The key as documented, such as `registry.limits.requests`.
    id: String,
    long: String,
    variable: String,
    placeholder: String,
    help: String,
    heading: Option<String>,
    shape: Shape,
}

static FLAGS: LazyLock<Vec<Flag>> = LazyLock::new(|| {
    let mut flags = Vec::new();
    gather(&Config::shape(), &mut Vec::new(), &mut flags);
    flags
});

fn gather(shape: &Shape, path: &mut Vec<String>, flags: &mut Vec<Flag>) {
    let Shape::Table(keys) = shape else { return };
    for key in keys {
        path.push(key.name.clone());
        if let Some(placeholder) = key.shape.placeholder() {
            let default = key.default.map(|text| format!(" [default: {text}]"));
            flags.push(Flag {
                path: path.clone(),
                id: format!("registry.{}", path.join(".")),
                long: path.join("-"),
                variable: variable(path),
                placeholder,
                help: format!("{}{}", key.doc.trim_end_matches('.'), default.unwrap_or_default()),
                heading: (path.len() > 1).then(|| format!("Options of [registry.{}]", path[0])),
                shape: key.shape.clone(),
            });
        }
        gather(&key.shape, path, flags);
        path.pop();
    }
}

/// The variable of a key.
pub(super) fn variable(path: &[String]) -> String {
    format!("SHIPWAY_REGISTRY_{}", path.join("_").replace('-', "_").to_uppercase())
}

/// The flags of `registry serve` that stand for keys, as they were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyFlags {
    given: Vec<(String, Vec<String>, Value, Origin)>,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A `SHIPWAY_REGISTRY_…` variable.
    Variable,
    /// A flag.
    Flag,
}

impl clap::Args for KeyFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| {
            let mut arg = Arg::new(&*flag.id)
                .long(&*flag.long)
                .env(&*flag.variable)
                .value_name(&*flag.placeholder)
                .help(&*flag.help);
            if let Some(heading) = &flag.heading {
                arg = arg.help_heading(&**heading);
            }
            if flag.shape == Shape::Boolean {
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
            }
            command.arg(arg.value_parser(|text: &str| Ok::<_, String>(text.to_owned())))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for flag in FLAGS.iter() {
            let Some(text) = matches.get_one::<String>(&flag.id) else { continue };
            let origin = match matches.value_source(&flag.id) {
                Some(ValueSource::EnvVariable) => Origin::Variable,
                _ => Origin::Flag,
            };
            let value = value_of(text, &flag.shape).map_err(|why| {
                let name = match origin {
                    Origin::Variable => flag.variable.clone(),
                    Origin::Flag => format!("--{}", flag.long),
                };
                let text = format!("invalid value {text:?} for {name}: {why}\n");
                clap::Error::raw(clap::error::ErrorKind::ValueValidation, text)
            })?;
            given.push((flag.id.clone(), flag.path.clone(), value, origin));
        }
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Reads the text of a flag or variable as the key's type.
fn value_of(text: &str, shape: &Shape) -> Result<Value, String> {
    Ok(match shape {
        Shape::Boolean => match text.to_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Value::Boolean(true),
            "false" | "0" | "no" | "off" | "" => Value::Boolean(false),
            _ => return Err("it is true or false".to_owned()),
        },
        Shape::Integer => {
            let number: u32 = text.parse().map_err(|_| "it is not a whole number from 0 on")?;
            Value::Integer(number.into())
        }
        Shape::Duration => {
            text.parse::<super::shape::Time>()?;
            Value::String(text.to_owned())
        }
        Shape::Bytes => {
            text.parse::<super::shape::Size>()?;
            Value::String(text.to_owned())
        }
        Shape::Choice(words) if !words.iter().any(|word| word == text) => {
            return Err(format!("it is one of {}", words.join(", ")));
        }
        Shape::List(of) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| value_of(part, of)).collect::<Result<_, _>>()?)
        }
        _ => Value::String(text.to_owned()),
    })
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file has mistakes.
    #[error("cannot use {}: {}", path.display(), joined(problems))]
    Content { path: PathBuf, problems: Vec<Problem> },
    /// File, variables and flags do not fit together.
    #[error("the settings of the registry are wrong: {0}")]
    Together(String),
}

fn joined(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What counts: the settings and where each came from.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    pub(crate) config: Config,
    /// As TOML, for people to look at.
    pub(crate) values: Table,
    /// By the path of the key, for those that are not from the file.
    pub(crate) origins: BTreeMap<String, Origin>,
}

impl Effective {
    /// Reads the file, if there is one, and puts variables and flags over it.
    ///
    /// # Errors
    /// [`ConfigError`]; a file is checked completely and every mistake is named.
    pub(crate) fn gather(file: Option<&Path>, flags: &KeyFlags) -> Result<Self, ConfigError> {
        let mut values = match file {
            None => Table::new(),
            Some(path) => read(path)?,
        };
        let mut origins = BTreeMap::new();
        for (id, path, value, origin) in &flags.given {
            insert(&mut values, path, value.clone());
            origins.insert(id.clone(), *origin);
        }
        let config = Config::deserialize(Value::Table(values.clone()))
            .map_err(|error| ConfigError::Together(error.message().to_owned()))?;
        Ok(Self { config, values, origins })
    }
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let failed = |source| ConfigError::File { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let wrong = |problems| ConfigError::Content { path: path.to_owned(), problems };
    let problems = check::problems(&text, &Config::shape());
    if !problems.is_empty() {
        return Err(wrong(problems));
    }
    let unexpected =
        |error: toml::de::Error| wrong(vec![Problem { line: 0, text: error.message().to_owned() }]);
    let mut document: Table = toml::from_str(&text).map_err(unexpected)?;
    let Some(Value::Table(registry)) = document.remove("registry") else {
        return Ok(Table::new());
    };
    // What the checks by shape cannot see, such as numbers out of range.
    Config::deserialize(Value::Table(registry.clone())).map_err(unexpected)?;
    Ok(registry)
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
