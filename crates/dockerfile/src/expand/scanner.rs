//! The recursive scanner behind [`super::Expander`].

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::{Escapes, Expander, Quotes, Unset, Variables, apply_pattern, check_depth, check_size};
use crate::error::DockerfileError;
use crate::pattern::{Replace, replace};

pub(super) struct Scanner<'a> {
    options: Expander,
    rest: Peekable<Chars<'a>>,
    variables: &'a dyn Variables,
    matched: BTreeSet<String>,
    undefined: BTreeSet<String>,
    depth: u32,
}

/// Words found so far, split at unquoted white space.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
    started: bool,
    /// Whether `current` is a `<<` and blanks that wait for a delimiter.
    awaits_delimiter: bool,
}

impl Words {
    fn push(&mut self, c: char) {
        if c.is_whitespace() {
            if self.awaits_delimiter || self.opens_heredoc() {
                self.awaits_delimiter = true;
                self.current.push(c);
                return;
            }
            self.end();
        } else {
            self.push_raw(c);
        }
    }

    /// Blanks may stand between `<<` and the delimiter of a heredoc.
    fn opens_heredoc(&self) -> bool {
        let word = self.current.strip_suffix('-').unwrap_or(&self.current);
        word.strip_suffix("<<").is_some_and(|fd| fd.bytes().all(|byte| byte.is_ascii_digit()))
    }

    fn push_raw(&mut self, c: char) {
        self.current.push(c);
        self.started = true;
        self.awaits_delimiter = false;
    }

    fn end(&mut self) {
        if self.started && !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
        self.started = false;
    }

    fn finish(mut self) -> Vec<String> {
        self.end();
        self.done
    }
}

type Text = Result<String, DockerfileError>;

impl<'a> Scanner<'a> {
    pub(super) fn new(options: Expander, text: &'a str, variables: &'a dyn Variables) -> Self {
        Self {
            options,
            rest: text.chars().peekable(),
            variables,
            matched: BTreeSet::new(),
            undefined: BTreeSet::new(),
            depth: 0,
        }
    }

    pub(super) fn run(&mut self) -> Result<(String, Vec<String>), DockerfileError> {
        self.until(None, self.options.escapes)
    }

    pub(super) fn into_names(self) -> (BTreeSet<String>, BTreeSet<String>) {
        (self.matched, self.undefined)
    }

    /// Reads up to `stop` (consumed), or to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        escapes: Escapes,
    ) -> Result<(String, Vec<String>), DockerfileError> {
        self.depth += 1;
        check_depth(self.depth)?;
        let outer = std::mem::replace(&mut self.options.escapes, escapes);
        let mut text = String::new();
        let mut words = Words::default();
        let mut found = stop.is_none();
        while let Some(&c) = self.rest.peek() {
            if Some(c) == stop {
                self.rest.next();
                found = true;
                break;
            }
            self.piece(c, &mut text, &mut words)?;
            check_size(&text)?;
        }
        self.options.escapes = outer;
        self.depth -= 1;
        if let (Some(stop), false) = (stop, found) {
            return Err(DockerfileError::plan(format!(
                "unexpected end of statement while looking for matching {stop}"
            )));
        }
        Ok((text, words.finish()))
    }

    fn piece(
        &mut self,
        c: char,
        text: &mut String,
        words: &mut Words,
    ) -> Result<(), DockerfileError> {
        let quotes_group = self.options.quotes != Quotes::Ordinary;
        match c {
            '$' => {
                let value = self.dollar()?;
                value.chars().for_each(|c| words.push(c));
                text.push_str(&value);
            }
            '\'' | '"' if quotes_group => {
                let value = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                words.started = true;
                value.chars().for_each(|c| words.push_raw(c));
                text.push_str(&value);
            }
            _ => {
                self.rest.next();
                if c != self.options.escape {
                    words.push(c);
                    text.push(c);
                    return Ok(());
                }
                if self.options.escapes == Escapes::Keep {
                    words.push_raw(c);
                    text.push(c);
                }
                // An escape at the end escapes nothing.
                if let Some(escaped) = self.rest.next() {
                    words.push_raw(escaped);
                    text.push(escaped);
                }
            }
        }
        Ok(())
    }

    fn single_quoted(&mut self) -> Text {
        let mut text = String::new();
        let quote = self.rest.next();
        if self.options.quotes == Quotes::Keep {
            text.extend(quote);
        }
        for c in self.rest.by_ref() {
            if c == '\'' {
                if self.options.quotes == Quotes::Keep {
                    text.push(c);
                }
                return Ok(text);
            }
            text.push(c);
        }
        Err(DockerfileError::plan(
            "unexpected end of statement while looking for matching single-quote",
        ))
    }

    fn double_quoted(&mut self) -> Text {
        let mut text = String::new();
        let quote = self.rest.next();
        if self.options.quotes == Quotes::Keep {
            text.extend(quote);
        }
        while let Some(&c) = self.rest.peek() {
            if c == '$' {
                text.push_str(&self.dollar()?);
                check_size(&text)?;
                continue;
            }
            self.rest.next();
            if c == '"' {
                if self.options.quotes == Quotes::Keep {
                    text.push(c);
                }
                return Ok(text);
            }
            if c != self.options.escape {
                text.push(c);
                continue;
            }
            let escapable = |next: &char| matches!(next, '"' | '$') || *next == c;
            match self.rest.next_if(escapable) {
                Some(escaped) => {
                    if self.options.escapes == Escapes::Keep {
                        text.push(c);
                    }
                    text.push(escaped);
                }
                None if self.rest.peek().is_some() => text.push(c),
                None => {}
            }
        }
        Err(DockerfileError::plan(
            "unexpected end of statement while looking for matching double-quote",
        ))
    }

    fn dollar(&mut self) -> Text {
        self.rest.next();
        if self.rest.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.lookup(&name, Provided::No) {
                Some(value) => value,
                None if self.options.unset == Unset::Keep => format!("${name}"),
                None => String::new(),
            });
        }
        self.rest.next();
        match self.rest.peek() {
            None => return Err(DockerfileError::plan("syntax error: missing '}'")),
            Some('{' | '}' | ':') => {
                return Err(DockerfileError::plan("syntax error: bad substitution"));
            }
            Some(_) => {}
        }
        let name = self.name();
        match self.rest.next() {
            Some('}') => Ok(match self.lookup(&name, Provided::No) {
                Some(value) => value,
                None if self.options.unset == Unset::Keep => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => match self.rest.next() {
                Some(operator @ ('-' | '+' | '?')) => {
                    self.conditional(&name, operator, Null::Unset)
                }
                Some(other) => Err(unsupported(&format!(":{other}"))),
                None => Err(DockerfileError::plan("syntax error: missing '}'")),
            },
            Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, operator, Null::Set),
            Some(operator @ ('#' | '%')) => self.trim(&name, operator),
            Some('/') => self.replace(&name),
            Some(other) => Err(unsupported(&other.to_string())),
            None => Err(DockerfileError::plan("syntax error: missing '}'")),
        }
    }

    fn conditional(&mut self, name: &str, operator: char, null: Null) -> Text {
        let word = self.operand('}', Escapes::Remove)?;
        let value = self.lookup(name, Provided::Yes);
        let value = value.filter(|value| null == Null::Set || !value.is_empty());
        let colon = if null == Null::Unset { ":" } else { "" };
        match (operator, value) {
            ('+', Some(_)) => Ok(word),
            ('+' | '-', None) if self.options.unset == Unset::Keep => {
                Ok(format!("${{{name}{colon}{operator}{word}}}"))
            }
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) if !word.is_empty() => Err(DockerfileError::plan(format!("{name}: {word}"))),
            (_, None) => {
                let state = if null == Null::Unset { "empty" } else { "unset" };
                let message = format!("{name}: is not allowed to be {state}");
                Err(DockerfileError::plan(message))
            }
        }
    }

    fn trim(&mut self, name: &str, operator: char) -> Text {
        let word = self.operand('}', Escapes::Keep)?;
        match self.lookup(name, Provided::No) {
            Some(value) => apply_pattern(operator, &value, &word),
            None if self.options.unset == Unset::Keep => Ok(format!("${{{name}{operator}{word}}}")),
            None => Ok(String::new()),
        }
    }

    fn replace(&mut self, name: &str) -> Text {
        let all = self.rest.next_if_eq(&'/').is_some();
        let pattern = self
            .operand('/', Escapes::Keep)
            .map_err(|error| if self.at_end() { missing_slash() } else { error })?;
        let replacement = self.operand('}', Escapes::Keep)?;
        match self.lookup(name, Provided::No) {
            Some(value) => {
                let how = if all { Replace::All } else { Replace::First };
                replace(&value, &pattern, &replacement, how)
            }
            None if self.options.unset == Unset::Keep => {
                let slashes = if all { "//" } else { "/" };
                Ok(format!("${{{name}{slashes}{pattern}/{replacement}}}"))
            }
            None => Ok(String::new()),
        }
    }

    fn operand(&mut self, stop: char, escapes: Escapes) -> Text {
        match self.until(Some(stop), escapes) {
            Ok((word, _)) => Ok(word),
            Err(_) if stop == '}' && self.at_end() => {
                Err(DockerfileError::plan("syntax error: missing '}'"))
            }
            Err(error) => Err(error),
        }
    }

    fn at_end(&mut self) -> bool {
        self.rest.peek().is_none()
    }

    /// A name: letters, digits and underscores; or digits; or one special parameter.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(&first) = self.rest.peek() {
            if first.is_ascii_digit() {
                while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(digit);
                }
                return name;
            }
            if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.rest.next();
                name.push(first);
                return name;
            }
        }
        while let Some(c) = self.rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }

    fn lookup(&mut self, name: &str, provided: Provided) -> Option<String> {
        let value = self.variables.value(name);
        if value.is_some() {
            self.matched.insert(name.to_owned());
        } else if provided == Provided::No {
            self.undefined.insert(name.to_owned());
        }
        value.map(str::to_owned)
    }
}

/// Whether the empty value counts as unset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Null {
    Set,
    Unset,
}

/// Whether the text says what to do when the variable is unset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Provided {
    Yes,
    No,
}

fn unsupported(modifier: &str) -> DockerfileError {
    DockerfileError::plan(format!("unsupported modifier ({modifier}) in substitution"))
}

fn missing_slash() -> DockerfileError {
    DockerfileError::plan("syntax error: missing '/' in ${}")
}
