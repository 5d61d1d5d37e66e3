//! The tables of the registry name tests that exist, and leave no row of their lists out.
//!
//! A row of `docs/registry-security.md` or `docs/registry-conformance.md` has three cells: the
//! row's name between backticks, what it is about, and the tests that show it as in the tables of
//! [`conformance`](crate::conformance), or why there is none (`absent: …`).

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use crate::conformance::{Sources, quoted, shown_by_defects};
use crate::tidy;

/// The names that a document must have a row for.
type Names = fn() -> Vec<String>;

/// The documents.
const DOCUMENTS: &[(&str, Names)] =
    &[("docs/registry-security.md", defects), ("docs/registry-conformance.md", endpoints)];

/// The known defects of other registries, numbered.
fn defects() -> Vec<String> {
    (1..=34).map(|number| number.to_string()).collect()
}

/// The endpoints of the distribution-spec.
fn endpoints() -> Vec<String> {
    [
        "end-1", "end-2", "end-3", "end-4a", "end-4b", "end-4c", "end-5", "end-6", "end-7a",
        "end-7b", "end-8a", "end-8b", "end-9", "end-10", "end-11", "end-12a", "end-12b", "end-13",
        "end-14", "catalog", "discover",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Fails with every row that is not true and every name without a row.
pub(crate) fn check() -> Result<()> {
    let mut sources = Sources::new(tidy::root());
    let mut wrong = Vec::new();
    for (document, names) in DOCUMENTS {
        let path = tidy::root().join(document);
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {document}"))?;
        let defects = document_defects(&text, &names(), &mut sources);
        wrong.extend(defects.into_iter().map(|defect| format!("{document}: {defect}")));
    }
    ensure!(wrong.is_empty(), "{} rows are not true:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

fn document_defects(text: &str, names: &[String], sources: &mut Sources) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(row) = line.trim().strip_prefix("| `") else { continue };
        let row = row.strip_suffix('|').unwrap_or(row);
        let cells: Vec<&str> = row.split(" | ").map(str::trim).collect();
        let [name, _, shown_by] = cells[..] else {
            wrong.push(format!("line {}: a row has three cells", index + 1));
            continue;
        };
        let name = name.trim_end_matches('`');
        if !seen.insert(name.to_owned()) {
            wrong.push(format!("line {}: {name} has a second row", index + 1));
        }
        let place = format!("line {} ({name})", index + 1);
        wrong.extend(shown_by_defects(&place, shown_by, &quoted(shown_by), sources));
    }
    let missing = names.iter().filter(|name| !seen.contains(*name));
    wrong.extend(missing.map(|name| format!("{name} has no row")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_registry_are_true() {
        if let Err(error) = check() {
            panic!("{error}");
        }
    }

    #[test]
    fn each_kind_of_wrong_row_is_named() {
        let text = "\
| Row | About | Shown by |
|---|---|---|
| `one` | a | `xtask::nothing` |
| `two` | b | absent: no such feature |
| `two` | b | absent: no such feature |
| `three` | c |
| `four` | d | later |
";
        let names = ["one", "two", "five"].map(str::to_owned);
        assert_eq!(
            document_defects(text, &names, &mut Sources::new(tidy::root())),
            [
                "line 3 (one): there is no test xtask::nothing",
                "line 5: two has a second row",
                "line 6: a row has three cells",
                "line 7 (four): neither a test nor `absent: REASON`",
                "five has no row",
            ]
        );
    }
}
