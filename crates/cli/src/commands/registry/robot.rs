//! `shipway registry robot`: accounts for machines.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use registry_server::{
    ROBOT_LIFE, Robot, RobotError, RobotRight, RobotSecret, Role, add_robot, list_robots,
    remove_robot, rotate_robot,
};
use serde::Serialize;

use super::config::shape::Time;
use super::default_robots;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

#[derive(Args, Debug)]
pub(super) struct RobotArgs {
    #[command(subcommand)]
    verb: RobotVerb,
}

#[derive(Subcommand, Debug)]
enum RobotVerb {
    /// Add a robot and print its secret, once
    Add(AddArgs),
    /// Show the robots, their rights and their ends
    List(ListArgs),
    /// Remove a robot
    Rm(RmArgs),
    /// Give a robot a new secret and print it, once
    Rotate(RotateArgs),
}

#[derive(Args, Debug)]
struct FileArgs {
    /// Robots file [default: registry/robots.json in the state directory]
    #[arg(long, env = "SHIPWAY_REGISTRY_IDENTITY_ROBOTS", value_name = "FILE")]
    robots: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct AddArgs {
    /// Name; it logs in as robot+NAME
    name: String,
    /// What it may do, pull|create|push|delete|admin, and below which repository; without one
    /// everywhere. Can be given more than once
    #[arg(long = "right", required = true, value_name = "ROLE[=PREFIX]", value_parser = right)]
    rights: Vec<RobotRight>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// When its secret ends, such as 30d, or never [default: 90d]
    #[arg(long, value_name = "TIME", value_parser = life)]
    expires: Option<Life>,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct RmArgs {
    /// Name, without robot+
    name: String,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Args, Debug)]
struct RotateArgs {
    /// Name, without robot+
    name: String,
    /// How long the old secret goes on, such as 1h
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = time)]
    keep_old: Duration,
    /// When the new secret ends, such as 30d, or never [default: 90d]
    #[arg(long, value_name = "TIME", value_parser = life)]
    expires: Option<Life>,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// How long a secret counts; never ends without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life(Option<Duration>);

fn time(text: &str) -> Result<Duration, String> {
    text.parse::<Time>().map(|time| time.0).map_err(str::to_owned)
}

fn life(text: &str) -> Result<Life, String> {
    match text {
        "never" => Ok(Life(None)),
        text => time(text).map(|time| Life(Some(time))),
    }
}

fn right(text: &str) -> Result<RobotRight, String> {
    let (role, prefix) = text.split_once('=').unwrap_or((text, ""));
    let role = match role {
        "pull" => Role::Pull,
        "create" => Role::Create,
        "push" => Role::Push,
        "delete" => Role::Delete,
        "admin" => Role::Admin,
        _ => return Err("a right is pull, create, push, delete or admin, and =PREFIX".to_owned()),
    };
    Ok(RobotRight { prefix: prefix.to_owned(), role })
}

/// What is printed of a robot.
#[derive(Serialize)]
struct Shown {
    name: String,
    login: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    rights: Vec<String>,
}

/// Runs the verb.
pub(super) fn run(args: &RobotArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let path = |file: &FileArgs| {
        file.robots.clone().unwrap_or_else(|| default_robots(&globals.state_dir()))
    };
    let now = SystemTime::now();
    match &args.verb {
        RobotVerb::Add(args) => {
            let robot = Robot {
                name: args.name.clone(),
                description: args.description.clone(),
                created: now,
                expires: end(args.expires, now),
                rights: args.rights.clone(),
            };
            let path = path(&args.file);
            make_parent(&path)?;
            let secret = add_robot(&path, &robot).map_err(explain)?;
            tell(&robot, Some(secret), args.output.output)?;
        }
        RobotVerb::List(args) => {
            let robots = list_robots(&path(&args.file)).map_err(explain)?;
            match args.output.output {
                OutputFormat::Json => {
                    let shown: Vec<_> = robots.iter().map(|robot| shown(robot, None)).collect();
                    output::json(&shown)?;
                }
                OutputFormat::Text => {
                    for robot in &robots {
                        tell(robot, None, OutputFormat::Text)?;
                    }
                }
            }
        }
        RobotVerb::Rm(args) => {
            remove_robot(&path(&args.file), &args.name).map_err(explain)?;
            output::line(&format!("robot {} is gone", args.name));
        }
        RobotVerb::Rotate(args) => {
            let path = path(&args.file);
            let expires = end(args.expires, now);
            let secret = rotate_robot(&path, &args.name, expires, now + args.keep_old);
            let secret = secret.map_err(explain)?;
            let robots = list_robots(&path).map_err(explain)?;
            if let Some(robot) = robots.iter().find(|robot| robot.name == args.name) {
                tell(robot, Some(secret), args.output.output)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn end(life: Option<Life>, now: SystemTime) -> Option<SystemTime> {
    let Life(life) = life.unwrap_or(Life(Some(ROBOT_LIFE)));
    life.map(|life| now + life)
}

fn make_parent(path: &std::path::Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    Ok(())
}

fn explain(error: RobotError) -> Failure {
    let kind = match &error {
        RobotError::Unknown { .. } => Kind::NotFound,
        RobotError::Name { .. } | RobotError::Exists { .. } | RobotError::NoRights { .. } => {
            Kind::Usage
        }
        RobotError::File { .. } => Kind::Environment,
    };
    Failure::new(kind, error)
}

/// Prints a robot; with a secret, that alone on the first line, so that a script can take it.
fn tell(robot: &Robot, secret: Option<RobotSecret>, format: OutputFormat) -> Result<(), Failure> {
    let is_new = secret.is_some();
    let shown = shown(robot, secret);
    if format == OutputFormat::Json {
        output::json(&shown)?;
        return Ok(());
    }
    if let Some(secret) = &shown.secret {
        output::line(secret);
    }
    let expires = shown.expires.as_deref().unwrap_or("never");
    let rights = shown.rights.join(" ");
    let description = shown.description.map(|text| format!("  {text}")).unwrap_or_default();
    let text = format!("{}  {rights}  expires {expires}{description}", shown.login);
    if is_new {
        output::error_line(&format!("{text}\nThe secret is shown this once."));
    } else {
        output::line(&text);
    }
    Ok(())
}

fn shown(robot: &Robot, secret: Option<RobotSecret>) -> Shown {
    let time = |time: SystemTime| {
        let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    let right = |right: &RobotRight| {
        let role = match right.role {
            Role::Pull => "pull",
            Role::Create => "create",
            Role::Push => "push",
            Role::Delete => "delete",
            Role::Admin => "admin",
        };
        if right.prefix.is_empty() { role.to_owned() } else { format!("{role}={}", right.prefix) }
    };
    Shown {
        name: robot.name.clone(),
        login: robot.login(),
        secret: secret.map(RobotSecret::into_text),
        description: robot.description.clone(),
        expires: robot.expires.map(time),
        rights: robot.rights.iter().map(right).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_lives_are_read_as_documented() {
        let read = |text: &str| right(text).map(|right| (right.role, right.prefix)).ok();
        assert_eq!(read("push=team/app"), Some((Role::Push, "team/app".to_owned())));
        assert_eq!(read("pull"), Some((Role::Pull, String::new())));
        assert_eq!(read("root=team"), None);
        assert_eq!(life("never"), Ok(Life(None)));
        assert_eq!(life("30d"), Ok(Life(Some(Duration::from_secs(30 * 24 * 3600)))));
        assert!(life("soon").is_err());
    }
}
