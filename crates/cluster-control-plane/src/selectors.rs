//! Label and field selectors: parsing and matching.

use serde_json::Value;

use crate::error::ApiError;
use crate::object;
use crate::resources::Resource;

/// A conjunction of label requirements; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    operator: LabelOperator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelOperator {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses the query form: `k=v`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k`, `!k`,
    /// `k>1`, `k<1`, joined by commas.
    ///
    /// # Errors
    /// 400 `unable to parse requirement: …`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut parser = Parser { tokens: tokenize(text), next: 0 };
        let requirements = parser
            .requirements()
            .map_err(|why| ApiError::bad_request(format!("unable to parse requirement: {why}")))?;
        Ok(Self { requirements })
    }

    /// The requirement that each of these labels has exactly this value.
    pub fn equal<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirements = labels
            .into_iter()
            .map(|(key, value)| LabelRequirement {
                key: key.to_owned(),
                operator: LabelOperator::In(vec![value.to_owned()]),
            })
            .collect();
        Self { requirements }
    }

    /// Reads a `meta/v1 LabelSelector` object (`matchLabels`, `matchExpressions`). An empty
    /// selector matches everything; unknown operators match nothing.
    pub fn from_object(selector: &Value) -> Self {
        let mut requirements = Vec::new();
        for (key, value) in object::map(selector, &["matchLabels"]).into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            requirements
                .push(LabelRequirement { key: key.clone(), operator: LabelOperator::In(values) });
        }
        for expression in object::list(selector, &["matchExpressions"]) {
            let values: Vec<String> = object::list(expression, &["values"])
                .iter()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            let operator = match object::text(expression, &["operator"]) {
                "In" => LabelOperator::In(values),
                "NotIn" => LabelOperator::NotIn(values),
                "Exists" => LabelOperator::Exists,
                "DoesNotExist" => LabelOperator::Absent,
                _ => LabelOperator::In(Vec::new()),
            };
            let key = object::text(expression, &["key"]).to_owned();
            requirements.push(LabelRequirement { key, operator });
        }
        Self { requirements }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object's labels match.
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = object::label(object, &requirement.key);
            match &requirement.operator {
                LabelOperator::Exists => value.is_some(),
                LabelOperator::Absent => value.is_none(),
                LabelOperator::In(values) => {
                    value.is_some_and(|value| values.iter().any(|one| one == value))
                }
                LabelOperator::NotIn(values) => {
                    value.is_none_or(|value| values.iter().all(|one| one != value))
                }
                LabelOperator::GreaterThan(bound) => {
                    value.and_then(|value| value.parse::<i64>().ok()).is_some_and(|n| *bound < n)
                }
                LabelOperator::LessThan(bound) => {
                    value.and_then(|value| value.parse::<i64>().ok()).is_some_and(|n| n < *bound)
                }
            }
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
}

fn tokenize(text: &str) -> Vec<Token> {
    const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", ">", "<"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || "=!,()><".contains(c))
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        token
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(have)) if *have == symbol);
        if found {
            self.next += 1;
        }
        found
    }

    fn requirements(&mut self) -> Result<Vec<LabelRequirement>, String> {
        let mut requirements = Vec::new();
        if self.peek().is_none() {
            return Ok(requirements);
        }
        loop {
            requirements.push(self.requirement()?);
            match self.take() {
                None => return Ok(requirements),
                Some(Token::Symbol(",")) => {}
                Some(other) => return Err(expected(Some(&other), "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<LabelRequirement, String> {
        let negated = self.take_symbol("!");
        let key = self.word("identifier")?;
        check_label_key(&key)?;
        if negated {
            return Ok(LabelRequirement { key, operator: LabelOperator::Absent });
        }
        let operator = match self.peek().cloned() {
            None | Some(Token::Symbol(",")) => LabelOperator::Exists,
            Some(Token::Symbol("=" | "==")) => {
                self.next += 1;
                LabelOperator::In(vec![self.value()?])
            }
            Some(Token::Symbol("!=")) => {
                self.next += 1;
                LabelOperator::NotIn(vec![self.value()?])
            }
            Some(Token::Symbol(">")) => {
                self.next += 1;
                LabelOperator::GreaterThan(self.number()?)
            }
            Some(Token::Symbol("<")) => {
                self.next += 1;
                LabelOperator::LessThan(self.number()?)
            }
            Some(Token::Word(word)) if word == "in" => {
                self.next += 1;
                LabelOperator::In(self.values()?)
            }
            Some(Token::Word(word)) if word == "notin" => {
                self.next += 1;
                LabelOperator::NotIn(self.values()?)
            }
            Some(other) => {
                return Err(expected(Some(&other), "in, notin, =, ==, !=, gt, lt"));
            }
        };
        Ok(LabelRequirement { key, operator })
    }

    fn word(&mut self, wanted: &str) -> Result<String, String> {
        match self.take() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(expected(other.as_ref(), wanted)),
        }
    }

    fn value(&mut self) -> Result<String, String> {
        // An empty value is legal: `k=`.
        match self.peek() {
            None | Some(Token::Symbol(",")) => Ok(String::new()),
            _ => {
                let value = self.word("identifier")?;
                check_label_value(&value)?;
                Ok(value)
            }
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let word = self.word("identifier")?;
        word.parse()
            .map_err(|_| "for 'Gt', 'Lt' operators, the value must be an integer".to_owned())
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if !self.take_symbol("(") {
            return Err(expected(self.peek(), "'('"));
        }
        let mut values = Vec::new();
        loop {
            match self.take() {
                Some(Token::Word(word)) => {
                    check_label_value(&word)?;
                    values.push(word);
                    match self.take() {
                        Some(Token::Symbol(",")) => {}
                        Some(Token::Symbol(")")) => return Ok(values),
                        other => return Err(expected(other.as_ref(), "',' or ')'")),
                    }
                }
                Some(Token::Symbol(",")) => values.push(String::new()),
                Some(Token::Symbol(")")) => return Ok(values),
                other => return Err(expected(other.as_ref(), "',', ')' or identifier")),
            }
        }
    }
}

fn expected(found: Option<&Token>, wanted: &str) -> String {
    let found = match found {
        None => "",
        Some(Token::Word(word)) => word,
        Some(Token::Symbol(symbol)) => symbol,
    };
    format!("found '{found}', expected: {wanted}")
}

fn check_label_key(key: &str) -> Result<(), String> {
    let name = key.rsplit('/').next().unwrap_or(key);
    let fits = !name.is_empty()
        && name.len() <= 63
        && is_label_word(name)
        && key.matches('/').count() <= 1;
    if fits {
        Ok(())
    } else {
        Err(format!("key: Invalid value: {key:?}: must be a qualified name"))
    }
}

fn check_label_value(value: &str) -> Result<(), String> {
    if value.len() <= 63 && (value.is_empty() || is_label_word(value)) {
        return Ok(());
    }
    Err(format!(
        "values[0]: Invalid value: {value:?}: a valid label value is at most 63 characters"
    ))
}

fn is_label_word(word: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    word.chars().all(inner)
        && word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// A conjunction of field requirements; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    label: String,
    value: String,
    operator: FieldOperator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldOperator {
    Equal,
    NotEqual,
}

impl FieldSelector {
    /// Parses the query form: `a.b=c`, `a.b==c`, `a.b!=c`, joined by commas; a backslash escapes
    /// comma, equals sign and backslash in values.
    ///
    /// # Errors
    /// 400 for a term without an operator.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            requirements.push(parse_field_term(term).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "invalid selector: {text:?}; can't understand {term:?}"
                ))
            })?);
        }
        Ok(Self { requirements })
    }

    /// The requirement that one field equals a value.
    pub fn equal(label: &str, value: &str) -> Self {
        Self::default().and_equal(label, value)
    }

    /// Adds the requirement that one field equals a value.
    #[must_use]
    pub fn and_equal(mut self, label: &str, value: &str) -> Self {
        self.requirements.push(FieldRequirement {
            label: label.to_owned(),
            value: value.to_owned(),
            operator: FieldOperator::Equal,
        });
        self
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The name every match must have, if the selector fixes it.
    pub fn fixed_name(&self) -> Option<&str> {
        self.requirements
            .iter()
            .find(|one| one.label == "metadata.name" && one.operator == FieldOperator::Equal)
            .map(|one| one.value.as_str())
    }

    /// Refuses labels the kind does not support.
    ///
    /// # Errors
    /// 400 `… field label not supported: x`.
    pub fn check(&self, resource: &Resource) -> Result<(), ApiError> {
        for requirement in &self.requirements {
            let label = requirement.label.as_str();
            let known = matches!(label, "metadata.name" | "metadata.namespace")
                || resource.field_labels.contains(&label);
            if !known {
                let path = format!(
                    "{}/{}, Resource={}",
                    resource.group, resource.version, resource.plural
                );
                let message = format!(
                    "Unable to find {path:?} that match label selector \"\", field selector {:?}: field \
                     label not supported: {label}",
                    self.to_query()
                );
                return Err(ApiError::bad_request(message));
            }
        }
        Ok(())
    }

    fn to_query(&self) -> String {
        let terms: Vec<String> = self
            .requirements
            .iter()
            .map(|one| {
                let operator = if one.operator == FieldOperator::Equal { "=" } else { "!=" };
                format!("{}{operator}{}", one.label, one.value)
            })
            .collect();
        terms.join(",")
    }

    /// Whether an object (in its stored form) matches.
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|requirement| {
            let equal = field_value(object, &requirement.label) == requirement.value;
            match requirement.operator {
                FieldOperator::Equal => equal,
                FieldOperator::NotEqual => !equal,
            }
        })
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_field_term(term: &str) -> Option<FieldRequirement> {
    let at = term.find(['=', '!'])?;
    let (label, rest) = term.split_at(at);
    let (operator, value) = if let Some(value) = rest.strip_prefix("!=") {
        (FieldOperator::NotEqual, value)
    } else if let Some(value) = rest.strip_prefix("==") {
        (FieldOperator::Equal, value)
    } else {
        (FieldOperator::Equal, rest.strip_prefix('=')?)
    };
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        plain.push(if c == '\\' { characters.next()? } else { c });
    }
    Some(FieldRequirement { label: label.trim().to_owned(), value: plain, operator })
}

/// The text a field label stands for; a missing field is empty, or the zero of its type.
fn field_value(object: &Value, label: &str) -> String {
    let label = match label {
        "reportingController" => "reportingComponent",
        "status.successful" => "status.succeeded",
        "source" => "source.component",
        other => other,
    };
    let renamed = label.strip_prefix("regarding.").map(|rest| format!("involvedObject.{rest}"));
    let path: Vec<&str> = renamed.as_deref().unwrap_or(label).split('.').collect();
    match object::at(object, &path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Array(items)) => {
            let texts: Vec<&str> = items.iter().map(|item| object::text(item, &["ip"])).collect();
            texts.join(",")
        }
        Some(Value::Null | Value::Object(_)) | None => zero_of(label).to_owned(),
    }
}

fn zero_of(label: &str) -> &'static str {
    match label {
        "spec.hostNetwork" | "spec.unschedulable" => "false",
        "status.replicas" | "status.succeeded" => "0",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources;

    #[test]
    fn label_grammar_follows_upstream() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "1", "x/y": ""}}});
        let rows = [
            ("", true),
            ("app=web", true),
            ("app==web,tier=1", true),
            ("app = web , tier", true),
            ("app!=web", false),
            ("missing!=web", true),
            ("app in (a, web)", true),
            ("app notin (a,web)", false),
            ("missing notin (a)", true),
            ("!missing", true),
            ("!app", false),
            ("x/y=", true),
            ("tier>0", true),
            ("tier<1", false),
        ];
        for (text, expected) in rows {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&object), expected, "{text}");
        }
    }

    #[test]
    fn label_syntax_errors_name_what_was_found() {
        for text in ["app web", "app in a", "=x", "a,", "app=we!b", "a in (b", "-a=b"] {
            let error = LabelSelector::parse(text).expect_err(text);
            assert!(error.message.starts_with("unable to parse requirement: "), "{text}: {error}");
            assert_eq!(error.reason.code(), 400);
        }
    }

    #[test]
    fn field_selectors_compare_texts_and_treat_missing_as_empty() {
        let pod = json!({
            "metadata": {"name": "p"}, "spec": {"hostNetwork": true}, "status": {"phase": "Running"}
        });
        let rows = [
            ("metadata.name=p", true),
            ("status.phase!=Succeeded,status.phase!=Failed", true),
            ("spec.hostNetwork=true", true),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
            ("spec.unschedulable=false", true),
        ];
        for (text, expected) in rows {
            let selector = FieldSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&pod), expected, "{text}");
        }
    }

    #[test]
    fn unknown_field_labels_are_refused_by_name() {
        let selector = FieldSelector::parse("spec.foo=bar").expect("parses");
        let error = selector.check(&resources::PODS).expect_err("unknown label");
        assert_eq!(
            error.message,
            "Unable to find \"/v1, Resource=pods\" that match label selector \"\", field selector \
             \"spec.foo=bar\": field label not supported: spec.foo"
        );
    }
}
