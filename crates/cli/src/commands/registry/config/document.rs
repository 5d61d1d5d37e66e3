//! `docs/registry-config.md`, made of the declarations.

use std::fmt::Write as _;

use super::shape::{Key, Shape, Shaped as _};
use super::{Config, sources};

const HEAD: &str = "\
# Configuration of the registry

Made of the declarations by `shipway registry config-schema --markdown`; a test keeps it true.

`shipway registry serve --config shipway.toml` reads the table `[registry]`. Where a key has a
variable it also has the flag of the same name (`limits.requests` is `--limits-requests`). A flag
wins over its variable, and that over the file. Unknown keys are errors.
`shipway registry check-config shipway.toml` names everything that is wrong with a file;
`--show-effective` prints what counts. The file and the files that it names are read again when
they change and on SIGHUP; a file with mistakes changes nothing and is reported in the log.
Secrets are never values of keys: a key names the file that holds one.
";

/// The whole document.
pub(crate) fn markdown() -> String {
    let mut text = HEAD.to_owned();
    section(&mut text, "[registry]", &Config::shape(), &mut Vec::new(), true);
    text
}

fn section(text: &mut String, title: &str, shape: &Shape, path: &mut Vec<String>, flags: bool) {
    let Shape::Table(keys) = shape else { return };
    let _ = write!(text, "\n## `{title}`\n");
    // A table of tables only needs no list of keys.
    let mut lines = String::new();
    for key in keys.iter().filter(|key| inner(&key.shape).is_none()) {
        path.push(key.name.clone());
        lines.push_str(&line(key, path, flags));
        path.pop();
    }
    if !lines.is_empty() {
        let _ = write!(text, "| key | value | default | variable |\n|---|---|---|---|\n{lines}");
    }
    for key in keys {
        let Some((inner, brackets, is_single)) = inner(&key.shape) else { continue };
        path.push(key.name.clone());
        let name = format!("registry.{}", path.join("."));
        let title = match brackets {
            Brackets::Table => format!("[{name}]"),
            Brackets::Array => format!("[[{name}]]"),
            Brackets::Named => {
                path.push("<name>".to_owned());
                format!("[{name}.<name>]")
            }
        };
        section(text, &title, inner, path, flags && is_single);
        if brackets == Brackets::Named {
            path.pop();
        }
        path.pop();
        // The words of the key belong below the title.
        let heading = format!("## `{title}`\n");
        *text = text.replacen(&heading, &format!("{heading}{}\n\n", key.doc), 1);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Brackets {
    Table,
    Array,
    Named,
}

/// The table in a shape, how it is written, and whether there is just one.
fn inner(shape: &Shape) -> Option<(&Shape, Brackets, bool)> {
    let of_table = |shape: &Shape| matches!(shape, Shape::Table(_));
    match shape {
        Shape::Table(_) => Some((shape, Brackets::Table, true)),
        Shape::List(of) if of_table(of) => Some((of, Brackets::Array, false)),
        Shape::Map(of) if of_table(of) => Some((of, Brackets::Named, false)),
        _ => None,
    }
}

fn line(key: &Key, path: &[String], flags: bool) -> String {
    let default = match (key.default, key.required) {
        (Some(default), _) => default,
        (None, true) => "required",
        (None, false) => "",
    };
    let variable = match flags && key.shape.placeholder().is_some() {
        true => format!("`{}`", sources::variable(path)),
        false => String::new(),
    };
    let value = key.shape.describe();
    format!("| `{}` | {}<br>{value} | {default} | {variable} |\n", key.name, key.doc)
}
