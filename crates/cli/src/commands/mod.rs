//! One file per verb, each with its flags (`Args`) and `run`.

pub(crate) mod build;
mod cache;
mod completions;
mod context;
mod copy;
pub(crate) mod credential_helper;
mod credential_provider;
mod demo;
mod down;
mod executor;
mod explain;
mod inspect;
mod login;
mod manifest;
mod node;
mod pull;
mod push;
mod registry;
mod secret;
mod status;
mod tags;
mod up;
pub(crate) mod warmer;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::exit::Failure;
use crate::globals::{Globals, LogFormat};

/// The codes of [`crate::exit::Kind`], for scripts.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong input, 3 refused by the other side, \
    4 not found, 5 unreachable, 6 this machine cannot do it, 7 `explain` could not see everything, 70 a mistake of ours, 130 stopped by \
    Ctrl-C. `executor` exits as kaniko does.";

/// Build an image without Docker, keep it in a private registry, pull it with the right
/// credentials, run it: the whole image path of Kubernetes in one binary.
#[derive(Parser, Debug)]
#[command(
    name = "shipway",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Build an image from a Dockerfile, without Docker
    Build(Box<build::BuildArgs>),
    /// Build as kaniko's executor does, with its flags
    Executor(Box<executor::ExecutorArgs>),
    /// Push a build context to a registry, for builds without a volume
    Context(context::ContextArgs),
    /// List and prune what builds keep: steps and cache mounts
    Cache(cache::CacheArgs),
    /// Fill a directory with base images, for `executor --cache-dir`
    Warmer(Box<warmer::WarmerArgs>),
    /// Check a credential against a registry and keep it in docker's config.json
    Login(login::LoginArgs),
    /// Forget the credential of a registry
    Logout(login::LogoutArgs),
    /// Pull an image into the state directory
    Pull(pull::PullArgs),
    /// Push an image that was built or pulled here
    Push(push::PushArgs),
    /// Copy an image between registries, OCI layouts, docker archives and the state directory
    Copy(copy::CopyArgs),
    /// Show an image in its registry without pulling its layers
    Inspect(inspect::InspectArgs),
    /// List the tags of a repository
    Tags(tags::TagsArgs),
    /// Make lists of images for several platforms and push them
    Manifest(manifest::ManifestArgs),
    /// Serve a private registry, manage its users, collect its garbage
    Registry(registry::RegistryArgs),
    /// Answer a kubelet that asks for credentials of a cloud's registry
    CredentialProvider(Box<credential_provider::CredentialProviderArgs>),
    /// Give docker and its relatives credentials of a cloud's registry
    CredentialHelper(Box<credential_helper::CredentialHelperArgs>),
    /// Keep registry credentials as pull secrets in the namespaces of a cluster
    Secret(Box<secret::SecretArgs>),
    /// Say why images of a pod, a file or a cluster's workload will or will not be pulled
    Explain(Box<explain::ExplainArgs>),
    /// Build, keep, pull and run a private image on this machine, step by step
    Demo(demo::DemoArgs),
    /// Start a single-node Kubernetes and a private registry on this machine
    Up(Box<up::UpArgs>),
    /// Stop what `up` started
    Down(down::DownArgs),
    /// List, pull, pin and remove the images of the node
    Node(node::NodeArgs),
    /// Show whether a machine runs, and where it listens
    Status(status::StatusArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write the man pages into a directory
    Man(completions::ManArgs),
}

impl Cli {
    /// Reads the command line, of which [`arguments_by_program_name`] made the arguments; help has
    /// the line that the caller typed.
    ///
    /// # Errors
    /// Wrong usage, and what `--help` and `--version` say.
    pub(crate) fn try_parse_as_called(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        if let Some((verb, usage, given)) = arguments.first().and_then(usage_by_program_name) {
            command = command.mut_subcommand(verb, |verb| {
                verb.override_usage(usage).mut_args(|argument| {
                    let is_given = given.is_some_and(|given| argument.get_id() == given);
                    if is_given { argument.hide(true) } else { argument }
                })
            });
        }
        let matches = command.try_get_matches_from_mut(arguments)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    /// What to log if `--log` says nothing: some verbs have a flag of their own for that.
    pub(crate) fn log_filter(&self) -> Option<&'static str> {
        match &self.verb {
            Verb::Executor(args) => args.log_filter(),
            Verb::Warmer(args) => args.log_filter(),
            _ => None,
        }
    }

    /// How lines of the log are written.
    pub(crate) fn log_format(&self) -> LogFormat {
        match &self.verb {
            Verb::Registry(args) => args.log_format(),
            _ => LogFormat::default(),
        }
    }
}

/// Runs the verb.
pub(crate) async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let globals = &cli.globals;
    match cli.verb {
        Verb::Build(args) => build::run(*args, globals).await,
        Verb::Executor(args) => executor::run(*args, globals).await,
        Verb::Context(args) => context::run(args, globals).await,
        Verb::Cache(args) => cache::run(args, globals).await,
        Verb::Warmer(args) => warmer::run(&args, globals).await,
        Verb::Login(args) => login::login(args).await,
        Verb::Logout(args) => login::logout(&args),
        Verb::Pull(args) => pull::run(args, globals).await,
        Verb::Push(args) => push::run(args, globals).await,
        Verb::Copy(args) => copy::run(args, globals).await,
        Verb::Inspect(args) => inspect::run(args, globals).await,
        Verb::Tags(args) => tags::run(args).await,
        Verb::Manifest(args) => manifest::run(args, globals).await,
        Verb::Registry(args) => registry::run(args, globals).await,
        Verb::CredentialProvider(args) => credential_provider::run(*args).await,
        Verb::CredentialHelper(args) => credential_helper::run(*args).await,
        Verb::Secret(args) => secret::run(*args).await,
        Verb::Explain(args) => explain::run(*args, globals).await,
        Verb::Demo(args) => demo::run(args).await,
        Verb::Up(args) => up::run(*args, globals).await,
        Verb::Down(args) => down::run(&args, globals),
        Verb::Node(args) => node::run(args, globals).await,
        Verb::Status(args) => status::run(&args, globals),
        Verb::Completions(args) => completions::completions(&args),
        Verb::Man(args) => completions::man(&args),
    }
}

/// What a verb that the program's name chose is called with, and its argument that the name gives.
fn usage_by_program_name(
    program: &OsString,
) -> Option<(&'static str, String, Option<&'static str>)> {
    let name = Path::new(program).file_name()?.to_string_lossy();
    match &*name {
        "executor" => Some(("executor", format!("{name} [OPTIONS]"), None)),
        "warmer" => Some(("warmer", format!("{name} [OPTIONS]"), None)),
        _ if credential_provider::provider_of_program(&name).is_some() => {
            let usage = format!("{name} [OPTIONS] [ARGUMENT]...");
            Some(("credential-provider", usage, Some("provider")))
        }
        _ if credential_helper::clouds_of_program(&name).is_some() => {
            let usage = format!("{name} [OPTIONS] <ACTION>");
            Some(("credential-helper", usage, Some("cloud")))
        }
        _ => None,
    }
}

/// Lets the name under which the binary was started choose the verb: `executor` and `warmer` are kaniko's,
/// `kubectl-shipway` is the kubectl plugin, and
/// the kubelet's providers and docker's helpers have the names of upstream's.
pub(crate) fn arguments_by_program_name(
    arguments: impl Iterator<Item = OsString>,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let program = arguments
        .first()
        .and_then(|program| Path::new(program).file_name())
        .map(|name| name.to_string_lossy().into_owned());
    if let Some(verb @ ("executor" | "warmer")) = program.as_deref() {
        arguments.insert(1, OsString::from(verb));
    } else if let Some(provider) =
        program.as_deref().and_then(credential_provider::provider_of_program)
    {
        let verb = ["credential-provider", provider].map(OsString::from);
        arguments.splice(1..1, verb);
    } else if let Some(clouds) = program.as_deref().and_then(credential_helper::clouds_of_program) {
        let verb = ["credential-helper", clouds].map(OsString::from);
        arguments.splice(1..1, verb);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_the_line_that_was_typed() {
        for (program, expected) in [
            ("executor", "Usage: executor [OPTIONS]\n"),
            ("ecr-credential-provider", "Usage: ecr-credential-provider [OPTIONS] [ARGUMENT]...\n"),
            (
                "ecr-credential-provider-2",
                "Usage: ecr-credential-provider-2 [OPTIONS] [ARGUMENT]...\n",
            ),
            ("docker-credential-shipway", "Usage: docker-credential-shipway [OPTIONS] <ACTION>\n"),
            ("shipway", "Usage: shipway [OPTIONS] <COMMAND>\n"),
        ] {
            let typed = [format!("/usr/bin/{program}"), "--help".to_owned()].map(OsString::from);
            let arguments = arguments_by_program_name(typed.into_iter());
            let help = Cli::try_parse_as_called(arguments).expect_err("help").to_string();
            assert!(help.contains(expected), "{program}: {help}");
            assert!(!help.contains("<PROVIDER>") && !help.contains("<CLOUD>"), "{program}: {help}");
            let verb = if program.contains("provider") { "get-credentials" } else { "get" };
            let typed = [program, verb].map(OsString::from);
            let arguments = arguments_by_program_name(typed.into_iter());
            let read = Cli::try_parse_as_called(arguments);
            assert_eq!(read.is_ok(), program.contains("credential"), "{program}: {read:?}");
        }
    }

    #[test]
    fn verbs_of_credentials_and_pulls_have_examples() {
        for verb in [
            &["node", "images"][..],
            &["node", "pull"],
            &["node", "prune"],
            &["node", "rm"],
            &["node", "pin"],
            &["node", "unpin"],
            &["secret", "sync"],
            &["credential-provider"],
            &["credential-helper"],
        ] {
            let typed = [&["shipway"], verb, &["--help"]].concat();
            let typed = typed.into_iter().map(OsString::from).collect();
            let help = Cli::try_parse_as_called(typed).expect_err("help").to_string();
            assert!(help.contains("Example"), "{verb:?}: {help}");
        }
    }
}
