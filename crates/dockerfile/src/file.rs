//! The whole file: directives, global arguments and stages.

use std::fmt;

use crate::directives::{Directives, read_directives};
use crate::error::{DockerfileError, ErrorKind};
use crate::instruction::{FromClause, Instruction, Statement};
use crate::limits::{DOCKERFILE_BYTES_MAX, STAGES_MAX};
use crate::lines::{Continuation, LogicalLine, logical_lines};
use crate::lint::{CheckDirective, Findings, Warning, check_text};
use crate::parse::parse_instruction;
use crate::position::Span;
use crate::words::cut_keyword;

#[cfg(test)]
mod shapes;
#[cfg(test)]
mod tests;

/// A parsed Dockerfile.
#[derive(Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) directives: Directives,
    /// ARG instructions before the first FROM.
    pub(crate) global_args: Vec<Statement>,
    pub(crate) stages: Vec<StageText>,
    /// Instructions whose continuation has an empty line.
    pub(crate) empty_continuations: Vec<Span>,
}

/// A stage as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StageText {
    pub(crate) head: FromClause,
    /// The FROM instruction itself.
    pub(crate) statement: Statement,
    pub(crate) statements: Vec<Statement>,
}

impl fmt::Debug for Dockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dockerfile")
            .field("name", &self.name)
            .field("directives", &self.directives)
            .field("global_args", &self.global_args)
            .field("stages", &self.stages)
            .finish_non_exhaustive()
    }
}

impl Dockerfile {
    /// Parses the bytes of a Dockerfile; `name` is what messages call it.
    ///
    /// # Errors
    /// The first mistake, with its place and, where one is near, what was probably meant.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, DockerfileError> {
        if bytes.len() > DOCKERFILE_BYTES_MAX {
            let message = format!("{name} is larger than {DOCKERFILE_BYTES_MAX} bytes");
            return Err(DockerfileError::new(ErrorKind::Limit, message));
        }
        let text = String::from_utf8_lossy(bytes);
        Self::parse_unplaced(name, bytes).map_err(|error| error.in_file(name, &text))
    }

    fn parse_unplaced(name: &str, bytes: &[u8]) -> Result<Self, DockerfileError> {
        let directives = read_directives(bytes)?;
        let mut file = Self {
            name: name.to_owned(),
            text: String::from_utf8_lossy(bytes).into_owned(),
            global_args: Vec::new(),
            stages: Vec::new(),
            empty_continuations: Vec::new(),
            directives,
        };
        for line in logical_lines(bytes, file.directives.escape)? {
            if line.continuation == Continuation::HasEmptyLine {
                file.empty_continuations.push(line.span);
            }
            file.push(line)?;
        }
        if file.stages.is_empty() {
            return Err(DockerfileError::syntax("dockerfile contains no stages to build"));
        }
        Ok(file)
    }

    fn push(&mut self, line: LogicalLine) -> Result<(), DockerfileError> {
        let span = line.span;
        let statement = statement(line, self.directives.escape)?;
        match (&statement.instruction, self.stages.last_mut()) {
            (Instruction::From(head), _) => {
                if self.stages.len() >= STAGES_MAX {
                    let message = format!("more than {STAGES_MAX} stages");
                    return Err(DockerfileError::new(ErrorKind::Limit, message).at(span));
                }
                let head = head.clone();
                self.stages.push(StageText { head, statement, statements: Vec::new() });
            }
            (_, Some(stage)) => stage.statements.push(statement),
            (Instruction::Arg(_), None) => self.global_args.push(statement),
            (_, None) => {
                return Err(DockerfileError::syntax("no build stage in current context").at(span));
            }
        }
        Ok(())
    }

    /// What messages call the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text, bytes that are not UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parser directives at its top.
    #[must_use]
    pub fn directives(&self) -> &Directives {
        &self.directives
    }

    /// What the checks that need only the text find, in the order of the file.
    ///
    /// A plan that succeeds reports these too; this is for the case that it does not.
    #[must_use]
    pub fn text_warnings(&self) -> Vec<Warning> {
        let check = self.directives.check.as_ref();
        let check = check.and_then(|(text, _)| CheckDirective::parse(text).ok());
        let mut findings = Findings::new(check.unwrap_or_default());
        check_text(self, &mut findings);
        findings.into_list()
    }

    /// Places an error that arose after parsing.
    pub(crate) fn place(&self, error: DockerfileError) -> DockerfileError {
        error.in_file(&self.name, &self.text)
    }
}

fn statement(line: LogicalLine, escape: char) -> Result<Statement, DockerfileError> {
    let span = line.span;
    let keyword = cut_keyword(&line.text).0.to_owned();
    let instruction =
        parse_instruction(&line.text, line.heredocs, escape).map_err(|error| error.at(span))?;
    Ok(Statement { instruction, keyword, original: line.text, span, comments: line.comments })
}

/// Parses an ONBUILD trigger of a base image; `span` is the FROM that pulled it in.
///
/// # Errors
/// If the trigger is not exactly one instruction that may be a trigger.
pub(crate) fn parse_trigger(trigger: &str, span: Span) -> Result<Statement, DockerfileError> {
    let parsed = logical_lines(trigger.as_bytes(), '\\').and_then(|lines| {
        let mut lines = lines.into_iter();
        match (lines.next(), lines.next()) {
            (Some(mut line), None) => {
                line.span = span;
                statement(line, '\\')
            }
            _ => Err(DockerfileError::plan("onbuild trigger should be a single expression")),
        }
    });
    let broken = |message: &str| {
        DockerfileError::plan(format!("ONBUILD trigger {trigger:?}: {message}")).at(span)
    };
    let statement = parsed.map_err(|error| broken(error.message()))?;
    match statement.instruction {
        Instruction::From(_) | Instruction::Maintainer(_) | Instruction::OnBuild(_) => {
            let keyword = statement.instruction.keyword();
            Err(broken(&format!("{keyword} isn't allowed as an ONBUILD trigger")))
        }
        _ => Ok(statement),
    }
}
