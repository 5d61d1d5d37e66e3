//! `shipway build`: an image from a Dockerfile, without Docker.

mod attest_flags;
pub(crate) mod cache_flags;
mod call;
mod context_flags;
mod output_flags;
mod progress_flags;
mod report;
mod resource_flags;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use image_builder::{BasePolicy, BuildRequest, FamilyChoice, IsolationChoice, Snapshots};
use oci_model::Reference;

use self::context_flags::ContextFlags;
use self::output_flags::Outputs;
use self::progress_flags::ProgressArgs;
use crate::build::credentials::{CredentialFile, client_options};
use crate::build::progress::{End, Progress};
use crate::build::{self, DockerfileLocation, Machinery, Subject, contexts};
use crate::exit::Failure;
use crate::globals::Globals;

/// Flags of `shipway build`; docker's where docker has them.
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// Directory, tar archive or Dockerfile on standard input (-), URL or git reference
    #[arg(default_value = ".", value_name = "CONTEXT")]
    context: String,
    /// The Dockerfile [default: CONTEXT/Dockerfile]; - is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<String>,
    /// Value of an ARG; KEY alone takes the environment's
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    build_args: Vec<String>,
    #[command(flatten)]
    contexts: ContextFlags,
    /// Secret for RUN --mount=type=secret: id=ID[,src=PATH][,env=NAME]
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,
    /// Agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long = "ssh", value_name = "ID[=SOCKET]")]
    agents: Vec<String>,
    /// Stage to build; may repeat: the first is the image, the others are only built
    #[arg(long = "target", value_name = "STAGE")]
    targets: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Ask the registry for bases even if they are here
    #[arg(long)]
    pull: bool,
    /// Network of RUN steps that name none
    #[arg(long, default_value = "default", value_name = "MODE")]
    network: NetworkArg,
    #[command(flatten)]
    call: call::CallFlags,
    #[command(flatten)]
    progress: ProgressArgs,
    /// Print only the image ID
    #[arg(short, long)]
    quiet: bool,
    /// How RUN steps run [default: the best that works here]
    #[arg(long, default_value = "auto", value_name = "MODE")]
    isolation: IsolationArg,
    /// Registries (HOST[:PORT]) that may speak plain HTTP or have any certificate
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure_registries: Vec<String>,
    #[command(flatten)]
    resources: resource_flags::ResourceFlags,
    #[command(flatten)]
    outputs: output_flags::OutputFlags,
    #[command(flatten)]
    cache: cache_flags::CacheFlags,
    #[command(flatten)]
    attest: attest_flags::AttestFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NetworkArg {
    Default,
    None,
    Host,
}

/// `--isolation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationArg {
    /// The best that works.
    Auto,
    /// Namespaces over an overlay mount.
    Overlay,
    /// The same in a user namespace.
    Userns,
    /// The root of this process (executor image only).
    Inplace,
    /// A directory with chroot.
    Chroot,
    /// RUN is refused.
    None,
}

impl IsolationArg {
    /// The choice it stands for.
    pub(crate) fn choice(self, in_place: Option<Vec<PathBuf>>) -> IsolationChoice {
        use container_runtime::Mode;
        let keep = || in_place.clone().unwrap_or_default();
        let mode = match self {
            Self::Auto => return IsolationChoice::Auto { in_place },
            Self::Overlay => Mode::Overlay,
            Self::Userns => Mode::UserNamespace,
            Self::Inplace => Mode::InPlace,
            Self::Chroot => Mode::Chroot,
            Self::None => Mode::None,
        };
        IsolationChoice::Exactly { mode, keep: keep() }
    }
}

/// Runs the verb.
pub(crate) async fn run(args: BuildArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let progress = Progress::start(args.progress.style(args.quiet));
    let result = run_shown(&args, globals, &progress).await;
    let end = match &result {
        Ok(_) => End::Finished,
        Err(failure) if failure.is_interruption() => End::Cancelled,
        Err(_) => End::Failed,
    };
    progress.finish(end);
    result.map_err(|failure| progress.report(failure))
}

async fn run_shown(
    args: &BuildArgs,
    globals: &Globals,
    progress: &Progress,
) -> Result<ExitCode, Failure> {
    let state_dir = globals.state_dir();
    let resources = args.resources.read()?;
    let call = args.call.read(&args.outputs.outputs)?;
    let outputs = args.outputs.read()?;
    if args.isolation == IsolationArg::Inplace {
        return Err(Failure::usage(
            "--isolation=inplace changes the root file system of this machine",
        )
        .hint("it exists for `shipway executor` in its own image"));
    }
    let mut subject = subject(args, &outputs)?;
    let mut options = client_options()?;
    options.insecure_registries.clone_from(&args.insecure_registries);
    let credentials = CredentialFile::read(crate::globals::docker_config_dir().as_deref())?;
    let git = contexts::git_credentials(&subject.context);
    let access = contexts::access(&state_dir, options.clone(), &credentials, git.clone())?;
    let prepared = build::until_stopped(build::prepare(&subject, &access)).await?;
    let named = build::fetch_named(&mut subject, &prepared, &access);
    let _named = build::until_stopped(named).await?;
    if let Some(call) = call {
        progress.finish(End::Finished);
        return call::run(call, &subject, &prepared);
    }
    let builder = build::builder(Machinery {
        state_dir,
        pull: options.clone(),
        push: options,
        credentials,
        bases: if args.pull { BasePolicy::Registry } else { BasePolicy::LocalFirst },
        warmed: None,
        isolation: args.isolation.choice(None),
        events: progress.events(),
    })?;
    let failed = |error| build::failure(error, &prepared, progress.tail().as_ref());
    for file in &outputs.files {
        file.check(outputs.platforms.len()).map_err(failed)?;
    }
    let plans = build::until_stopped(build::plans(&builder, &subject, &prepared)).await;
    let mut plans = plans.inspect_err(|_| {
        // What the text alone shows is worth saying even if there is no plan.
        call::text_warnings(&prepared).into_iter().for_each(|line| progress.warn(line));
    })?;
    plans.iter_mut().for_each(|plan| set_network(plan, args.network));
    for warning in build::warnings(&prepared.name, &plans) {
        progress.warn(warning);
    }
    let mut request = BuildRequest::new(Some(prepared.directory.clone()));
    request.named_contexts.clone_from(&subject.named_contexts);
    request.secrets = build::secrets(&args.secrets)?;
    request.agents = agents(&args.agents)?;
    request.resources = resources;
    request.git = git;
    request.attest = args.attest.read()?;
    request.invocation = build::invocation(&subject, &prepared, &outputs.names);
    request.annotations = outputs.annotations.clone();
    request.epoch = build::epoch(&plans)?;
    if let Some(family) = outputs.form.family {
        request.family = FamilyChoice::Exactly(family);
    }
    if let Some(compression) = outputs.form.compression {
        request.compression = compression;
    }
    if outputs.squash {
        request.snapshots = Snapshots::Single;
    }
    let inline = subject.build_args.get("BUILDKIT_INLINE_CACHE").map(String::as_str);
    args.cache.apply(&mut request, inline)?;
    if outputs.push {
        request.push_to.clone_from(&outputs.names);
    }
    let outcome = build::run(&builder, plans, request).await.map_err(failed)?;
    let deliver = async {
        for one in &outputs.files {
            builder.write(&outcome, one, &outputs.names).await.map_err(failed)?;
        }
        if outputs.push {
            for pushed in builder.push_all(&outcome, &outputs.names).await {
                pushed.map_err(failed)?;
            }
        }
        if outputs.keep {
            for name in &outputs.names {
                builder.keep(&outcome, name).await.map_err(failed)?;
            }
        }
        Ok(())
    };
    build::until_stopped(deliver).await?;
    progress.finish(End::Finished);
    report::write(args, &outcome, &outputs.names, progress)?;
    Ok(ExitCode::SUCCESS)
}

/// A name of an image, as docker reads it.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse::<Reference>()
        .map(|reference| reference.with_default_tag())
        .map_err(|error| Failure::usage(format!("{text:?} is not an image name: {error}")))
}

fn subject(args: &BuildArgs, outputs: &Outputs) -> Result<Subject, Failure> {
    let dockerfile = match args.file.as_deref() {
        None => DockerfileLocation::Default,
        Some("-") => DockerfileLocation::Stdin,
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            DockerfileLocation::Url(url.to_owned())
        }
        Some(path) => DockerfileLocation::Path(path.into()),
    };
    let (named_contexts, remote_contexts) = args.contexts.named()?;
    let build_args = build::build_args(&args.build_args);
    Ok(Subject {
        context: contexts::location(&args.context, keeps_git_directory(&build_args))?,
        below: None,
        dockerfile,
        build_args,
        targets: args.targets.clone(),
        platforms: outputs.platforms.clone(),
        labels: build::pairs("--label", &args.labels)?,
        named_contexts,
        remote_contexts,
        context_times: BTreeMap::new(),
    })
}

/// BUILDKIT_CONTEXT_KEEP_GIT_DIR: whether `.git` is part of a git context.
fn keeps_git_directory(build_args: &BTreeMap<String, String>) -> bool {
    let value = build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").map(String::as_str);
    matches!(value, Some("1" | "true"))
}

fn set_network(plan: &mut dockerfile::Plan, network: NetworkArg) {
    let network = match network {
        NetworkArg::Default => return,
        NetworkArg::None => dockerfile::Network::None,
        NetworkArg::Host => dockerfile::Network::Host,
    };
    for step in plan.stages.iter_mut().flat_map(|stage| &mut stage.steps) {
        if let dockerfile::Action::Run(run) = &mut step.action
            && run.network == dockerfile::Network::Default
        {
            run.network = network;
        }
    }
}

fn agents(arguments: &[String]) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut agents = BTreeMap::new();
    for argument in arguments {
        let (id, socket) = match argument.split_once('=') {
            Some((id, socket)) => (id, PathBuf::from(socket)),
            None => {
                let socket = std::env::var_os("SSH_AUTH_SOCK").ok_or_else(|| {
                    Failure::usage(format!("--ssh {argument}: SSH_AUTH_SOCK is not set"))
                        .hint("start an agent, or write --ssh ID=SOCKET")
                })?;
                (argument.as_str(), PathBuf::from(socket))
            }
        };
        agents.insert(id.to_owned(), socket);
    }
    Ok(agents)
}
