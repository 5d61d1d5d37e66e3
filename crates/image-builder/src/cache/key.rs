//! Keys of steps, and what they are made of.
//!
//! Every key is a hash over fields that carry their length, with a version byte and the purpose
//! of the key in front.

use std::collections::BTreeMap;

use dockerfile::{Definition, StepKey};
use oci_model::Digest;

use super::record::KeyPart;
use crate::commit::LayerForm;
use crate::content_digest::Framed;

/// What a chain begins with where there is no file.
pub(crate) fn scratch_chain() -> Digest {
    Framed::new("chain of scratch").finish()
}

/// Identity of a stage's files by how they came about: the files below it by theirs, then every
/// step. `below` is the chain before the step.
pub(crate) fn chain_key(
    form: LayerForm,
    definition: &Definition,
    below: &Digest,
    inputs: &[Digest],
) -> Digest {
    let key = StepKey::of(definition, Some(below), inputs);
    let mut framed = Framed::new("chain");
    framed.field(key.digest().raw()).field(form_name(form).as_bytes());
    framed.finish()
}

/// Key of a step by the files below it (`base`) and the files that it reads.
pub(crate) fn content_key(
    form: LayerForm,
    definition: &Definition,
    base: Option<&Digest>,
    inputs: &[Digest],
) -> Digest {
    let key = StepKey::of(definition, base, inputs);
    let mut framed = Framed::new("step");
    framed.field(key.digest().raw()).field(form_name(form).as_bytes());
    framed.finish()
}

/// What of the form of a layer decides its bytes.
fn form_name(form: LayerForm) -> String {
    format!("{form:?}")
}

/// The parts of a definition for explanations: one for the command, one for each variable, one
/// for each other thing.
pub(crate) fn definition_parts(form: LayerForm, definition: &Definition) -> Vec<KeyPart> {
    let mut named: BTreeMap<String, Framed> = BTreeMap::new();
    for part in &definition.parts {
        let (name, value) = match (part.name, part.value.split_once('=')) {
            ("argv" | "script" | "script path", _) => ("command".to_owned(), &part.value[..]),
            ("env", Some((name, value))) => (format!("env {name}"), value),
            ("path" | "inline name" | "inline content" | "url" | "git", _) => {
                ("sources".to_owned(), &part.value[..])
            }
            (name, _) if name.starts_with("mount") => ("mounts".to_owned(), &part.value[..]),
            (name, _) => (name.to_owned(), &part.value[..]),
        };
        let framed = named.entry(name).or_insert_with(|| Framed::new("part"));
        framed.field(part.name.as_bytes()).field(value.as_bytes());
    }
    let mut parts: Vec<KeyPart> =
        named.into_iter().map(|(name, framed)| KeyPart::new(name, &framed.finish())).collect();
    parts.push(KeyPart::new("form of layers", &Digest::of(form_name(form).as_bytes())));
    parts
}

#[cfg(test)]
mod tests {
    use dockerfile::DefinitionPart;
    use layers::{Compression, Timestamps};

    use super::*;

    const FORM: LayerForm =
        LayerForm { compression: Compression::None, timestamps: Timestamps::Keep, ignored: None };

    fn definition(parts: &[(&'static str, &str)]) -> Definition {
        let parts = parts.iter();
        let part = |(name, value): &(&'static str, &str)| DefinitionPart {
            name,
            value: (*value).to_owned(),
        };
        Definition { parts: parts.map(part).collect() }
    }

    #[test]
    fn neighbours_never_run_together() {
        let below = scratch_chain();
        let one = definition(&[("argv", "ab"), ("argv", "c")]);
        let two = definition(&[("argv", "a"), ("argv", "bc")]);
        assert_ne!(chain_key(FORM, &one, &below, &[]), chain_key(FORM, &two, &below, &[]));
        assert_ne!(content_key(FORM, &one, None, &[]), content_key(FORM, &two, None, &[]));
        assert_ne!(chain_key(FORM, &one, &below, &[]), content_key(FORM, &one, Some(&below), &[]));
    }

    #[test]
    fn parts_name_variables_and_show_no_values() {
        let run = definition(&[("kind", "run"), ("argv", "make"), ("env", "TOKEN=hunter2")]);
        let parts = definition_parts(FORM, &run);
        let names: Vec<&str> = parts.iter().map(|part| &part.name[..]).collect();
        assert_eq!(names, ["command", "env TOKEN", "kind", "form of layers"]);
        assert!(!format!("{parts:?}").contains("hunter2"));
    }
}
