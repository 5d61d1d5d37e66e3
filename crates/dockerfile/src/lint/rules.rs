//! The checks that need only the text.

use std::collections::BTreeSet;

use super::directive::{CheckDirective, Violations};
use super::{Rule, Warning};
use crate::error::{DockerfileError, ErrorKind};
use crate::file::{Dockerfile, StageText};
use crate::instruction::{Instruction, KeyValueForm, Statement};
use crate::position::Span;

/// Findings of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Findings {
    check: CheckDirective,
    found: BTreeSet<Warning>,
}

impl Findings {
    pub(crate) fn new(check: CheckDirective) -> Self {
        Self { check, found: BTreeSet::new() }
    }

    /// Notes a finding at an instruction, unless the file or a comment above it says skip.
    pub(crate) fn report(&mut self, rule: Rule, statement: &Statement, text: String) {
        let skipped_here = statement.comments.iter().any(|comment| {
            let (key, value) = comment.split_once('=').unwrap_or_default();
            key.trim().eq_ignore_ascii_case("check")
                && CheckDirective::parse(value).is_ok_and(|check| !check.wants(rule))
        });
        if !skipped_here {
            self.report_at(rule, statement.span, text);
        }
    }

    /// Notes a finding at a place.
    pub(crate) fn report_at(&mut self, rule: Rule, span: Span, text: String) {
        if self.check.wants(rule) {
            self.found.insert(Warning { span, rule, text });
        }
    }

    /// The findings in the order of the file, whatever they mean.
    pub(crate) fn into_list(self) -> Vec<Warning> {
        self.found.into_iter().collect()
    }

    /// The findings in the order of the file.
    ///
    /// # Errors
    /// If there are any and the file or the caller said `error=true`.
    pub(crate) fn finish(self) -> Result<Vec<Warning>, DockerfileError> {
        if self.check.violations == Violations::Fail
            && let Some(first) = self.found.first()
        {
            let mut names: Vec<&str> = self.found.iter().map(|found| found.rule.name()).collect();
            names.sort_unstable();
            names.dedup();
            let message = format!("lint violation found for rules: {}", names.join(", "));
            return Err(DockerfileError::new(ErrorKind::Lint, message).at(first.span));
        }
        Ok(self.into_list())
    }
}

/// Runs every check that needs only the text.
pub(crate) fn check_text(file: &Dockerfile, findings: &mut Findings) {
    for span in &file.empty_continuations {
        let text = "Empty continuation line".to_owned();
        findings.report_at(Rule::NoEmptyContinuation, *span, text);
    }
    instruction_casing(file, findings);
    let mut names = BTreeSet::new();
    for stage in &file.stages {
        stage_names(stage, &mut names, findings);
        stage_platform(stage, findings);
        repeated_instructions(stage, findings);
    }
    let statements = file.stages.iter().flat_map(|stage| &stage.statements);
    for statement in file.global_args.iter().chain(statements) {
        single_instruction(statement, findings);
    }
}

fn stage_names(stage: &StageText, seen: &mut BTreeSet<String>, findings: &mut Findings) {
    let statement = &stage.statement;
    let Some(name) = &stage.head.name else { return };
    if *name != name.to_lowercase() {
        let text = format!("Stage name '{name}' should be lowercase");
        findings.report(Rule::StageNameCasing, statement, text);
    }
    if let Some(keyword) = &stage.head.as_keyword {
        let consistent = is_upper(keyword) == is_upper(&statement.keyword)
            && is_lower(keyword) == is_lower(&statement.keyword);
        if !consistent {
            let from = &statement.keyword;
            let text = format!("'{keyword}' and '{from}' keywords' casing do not match");
            findings.report(Rule::FromAsCasing, statement, text);
        }
    }
    let lower = name.to_lowercase();
    if matches!(lower.as_str(), "scratch" | "context") {
        let text = format!("Stage name should not use the same name as reserved stage {lower:?}");
        findings.report(Rule::ReservedStageName, statement, text);
    }
    if !seen.insert(lower) {
        let text = format!("Duplicate stage name {name:?}, stage names should be unique");
        findings.report(Rule::DuplicateStageName, statement, text);
    }
    let described = std::slice::from_ref(name);
    description(statement, described, findings);
}

fn stage_platform(stage: &StageText, findings: &mut Findings) {
    let Some(platform) = &stage.head.platform else { return };
    let variable = platform.trim_start_matches('$').trim_matches(['{', '}']);
    if platform.starts_with('$') && variable == "TARGETPLATFORM" {
        let text = format!(
            "Setting platform to predefined {platform} in FROM is redundant as this is the \
             default behavior"
        );
        findings.report(Rule::RedundantTargetPlatform, &stage.statement, text);
    }
    // A stage named after its platform is meant to be for that platform.
    let named_after = |name: &str| {
        platform.split('/').any(|part| !part.is_empty() && name.to_lowercase().contains(part))
    };
    if !platform.contains('$') && !stage.head.name.as_deref().is_some_and(named_after) {
        let text = format!("FROM --platform flag should not use constant value {platform:?}");
        findings.report(Rule::FromPlatformFlagConstDisallowed, &stage.statement, text);
    }
}

fn repeated_instructions(stage: &StageText, findings: &mut Findings) {
    for keyword in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
        let all: Vec<&Statement> = stage
            .statements
            .iter()
            .filter(|statement| statement.instruction.keyword() == keyword)
            .collect();
        for statement in all.iter().rev().skip(1).rev() {
            let text = format!(
                "Multiple {keyword} instructions should not be used in the same stage because \
                 only the last one will be used"
            );
            findings.report(Rule::MultipleInstructionsDisallowed, statement, text);
        }
    }
}

fn single_instruction(statement: &Statement, findings: &mut Findings) {
    let keyword = statement.instruction.keyword();
    match &statement.instruction {
        Instruction::Maintainer(_) => {
            let text = "Maintainer instruction is deprecated in favor of using label".to_owned();
            findings.report(Rule::MaintainerDeprecated, statement, text);
        }
        Instruction::Env(values) | Instruction::Label(values) => {
            if values.form == KeyValueForm::Legacy {
                let text = format!(
                    "\"{keyword} key=value\" should be used instead of legacy \
                     \"{keyword} key value\" format"
                );
                findings.report(Rule::LegacyKeyValueFormat, statement, text);
            }
            if keyword == "ENV" {
                values.pairs.iter().for_each(|(name, _)| secret(name, statement, findings));
            }
        }
        Instruction::Arg(declarations) => {
            declarations.iter().for_each(|arg| secret(&arg.name, statement, findings));
            let names: Vec<String> = declarations.iter().map(|arg| arg.name.clone()).collect();
            description(statement, &names, findings);
        }
        Instruction::Add(_)
        | Instruction::Cmd(_)
        | Instruction::Copy(_)
        | Instruction::Entrypoint(_)
        | Instruction::Expose(_)
        | Instruction::From(_)
        | Instruction::Healthcheck(_)
        | Instruction::OnBuild(_)
        | Instruction::Run(_)
        | Instruction::Shell(_)
        | Instruction::StopSignal(_)
        | Instruction::User(_)
        | Instruction::Volume(_)
        | Instruction::Workdir(_) => {}
    }
}

fn secret(name: &str, statement: &Statement, findings: &mut Findings) {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    let lower = name.to_lowercase();
    let parts: Vec<&str> = lower.split('_').collect();
    let harmless = parts.contains(&"public")
        || parts.last().is_some_and(|last| last.ends_with("file") || last.ends_with("version"));
    if !harmless && parts.iter().any(|part| SECRET.contains(part)) {
        let keyword = statement.instruction.keyword();
        let text =
            format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})");
        findings.report(Rule::SecretsUsedInArgOrEnv, statement, text);
    }
}

fn description(statement: &Statement, names: &[String], findings: &mut Findings) {
    let Some(comment) = statement.comments.last() else { return };
    let first = comment.split_whitespace().next().unwrap_or_default();
    if comment.is_empty()
        || first.starts_with("check=")
        || names.iter().any(|name| name.eq_ignore_ascii_case(first))
    {
        return;
    }
    let text = "Comment for build stage or argument should follow the format: \
         `# <arg/stage name> <description>`. If this is not intended to be a description comment, \
         add an empty line or comment between the instruction and the comment."
        .to_owned();
    findings.report(Rule::InvalidDefinitionDescription, statement, text);
}

fn is_upper(word: &str) -> bool {
    word == word.to_uppercase()
}

fn is_lower(word: &str) -> bool {
    word == word.to_lowercase()
}

fn instruction_casing(file: &Dockerfile, findings: &mut Findings) {
    let stages = file.stages.iter();
    let in_stages =
        stages.flat_map(|stage| std::iter::once(&stage.statement).chain(&stage.statements));
    let all: Vec<&Statement> = file.global_args.iter().chain(in_stages).collect();
    let lower = all.iter().filter(|statement| is_lower(&statement.keyword)).count();
    let upper = all.iter().filter(|statement| is_upper(&statement.keyword)).count();
    let (name, fits): (&str, fn(&str) -> bool) =
        if upper < lower { ("lowercase", is_lower) } else { ("uppercase", is_upper) };
    for statement in all {
        if !fits(&statement.keyword) {
            let text = format!(
                "Command '{}' should match the case of the command majority ({name})",
                statement.keyword
            );
            findings.report(Rule::ConsistentInstructionCasing, statement, text);
        }
    }
}
