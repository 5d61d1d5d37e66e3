//! `shipway build`: an image from a Dockerfile, without Docker.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use image_builder::{
    BasePolicy, BuildRequest, CacheUse, ContextDirectory, IsolationChoice, NamedContext, Output,
    OutputTarget,
};
use oci_model::{Platform, Reference};

use crate::build::credentials::{CredentialFile, client_options};
use crate::build::progress::{self, Style};
use crate::build::{self, DockerfileLocation, Machinery, Subject};
use crate::exit::Failure;
use crate::globals::Globals;
use crate::output;

/// Flags of `shipway build`; docker's where docker has them.
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// Directory, tar archive or Dockerfile on standard input (-), URL or git reference
    #[arg(default_value = ".", value_name = "CONTEXT")]
    context: String,
    /// Name and tag of the image; may repeat
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// The Dockerfile [default: CONTEXT/Dockerfile]; - is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<String>,
    /// Push the image to the registry of each tag
    #[arg(long)]
    push: bool,
    /// Platform of the image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Value of an ARG; KEY alone takes the environment's
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    build_args: Vec<String>,
    /// Another context by name: a directory, or docker-image://REFERENCE
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    build_contexts: Vec<String>,
    /// Secret for RUN --mount=type=secret: id=ID[,src=PATH][,env=NAME]
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,
    /// Agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long = "ssh", value_name = "ID[=SOCKET]")]
    agents: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Annotation of the manifest
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<String>,
    /// Execute every step anew
    #[arg(long)]
    no_cache: bool,
    /// Ask the registry for bases even if they are here
    #[arg(long)]
    pull: bool,
    /// Network of RUN steps that name none
    #[arg(long, default_value = "default", value_name = "MODE")]
    network: NetworkArg,
    /// Only check the Dockerfile
    #[arg(long)]
    check: bool,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write facts about the image to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Where the result goes besides the store: a directory, - for a tar archive, or
    /// type=oci|docker|local|tar,dest=PATH
    #[arg(short, long, value_name = "SPEC")]
    output: Vec<String>,
    /// How progress is shown
    #[arg(long, default_value = "auto", value_name = "STYLE")]
    progress: ProgressArg,
    /// Print only the image ID
    #[arg(short, long)]
    quiet: bool,
    /// How RUN steps run [default: the best that works here]
    #[arg(long, default_value = "auto", value_name = "MODE")]
    isolation: IsolationArg,
    /// Registries (HOST[:PORT]) that may speak plain HTTP or have any certificate
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure_registries: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProgressArg {
    Auto,
    Plain,
    Json,
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
    let state_dir = globals.state_dir();
    let references = args
        .tags
        .iter()
        .map(|text| reference(text))
        .collect::<Result<Vec<Reference>, Failure>>()?;
    if args.push && references.is_empty() {
        return Err(Failure::usage("--push needs a name").hint("add -t REGISTRY/NAME:TAG"));
    }
    if args.isolation == IsolationArg::Inplace {
        return Err(Failure::usage(
            "--isolation=inplace changes the root file system of this machine",
        )
        .hint("it exists for `shipway executor` in its own image"));
    }
    let subject = subject(&args)?;
    let style = match args.progress {
        _ if args.quiet => Style::Quiet,
        ProgressArg::Auto | ProgressArg::Plain => Style::Plain,
        ProgressArg::Json => Style::Json,
    };
    let prepared = build::prepare(&subject, &state_dir.join("build/work")).await?;
    if args.check {
        return check(&subject, &prepared);
    }
    let mut options = client_options();
    options.insecure_registries.clone_from(&args.insecure_registries);
    let builder = build::builder(Machinery {
        state_dir,
        pull: options.clone(),
        push: options,
        credentials: CredentialFile::read(crate::globals::docker_config_dir().as_deref())?,
        bases: if args.pull { BasePolicy::Registry } else { BasePolicy::LocalFirst },
        isolation: args.isolation.choice(None),
        events: progress::events(style),
    })?;
    let mut plan = build::plan(&builder, &subject, &prepared).await?;
    set_network(&mut plan, args.network);
    if !args.quiet {
        for warning in &plan.warnings {
            output::error_line(&format!("warning: {warning}"));
        }
        for name in &plan.unused_build_args {
            output::error_line(&format!("warning: build argument {name} was not consumed"));
        }
    }
    let outputs = outputs(&args.output)?;
    let mut request = BuildRequest::new(Some(prepared.directory.clone()));
    request.named_contexts.clone_from(&subject.named_contexts);
    request.secrets = build::secrets(&args.secrets)?;
    request.agents = agents(&args.agents)?;
    request.git = subject.git.clone();
    request.annotations = build::pairs("--annotation", &args.annotations)?.into_iter().collect();
    request.epoch = epoch(plan.source_date_epoch.as_deref());
    if args.no_cache {
        request.cache = CacheUse::Ignore;
    }
    if args.push {
        request.push_to.clone_from(&references);
    }
    let failed = |error| build::failure(error, &prepared.name);
    let outcome = build::run(&builder, plan, request).await.map_err(failed)?;
    for reference in &references {
        if args.push {
            builder.push(&outcome, reference).await.map_err(failed)?;
        } else if outputs.is_empty() {
            builder.keep(&outcome, reference).await.map_err(failed)?;
        }
    }
    for one in &outputs {
        builder.write(&outcome, one, &references).await.map_err(failed)?;
    }
    report(&args, &outcome, &references)?;
    Ok(ExitCode::SUCCESS)
}

/// A name of an image, as docker reads it.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse::<Reference>()
        .map(|reference| reference.with_default_tag())
        .map_err(|error| Failure::usage(format!("{text:?} is not an image name: {error}")))
}

fn subject(args: &BuildArgs) -> Result<Subject, Failure> {
    let platform = match &args.platform {
        None => Platform::host(),
        Some(text) if text.contains(',') => {
            return Err(Failure::usage("several platforms in one build are not possible yet")
                .hint("build each, then `shipway manifest create`"));
        }
        Some(text) => text.parse().map_err(Failure::usage)?,
    };
    let dockerfile = match args.file.as_deref() {
        None => DockerfileLocation::Default,
        Some("-") => DockerfileLocation::Stdin,
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            DockerfileLocation::Url(url.to_owned())
        }
        Some(path) => DockerfileLocation::Path(path.into()),
    };
    let mut named_contexts = BTreeMap::new();
    for argument in &args.build_contexts {
        let (name, value) = argument.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--build-context {argument:?}: want NAME=VALUE"))
        })?;
        let context = match value.strip_prefix("docker-image://") {
            Some(name) => NamedContext::Image(reference(name)?),
            None => {
                let root = PathBuf::from(value);
                let ignore = std::fs::read_to_string(root.join(".dockerignore"))
                    .map(|text| dockerfile::IgnoreFile::parse(&text))
                    .unwrap_or_else(|_| Ok(dockerfile::IgnoreFile::default()))
                    .map_err(build::dockerfile_failure)?;
                NamedContext::Directory(ContextDirectory { root, ignore })
            }
        };
        named_contexts.insert(name.to_lowercase(), context);
    }
    Ok(Subject {
        context: build::context_location(&args.context)?,
        below: None,
        dockerfile,
        build_args: build::build_args(&args.build_args),
        target: args.target.clone(),
        platform,
        labels: build::pairs("--label", &args.labels)?,
        named_contexts,
        git: image_builder::GitCredentials::default(),
    })
}

fn check(subject: &Subject, prepared: &build::Prepared) -> Result<ExitCode, Failure> {
    let options = build::plan_options(subject, prepared);
    let mut draft =
        dockerfile::Draft::new(&prepared.file, options).map_err(build::dockerfile_failure)?;
    // Bases are not looked up: what they would add to the checks is not worth a network.
    loop {
        let bases = draft.unresolved_bases();
        if bases.is_empty() {
            break;
        }
        let config = oci_model::ImageConfig::default();
        for base in &bases {
            draft.supply_base(base, &config).map_err(build::dockerfile_failure)?;
        }
    }
    let plan = draft.finish().map_err(build::dockerfile_failure)?;
    for warning in &plan.warnings {
        output::line(&format!("{}: {warning}", prepared.name));
    }
    if plan.warnings.is_empty() {
        output::line("Check complete, no warnings found.");
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("Check complete, {} warning(s) found.", plan.warnings.len()));
    Ok(ExitCode::FAILURE)
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

/// SOURCE_DATE_EPOCH of the build arguments, else of the environment.
pub(crate) fn epoch(planned: Option<&str>) -> Option<i64> {
    let environment = || std::env::var("SOURCE_DATE_EPOCH").ok();
    planned.map(str::to_owned).or_else(environment)?.trim().parse().ok()
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

fn outputs(arguments: &[String]) -> Result<Vec<Output>, Failure> {
    arguments.iter().map(|argument| one_output(argument)).collect()
}

fn one_output(argument: &str) -> Result<Output, Failure> {
    if argument == "-" {
        return Ok(Output::FilesArchive(OutputTarget::Stdout));
    }
    if !argument.contains('=') {
        return Ok(Output::Files(argument.into()));
    }
    let bad = |reason: String| Failure::usage(format!("-o {argument:?}: {reason}"));
    let (mut kind, mut path, mut as_archive) = (None, None, true);
    for field in argument.split(',') {
        match field.split_once('=') {
            Some(("type", value)) => kind = Some(value),
            Some(("dest", value)) => path = Some(value),
            Some(("tar", value)) => as_archive = value != "false",
            Some((key, _)) => return Err(bad(format!("unexpected key {key:?}"))),
            None => return Err(bad("want type=…,dest=…".to_owned())),
        }
    }
    let target = || match path {
        None | Some("-") => {
            if std::io::stdout().is_terminal() {
                return Err(bad("refusing to write an archive to a terminal".to_owned()));
            }
            Ok(OutputTarget::Stdout)
        }
        Some(path) => Ok(OutputTarget::File(path.into())),
    };
    let directory = || path.map(PathBuf::from).ok_or_else(|| bad("dest is missing".to_owned()));
    match kind {
        Some("oci") if !as_archive => Ok(Output::OciDirectory(directory()?)),
        Some("oci") => Ok(Output::OciArchive(target()?)),
        Some("docker") => Ok(Output::DockerArchive(target()?)),
        Some("tar") => Ok(Output::FilesArchive(target()?)),
        Some("local") => Ok(Output::Files(directory()?)),
        Some(other) => Err(bad(format!("unknown type {other:?}: oci, docker, local or tar"))),
        None => Err(bad("type is missing".to_owned())),
    }
}

fn report(
    args: &BuildArgs,
    outcome: &image_builder::BuildOutcome,
    references: &[Reference],
) -> Result<(), Failure> {
    let names: Vec<String> = references.iter().map(Reference::familiar).collect();
    if let Some(path) = &args.iidfile {
        std::fs::write(path, outcome.config.to_string())?;
    }
    if let Some(path) = &args.metadata_file {
        let document = serde_json::json!({
            "containerimage.config.digest": outcome.config.to_string(),
            "containerimage.digest": outcome.manifest.digest().to_string(),
            "containerimage.descriptor": {
                "mediaType": outcome.manifest.media_type().as_str(),
                "digest": outcome.manifest.digest().to_string(),
                "size": outcome.manifest.bytes().len(),
            },
            "image.name": names.join(","),
        });
        std::fs::write(path, serde_json::to_vec_pretty(&document)?)?;
    }
    if args.quiet {
        output::line(&outcome.config.to_string());
        return Ok(());
    }
    let what =
        if names.is_empty() { "an image without a name".to_owned() } else { names.join(", ") };
    output::error_line(&format!(
        "built {what}: {} in {:.1}s ({} steps executed, {} cached, {} layers, {} bytes)",
        outcome.manifest.digest(),
        outcome.duration.as_secs_f64(),
        outcome.steps_executed,
        outcome.steps_cached,
        outcome.layer_count(),
        outcome.layer_bytes(),
    ));
    Ok(())
}
