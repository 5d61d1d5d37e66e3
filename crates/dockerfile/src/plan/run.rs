//! RUN with its command, environment and mounts decided.

use super::arguments::proxies;
use super::state::{Outcome, Scope, StageState};
use super::{Action, LayerEffect, RunAction, Script, Source, history};
use crate::error::DockerfileError;
use crate::heredoc::announced;
use crate::instruction::{CommandLine, Run};
use crate::mount::{Mount, MountPlace};

/// Host name of a RUN when nobody asks for another.
const HOSTNAME: &str = "buildkitsandbox";

/// Turns a RUN into an action.
pub(super) fn resolve(
    state: &mut StageState,
    run: &Run,
    scope: &mut Scope<'_, '_>,
) -> Result<Outcome, DockerfileError> {
    let (argv, script, shown) = command_of(state, run);
    let created_by = history::run(&shown, &state.visible_args());
    let env = state.command_env();
    let build_args = &scope.context.options.build_args;
    let hostname = build_args.get("BUILDKIT_SANDBOX_HOSTNAME").map_or(HOSTNAME, String::as_str);
    let run = RunAction {
        argv,
        script,
        env,
        proxies: proxies(build_args, &state.env),
        directory: state.directory(),
        user: state.config.user.clone(),
        mounts: mounts(state, run, scope)?,
        network: run.network,
        security: run.security,
        devices: run.devices.clone(),
        hostname: hostname.to_owned(),
        platform: scope.context.platform.clone(),
    };
    Ok(Outcome { action: Action::Run(run), created_by, layer: LayerEffect::Layer })
}

/// What to execute, the script it needs, and the words for the history.
fn command_of(state: &StageState, run: &Run) -> (Vec<String>, Option<Script>, Vec<String>) {
    let line = match &run.command {
        CommandLine::Exec(words) => return (words.clone(), None, words.clone()),
        CommandLine::Shell(line) => line,
    };
    let Some(first) = run.heredocs.first() else {
        let argv = state.with_shell(line);
        return (argv.clone(), None, argv);
    };
    let alone = run.heredocs.len() == 1 && announced(line).is_some();
    if !alone {
        // The shell knows heredocs itself: it gets the line, the bodies and the terminators.
        let mut text = line.clone();
        for heredoc in &run.heredocs {
            text.push('\n');
            text.push_str(&heredoc.body);
            text.push_str(&heredoc.name);
        }
        let argv = state.with_shell(&text);
        return (argv.clone(), None, argv);
    }
    let content = first.content();
    if content.starts_with("#!") {
        let name = first.name.rsplit('/').next().unwrap_or_default();
        let path = format!("/dev/pipes/{name}");
        let shown = state.with_shell(&path);
        return (vec![path.clone()], Some(Script { path, content }), shown);
    }
    let argv = state.with_shell(&content);
    (argv.clone(), None, argv)
}

fn mounts(
    state: &StageState,
    run: &Run,
    scope: &mut Scope<'_, '_>,
) -> Result<Vec<Mount<Source>>, DockerfileError> {
    let directory = state.directory();
    let namespace = scope.context.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
    let mut ssh_index = 0;
    let mut mounts = Vec::with_capacity(run.mounts.len());
    for template in &run.mounts {
        let source = match template.from() {
            Some(from) => (scope.context.source)(from)?,
            None => Source::Context,
        };
        let place = MountPlace { directory: &directory, ssh_index };
        let mut mount = template.resolve(place, source, &mut |value| scope.word(state, value))?;
        match &mut mount {
            Mount::Ssh { .. } => ssh_index += 1,
            Mount::Cache { id, .. } => {
                if let Some(namespace) = namespace.filter(|name| !name.is_empty()) {
                    *id = format!("{namespace}/{}", id.trim_start_matches('/'));
                }
            }
            Mount::Bind { .. } | Mount::Tmpfs { .. } | Mount::Secret { .. } => {}
        }
        mounts.push(mount);
    }
    Ok(mounts)
}
