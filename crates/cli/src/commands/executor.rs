//! `shipway executor`, also as `/kaniko/executor`: kaniko's flags, environment, files and exit
//! codes on our builder.

mod cache_flags;
mod environment;
mod flags;
mod inputs;
mod outputs;
pub(crate) mod registry_flags;
#[cfg(test)]
mod surface;
mod verbs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use image_builder::{
    BasePolicy, BuildRequest, Family, FamilyChoice, GitCredentials, Snapshots, WarmedBases,
};
use oci_model::Reference;

pub(crate) use self::flags::ExecutorArgs;
use self::verbs::ExecutorVerb;
use crate::build::credentials::CredentialFile;
use crate::build::progress::{self, KanikoLog, LogFormat, Progress, Style};
use crate::build::{self, Machinery, contexts};
use crate::commands::warmer;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output;

/// Where kaniko's image keeps the executor and its state.
const KANIKO_DIR: &str = "/kaniko";

/// Runs the verb.
pub(crate) async fn run(args: ExecutorArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    if let Some(verb) = &args.verb {
        return match run_verb(verb, globals).await {
            Ok(code) => Ok(code),
            Err(failure) => Err(failure.with_kind(Kind::Failed)),
        };
    }
    let log = args.log();
    let start = Instant::now();
    match execute(&args, globals, log).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Stopped::Command { code, before, failure }) => {
            // A collector of JSON lines gets nothing else.
            if let Some(before) = before.filter(|_| log.format != LogFormat::Json) {
                output::error_line(&before);
            }
            progress::kaniko_line(log, "error", &failure, start);
            Ok(ExitCode::from(code))
        }
        // All else is 1, as in kaniko.
        Err(Stopped::Other(failure)) => Err(failure.with_kind(Kind::Failed)),
    }
}

async fn run_verb(verb: &ExecutorVerb, globals: &Globals) -> Result<ExitCode, Failure> {
    let kaniko_dir = kaniko_dir();
    match verb {
        ExecutorVerb::Version => {
            output::line(&format!("Kaniko version : shipway {}", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
        ExecutorVerb::Login(args) => verbs::login(args, &docker_config_dir(&kaniko_dir)),
        ExecutorVerb::Push(args) => {
            let scratch = state_dir(globals, &kaniko_dir).join("build/work");
            verbs::push(args, &credentials(&kaniko_dir)?, &scratch).await
        }
        ExecutorVerb::Warmer(args) => warmer::run(args, globals).await,
    }
}

enum Stopped {
    /// A command failed; its code becomes ours.
    Command {
        code: u8,
        /// Its last output and the lines of the Dockerfile.
        before: Option<String>,
        failure: String,
    },
    Other(Failure),
}

impl<E: Into<Failure>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

async fn execute(args: &ExecutorArgs, globals: &Globals, log: KanikoLog) -> Result<(), Stopped> {
    let start = Instant::now();
    args.check()?;
    let of_environment = environment::warnings(std::env::args(), |name| std::env::var(name).ok());
    let of_environment = of_environment.into_iter();
    for warning in of_environment.chain(args.warnings()) {
        progress::kaniko_line(log, "warning", &warning, start);
    }
    let kaniko_dir = args.kaniko_dir();
    let state_dir = state_dir(globals, &kaniko_dir);
    let destinations = args.destinations()?;
    let subject = inputs::subject(args)?;
    let shown = Progress::start(Style::Kaniko(log));
    let credentials =
        CredentialFile::read(Some(&docker_config_dir(&kaniko_dir)))?.with_helpers(&args.helpers());
    let git = contexts::git_credentials(&subject.context);
    let pull = registry_flags::pull_options(&args.registry, &credentials)?;
    let push = registry_flags::push_options(&args.registry, &args.push)?;
    let access = contexts::access(&state_dir, pull.clone(), &credentials, git.clone())?;
    let prepared = build::until_stopped(build::prepare(&subject, &access)).await?;
    let in_place = in_place(args, &kaniko_dir, &state_dir, &prepared);
    let builder = build::builder(Machinery {
        state_dir,
        pull,
        push: push.clone(),
        credentials,
        bases: BasePolicy::Registry,
        warmed: Some(WarmedBases { directory: args.cache_dir.clone(), ttl: args.cache.ttl()? }),
        isolation: args.isolation().choice(in_place),
        events: shown.events(),
    })?;
    let failed = |error| build::failure(error, &prepared, None);
    if !args.no_push() && !args.skip_push_permission_check && !args.dryrun {
        let check = async {
            for destination in &destinations {
                builder.check_push(destination).await.map_err(failed)?;
            }
            Ok(())
        };
        build::until_stopped(check).await?;
    }
    for output in outputs::files(args) {
        output.check(subject.platforms.len()).map_err(failed)?;
    }
    let plans = build::until_stopped(build::plans(&builder, &subject, &prepared)).await?;
    let mut known = std::collections::BTreeSet::new();
    for warning in plans.iter().flat_map(|plan| &plan.warnings).map(ToString::to_string) {
        if known.insert(warning.clone()) {
            progress::kaniko_line(log, "warning", &warning, start);
        }
    }
    if args.dryrun {
        let plan = dockerfile::Plan::merge(plans);
        let stages = plan.iter().flat_map(|plan| &plan.stages);
        for step in stages.flat_map(|stage| &stage.steps) {
            output::line(&step.title);
        }
        return Ok(());
    }
    let epoch = build::epoch(&plans)?;
    let request = request(args, &prepared, &destinations, epoch, git)?;
    let outcome = match builder_run(&builder, plans, request, &prepared, &shown).await {
        Ok(outcome) => outcome,
        Err(stopped) => return Err(stopped),
    };
    let deliver = async {
        for output in outputs::files(args) {
            builder.write(&outcome, &output, &destinations).await.map_err(failed)?;
        }
        if !args.no_push() {
            let pushed = builder.push_all(&outcome, &destinations).await;
            for (destination, pushed) in destinations.iter().zip(pushed) {
                match pushed {
                    Err(error)
                        if args.push_ignore_immutable_tag_errors
                            && registry_flags::says_tag_is_immutable(&error) =>
                    {
                        let text = format!("{destination} exists and is immutable; not pushed");
                        progress::kaniko_line(log, "warning", &text, start);
                    }
                    pushed => pushed.map_err(failed)?,
                }
            }
        }
        outputs::write(args, &destinations, outcome.root.digest(), push).await?;
        outputs::write_benchmark(outcome.duration, start.elapsed(), &access.client).await
    };
    Ok(build::until_stopped(deliver).await?)
}

async fn builder_run(
    builder: &image_builder::Builder,
    plans: Vec<dockerfile::Plan>,
    request: BuildRequest,
    prepared: &build::Prepared,
    shown: &Progress,
) -> Result<image_builder::BuildOutcome, Stopped> {
    let result = build::run(builder, plans, request).await;
    result.map_err(|error| {
        let code = error.exit_code().and_then(|code| u8::try_from(code).ok());
        let failure = build::failure(error, prepared, shown.tail().as_ref());
        match code {
            Some(code) if code != 0 => {
                let mut text = format!("error building image: {}", failure.text());
                if let Some(hint) = failure.next() {
                    text.push_str("; try: ");
                    text.push_str(hint);
                }
                Stopped::Command {
                    code,
                    before: failure.lines_before().map(str::to_owned),
                    failure: text,
                }
            }
            _ => Stopped::Other(failure),
        }
    })
}

fn request(
    args: &ExecutorArgs,
    prepared: &build::Prepared,
    destinations: &[Reference],
    epoch: Option<i64>,
    git: GitCredentials,
) -> Result<BuildRequest, Failure> {
    let mut request = BuildRequest::new(Some(prepared.directory.clone()));
    request.secrets = build::secrets(&args.secrets)?;
    request.git = git;
    for text in &args.annotations {
        let added = request.annotations.add(text);
        added.map_err(|error| Failure::usage(format!("--annotation: {error}")))?;
    }
    request.compression = args.compression()?;
    request.family = match args.image_format.as_deref() {
        None => FamilyChoice::OfBase,
        Some("oci") => FamilyChoice::Exactly(Family::Oci),
        Some("docker") => FamilyChoice::Exactly(Family::Docker),
        Some(other) => {
            return Err(Failure::usage(format!("--image-format {other:?}: docker or oci")));
        }
    };
    if matches!(request.compression, layers::Compression::Zstd(_)) && args.image_format.is_none() {
        request.family = FamilyChoice::Exactly(Family::Oci);
    }
    request.ignored_paths = args.ignored_paths();
    if args.single_snapshot {
        request.snapshots = Snapshots::Single;
    }
    request.epoch = if args.reproducible { Some(0) } else { epoch };
    args.cache.apply(&mut request, destinations)?;
    if !args.no_push() {
        request.push_to = destinations.to_vec();
    }
    Ok(request)
}

/// State lives beside the executor in its own image, else where every verb keeps it.
fn state_dir(globals: &Globals, kaniko_dir: &Path) -> PathBuf {
    if globals.has_state_dir() || !is_executor_image(kaniko_dir) {
        return globals.state_dir();
    }
    kaniko_dir.join("state")
}

/// Whether this program is the executor of an image that holds nothing else.
fn is_executor_image(kaniko_dir: &Path) -> bool {
    std::env::current_exe().is_ok_and(|program| program.starts_with(kaniko_dir))
}

/// Where the executor and its state are for verbs that have no flag for it.
pub(crate) fn kaniko_dir() -> PathBuf {
    let given = std::env::var_os("KANIKO_DIR").filter(|directory| !directory.is_empty());
    given.map_or_else(|| KANIKO_DIR.into(), PathBuf::from)
}

/// Credentials as the executor finds them when no flag says anything about them.
pub(crate) fn credentials(kaniko_dir: &Path) -> Result<CredentialFile, Failure> {
    let found = CredentialFile::read(Some(&docker_config_dir(kaniko_dir)))?;
    Ok(found.with_helpers(&flags::HELPERS))
}

fn docker_config_dir(kaniko_dir: &Path) -> PathBuf {
    let own = kaniko_dir.join(".docker");
    match std::env::var_os("DOCKER_CONFIG").filter(|directory| !directory.is_empty()) {
        Some(directory) => directory.into(),
        None if own.is_dir() => own,
        None => crate::globals::docker_config_dir().unwrap_or(own),
    }
}

/// What is not the image's in the root of this process; `None` outside of an executor image.
fn in_place(
    args: &ExecutorArgs,
    kaniko_dir: &Path,
    state_dir: &Path,
    prepared: &build::Prepared,
) -> Option<Vec<PathBuf>> {
    if !is_executor_image(kaniko_dir) {
        return None;
    }
    // The executor's own directory comes first: that is where the tree of a stage stands.
    let mut keep = vec![kaniko_dir.to_owned(), state_dir.to_owned()];
    for path in ["/proc".into(), "/sys".into(), "/dev".into(), "/busybox".into()] {
        keep.extend(Some(path).filter(|path: &PathBuf| path.exists()));
    }
    keep.extend(Some(docker_config_dir(kaniko_dir)).filter(|path| path.exists()));
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    keep.push(absolute(&prepared.directory.root));
    keep.extend(args.ignore_paths.iter().map(|path| absolute(path)));
    keep.extend(args.dockerfile_path().map(|path| absolute(&path)));
    keep.extend(outputs::paths(args).into_iter().map(|path| absolute(&path)));
    // An executor that is the whole context keeps its files, but a context of `/` keeps nothing.
    keep.retain(|path| path != Path::new("/"));
    Some(keep)
}
