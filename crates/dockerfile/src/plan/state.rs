//! How one instruction changes the state of a stage: its config, environment and arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oci_model::{ContainerConfig, Healthcheck as ConfigHealthcheck, ImageConfig, Platform};

use super::arguments::{DEFAULT_PATH, Environment, GlobalScope};
use super::ports::{self, Mapping};
use super::{
    Action, LayerEffect, PlanOptions, Source, WorkdirAction, history, run, signal, transfer,
};
use crate::error::DockerfileError;
use crate::expand::{Expander, Expansion};
use crate::instruction::{
    ArgDeclaration, CommandLine, Healthcheck, Instruction, KeyValues, Statement,
};
use crate::lint::{Findings, Rule};
use crate::paths::join_absolute;
use crate::suggest::closest;

/// What is the same for every instruction of a stage.
pub(super) struct StageContext<'a> {
    pub(super) options: &'a PlanOptions,
    pub(super) globals: &'a GlobalScope,
    pub(super) expander: Expander,
    pub(super) platform: &'a Platform,
    /// What a `from` means in this stage.
    pub(super) source: &'a dyn Fn(&str) -> Result<Source, DockerfileError>,
}

/// What an instruction does besides changing the state.
pub(super) struct Outcome {
    pub(super) action: Action,
    pub(super) created_by: String,
    pub(super) layer: LayerEffect,
}

impl Outcome {
    fn config(created_by: String) -> Self {
        Self { action: Action::Configure, created_by, layer: LayerEffect::Empty }
    }
}

/// The state of a stage between two instructions.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    pub(super) config: ContainerConfig,
    pub(super) author: Option<String>,
    /// ENV of the image.
    image_env: Environment,
    /// ENV and ARG together; the last writer has won.
    pub(super) env: Environment,
    /// The same for sharing between RUN steps; dropped on every change.
    shared_env: Option<Arc<[(String, String)]>>,
    /// Declared arguments in the order of first declaration.
    args: Vec<ArgDeclaration>,
    /// Where a name stands in `args`.
    args_index: BTreeMap<String, usize>,
    command: CommandOrigin,
    directory: DirectoryOrigin,
}

/// Whether CMD comes from this stage; ENTRYPOINT clears only an inherited one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CommandOrigin {
    Inherited,
    Stage,
}

/// Whether WORKDIR was set in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DirectoryOrigin {
    Base,
    File,
}

impl StageState {
    /// The state after FROM an image.
    pub(super) fn from_base(base: &ImageConfig) -> Result<Self, DockerfileError> {
        let mut config = base.config.clone();
        config.on_build.clear();
        let mut image_env = Environment::from_lines(&config.env)?;
        if image_env.get("PATH").is_none() && base.os != "windows" {
            image_env.set("PATH", DEFAULT_PATH)?;
        }
        config.env = Vec::new();
        Ok(Self {
            config,
            author: base.author.clone().filter(|author| !author.is_empty()),
            env: image_env.clone(),
            image_env,
            shared_env: None,
            args: Vec::new(),
            args_index: BTreeMap::new(),
            command: CommandOrigin::Inherited,
            directory: DirectoryOrigin::Base,
        })
    }

    /// The state after `FROM scratch`.
    pub(super) fn from_scratch() -> Result<Self, DockerfileError> {
        let mut base = ImageConfig::default();
        "/".clone_into(&mut base.config.working_dir);
        Self::from_base(&base)
    }

    /// The state after FROM a stage that ended in `self`.
    pub(super) fn for_child(&self) -> Self {
        let mut child = self.clone();
        child.config.on_build.clear();
        child.command = CommandOrigin::Inherited;
        child
    }

    /// The config to write into the image.
    pub(super) fn finished_config(&self) -> ContainerConfig {
        ContainerConfig { env: self.image_env.to_lines(), ..self.config.clone() }
    }

    /// Applies one instruction; ONBUILD leaves no step and no history.
    pub(super) fn apply(
        &mut self,
        statement: &Statement,
        context: &StageContext<'_>,
        findings: &mut Findings,
    ) -> Result<Option<Outcome>, DockerfileError> {
        let mut scope = Scope { context, statement, findings };
        let outcome = match &statement.instruction {
            Instruction::Add(add) => {
                transfer::resolve(self, add, super::TransferVerb::Add, &mut scope)
            }
            Instruction::Copy(copy) => {
                transfer::resolve(self, copy, super::TransferVerb::Copy, &mut scope)
            }
            Instruction::Arg(declarations) => self.arg(declarations, &mut scope),
            Instruction::Cmd(command) => Ok(self.cmd(command, &mut scope)),
            Instruction::Entrypoint(command) => Ok(self.entrypoint(command, &mut scope)),
            Instruction::Env(values) => self.env_values(values, &mut scope),
            Instruction::Expose(specs) => self.expose(specs, &mut scope),
            Instruction::From(_) => Err(DockerfileError::plan("FROM inside a stage")),
            Instruction::Healthcheck(check) => Ok(self.healthcheck(check)),
            Instruction::Label(values) => self.label(values, &mut scope),
            Instruction::Maintainer(author) => {
                self.author = Some(author.clone());
                Ok(Outcome::config(format!("MAINTAINER {author}")))
            }
            Instruction::OnBuild(on_build) => {
                self.config.on_build.push(on_build.trigger.clone());
                return Ok(None);
            }
            Instruction::Run(command) => run::resolve(self, command, &mut scope),
            Instruction::Shell(words) => {
                self.config.shell = Some(words.clone());
                Ok(Outcome::config(format!("SHELL [{}]", words.join(" "))))
            }
            Instruction::StopSignal(text) => self.stop_signal(text, &mut scope),
            Instruction::User(text) => {
                self.config.user = scope.word(self, text)?;
                Ok(Outcome::config(format!("USER {}", self.config.user)))
            }
            Instruction::Volume(volumes) => self.volume(volumes, &mut scope),
            Instruction::Workdir(path) => self.workdir(path, &mut scope),
        };
        outcome.map(Some)
    }

    /// The shell words in front of a shell form.
    pub(super) fn with_shell(&self, line: &str) -> Vec<String> {
        let mut words = match &self.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            Some(_) | None => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        };
        words.push(line.to_owned());
        words
    }

    fn argv(&self, command: &CommandLine, scope: &mut Scope<'_, '_>) -> Vec<String> {
        match command {
            CommandLine::Exec(words) => words.clone(),
            CommandLine::Shell(line) => {
                if self.config.shell.as_ref().is_none_or(Vec::is_empty) {
                    let keyword = scope.statement.instruction.keyword();
                    scope.report(Rule::JSONArgsRecommended, format!(
                        "JSON arguments recommended for {keyword} to prevent unintended behavior \
                         related to OS signals"
                    ));
                }
                self.with_shell(line)
            }
        }
    }

    fn cmd(&mut self, command: &CommandLine, scope: &mut Scope<'_, '_>) -> Outcome {
        let argv = self.argv(command, scope);
        let created_by = format!("CMD {}", history::quoted_list(&argv));
        self.config.cmd = Some(argv);
        self.config.args_escaped = Some(true);
        self.command = CommandOrigin::Stage;
        Outcome::config(created_by)
    }

    fn entrypoint(&mut self, command: &CommandLine, scope: &mut Scope<'_, '_>) -> Outcome {
        let argv = self.argv(command, scope);
        let created_by = format!("ENTRYPOINT {}", history::quoted_list(&argv));
        self.config.entrypoint = Some(argv);
        if self.command == CommandOrigin::Inherited {
            self.config.cmd = None;
        }
        Outcome::config(created_by)
    }

    /// Names and values of ENV and LABEL, all expanded with the state before the instruction.
    fn pairs(
        &self,
        values: &KeyValues,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Vec<(String, String)>, DockerfileError> {
        let mut pairs = Vec::with_capacity(values.pairs.len());
        for (name, value) in &values.pairs {
            let name = scope.word(self, name)?;
            if name.is_empty() {
                let keyword = scope.statement.instruction.keyword();
                let message = format!("{keyword} names can not be blank");
                return Err(DockerfileError::plan(message));
            }
            pairs.push((name, scope.word(self, value)?));
        }
        Ok(pairs)
    }

    fn env_values(
        &mut self,
        values: &KeyValues,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Outcome, DockerfileError> {
        let pairs = self.pairs(values, scope)?;
        for (name, value) in &pairs {
            self.image_env.set(name, value)?;
            self.set_env(name, value)?;
        }
        Ok(Outcome::config(format!("ENV {}", joined(&pairs))))
    }

    fn set_env(&mut self, name: &str, value: &str) -> Result<(), DockerfileError> {
        self.shared_env = None;
        self.env.set(name, value)
    }

    fn label(
        &mut self,
        values: &KeyValues,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Outcome, DockerfileError> {
        let pairs = self.pairs(values, scope)?;
        let created_by = format!("LABEL {}", joined(&pairs));
        self.config.labels.extend(pairs);
        Ok(Outcome::config(created_by))
    }

    fn arg(
        &mut self,
        declarations: &[ArgDeclaration],
        scope: &mut Scope<'_, '_>,
    ) -> Result<Outcome, DockerfileError> {
        let mut texts = Vec::with_capacity(declarations.len());
        for ArgDeclaration { name, default } in declarations {
            let given = scope.context.options.build_args.get(name);
            let value = match (given, default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(scope.word(self, default)?),
                (None, None) => scope.context.globals.values.get(name).cloned(),
            };
            if let Some(value) = &value {
                self.set_env(name, value)?;
            }
            texts.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            let declared = ArgDeclaration { name: name.clone(), default: value };
            match self.args_index.get(name) {
                Some(&at) => self.args[at] = declared,
                None => {
                    self.args_index.insert(name.clone(), self.args.len());
                    self.args.push(declared);
                }
            }
        }
        Ok(Outcome::config(format!("ARG {}", texts.join(" "))))
    }

    fn expose(
        &mut self,
        specs: &[String],
        scope: &mut Scope<'_, '_>,
    ) -> Result<Outcome, DockerfileError> {
        let mut exposed: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        for spec in specs {
            for word in scope.expand(self, spec)?.words {
                let parsed = ports::parse(&word)?;
                if let Some(protocol) = parsed.odd_protocol {
                    scope.report(Rule::ExposeProtoCasing, format!(
                        "Defined protocol '{protocol}' in EXPOSE instruction should be lowercase"
                    ));
                }
                if parsed.mapping == Mapping::Ignored {
                    scope.report(Rule::ExposeInvalidFormat, format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, \
                         found '{word}'"
                    ));
                }
                exposed.extend(parsed.ports.into_iter().filter(|port| seen.insert(port.clone())));
            }
        }
        let created_by = format!("EXPOSE [{}]", exposed.join(" "));
        let ports = exposed.into_iter().map(|port| (port, BTreeMap::new()));
        self.config.exposed_ports.extend(ports);
        Ok(Outcome::config(created_by))
    }

    fn volume(
        &mut self,
        volumes: &[String],
        scope: &mut Scope<'_, '_>,
    ) -> Result<Outcome, DockerfileError> {
        let mut paths = Vec::with_capacity(volumes.len());
        for volume in volumes {
            let path = scope.word(self, volume)?;
            if path.is_empty() {
                let message = "VOLUME specified can not be an empty string";
                return Err(DockerfileError::plan(message));
            }
            paths.push(path);
        }
        let created_by = format!("VOLUME [{}]", paths.join(" "));
        self.config.volumes.extend(paths.into_iter().map(|path| (path, BTreeMap::new())));
        Ok(Outcome::config(created_by))
    }

    fn stop_signal(
        &mut self,
        text: &str,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Outcome, DockerfileError> {
        let name = scope.word(self, text)?;
        if !signal::is_signal(&name) {
            return Err(DockerfileError::plan(format!("invalid signal: {name}")));
        }
        let created_by = format!("STOPSIGNAL {name}");
        self.config.stop_signal = Some(name);
        Ok(Outcome::config(created_by))
    }

    fn healthcheck(&mut self, check: &Healthcheck) -> Outcome {
        let check = match check {
            Healthcheck::Disabled => {
                ConfigHealthcheck { test: vec!["NONE".to_owned()], ..ConfigHealthcheck::default() }
            }
            Healthcheck::Command { command, timing } => {
                let test = match command {
                    CommandLine::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
                    CommandLine::Exec(words) => {
                        std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect()
                    }
                };
                // Parsing kept every duration below the limit of Go's signed nanoseconds.
                let nanoseconds = |duration: std::time::Duration| {
                    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
                };
                ConfigHealthcheck {
                    test,
                    interval: nanoseconds(timing.interval),
                    timeout: nanoseconds(timing.timeout),
                    start_period: nanoseconds(timing.start_period),
                    start_interval: nanoseconds(timing.start_interval),
                    retries: i64::from(timing.retries),
                }
            }
        };
        let created_by = history::healthcheck(&check);
        self.config.healthcheck = Some(check);
        Outcome::config(created_by)
    }

    fn workdir(
        &mut self,
        text: &str,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Outcome, DockerfileError> {
        let written = scope.word(self, text)?;
        if !written.starts_with('/') && self.directory == DirectoryOrigin::Base {
            scope.report(Rule::WorkdirRelativePath, format!(
                "Relative workdir {written:?} can have unexpected results if the base image changes"
            ));
        }
        self.directory = DirectoryOrigin::File;
        let path = join_absolute(&self.config.working_dir, &written);
        self.config.working_dir.clone_from(&path);
        let created_by = format!("WORKDIR {path}");
        if path == "/" {
            return Ok(Outcome::config(created_by));
        }
        let action = Action::Workdir(WorkdirAction { path, user: self.config.user.clone() });
        Ok(Outcome { action, created_by, layer: LayerEffect::Layer })
    }

    /// Working directory for commands and relative paths.
    pub(super) fn directory(&self) -> String {
        join_absolute("/", &self.config.working_dir)
    }

    /// The environment of a command, shared until it changes.
    pub(super) fn command_env(&mut self) -> Arc<[(String, String)]> {
        self.shared_env.get_or_insert_with(|| self.env.pairs().into()).clone()
    }

    /// Declared arguments with the value a command sees; empty when there is none.
    pub(super) fn visible_args(&self) -> Vec<(String, String)> {
        let visible = |arg: &ArgDeclaration| {
            let value = self.env.get(&arg.name).or(arg.default.as_deref());
            (arg.name.clone(), value.unwrap_or_default().to_owned())
        };
        self.args.iter().map(visible).collect()
    }

    /// How much memory one RUN in this state takes, about.
    pub(super) fn run_weight(&self) -> usize {
        /// What two strings cost besides their text.
        const PAIR_BYTES: usize = 64;
        let pairs = self.env.pairs().len() + self.args.len();
        self.env.bytes() + pairs * PAIR_BYTES
    }

    /// The value of a declared argument at the end of the stage; `None` if it has none.
    pub(super) fn argument(&self, name: &str) -> Option<&str> {
        let at = self.args_index.get(name)?;
        self.args[*at].default.as_deref()
    }

    /// Whether ARG declared `name`, with or without a value.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.args_index.contains_key(name)
    }
}

fn joined(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

/// What one instruction may look at and report to.
pub(super) struct Scope<'a, 'c> {
    pub(super) context: &'a StageContext<'c>,
    pub(super) statement: &'a Statement,
    pub(super) findings: &'a mut Findings,
}

impl Scope<'_, '_> {
    pub(super) fn report(&mut self, rule: Rule, text: String) {
        self.findings.report(rule, self.statement, text);
    }

    /// Expands `text` to one word.
    pub(super) fn word(
        &mut self,
        state: &StageState,
        text: &str,
    ) -> Result<String, DockerfileError> {
        Ok(self.expand(state, text)?.text)
    }

    pub(super) fn expand(
        &mut self,
        state: &StageState,
        text: &str,
    ) -> Result<Expansion, DockerfileError> {
        self.expand_with(self.context.expander, state, text)
    }

    pub(super) fn expand_with(
        &mut self,
        expander: Expander,
        state: &StageState,
        text: &str,
    ) -> Result<Expansion, DockerfileError> {
        let expansion = expander.expand(text, &state.env).map_err(|error| {
            let message = format!("failed to process {text:?}: {}", error.message());
            DockerfileError::new(error.kind(), message)
        })?;
        for name in &expansion.undefined {
            if state.declares(name) || super::arguments::needs_no_declaration(name) {
                continue;
            }
            let near = closest(name, state.env.names());
            let hint = near.map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
            self.report(Rule::UndefinedVar, format!("Usage of undefined variable '${name}'{hint}"));
        }
        Ok(expansion)
    }
}
