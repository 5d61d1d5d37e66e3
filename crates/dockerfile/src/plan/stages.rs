//! Stages before their bases are known: names, platforms, dependencies.

use std::collections::BTreeMap;

use oci_model::{Platform, Reference};

use super::arguments::GlobalScope;
use super::draft::image_request;
use super::{Base, PlanOptions, StepOrigin};
use crate::error::{DockerfileError, ErrorKind};
use crate::expand::{Expander, Expansion};
use crate::file::{Dockerfile, StageText};
use crate::instruction::{Instruction, Statement};
use crate::lint::{Findings, Rule};
use crate::suggest::closest;

/// A stage whose FROM line is resolved.
#[derive(Clone, Debug)]
pub(super) struct DraftStage {
    pub(super) number: usize,
    /// Lower case.
    pub(super) name: Option<String>,
    pub(super) from: Statement,
    /// The base after expansion.
    pub(super) head_text: String,
    pub(super) base: DraftBase,
    pub(super) platform: Platform,
    pub(super) statements: Vec<(Statement, StepOrigin)>,
    /// Whether the triggers of an external base are already in `statements`.
    pub(super) triggers_spliced: bool,
}

/// What a stage starts from, by number in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum DraftBase {
    Scratch,
    Stage(usize),
    /// An image or a named context; a broken reference matters only if the stage is needed.
    External(Result<Base, DockerfileError>),
}

impl DraftStage {
    /// How messages call the stage.
    pub(super) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("stage-{}", self.number))
    }

    /// Names other stages are called by, with the instruction that does.
    fn references(&self) -> impl Iterator<Item = (&str, &Statement, Use)> {
        self.statements.iter().flat_map(|(statement, _)| {
            let from: Vec<(&str, &Statement, Use)> = match &statement.instruction {
                Instruction::Copy(copy) => {
                    copy.from.iter().map(|from| (from.as_str(), statement, Use::Copy)).collect()
                }
                Instruction::Run(run) => run
                    .mounts
                    .iter()
                    .filter_map(|mount| mount.from())
                    .map(|from| (from, statement, Use::Mount))
                    .collect(),
                _ => Vec::new(),
            };
            from
        })
    }

    /// Numbers of the stages this one needs.
    pub(super) fn dependencies(&self, names: &StageNames) -> Vec<usize> {
        let mut needed = Vec::new();
        if let DraftBase::Stage(number) = self.base {
            needed.push(number);
        }
        for (name, _, _) in self.references() {
            if let Ok(Some(number)) = names.find(name, self.number) {
                needed.push(number);
            }
        }
        needed.sort_unstable();
        needed.dedup();
        needed
    }

    /// Refuses references to later stages and to numbers that do not exist.
    pub(super) fn check_forward(&self, names: &StageNames) -> Result<(), DockerfileError> {
        for (name, statement, kind) in self.references() {
            let place = |error: DockerfileError| error.at(statement.span);
            let found = names.find(name, self.number).map_err(place)?;
            if found.is_some_and(|number| number >= self.number) {
                let own = self.label();
                let message = match kind {
                    Use::Copy => format!(
                        "cannot copy from stage {name:?}, it needs to be defined before current \
                         stage {own:?}"
                    ),
                    Use::Mount => format!(
                        "cannot mount from stage {name:?} to {own:?}, stage needs to be defined \
                         before current command"
                    ),
                };
                return Err(place(DockerfileError::plan(message)));
            }
        }
        Ok(())
    }
}

/// How a stage is used by another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Copy,
    Mount,
}

/// Which stages a name stands for.
#[derive(Clone, Debug)]
pub(super) struct StageNames {
    by_name: BTreeMap<String, Vec<usize>>,
    count: usize,
}

impl StageNames {
    pub(super) fn new(stages: &[DraftStage]) -> Self {
        let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for stage in stages {
            if let Some(name) = &stage.name {
                by_name.entry(name.clone()).or_default().push(stage.number);
            }
        }
        Self { by_name, count: stages.len() }
    }

    /// The stage a `from` of stage `current` names: by number, or by name with the nearest earlier
    /// stage first.
    pub(super) fn find(
        &self,
        name: &str,
        current: usize,
    ) -> Result<Option<usize>, DockerfileError> {
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
            return match name.parse::<usize>() {
                Ok(number) if number < self.count => Ok(Some(number)),
                Ok(_) | Err(_) => Err(DockerfileError::plan(format!("invalid stage index {name}"))),
            };
        }
        let Some(numbers) = self.by_name.get(&name.to_lowercase()) else { return Ok(None) };
        let earlier = numbers.iter().rfind(|number| **number < current);
        Ok(earlier.or(numbers.first()).copied())
    }
}

/// The stage `--target` names; the last one without it.
pub(super) fn find_target(
    stages: &[DraftStage],
    target: Option<&str>,
) -> Result<usize, DockerfileError> {
    let Some(target) = target.filter(|target| !target.is_empty()) else {
        return Ok(stages.len().saturating_sub(1));
    };
    let lower = target.to_lowercase();
    let named = |stage: &&DraftStage| stage.name.as_deref() == Some(lower.as_str());
    if let Some(stage) = stages.iter().rfind(named) {
        return Ok(stage.number);
    }
    if let Ok(number) = target.parse::<usize>()
        && number < stages.len()
    {
        return Ok(number);
    }
    let names = stages.iter().filter_map(|stage| stage.name.as_deref());
    let message = format!("target stage {target:?} could not be found");
    Err(DockerfileError::new(ErrorKind::Request, message).suggesting(closest(target, names)))
}

/// The key of the named context that replaces `name` on `platform`.
pub(super) fn named_context(
    options: &PlanOptions,
    name: &str,
    platform: &Platform,
) -> Option<String> {
    if options.named_contexts.is_empty() {
        return None;
    }
    let mut names = vec![name.to_lowercase(), name.to_owned()];
    if let Ok(reference) = name.parse::<Reference>() {
        let familiar = reference.with_default_tag().familiar();
        names.push(familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned));
        names.push(familiar);
    }
    names
        .into_iter()
        .flat_map(|name| [format!("{name}::{platform}"), name])
        .find(|key| options.named_contexts.contains(key))
}

/// Resolves every FROM line.
pub(super) fn resolve_heads(
    file: &Dockerfile,
    options: &PlanOptions,
    globals: &GlobalScope,
    findings: &mut Findings,
) -> Result<Vec<DraftStage>, DockerfileError> {
    let mut stages: Vec<DraftStage> = Vec::with_capacity(file.stages.len());
    for text in &file.stages {
        let heads = Heads { expander: Expander::new(file.directives.escape), options, globals };
        let stage = heads
            .resolve(text, &stages, findings)
            .map_err(|error| error.at(text.statement.span))?;
        stages.push(stage);
    }
    Ok(stages)
}

struct Heads<'a> {
    expander: Expander,
    options: &'a PlanOptions,
    globals: &'a GlobalScope,
}

impl Heads<'_> {
    fn resolve(
        &self,
        text: &StageText,
        earlier: &[DraftStage],
        findings: &mut Findings,
    ) -> Result<DraftStage, DockerfileError> {
        let number = earlier.len();
        let name = text.head.name.as_ref().map(|name| name.to_lowercase());
        let expansion = self.expand(&text.head.base, text, findings)?;
        let head_text = expansion.text.clone();
        if head_text.is_empty() {
            let message = format!("base name ({}) should not be blank", text.head.base);
            return Err(DockerfileError::plan(message));
        }
        self.check_default(text, findings);
        let written_platform = self.platform(text, findings)?;
        let parent = earlier.iter().rfind(|stage| stage.name == Some(head_text.to_lowercase()));
        // A stage is for one platform, whatever its children write.
        let platform = match (parent, written_platform) {
            (Some(parent), _) => parent.platform.clone(),
            (None, Some(platform)) => platform,
            (None, None) => self.options.target_platform.clone(),
        };
        let replaced = name.as_ref().and_then(|name| named_context(self.options, name, &platform));
        let base = match &replaced {
            Some(name) => context_base(name, &platform),
            None => self.base(&head_text, parent, &platform),
        };
        // A stage that a named context replaces keeps nothing but its name.
        let statements = match replaced {
            Some(_) => Vec::new(),
            None => text.statements.iter().map(|own| (own.clone(), StepOrigin::File)).collect(),
        };
        Ok(DraftStage {
            number,
            name,
            from: text.statement.clone(),
            head_text,
            base: place_base(base, text),
            platform,
            statements,
            triggers_spliced: false,
        })
    }

    fn base(&self, name: &str, parent: Option<&DraftStage>, platform: &Platform) -> DraftBase {
        if let Some(parent) = parent {
            return DraftBase::Stage(parent.number);
        }
        if let Some(context) = named_context(self.options, name, platform) {
            return context_base(&context, platform);
        }
        if name == "scratch" {
            return DraftBase::Scratch;
        }
        DraftBase::External(image_request(name, platform).map(Base::Image))
    }

    fn platform(
        &self,
        text: &StageText,
        findings: &mut Findings,
    ) -> Result<Option<Platform>, DockerfileError> {
        let Some(written) = &text.head.platform else { return Ok(None) };
        let value = self.expand(written, text, findings)?.text;
        if value.is_empty() {
            let message = format!("empty platform value from expression {written}");
            return Err(DockerfileError::plan(message));
        }
        match value.parse::<Platform>() {
            Ok(platform) => Ok(Some(platform)),
            // `linux` alone means linux on the architecture of the target.
            Err(error) if value.contains('/') => {
                Err(DockerfileError::plan(format!("failed to parse platform {value}: {error}")))
            }
            Err(_) => {
                let mut platform = self.options.target_platform.clone();
                if matches!(value.as_str(), "linux" | "windows" | "freebsd") {
                    platform.os = value;
                } else {
                    platform.architecture = value;
                    platform.variant = None;
                }
                Ok(Some(platform.normalised()))
            }
        }
    }

    fn expand(
        &self,
        written: &str,
        text: &StageText,
        findings: &mut Findings,
    ) -> Result<Expansion, DockerfileError> {
        let expansion = self.expander.expand(written, &self.globals.values).map_err(|error| {
            let message =
                format!("failed to process arguments for {written:?}: {}", error.message());
            DockerfileError::new(error.kind(), message)
        })?;
        for name in &expansion.undefined {
            if self.globals.declared.contains(name) {
                continue;
            }
            let near = closest(name, self.globals.values.keys().map(String::as_str));
            let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            let message = format!("FROM argument '{name}' is not declared{hint}");
            findings.report(Rule::UndefinedArgInFrom, &text.statement, message);
        }
        Ok(expansion)
    }

    /// Whether the base is an image name when no argument is given.
    fn check_default(&self, text: &StageText, findings: &mut Findings) {
        let written = &text.head.base;
        if !written.contains('$') {
            return;
        }
        let Ok(expansion) = self.expander.expand(written, &self.globals.defaults) else { return };
        if !expansion.text.is_empty() && expansion.text.parse::<Reference>().is_ok() {
            return;
        }
        let message =
            format!("Default value for ARG {written} results in empty or invalid base image name");
        findings.report(Rule::InvalidDefaultArgInFrom, &text.statement, message);
    }
}

fn context_base(name: &str, platform: &Platform) -> DraftBase {
    let (name, platform) = (name.to_owned(), platform.clone());
    DraftBase::External(Ok(Base::NamedContext { name, platform }))
}

fn place_base(base: DraftBase, text: &StageText) -> DraftBase {
    match base {
        DraftBase::External(Err(error)) => DraftBase::External(Err(error.at(text.statement.span))),
        other => other,
    }
}
