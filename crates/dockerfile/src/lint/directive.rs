//! `# check=skip=…;error=…;experimental=…`.

use super::Rule;
use crate::error::{DockerfileError, ErrorKind};

/// Which checks run and what a finding means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct CheckDirective {
    skip: RuleSet,
    experimental: RuleSet,
    pub(crate) violations: Violations,
}

/// What a finding means for the build.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Violations {
    #[default]
    Warn,
    Fail,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum RuleSet {
    #[default]
    None,
    All,
    Named(Vec<String>),
}

impl RuleSet {
    fn parse(text: &str) -> Self {
        if text.trim().eq_ignore_ascii_case("all") {
            return Self::All;
        }
        Self::Named(text.split(',').map(|name| name.trim().to_lowercase()).collect())
    }

    fn contains(&self, rule: Rule) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.contains(&rule.name().to_lowercase()),
        }
    }
}

impl CheckDirective {
    /// Reads the value of `check=`.
    pub(crate) fn parse(text: &str) -> Result<Self, DockerfileError> {
        let mut directive = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let invalid = |what: &str| {
                let message = format!("invalid check option {part:?}: {what}");
                DockerfileError::new(ErrorKind::Syntax, message)
            };
            let (key, value) = part.split_once('=').ok_or_else(|| invalid("want key=value"))?;
            match key.trim().to_lowercase().as_str() {
                "skip" => directive.skip = RuleSet::parse(value),
                "experimental" => directive.experimental = RuleSet::parse(value),
                "error" => {
                    directive.violations = match value.trim().to_lowercase().as_str() {
                        "true" | "1" => Violations::Fail,
                        "false" | "0" => Violations::Warn,
                        _ => return Err(invalid("want true or false")),
                    };
                }
                _ => return Err(invalid("want skip, error or experimental")),
            }
        }
        Ok(directive)
    }

    /// Whether findings of `rule` are wanted at all.
    pub(crate) fn wants(&self, rule: Rule) -> bool {
        if rule == Rule::InvalidDefinitionDescription && !self.experimental.contains(rule) {
            return false;
        }
        !self.skip.contains(rule)
    }
}
