//! What is wrong with a file, all of it at once, each with its line.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::shape::{Key, Shape, Size, Time};

/// Something wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Counted from 1; 0 if it is about the file as a whole.
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.text),
            line => write!(f, "line {line}: {}", self.text),
        }
    }
}

/// Checks the table `[registry]` of a file; other tables belong to other verbs.
pub(super) fn problems(text: &str, shape: &Shape) -> Vec<Problem> {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = error.span().map_or(0, |span| line_of(text, span.start));
            return vec![Problem { line, text: error.message().to_owned() }];
        }
    };
    let mut checker = Checker { text, problems: Vec::new() };
    for (name, value) in document.get_ref() {
        if name.get_ref() == "registry" {
            checker.value("registry", value, shape);
        } else if close(name.get_ref(), ["registry"].into_iter()).is_some() {
            let text = format!("unknown table [{}]; did you mean [registry]?", name.get_ref());
            checker.add(name.span().start, text);
        }
    }
    checker.problems.sort_by_key(|problem| problem.line);
    checker.problems
}

struct Checker<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn add(&mut self, at: usize, text: String) {
        self.problems.push(Problem { line: line_of(self.text, at), text });
    }

    fn value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, shape: &Shape) {
        let at = value.span().start;
        match (shape, value.get_ref()) {
            (Shape::Table(keys), DeValue::Table(table)) => self.table(path, at, table, keys),
            (Shape::Map(of), DeValue::Table(table)) => {
                for (name, value) in table {
                    self.value(&format!("{path}.{}", name.get_ref()), value, of);
                }
            }
            (Shape::List(of), DeValue::Array(values)) => {
                for value in values.iter() {
                    self.value(path, value, of);
                }
            }
            (Shape::Choice(words), DeValue::String(word)) => {
                if !words.iter().any(|known| known == word) {
                    let hint = suggestion(word, words.iter().map(String::as_str));
                    let text = format!("{path} is one of {}, not {word:?}{hint}", words.join(", "));
                    self.add(at, text);
                }
            }
            (Shape::Duration, DeValue::String(text)) => {
                if let Err(why) = text.parse::<Time>() {
                    self.add(at, format!("{path}: {why}"));
                }
            }
            (Shape::Bytes, DeValue::String(text)) => {
                if let Err(why) = text.parse::<Size>() {
                    self.add(at, format!("{path}: {why}"));
                }
            }
            (Shape::Text(_), DeValue::String(_)) | (Shape::Boolean, DeValue::Boolean(_)) => {}
            (Shape::Integer | Shape::Bytes, DeValue::Integer(number)) => {
                if u64::from_str_radix(number.as_str(), number.radix()).is_err() {
                    self.add(at, format!("{path} is a whole number from 0 on, not {number}"));
                }
            }
            (shape, value) => {
                let (expected, found) = (shape.describe(), value.type_str());
                self.add(at, format!("{path} takes {expected}, not {found}"));
            }
        }
    }

    fn table(&mut self, path: &str, at: usize, table: &DeTable<'_>, keys: &[Key]) {
        for (name, value) in table {
            let known = keys.iter().find(|key| key.name == **name.get_ref());
            if let Some(key) = known {
                self.value(&format!("{path}.{}", key.name), value, &key.shape);
                continue;
            }
            let hint = suggestion(name.get_ref(), keys.iter().map(|key| key.name.as_str()));
            self.add(name.span().start, format!("unknown key {path}.{}{hint}", name.get_ref()));
        }
        for key in keys.iter().filter(|key| key.required) {
            if !table.iter().any(|(name, _)| **name.get_ref() == key.name) {
                self.add(at, format!("{path} lacks the key {}", key.name));
            }
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    close(word, known).map_or_else(String::new, |known| format!("; did you mean {known}?"))
}

/// The known word that somebody who typed `word` most likely meant.
pub(super) fn close<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = word.to_lowercase().replace('_', "-");
    known
        .map(|candidate| (strsim::damerau_levenshtein(&plain, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 2.max(candidate.len() / 4)
                && *distance < candidate.len()
                && word != *candidate
        })
        .min()
        .map(|(_, candidate)| candidate)
}
