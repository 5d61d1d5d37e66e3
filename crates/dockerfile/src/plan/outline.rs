//! What a Dockerfile can be asked: its targets, and what a target takes from its caller
//! (BuildKit's `outline` and `targets` requests).

use std::collections::BTreeSet;

use super::{Action, Draft};
use crate::error::DockerfileError;
use crate::expand::Expander;
use crate::file::Dockerfile;
use crate::instruction::{Instruction, Requirement, Statement};
use crate::lint::{CheckDirective, Findings, Warning};
use crate::mount::Mount;
use crate::position::Span;

/// What a target takes from its caller, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline {
    /// Name of the target, lower case.
    pub name: Option<String>,
    /// What the comment above its FROM says about it.
    pub description: Option<String>,
    /// Build arguments that change the result.
    pub args: Vec<OutlineArg>,
    /// Secrets of RUN instructions.
    pub secrets: Vec<OutlineMount>,
    /// Agents of RUN instructions.
    pub agents: Vec<OutlineMount>,
    /// Caches of RUN instructions.
    pub caches: Vec<OutlineCache>,
}

/// A build argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What the comment above its ARG says about it.
    pub description: Option<String>,
    /// The value it would have; `None` if it has none.
    pub value: Option<String>,
    /// Where it is declared first.
    pub span: Span,
}

/// A secret or an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlineMount {
    /// The id that the caller gives it.
    pub id: String,
    /// Whether the build fails without it.
    pub requirement: Requirement,
    /// Where it is used first.
    pub span: Span,
}

/// A cache that outlives the build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlineCache {
    /// Its id.
    pub id: String,
    /// Where it is used first.
    pub span: Span,
}

/// A stage that can be a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetSummary {
    /// Its name, lower case.
    pub name: Option<String>,
    /// What the comment above its FROM says about it.
    pub description: Option<String>,
    /// Its base as written.
    pub base: String,
    /// Its `--platform` as written.
    pub platform: Option<String>,
    /// Whether it is built when the caller names none.
    pub is_default: bool,
    /// The FROM instruction.
    pub span: Span,
}

impl Dockerfile {
    /// The stages of the file, in its order.
    #[must_use]
    pub fn targets(&self) -> Vec<TargetSummary> {
        let last = self.stages.len().saturating_sub(1);
        let summary = |(number, stage): (usize, &crate::file::StageText)| {
            let name = stage.head.name.as_ref().map(|name| name.to_lowercase());
            TargetSummary {
                description: name.as_deref().and_then(|name| described(&stage.statement, name)),
                name,
                base: stage.head.base.clone(),
                platform: stage.head.platform.clone(),
                is_default: number == last,
                span: stage.statement.span,
            }
        };
        self.stages.iter().enumerate().map(summary).collect()
    }
}

impl Draft {
    /// What the target takes from its caller. Every base must be supplied.
    ///
    /// # Errors
    /// As [`Draft::finish`], broken lint rules excepted.
    pub fn outline(&self) -> Result<Outline, DockerfileError> {
        self.outline_unplaced().map_err(|error| self.file.place(error))
    }

    fn outline_unplaced(&self) -> Result<Outline, DockerfileError> {
        let mut findings = Findings::new(CheckDirective::default());
        let folded = self.fold(&mut findings)?;
        let target = &self.stages[self.target];
        let mut outline = Outline {
            name: target.name.clone(),
            description: target.name.as_deref().and_then(|name| described(&target.from, name)),
            args: self.used_globals(),
            secrets: Vec::new(),
            agents: Vec::new(),
            caches: Vec::new(),
        };
        for (number, state) in &folded.states {
            for (statement, _) in &self.stages[*number].statements {
                let Instruction::Arg(declarations) = &statement.instruction else { continue };
                for declaration in declarations {
                    let name = &declaration.name;
                    let value = state.argument(name).map(str::to_owned);
                    outline.add_arg(argument(statement, name, value));
                }
            }
        }
        for step in folded.stages.iter().flat_map(|stage| &stage.steps) {
            let Action::Run(run) = &step.action else { continue };
            run.mounts.iter().for_each(|mount| outline.add_mount(mount, step.span));
        }
        outline.args.sort_by_key(|arg| arg.span);
        Ok(outline)
    }

    /// Global arguments that the FROM lines of needed stages use, directly or through defaults,
    /// or that a needed stage declares again.
    fn used_globals(&self) -> Vec<OutlineArg> {
        let expander = Expander::new(self.file.directives.escape);
        let names_in = |text: &str| {
            let expansion = expander.expand(text, &self.globals.values);
            expansion.map(|found| found.matched).unwrap_or_default()
        };
        let mut used = BTreeSet::new();
        for number in self.needed() {
            let head = &self.file.stages[number].head;
            used.extend(names_in(&head.base));
            used.extend(head.platform.as_deref().map(names_in).unwrap_or_default());
            for (statement, _) in &self.stages[number].statements {
                if let Instruction::Arg(declarations) = &statement.instruction {
                    let inherited = declarations.iter().filter(|arg| arg.default.is_none());
                    used.extend(inherited.map(|arg| arg.name.clone()));
                }
            }
        }
        let mut found = Vec::new();
        // A default refers to earlier arguments only, so one walk from the end finds them all.
        for statement in self.file.global_args.iter().rev() {
            let Instruction::Arg(declarations) = &statement.instruction else { continue };
            for declaration in declarations.iter().rev() {
                if !used.contains(&declaration.name) {
                    continue;
                }
                used.extend(declaration.default.as_deref().map(names_in).unwrap_or_default());
                let value = self.globals.values.get(&declaration.name).cloned();
                found.push(argument(statement, &declaration.name, value));
            }
        }
        found.reverse();
        found
    }

    /// What the checks find in the target and everything it needs, whatever a finding means for
    /// a build; with the mistake that stops the build, if there is one. Bases need not be
    /// supplied: what is not known is taken for an empty config.
    #[must_use]
    pub fn lint(mut self) -> (Vec<Warning>, Option<DockerfileError>) {
        let nothing = oci_model::ImageConfig::default();
        loop {
            let bases = self.unresolved_bases();
            if bases.is_empty() {
                break;
            }
            for base in &bases {
                if let Err(error) = self.supply_base(base, &nothing) {
                    return (self.into_findings(), Some(error));
                }
            }
        }
        let mut findings = self.take_findings();
        let folded = self.fold(&mut findings).map(drop);
        let error = folded.err().map(|error| self.file.place(error));
        (findings.into_list(), error)
    }

    /// Numbers of the stages that the target needs, ascending.
    #[must_use]
    pub fn stage_numbers(&self) -> Vec<usize> {
        self.needed()
    }
}

impl Outline {
    fn add_arg(&mut self, new: OutlineArg) {
        match self.args.iter_mut().find(|arg| arg.name == new.name) {
            Some(known) => {
                known.description = known.description.take().or(new.description);
                known.value = known.value.take().or(new.value);
            }
            None => self.args.push(new),
        }
    }

    fn add_mount<S>(&mut self, mount: &Mount<S>, span: Span) {
        let (list, id, requirement) = match mount {
            Mount::Secret { id, requirement, .. } => (&mut self.secrets, id, *requirement),
            Mount::Ssh { id, requirement, .. } => (&mut self.agents, id, *requirement),
            Mount::Cache { id, .. } => {
                if !self.caches.iter().any(|cache| cache.id == *id) {
                    self.caches.push(OutlineCache { id: id.clone(), span });
                }
                return;
            }
            Mount::Bind { .. } | Mount::Tmpfs { .. } => return,
        };
        match list.iter_mut().find(|known| known.id == *id) {
            Some(known) if requirement == Requirement::Required => known.requirement = requirement,
            Some(_) => {}
            None => list.push(OutlineMount { id: id.clone(), requirement, span }),
        }
    }
}

fn argument(statement: &Statement, name: &str, value: Option<String>) -> OutlineArg {
    let description = described(statement, name);
    OutlineArg { name: name.to_owned(), description, value, span: statement.span }
}

/// What follows `name` in the comments directly above an instruction.
fn described(statement: &Statement, name: &str) -> Option<String> {
    statement.comments.iter().find_map(|comment| {
        let (first, rest) = comment.split_once(char::is_whitespace)?;
        first.eq_ignore_ascii_case(name).then(|| rest.trim().to_owned())
    })
}
