//! Build checks: warnings about Dockerfiles that build but probably not as meant.

use std::fmt;

use crate::position::Span;

mod directive;
mod rules;
#[cfg(test)]
mod tests;

pub(crate) use directive::CheckDirective;
pub(crate) use rules::{Findings, check_text};

/// One finding; findings sort by their place.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Warning {
    /// Where.
    pub span: Span,
    /// Which check.
    pub rule: Rule,
    /// What was found, in one sentence.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (line {})", self.rule.name(), self.text, self.span.line)
    }
}

macro_rules! rules {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// The checks by the names BuildKit gave them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $doc] $name,)*
        }

        impl Rule {
            /// Every check.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What the check is about, in one sentence.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $(Self::$name => $doc.trim_ascii(),)* }
            }

            /// The name used in `# check=skip=…`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

rules! {
    /// Stage names should be lower case.
    StageNameCasing,
    /// FROM and AS should have the same casing.
    FromAsCasing,
    /// A continued instruction has an empty line in it.
    NoEmptyContinuation,
    /// Keywords should all have the same casing.
    ConsistentInstructionCasing,
    /// Two stages have the same name.
    DuplicateStageName,
    /// A stage is called `scratch` or `context`.
    ReservedStageName,
    /// CMD or ENTRYPOINT in shell form does not receive signals.
    JSONArgsRecommended,
    /// MAINTAINER is deprecated.
    MaintainerDeprecated,
    /// FROM uses an argument that is not declared before the first FROM.
    UndefinedArgInFrom,
    /// A relative WORKDIR depends on the base image.
    WorkdirRelativePath,
    /// A variable is used that nothing sets.
    UndefinedVar,
    /// Only the last CMD, ENTRYPOINT or HEALTHCHECK of a stage counts.
    MultipleInstructionsDisallowed,
    /// `ENV key value` should be `ENV key=value`.
    LegacyKeyValueFormat,
    /// The base image is for another platform.
    InvalidBaseImagePlatform,
    /// `--platform=$TARGETPLATFORM` is the default.
    RedundantTargetPlatform,
    /// ARG or ENV seems to hold a secret.
    SecretsUsedInArgOrEnv,
    /// With its default arguments FROM has no valid image.
    InvalidDefaultArgInFrom,
    /// A constant `--platform` in FROM.
    FromPlatformFlagConstDisallowed,
    /// COPY of a file that the ignore file excludes.
    CopyIgnoredFile,
    /// The comment above a stage or argument is not its description (experimental).
    InvalidDefinitionDescription,
    /// Protocols in EXPOSE should be lower case.
    ExposeProtoCasing,
    /// EXPOSE takes no host address and no host port.
    ExposeInvalidFormat,
}
