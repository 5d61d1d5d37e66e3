//! Whole files in, plans out.

use oci_model::{ImageConfig, Platform};

use super::*;
use crate::error::DockerfileError;
use crate::file::Dockerfile;

mod arguments;
mod config;
mod history;
mod keys;
mod merge;
mod outline;
mod stages;
mod steps;

/// A build of a file under test.
pub(super) struct Build {
    file: String,
    pub(super) options: PlanOptions,
    bases: Vec<(String, ImageConfig)>,
}

/// A build for linux/amd64 of `file`.
pub(super) fn build(file: &str) -> Build {
    Build {
        file: file.to_owned(),
        options: PlanOptions::for_platform(Platform::linux("amd64")),
        bases: Vec::new(),
    }
}

impl Build {
    pub(super) fn arg(mut self, name: &str, value: &str) -> Self {
        self.options.build_args.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(super) fn target(mut self, target: &str) -> Self {
        self.options.target = Some(target.to_owned());
        self
    }

    pub(super) fn context(mut self, name: &str) -> Self {
        self.options.named_contexts.insert(name.to_owned());
        self
    }

    /// The config of the base whose reference contains `name`; others are empty.
    pub(super) fn base(mut self, name: &str, config: ImageConfig) -> Self {
        self.bases.push((name.to_owned(), config));
        self
    }

    fn config(&self, base: &Base) -> ImageConfig {
        let name = match base {
            Base::Image(image) => image.reference.to_string(),
            Base::NamedContext { name, .. } => name.clone(),
            Base::Scratch | Base::Stage(_) => String::new(),
        };
        let known = self.bases.iter().find(|(part, _)| name.contains(part.as_str()));
        known.map(|(_, config)| config.clone()).unwrap_or_default()
    }

    pub(super) fn try_draft(&self) -> Result<Draft, DockerfileError> {
        let file = Dockerfile::parse("Dockerfile", self.file.as_bytes())?;
        Draft::new(&file, self.options.clone())
    }

    pub(super) fn try_plan(&self) -> Result<Plan, DockerfileError> {
        let mut draft = self.try_draft()?;
        loop {
            let open = draft.unresolved_bases();
            let Some(base) = open.first() else { return draft.finish() };
            draft.supply_base(base, &self.config(base))?;
        }
    }

    pub(super) fn plan(&self) -> Plan {
        self.try_plan().expect("the file builds")
    }

    pub(super) fn error(&self) -> String {
        self.try_plan().expect_err("the file is broken").to_string()
    }

    /// The last stage of the plan.
    pub(super) fn stage(&self) -> Stage {
        let plan = self.plan();
        plan.stage(plan.target).clone()
    }

    /// `created_by` of the target's steps.
    pub(super) fn history(&self) -> Vec<String> {
        self.stage().steps.into_iter().map(|step| step.created_by).collect()
    }

    pub(super) fn runs(&self) -> Vec<RunAction> {
        let steps = self.stage().steps.into_iter();
        steps
            .filter_map(|step| match step.action {
                Action::Run(run) => Some(run),
                Action::Transfer(_) | Action::Workdir(_) | Action::Configure => None,
            })
            .collect()
    }

    pub(super) fn transfers(&self) -> Vec<TransferAction> {
        let steps = self.stage().steps.into_iter();
        steps
            .filter_map(|step| match step.action {
                Action::Transfer(transfer) => Some(transfer),
                Action::Run(_) | Action::Workdir(_) | Action::Configure => None,
            })
            .collect()
    }

    /// The environment of the target's image as one map-like list.
    pub(super) fn image_env(&self) -> Vec<String> {
        let env = self.stage().config.env.into_iter();
        env.filter(|line| !line.starts_with("PATH=")).collect()
    }

    /// The rules that found something, with their lines.
    pub(super) fn warnings(&self) -> Vec<(String, u32)> {
        let warnings = self.plan().warnings.into_iter();
        warnings.map(|warning| (warning.rule.name().to_owned(), warning.span.line)).collect()
    }
}

/// The value of `name` in an environment.
pub(super) fn env_of<'a>(run: &'a RunAction, name: &str) -> Option<&'a str> {
    run.env.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

/// A base image config with these ONBUILD triggers.
pub(super) fn with_triggers(triggers: &[&str]) -> ImageConfig {
    let mut config = ImageConfig::default();
    config.config.on_build = triggers.iter().map(|&trigger| trigger.to_owned()).collect();
    config
}

/// A base image config with these ENV lines.
pub(super) fn with_env(lines: &[&str]) -> ImageConfig {
    let mut config = ImageConfig::default();
    config.config.env = lines.iter().map(|&line| line.to_owned()).collect();
    config
}
