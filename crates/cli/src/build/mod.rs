//! What `build` and `executor` share: from flags that became values to an image and its outputs.

mod advice;
pub(crate) mod contexts;
pub(crate) mod credentials;
mod excerpt;
pub(crate) mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use blob_store::BlobStore;
use dockerfile::{Dockerfile, Draft, IgnoreFile, Plan, PlanOptions, ignore_file_names};
use image_builder::{
    BasePolicy, BuildError, BuildOutcome, BuildRequest, Builder, BuilderOptions, ContextAccess,
    ContextDirectory, ContextLocation, Events, FetchedContext, GitCredentials, Invocation,
    IsolationChoice, Material, NamedContext, StepError, WarmedBases, below_context, fetch_context,
    file_below_context, redacted,
};
use layers::UnpackedLayers;
use oci_model::{Platform, Reference};
use registry_client::{Client, ClientOptions};

use crate::build::credentials::CredentialFile;
use crate::build::progress::Tail;
use crate::exit::{Failure, Kind, Place};

/// Largest Dockerfile or ignore file, in bytes: 64 MiB are nothing that a person wrote.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DockerfileLocation {
    /// `Dockerfile`, else `dockerfile`, at the root of the context.
    Default,
    /// A path: as given, else inside the context.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// An http or https URL.
    Url(String),
}

/// What is built.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) context: ContextLocation,
    /// Directory of the fetched context that is the context.
    pub(crate) below: Option<PathBuf>,
    pub(crate) dockerfile: DockerfileLocation,
    pub(crate) build_args: BTreeMap<String, String>,
    /// The first is the image, others are only built; none is the last stage.
    pub(crate) targets: Vec<String>,
    /// Never empty; several make an index.
    pub(crate) platforms: Vec<Platform>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) named_contexts: BTreeMap<String, NamedContext>,
    /// Named contexts that are to be fetched yet ([`fetch_named`]).
    pub(crate) remote_contexts: BTreeMap<String, ContextLocation>,
    /// When fetched named contexts changed last, in unix seconds.
    pub(crate) context_times: BTreeMap<String, i64>,
}

/// Directories and clients of a build.
#[derive(Debug)]
pub(crate) struct Machinery {
    pub(crate) state_dir: PathBuf,
    pub(crate) pull: ClientOptions,
    pub(crate) push: ClientOptions,
    pub(crate) credentials: CredentialFile,
    pub(crate) bases: BasePolicy,
    pub(crate) warmed: Option<WarmedBases>,
    pub(crate) isolation: IsolationChoice,
    pub(crate) events: Events,
}

/// A Dockerfile with its context, read and parsed.
pub(crate) struct Prepared {
    pub(crate) file: Dockerfile,
    /// A fetched context is removed when this is dropped.
    pub(crate) context: FetchedContext,
    pub(crate) directory: ContextDirectory,
    pub(crate) name: String,
    /// Whether the Dockerfile speaks of SOURCE_DATE_EPOCH.
    mentions_epoch: bool,
}

/// Fetches the context and parses the Dockerfile.
pub(crate) async fn prepare(
    subject: &Subject,
    access: &ContextAccess,
) -> Result<Prepared, Failure> {
    if subject.dockerfile == DockerfileLocation::Stdin && subject.context == ContextLocation::Stdin
    {
        return Err(Failure::usage(
            "invalid argument: can't use stdin for both build context and dockerfile",
        ));
    }
    let mut context = fetch_context(&subject.context, access)
        .await
        .map_err(|error| Failure::new(Kind::Usage, error).hint("check the build context"))?;
    if let Some(below) = &subject.below {
        context.root = below_context(&context.root, below)
            .map_err(|error| Failure::new(Kind::Usage, error).hint("check --context-sub-path"))?;
    }
    let found = read_dockerfile(subject, &context, access).await?;
    let FoundDockerfile { name, bytes, is_elsewhere } = found;
    let file = Dockerfile::parse(&name, &bytes)
        .map_err(|error| mistake(error, &String::from_utf8_lossy(&bytes)))?;
    let ignore = match ignore_text(&context.root, &name, is_elsewhere, context.is_fetched())? {
        Some(text) => IgnoreFile::parse(&text).map_err(dockerfile_failure)?,
        None => IgnoreFile::default(),
    };
    let directory = ContextDirectory { root: context.root.clone(), ignore };
    let epoch = b"SOURCE_DATE_EPOCH";
    let mentions_epoch = bytes.windows(epoch.len()).any(|window| window == epoch);
    Ok(Prepared { file, context, directory, name, mentions_epoch })
}

/// Fetches those named contexts from elsewhere whose time SOURCE_DATE_EPOCH may ask for; they are
/// removed when the result is dropped. The builder fetches the others when it needs them.
pub(crate) async fn fetch_named(
    subject: &mut Subject,
    prepared: &Prepared,
    access: &ContextAccess,
) -> Result<Vec<FetchedContext>, Failure> {
    let mut kept = Vec::new();
    for (name, location) in std::mem::take(&mut subject.remote_contexts) {
        let gives_the_time = match subject.build_args.get("SOURCE_DATE_EPOCH") {
            Some(epoch) => *epoch == name,
            None => prepared.mentions_epoch,
        };
        if !gives_the_time {
            subject.named_contexts.insert(name, NamedContext::Remote(location));
            continue;
        }
        let fetched = fetch_context(&location, access).await.map_err(|error| {
            Failure::new(Kind::Usage, error).hint(format!("check --build-context {name}"))
        })?;
        if let Some(time) = fetched.time {
            subject.context_times.insert(name.clone(), time);
        }
        subject.named_contexts.insert(name, named_directory(fetched.root.clone(), true)?);
        kept.push(fetched);
    }
    Ok(kept)
}

/// A directory as a named context, with its own ignore file; `is_fetched` if it came from
/// elsewhere.
pub(crate) fn named_directory(root: PathBuf, is_fetched: bool) -> Result<NamedContext, Failure> {
    let path = Path::new(".dockerignore");
    let ignore = match read_text(ContextFile { root: &root, path, is_fetched })? {
        Some(text) => IgnoreFile::parse(&text).map_err(dockerfile_failure)?,
        None => IgnoreFile::default(),
    };
    Ok(NamedContext::Directory(ContextDirectory { root, ignore }))
}

/// A mistake in a file of patterns, with its line.
pub(crate) fn dockerfile_failure(error: dockerfile::DockerfileError) -> Failure {
    let line = error.line_text().map(str::to_owned);
    let mut text = error.to_string();
    if let Some(line) = line {
        text.push_str(&format!("\n  | {line}"));
    }
    Failure::usage(text)
}

/// A mistake in the Dockerfile, with the lines around it.
pub(crate) fn mistake(error: dockerfile::DockerfileError, text: &str) -> Failure {
    let Some(span) = error.span() else { return Failure::usage(error) };
    let name = if error.file().is_empty() { "Dockerfile" } else { error.file() };
    let place = Place::new(name, span);
    let details = excerpt::excerpt(name, text, span);
    Failure::usage(error).details(details).at(place)
}

/// A Dockerfile as it was found.
struct FoundDockerfile {
    name: String,
    bytes: Vec<u8>,
    /// Whether it was named by a path outside of the context, so that its ignore file may be
    /// beside it.
    is_elsewhere: bool,
}

async fn read_dockerfile(
    subject: &Subject,
    context: &FetchedContext,
    access: &ContextAccess,
) -> Result<FoundDockerfile, Failure> {
    let found = |name: String, bytes| FoundDockerfile { name, bytes, is_elsewhere: false };
    let inside = |path: &Path| {
        let is_fetched = context.is_fetched();
        read_file(ContextFile { root: &context.root, path, is_fetched })
    };
    match &subject.dockerfile {
        DockerfileLocation::Stdin => {
            let bytes = read_bounded(std::io::stdin().lock(), "standard input")?;
            Ok(found("Dockerfile".to_owned(), bytes))
        }
        DockerfileLocation::Url(url) => {
            let location = ContextLocation::Url(url.clone());
            let fetched = fetch_context(&location, access).await?;
            let (root, path, url) = (&fetched.root, Path::new("Dockerfile"), redacted(url));
            let read = read_file(ContextFile { root, path, is_fetched: true })?;
            let missing = || Failure::usage(format!("there is no Dockerfile in {url}"));
            Ok(found(url.clone(), read.ok_or_else(missing)?))
        }
        DockerfileLocation::Path(path) if path.is_file() => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path);
            let file = file.with_context(|| format!("cannot read {name}"))?;
            let bytes = read_bounded(file, &name)?;
            Ok(FoundDockerfile { name, bytes, is_elsewhere: true })
        }
        DockerfileLocation::Path(path) => {
            let below = path.strip_prefix("/").unwrap_or(path);
            let missing = || {
                Failure::usage(format!(
                    "please provide a valid path to a Dockerfile within the build context with \
                     --dockerfile: {} does not exist",
                    path.display()
                ))
            };
            Ok(found(path.display().to_string(), inside(below)?.ok_or_else(missing)?))
        }
        DockerfileLocation::Default => {
            for name in ["Dockerfile", "dockerfile"] {
                if let Some(bytes) = inside(Path::new(name))? {
                    return Ok(found(name.to_owned(), bytes));
                }
            }
            let text = format!("there is no Dockerfile in {}", context.root.display());
            Err(Failure::usage(text).hint("name it with -f PATH"))
        }
    }
}

/// A file of a context.
#[derive(Clone, Copy)]
struct ContextFile<'a> {
    root: &'a Path,
    path: &'a Path,
    /// Whether the context came from elsewhere: then links must not lead out of it.
    is_fetched: bool,
}

/// The bytes of a file of a context, if it is there and a file.
fn read_file(wanted: ContextFile<'_>) -> Result<Option<Vec<u8>>, Failure> {
    let ContextFile { root, path, is_fetched } = wanted;
    let found = root.join(path);
    let is_missing = match std::fs::metadata(&found) {
        Ok(metadata) => !metadata.is_file(),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            true
        }
        Err(error) => {
            let text = format!("cannot read {}", found.display());
            return Err(anyhow::Error::from(error).context(text).into());
        }
    };
    if is_missing {
        return Ok(None);
    }
    let found = if is_fetched {
        file_below_context(root, path).map_err(|error| Failure::new(Kind::Usage, error))?
    } else {
        found
    };
    let name = found.display().to_string();
    let file = std::fs::File::open(&found).with_context(|| format!("cannot read {name}"))?;
    read_bounded(file, &name).map(Some)
}

fn read_text(wanted: ContextFile<'_>) -> Result<Option<String>, Failure> {
    let Some(bytes) = read_file(wanted)? else { return Ok(None) };
    let name = wanted.root.join(wanted.path);
    let bad = |_| Failure::usage(format!("{} is not UTF-8", name.display()));
    String::from_utf8(bytes).map(Some).map_err(bad)
}

/// What a reader gives, if that can be something a person wrote.
fn read_bounded(from: impl std::io::Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut limited = std::io::Read::take(from, TEXT_BYTES_MAX + 1);
    std::io::Read::read_to_end(&mut limited, &mut bytes)
        .with_context(|| format!("cannot read {name}"))?;
    if TEXT_BYTES_MAX < bytes.len() as u64 {
        return Err(Failure::usage(format!("{name} has more than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// The ignore file that counts for a Dockerfile, if there is one: beside the Dockerfile if that
/// was named by a path elsewhere, else in the context.
pub(crate) fn ignore_text(
    root: &Path,
    dockerfile: &str,
    is_elsewhere: bool,
    is_fetched: bool,
) -> Result<Option<String>, Failure> {
    let [own, general] = ignore_file_names(dockerfile);
    if is_elsewhere {
        let (root, path) = (Path::new(""), Path::new(&own));
        if let Some(text) = read_text(ContextFile { root, path, is_fetched: false })? {
            return Ok(Some(text));
        }
    }
    for name in [own, general] {
        let path = Path::new(&name);
        let path = path.strip_prefix("/").unwrap_or(path);
        if let Some(text) = read_text(ContextFile { root, path, is_fetched })? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Options of a plan for one target and platform.
fn options_for(
    subject: &Subject,
    prepared: &Prepared,
    target: Option<&String>,
    platform: &Platform,
) -> PlanOptions {
    PlanOptions {
        build_args: subject.build_args.clone(),
        target: target.cloned(),
        labels: subject.labels.clone(),
        build_platform: Platform::host(),
        named_contexts: subject.named_contexts.keys().cloned().collect::<BTreeSet<_>>(),
        ignore_file: Some(prepared.directory.ignore.clone()),
        ..PlanOptions::for_platform(platform.clone())
    }
}

/// A first look at the plan, without bases: enough for lint findings.
pub(crate) fn plan_options(subject: &Subject, prepared: &Prepared) -> PlanOptions {
    let platform = subject.platforms.first().cloned().unwrap_or_else(Platform::host);
    options_for(subject, prepared, subject.targets.first(), &platform)
}

/// Makes a builder.
pub(crate) fn builder(machinery: Machinery) -> Result<Builder, Failure> {
    let state = |error: anyhow::Error| {
        let hint = format!(
            "choose another state directory with --state-dir, or free {}",
            machinery.state_dir.display()
        );
        Failure::new(Kind::Environment, error).hint(hint)
    };
    let store = BlobStore::open(machinery.state_dir.join("blobs")).map_err(|e| state(e.into()))?;
    let unpacked = UnpackedLayers::open(&machinery.state_dir.join("layers"))
        .map_err(|error| state(error.into()))?;
    let directory = machinery.state_dir.join("build");
    std::fs::create_dir_all(&directory).map_err(|error| state(error.into()))?;
    Ok(Builder::new(BuilderOptions {
        directory,
        store,
        unpacked,
        pull: Client::new(machinery.pull)?,
        push: Client::new(machinery.push)?,
        credentials: machinery.credentials.source(),
        bases: machinery.bases,
        warmed: machinery.warmed,
        isolation: machinery.isolation,
        events: machinery.events,
    }))
}

/// Plans of everything that is wanted: the first target for every platform, then the others.
pub(crate) async fn plans(
    builder: &Builder,
    subject: &Subject,
    prepared: &Prepared,
) -> Result<Vec<Plan>, Failure> {
    let targets: Vec<Option<&String>> = match &subject.targets[..] {
        [] => vec![None],
        some => some.iter().map(Some).collect(),
    };
    let mut plans = Vec::new();
    for target in targets {
        for platform in &subject.platforms {
            let options = options_for(subject, prepared, target, platform);
            let made = plan(builder, subject, prepared, options.clone()).await?;
            plans.push(match dated(builder, subject, prepared, options, &made).await? {
                Some(options) => plan(builder, subject, prepared, options).await?,
                None => made,
            });
        }
    }
    Ok(plans)
}

/// The options with SOURCE_DATE_EPOCH in seconds, if the plan names a source instead: commands
/// see the same value as the image. A source without a time means none.
async fn dated(
    builder: &Builder,
    subject: &Subject,
    prepared: &Prepared,
    mut options: PlanOptions,
    made: &Plan,
) -> Result<Option<PlanOptions>, Failure> {
    let Some(text) = made.source_date_epoch.as_deref() else { return Ok(None) };
    if text.parse::<i64>().is_ok() {
        return Ok(None);
    }
    let seconds = if text == "context" {
        prepared.context.time
    } else if subject.named_contexts.contains_key(text) {
        subject.context_times.get(text).copied()
    } else {
        let target = Some(text.to_owned());
        let git: GitCredentials = contexts::git_credentials(&subject.context);
        let of_stage = PlanOptions { target, ..options.clone() };
        let plan = Box::pin(plan(builder, subject, prepared, of_stage)).await?;
        let found = builder.epoch_of_stage(plan.stage(plan.target), &git).await;
        found.map_err(|error| failure(error, prepared, None))?
    };
    let value = seconds.map(|seconds| seconds.to_string()).unwrap_or_default();
    options.build_args.insert("SOURCE_DATE_EPOCH".to_owned(), value);
    Ok(Some(options))
}

/// Resolves bases until the plan is complete.
async fn plan(
    builder: &Builder,
    subject: &Subject,
    prepared: &Prepared,
    options: PlanOptions,
) -> Result<Plan, Failure> {
    let platform = options.target_platform.clone();
    let wrong = |error| mistake(error, prepared.file.text());
    let mut draft = Draft::new(&prepared.file, options).map_err(wrong)?;
    loop {
        let bases = draft.unresolved_bases();
        if bases.is_empty() {
            return draft.finish().map_err(wrong);
        }
        let lookups =
            bases.iter().map(|base| builder.base_config(base, &subject.named_contexts, &platform));
        let configs = futures_util::future::join_all(lookups).await;
        for (base, config) in bases.iter().zip(configs) {
            let config = config.map_err(|error| failure(error, prepared, None))?;
            draft.supply_base(base, &config).map_err(wrong)?;
        }
    }
}

/// What the plans warn of, each once.
pub(crate) fn warnings(dockerfile: &str, plans: &[Plan]) -> Vec<String> {
    let mut texts = Vec::new();
    for warning in plans.iter().flat_map(|plan| &plan.warnings) {
        texts.push(warning_line(dockerfile, warning));
    }
    let (first, rest) =
        plans.split_first().map_or((None, plans), |(first, rest)| (Some(first), rest));
    for name in first.iter().flat_map(|plan| &plan.unused_build_args) {
        if rest.iter().all(|plan| plan.unused_build_args.contains(name)) {
            texts.push(format!("build argument {name} was not consumed"));
        }
    }
    let mut seen = BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts
}

/// What statements about the image say of the call.
pub(crate) fn invocation(
    subject: &Subject,
    prepared: &Prepared,
    names: &[Reference],
) -> Invocation {
    let context = match (&subject.context, &prepared.context) {
        (ContextLocation::Git(reference), FetchedContext { commit: Some(commit), .. }) => {
            let name = reference.reference.as_deref().map(|name| format!("#{name}"));
            let url = format!("{}{}", reference.repository, name.unwrap_or_default());
            Some(Material::git(&url, commit))
        }
        (ContextLocation::Url(url), FetchedContext { digest: Some(digest), .. }) => {
            Some(Material::bytes(url, digest))
        }
        _ => None,
    };
    Invocation {
        dockerfile: prepared.name.clone(),
        context,
        build_args: subject.build_args.clone(),
        labels: subject.labels.clone(),
        target: subject.targets.first().cloned(),
        names: names.to_vec(),
    }
}

/// A finding with its place.
pub(crate) fn warning_line(dockerfile: &str, warning: &dockerfile::Warning) -> String {
    let (line, rule) = (warning.span.line, warning.rule.name());
    format!("{dockerfile}:{line}: {rule}: {}", warning.text)
}

/// SOURCE_DATE_EPOCH in unix seconds.
pub(crate) fn epoch(plans: &[Plan]) -> Result<Option<i64>, Failure> {
    let Some(text) = plans.first().and_then(|plan| plan.source_date_epoch.as_deref()) else {
        return Ok(None);
    };
    let seconds = text.parse::<i64>();
    let bad = |_| Failure::usage(format!("SOURCE_DATE_EPOCH {text:?}: want unix seconds"));
    seconds.map(Some).map_err(bad)
}

/// Platforms of a flag, each once, in the order given; this machine's if there are none.
pub(crate) fn platforms(flag: &str, texts: &[String]) -> Result<Vec<Platform>, Failure> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let parsed: Result<Platform, _> = text.parse();
        let platform = parsed.map_err(|error| Failure::usage(format!("{flag}: {error}")))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    Ok(platforms)
}

/// How long a build may take to end after Ctrl-C.
const CANCEL_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Builds, and ends every step when the person presses Ctrl-C or the pod is deleted.
pub(crate) async fn run(
    builder: &Builder,
    plans: Vec<Plan>,
    request: BuildRequest,
) -> Result<BuildOutcome, BuildError> {
    let mut build = std::pin::pin!(builder.build_all(plans, request));
    tokio::select! {
        result = &mut build => return result,
        () = asked_to_stop() => builder.cancel(),
    }
    // Steps end at once; what is fetched or pushed meanwhile is given up, and who asks twice does
    // not want to wait.
    tokio::select! {
        result = tokio::time::timeout(CANCEL_WAIT, build) => match result {
            // What fails while it is cancelled fails because of that.
            Ok(Err(_)) | Err(_) => Err(BuildError::Cancelled),
            Ok(Ok(outcome)) => Ok(outcome),
        },
        () = asked_to_stop() => Err(BuildError::Cancelled),
    }
}

/// Does work that a signal ends at once.
pub(crate) async fn until_stopped<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        () = asked_to_stop() => Err(Failure::new(Kind::Interrupted, BuildError::Cancelled)),
    }
}

/// Ends when this process gets SIGINT or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// A failed build as text, exit code and hint; `tail` is what a failed step printed last.
pub(crate) fn failure(error: BuildError, prepared: &Prepared, tail: Option<&Tail>) -> Failure {
    let (name, text) = (&prepared.name, prepared.file.text());
    let from = |reference: &str, failure: Failure| match excerpt::from_line(text, reference) {
        Some(span) => {
            failure.details(excerpt::excerpt(name, text, span)).at(Place::new(name, span))
        }
        None => failure,
    };
    match error {
        BuildError::Step { title, span, source } => {
            step_failure(&title, span, *source, prepared, tail)
        }
        BuildError::Image { reference, source } => {
            let failed = BuildError::Image { reference: reference.clone(), source };
            from(&reference, failure_without_place(failed))
        }
        BuildError::Platform { reference, platform, offered } => {
            let name = reference.clone();
            let failed = BuildError::Platform { reference, platform, offered };
            from(&name, failure_without_place(failed))
        }
        error => failure_without_place(error),
    }
}

/// A failure that has nothing to do with a Dockerfile, as text and exit code.
pub(crate) fn failure_without_place(error: BuildError) -> Failure {
    let of_registry = |source: Box<dyn std::error::Error + Send + Sync>| {
        source.downcast::<registry_client::RegistryError>()
    };
    let error = match error {
        BuildError::Push { reference, source } => match of_registry(source) {
            Ok(error) => return crate::registries::failure_of_build(*error),
            Err(source) => BuildError::Push { reference, source },
        },
        BuildError::Cache { place, source } => match of_registry(source) {
            Ok(error) => return crate::registries::failure_of_build(*error),
            Err(source) => BuildError::Cache { place, source },
        },
        BuildError::Image { reference, source } => match of_registry(source) {
            Ok(error) => return crate::registries::failure_of_build(*error),
            Err(source) => BuildError::Image { reference, source },
        },
        other => other,
    };
    let kind = match &error {
        BuildError::Request(_) => Kind::Usage,
        BuildError::State { .. } => Kind::Environment,
        BuildError::Cancelled => Kind::Interrupted,
        _ => Kind::Failed,
    };
    Failure::new(kind, error)
}

fn step_failure(
    title: &str,
    span: dockerfile::Span,
    source: StepError,
    prepared: &Prepared,
    tail: Option<&Tail>,
) -> Failure {
    let kind = match source {
        StepError::NoIsolation { .. } | StepError::Foreign { .. } => Kind::Environment,
        _ => Kind::Failed,
    };
    let tail = tail.filter(|tail| !tail.lines.is_empty());
    let lines: Vec<&str> =
        tail.iter().flat_map(|tail| &tail.lines).map(|(_, line)| line.as_str()).collect();
    let is_of_context = !title.contains("--from=");
    let advice = advice::ignored(&source, &prepared.directory)
        .filter(|_| is_of_context)
        .or_else(|| advice::advice(&source, &lines));
    let mut details = String::new();
    if let Some(tail) = tail {
        details.push_str(&format!("------\n > {}:\n", tail.title));
        for (at, line) in &tail.lines {
            details.push_str(&format!("{at:.3} {line}\n"));
        }
        details.push_str("------\n");
    }
    details.push_str(&excerpt::excerpt(&prepared.name, prepared.file.text(), span));
    let place = Place::new(&prepared.name, span);
    let code = match &source {
        StepError::Exit { code, .. } => Some(*code),
        _ => None,
    };
    let error = anyhow::Error::from(source).context(format!("{place}: {title}"));
    let mut failure = Failure::new(kind, error).details(details).at(place);
    failure = failure.command_exit_code(code);
    match advice {
        Some(advice) => failure.hint(advice),
        None => failure,
    }
}

/// `KEY=VALUE`, or `KEY` alone with the value of the environment. SOURCE_DATE_EPOCH of the
/// environment is one of them unless another was given, as in buildx; empty means none.
pub(crate) fn build_args(arguments: &[String]) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        values.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for argument in arguments {
        match argument.split_once('=') {
            Some((name, value)) => values.insert(name.to_owned(), value.to_owned()),
            None => match std::env::var(argument) {
                Ok(value) => values.insert(argument.clone(), value),
                Err(_) => None,
            },
        };
    }
    values
}

/// A length of time as Go spells it: `336h`, `90m`.
pub(crate) fn duration(flag: &str, text: &str) -> Result<std::time::Duration, Failure> {
    let bad = || Failure::usage(format!("{flag} {text:?}: want 336h or 90m"));
    let span: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
    std::time::Duration::try_from(span).map_err(|_| bad())
}

/// `KEY=VALUE` pairs of labels and annotations.
pub(crate) fn pairs(what: &str, arguments: &[String]) -> Result<Vec<(String, String)>, Failure> {
    arguments
        .iter()
        .map(|argument| {
            let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
            if name.is_empty() {
                return Err(Failure::usage(format!("{what} {argument:?}: want KEY=VALUE")));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Secrets as docker and kaniko spell them: `id=ID[,src=PATH][,env=NAME][,type=file|env]`.
pub(crate) fn secrets(arguments: &[String]) -> Result<image_builder::Secrets, Failure> {
    use image_builder::{SecretBytes, SecretSource};
    let mut found = image_builder::Secrets::new();
    for argument in arguments {
        let bad = |reason: &str| Failure::usage(format!("--secret {argument:?}: {reason}"));
        let (mut id, mut path, mut variable, mut kind) = (None, None, None, None);
        for field in argument.split(',') {
            match field.split_once('=') {
                Some(("id", value)) => id = Some(value),
                Some(("src" | "source", value)) => path = Some(value),
                Some(("env", value)) => variable = Some(value),
                Some(("type", value @ ("file" | "env"))) => kind = Some(value),
                Some((key, _)) => return Err(bad(&format!("unexpected key {key:?}"))),
                None => return Err(bad("want id=ID[,src=PATH|,env=NAME]")),
            }
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| bad("id is missing"))?;
        // With type=env, src names a variable, as in docker.
        if kind == Some("env") && variable.is_none() {
            variable = path.take().or(Some(id));
        }
        let source = match (path, variable) {
            (Some(path), None) => SecretSource::File(path.into()),
            (None, Some(name)) => {
                let value = std::env::var_os(name)
                    .ok_or_else(|| bad(&format!("variable {name} is not set")))?;
                let bytes = std::os::unix::ffi::OsStringExt::into_vec(value);
                SecretSource::Value(SecretBytes::new(bytes))
            }
            (None, None) if kind != Some("file") && std::env::var_os(id).is_some() => {
                let value = std::env::var_os(id).unwrap_or_default();
                let bytes = std::os::unix::ffi::OsStringExt::into_vec(value);
                SecretSource::Value(SecretBytes::new(bytes))
            }
            (None, None) => SecretSource::File(id.into()),
            (Some(_), Some(_)) => return Err(bad("src and env exclude each other")),
        };
        if let SecretSource::File(path) = &source
            && !path.is_file()
        {
            return Err(bad(&format!("{} is not a file", path.display())));
        }
        found.insert(id.to_owned(), source);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn files_of_a_fetched_context_do_not_come_from_outside() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path().join("context");
        std::fs::create_dir(&root).expect("a directory");
        std::fs::write(place.path().join("token"), "secret").expect("a file");
        std::fs::write(root.join("real"), "FROM scratch\n").expect("a file");
        for (name, target) in [("out", "../token"), ("in", "real"), ("Dockerfile", "../token")] {
            std::os::unix::fs::symlink(target, root.join(name)).expect("a link");
        }
        std::os::unix::fs::symlink("../token", root.join(".dockerignore")).expect("a link");
        let read = |name: &str, is_fetched| {
            read_file(ContextFile { root: &root, path: Path::new(name), is_fetched })
        };
        for name in ["out", "Dockerfile", ".dockerignore", "../token"] {
            assert!(read(name, true).is_err(), "{name}");
            // The person's own directory is theirs.
            assert_eq!(read(name, false).ok().flatten().as_deref(), Some(&b"secret"[..]), "{name}");
        }
        assert!(read("in", true).is_ok_and(|bytes| bytes.is_some()));
        assert!(read("missing", true).is_ok_and(|bytes| bytes.is_none()));
        assert!(ignore_text(&root, "Dockerfile", false, true).is_err());
        assert!(named_directory(root.clone(), true).is_err());
        std::fs::remove_file(root.join(".dockerignore")).expect("the link");
        std::fs::create_dir(root.join(".dockerignore")).expect("a directory");
        assert!(named_directory(root, true).is_ok());
    }

    #[test]
    fn ignore_files_outside_of_the_context_belong_to_dockerfiles_named_by_path() {
        let place = tempfile::tempdir().expect("a directory");
        let (root, elsewhere) = (place.path().join("context"), place.path().join("elsewhere"));
        for directory in [&root, &elsewhere] {
            std::fs::create_dir(directory).expect("a directory");
        }
        std::fs::write(root.join(".dockerignore"), "general").expect("a file");
        std::fs::write(elsewhere.join("Dockerfile.dockerignore"), "own").expect("a file");
        let dockerfile = elsewhere.join("Dockerfile").display().to_string();
        let text = |is_elsewhere| ignore_text(&root, &dockerfile, is_elsewhere, false);
        assert_eq!(text(true).ok().flatten().as_deref(), Some("own"));
        assert_eq!(text(false).ok().flatten().as_deref(), Some("general"));
    }

    #[test]
    fn no_text_is_read_without_limit() {
        assert!(read_bounded(std::io::repeat(b'#'), "it").is_err());
        assert_eq!(read_bounded(&b"FROM x"[..], "it").ok().as_deref(), Some(&b"FROM x"[..]));
    }
}
