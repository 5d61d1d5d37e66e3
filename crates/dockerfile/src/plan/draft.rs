//! From the file to the plan, in as many rounds as base images need.

use std::collections::{BTreeMap, HashMap};

use oci_model::{ImageConfig, Platform, Reference};

use super::arguments::{GlobalScope, needs_no_declaration};
use super::stages::{self, DraftBase, DraftStage, StageNames};
use super::state::{Outcome, StageContext, StageState};
use super::{
    Action, Base, FileSource, ImageRequest, LayerEffect, Plan, PlanOptions, Source, Stage, StageId,
    Step, StepOrigin, reach,
};
use crate::error::{DockerfileError, ErrorKind};
use crate::expand::Expander;
use crate::file::{Dockerfile, parse_trigger};
use crate::instruction::{Instruction, Statement};
use crate::limits::{INSTRUCTIONS_MAX, PLAN_BYTES_MAX};
use crate::lint::{CheckDirective, Findings, Rule, check_text};

/// A build whose base images are not all known yet.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(super) file: Dockerfile,
    pub(super) options: PlanOptions,
    pub(super) globals: GlobalScope,
    pub(super) stages: Vec<DraftStage>,
    pub(super) target: usize,
    bases: HashMap<Base, ImageConfig>,
    names: StageNames,
    /// Stages each stage needs; kept up to date with the triggers.
    edges: Vec<Vec<usize>>,
    findings: Findings,
}

impl Draft {
    /// Resolves FROM lines, the target and the dependencies between stages.
    ///
    /// # Errors
    /// An unknown target, a circle, a stage used before it is defined, a base that is no image
    /// reference, or a failing substitution in FROM or a global ARG.
    pub fn new(file: &Dockerfile, options: PlanOptions) -> Result<Self, DockerfileError> {
        Self::unplaced(file, options).map_err(|error| file.place(error))
    }

    fn unplaced(file: &Dockerfile, options: PlanOptions) -> Result<Self, DockerfileError> {
        let given = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
        let check = match (given, &file.directives.check) {
            (Some(text), _) => CheckDirective::parse(text)?,
            (None, Some((text, span))) => {
                CheckDirective::parse(text).map_err(|error| error.at(*span))?
            }
            (None, None) => CheckDirective::default(),
        };
        let mut findings = Findings::new(check);
        check_text(file, &mut findings);
        let globals = GlobalScope::evaluate(file, &options)?;
        let stages = stages::resolve_heads(file, &options, &globals, &mut findings)?;
        let target = stages::find_target(&stages, options.target.as_deref())?;
        let mut draft = Self {
            file: file.clone(),
            options,
            globals,
            names: StageNames::new(&stages),
            stages,
            target,
            bases: HashMap::new(),
            edges: Vec::new(),
            findings,
        };
        draft.splice_triggers_of_stages();
        draft.check_order()?;
        draft.check_bases()?;
        Ok(draft)
    }

    /// Bases whose config is needed before anything more can be said, each once.
    ///
    /// Only bases the target needs are named. Empty means that [`Draft::finish`] can be called.
    #[must_use]
    pub fn unresolved_bases(&self) -> Vec<Base> {
        let mut open: Vec<Base> = Vec::new();
        for number in self.needed() {
            if let DraftBase::External(Ok(base)) = &self.stages[number].base
                && !open.contains(base)
                && self.supplied(base).is_none()
            {
                open.push(base.clone());
            }
        }
        open
    }

    /// Answers one of [`Draft::unresolved_bases`].
    ///
    /// ONBUILD triggers of the base become the first steps of every stage that starts from it, and
    /// may make more stages and bases necessary. A context that is only a directory has the
    /// default config.
    ///
    /// # Errors
    /// If a trigger does not parse, or brings in a circle.
    pub fn supply_base(
        &mut self,
        base: &Base,
        config: &ImageConfig,
    ) -> Result<(), DockerfileError> {
        self.supply_unplaced(base, config).map_err(|error| self.file.place(error))
    }

    fn supply_unplaced(
        &mut self,
        base: &Base,
        config: &ImageConfig,
    ) -> Result<(), DockerfileError> {
        self.bases.entry(base.clone()).or_insert_with(|| config.clone());
        let mut spliced = false;
        for stage in &mut self.stages {
            if !matches!(&stage.base, DraftBase::External(Ok(own)) if own == base) {
                continue;
            }
            check_platform(stage, base, config, &mut self.findings);
            if stage.triggers_spliced {
                continue;
            }
            stage.triggers_spliced = true;
            let mut triggers = Vec::with_capacity(config.config.on_build.len());
            for trigger in &config.config.on_build {
                triggers.push((parse_trigger(trigger, stage.from.span)?, StepOrigin::Trigger));
            }
            if triggers.len() + stage.statements.len() > INSTRUCTIONS_MAX {
                let message = format!("more than {INSTRUCTIONS_MAX} instructions in one stage");
                return Err(DockerfileError::new(ErrorKind::Limit, message).at(stage.from.span));
            }
            spliced |= !triggers.is_empty();
            stage.statements.splice(0..0, triggers);
        }
        if spliced {
            self.check_order()?;
            self.check_bases()?;
        }
        Ok(())
    }

    /// Triggers that a stage of this file leaves for the stages built from it.
    fn splice_triggers_of_stages(&mut self) {
        for number in 0..self.stages.len() {
            let DraftBase::Stage(parent) = self.stages[number].base else { continue };
            let span = self.stages[number].from.span;
            let on_build = |(statement, _): &(Statement, StepOrigin)| match &statement.instruction {
                Instruction::OnBuild(on_build) => {
                    let instruction = (*on_build.instruction).clone();
                    let original = on_build.trigger.clone();
                    let statement = Statement { instruction, original, span, ..statement.clone() };
                    Some((statement, StepOrigin::Trigger))
                }
                _ => None,
            };
            let triggers: Vec<_> =
                self.stages[parent].statements.iter().filter_map(on_build).collect();
            self.stages[number].statements.splice(0..0, triggers);
        }
    }

    fn supplied(&self, base: &Base) -> Option<&ImageConfig> {
        self.bases.get(base)
    }

    pub(super) fn take_findings(&mut self) -> Findings {
        std::mem::take(&mut self.findings)
    }

    pub(super) fn into_findings(mut self) -> Vec<crate::lint::Warning> {
        self.take_findings().into_list()
    }

    /// Stages the target needs, ascending; dependencies always have smaller numbers.
    pub(super) fn needed(&self) -> Vec<usize> {
        reach::reachable(self.target, &self.edges)
    }

    /// Finds out again which stage needs which, and that the order is possible.
    fn check_order(&mut self) -> Result<(), DockerfileError> {
        self.edges = self.stages.iter().map(|stage| stage.dependencies(&self.names)).collect();
        if let Some(number) = reach::circular(&self.edges) {
            let stage = &self.stages[number];
            let message = format!("circular dependency detected on stage: {}", stage.label());
            return Err(DockerfileError::plan(message).at(stage.from.span));
        }
        for stage in &self.stages {
            stage.check_forward(&self.names)?;
        }
        Ok(())
    }

    fn check_bases(&self) -> Result<(), DockerfileError> {
        for number in self.needed() {
            if let DraftBase::External(Err(error)) = &self.stages[number].base {
                return Err(error.clone());
            }
        }
        Ok(())
    }

    /// Expands every instruction of every needed stage.
    ///
    /// # Errors
    /// A failing substitution, a value that is not valid after substitution, a broken lint rule
    /// under `error=true`, or a base that was never supplied.
    pub fn finish(self) -> Result<Plan, DockerfileError> {
        let file = self.file.clone();
        self.finish_unplaced().map_err(|error| file.place(error))
    }

    fn finish_unplaced(mut self) -> Result<Plan, DockerfileError> {
        let mut findings = std::mem::take(&mut self.findings);
        let Folded { ids, stages, states } = self.fold(&mut findings)?;
        Ok(Plan {
            target: ids[&self.target],
            stages,
            platform: self.options.target_platform.clone(),
            more_targets: Vec::new(),
            warnings: findings.finish()?,
            unused_build_args: self.unused_build_args(&states),
            source_date_epoch: self.source_date_epoch()?,
        })
    }

    /// Applies every instruction of every needed stage.
    pub(super) fn fold(&self, findings: &mut Findings) -> Result<Folded, DockerfileError> {
        let needed = self.needed();
        let ids: BTreeMap<usize, StageId> =
            needed.iter().enumerate().map(|(index, number)| (*number, StageId(index))).collect();
        let several = self.stages.len() > 1;
        let mut states: BTreeMap<usize, StageState> = BTreeMap::new();
        let mut plan_stages = Vec::with_capacity(needed.len());
        let mut bytes = 0_usize;
        for number in needed {
            let stage = &self.stages[number];
            let mut state = self.initial_state(stage, &states)?;
            let source = |name: &str| self.source(stage, name, &ids);
            let context = StageContext {
                options: &self.options,
                globals: &self.globals,
                expander: Expander::new(self.file.directives.escape),
                platform: &stage.platform,
                source: &source,
            };
            let mut steps = Vec::with_capacity(stage.statements.len());
            for (statement, origin) in &stage.statements {
                let applied = state.apply(statement, &context, findings);
                let Some(outcome) = applied.map_err(|error| error.at(statement.span))? else {
                    continue;
                };
                bytes = bytes.saturating_add(weight(&outcome, &state));
                if bytes > PLAN_BYTES_MAX {
                    let message = format!("the plan is larger than {PLAN_BYTES_MAX} bytes");
                    return Err(DockerfileError::new(ErrorKind::Limit, message).at(statement.span));
                }
                steps.push(step(statement, *origin, outcome));
            }
            let title = number_titles(&mut steps, stage, several);
            plan_stages.push(self.finished_stage(stage, title, steps, &state, &ids)?);
            states.insert(number, state);
        }
        Ok(Folded { ids, stages: plan_stages, states })
    }

    fn initial_state(
        &self,
        stage: &DraftStage,
        states: &BTreeMap<usize, StageState>,
    ) -> Result<StageState, DockerfileError> {
        let span = stage.from.span;
        match &stage.base {
            DraftBase::Scratch => StageState::from_scratch(),
            DraftBase::Stage(parent) => match states.get(parent) {
                Some(state) => Ok(state.for_child()),
                None => Err(DockerfileError::plan("a stage is used before it is planned")),
            },
            DraftBase::External(Err(error)) => Err(error.clone()),
            DraftBase::External(Ok(base)) => match self.supplied(base) {
                Some(config) => StageState::from_base(config),
                None => Err(DockerfileError::plan(format!(
                    "the config of base {} is not known yet",
                    stage.head_text
                ))),
            },
        }
        .map_err(|error| error.at(span))
    }

    /// What a `from` of `stage` means.
    fn source(
        &self,
        stage: &DraftStage,
        name: &str,
        ids: &BTreeMap<usize, StageId>,
    ) -> Result<Source, DockerfileError> {
        if let Some(number) = self.names.find(name, stage.number)? {
            return match ids.get(&number) {
                Some(id) => Ok(Source::Stage(*id)),
                None => Err(DockerfileError::plan(format!("invalid from flag value {name}"))),
            };
        }
        let platform = &self.options.target_platform;
        if let Some(context) = stages::named_context(&self.options, name, platform) {
            return Ok(Source::NamedContext(context));
        }
        image_request(name, platform).map(Source::Image)
    }

    fn finished_stage(
        &self,
        stage: &DraftStage,
        title: String,
        steps: Vec<Step>,
        state: &StageState,
        ids: &BTreeMap<usize, StageId>,
    ) -> Result<Stage, DockerfileError> {
        let base = match &stage.base {
            DraftBase::Scratch => Base::Scratch,
            DraftBase::Stage(parent) => Base::Stage(ids[parent]),
            DraftBase::External(Ok(base)) => base.clone(),
            DraftBase::External(Err(error)) => return Err(error.clone()),
        };
        let mut config = state.finished_config();
        if stage.number == self.target {
            config.labels.extend(self.options.labels.iter().cloned());
        }
        Ok(Stage {
            id: ids[&stage.number],
            number: stage.number,
            name: stage.name.clone(),
            span: stage.from.span,
            title,
            base,
            platform: stage.platform.clone(),
            steps,
            config,
            author: state.author.clone(),
        })
    }

    fn unused_build_args(&self, states: &BTreeMap<usize, StageState>) -> Vec<String> {
        let used = |name: &str| {
            needs_no_declaration(name)
                || self.globals.declared.contains(name)
                || self.globals.defaults.contains_key(name)
                || states.values().any(|state| state.declares(name))
        };
        self.options.build_args.keys().filter(|name| !used(name)).cloned().collect()
    }

    /// `--build-arg` wins over the global default; empty means unset.
    fn source_date_epoch(&self) -> Result<Option<String>, DockerfileError> {
        const NAME: &str = "SOURCE_DATE_EPOCH";
        let given = self.options.build_args.get(NAME).or_else(|| self.globals.values.get(NAME));
        let Some(text) = given.filter(|text| !text.is_empty()) else { return Ok(None) };
        let known = text.parse::<i64>().is_ok()
            || text == "context"
            || self.options.named_contexts.contains(text)
            || self.names.find(text, self.stages.len()).is_ok_and(|stage| stage.is_some());
        if known {
            return Ok(Some(text.clone()));
        }
        let message = format!(
            "invalid {NAME}: {text:?} is neither a number of seconds nor a context nor a stage"
        );
        Err(DockerfileError::new(ErrorKind::Request, message))
    }
}

/// The needed stages with every instruction applied.
pub(super) struct Folded {
    ids: BTreeMap<usize, StageId>,
    /// In the order of their numbers.
    pub(super) stages: Vec<Stage>,
    /// States at the end of the stages, by number in the file.
    pub(super) states: BTreeMap<usize, StageState>,
}

/// An image by the name written in the file.
pub(super) fn image_request(
    name: &str,
    platform: &Platform,
) -> Result<ImageRequest, DockerfileError> {
    match name.parse::<Reference>() {
        Ok(reference) => {
            Ok(ImageRequest { reference: reference.with_default_tag(), platform: platform.clone() })
        }
        Err(error) => {
            Err(DockerfileError::plan(format!("failed to parse stage name {name:?}: {error}")))
        }
    }
}

fn check_platform(stage: &DraftStage, base: &Base, config: &ImageConfig, findings: &mut Findings) {
    let Base::Image(image) = base else { return };
    let found = config.platform();
    if config.os.is_empty() || stage.platform.rank(&found).is_some() {
        return;
    }
    let text = format!(
        "Base image {} was pulled with platform \"{found}\", expected \"{}\" for current build",
        image.reference, stage.platform
    );
    findings.report(Rule::InvalidBaseImagePlatform, &stage.from, text);
}

/// How much memory an instruction added to the plan, about.
fn weight(outcome: &Outcome, state: &StageState) -> usize {
    let extra = match &outcome.action {
        Action::Run(run) => {
            let words: usize = run.argv.iter().map(String::len).sum();
            words
                + run.script.as_ref().map_or(0, |script| script.content.len())
                + state.run_weight()
        }
        Action::Transfer(transfer) => transfer
            .files
            .iter()
            .map(|file| match file {
                FileSource::Inline { content, .. } => content.len(),
                FileSource::Path(_) | FileSource::Url(_) | FileSource::Git(_) => 0,
            })
            .sum(),
        // A config change keeps its text about eight times: ports become a string each.
        Action::Configure => outcome.created_by.len() * 7,
        Action::Workdir(_) => 0,
    };
    outcome.created_by.len() + extra
}

fn step(statement: &Statement, origin: StepOrigin, outcome: Outcome) -> Step {
    let text: Vec<&str> = statement.original.split_whitespace().collect();
    let mut words = text.into_iter();
    let mut title = words.next().unwrap_or_default().to_uppercase();
    for word in words {
        title.push(' ');
        title.push_str(word);
    }
    let Outcome { action, created_by, layer } = outcome;
    Step { title, span: statement.span, origin, action, created_by, layer }
}

/// Puts `[stage n/m]` in front of the titles and returns that of FROM, the first of m.
fn number_titles(steps: &mut [Step], stage: &DraftStage, several: bool) -> String {
    let prefix = match &stage.name {
        Some(name) => format!("{name} "),
        None if several => format!("stage-{} ", stage.number),
        None => String::new(),
    };
    let total = steps.iter().filter(|step| step.layer == LayerEffect::Layer).count() + 1;
    let mut index = 1;
    for step in steps {
        if step.layer == LayerEffect::Layer {
            index += 1;
            step.title = format!("[{prefix}{index}/{total}] {}", step.title);
        } else {
            step.title = format!("[{}] {}", prefix.trim_end(), step.title).replacen("[] ", "", 1);
        }
    }
    format!("[{prefix}1/{total}] FROM")
}
