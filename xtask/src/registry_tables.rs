//! The tables of the registry and of the kubelet's rules name tests that exist, and leave no row of
//! their lists out.
//!
//! A row of one of them, such as `docs/kubelet-conformance.md`, has three cells: the
//! row's name between backticks, what it is about, and the tests that show it as in the tables of
//! [`conformance`](crate::conformance), or why there is none (`absent: …`). Each test of a row of
//! the kubelet or of the clouds names the row, in its body or in the comment above it: whoever reads
//! the test sees what it is for, and a test that is named by mistake is found.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use crate::conformance::{Sources, quoted, shown_by_defects};
use crate::tidy;

/// The names that a document must have a row for.
type Names = fn() -> Vec<String>;

/// Which rows a document has.
#[derive(Clone, Copy)]
enum Rows {
    /// All of the list, and others.
    AtLeast(Names),
    /// All of the list, and no others.
    Exactly(Names),
}

/// What a test has to say of the row that names it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// Nothing.
    Nothing,
    /// The row's name, if it is one of the list: the others are the document's own.
    Row,
}

/// The documents.
const DOCUMENTS: &[(&str, Rows, Says)] = &[
    ("docs/registry-security.md", Rows::AtLeast(defects), Says::Nothing),
    ("docs/registry-conformance.md", Rows::AtLeast(endpoints), Says::Nothing),
    ("docs/kubelet-conformance.md", Rows::Exactly(kubelet_rules), Says::Row),
    ("docs/cloud-conformance.md", Rows::AtLeast(cloud_cases), Says::Row),
];

/// The kubelet's rules about images, by their numbers in our reference: references, `auth` values,
/// keys, matching, look-up, hashes, pulls, secrets, verification, providers, collection, Jobs.
fn kubelet_rules() -> Vec<String> {
    let groups = [
        ('R', 37),
        ('A', 14),
        ('K', 9),
        ('M', 20),
        ('L', 16),
        ('H', 4),
        ('P', 18),
        ('S', 14),
        ('V', 15),
        ('X', 10),
        ('G', 6),
        ('J', 7),
    ];
    let rows = groups.into_iter();
    rows.flat_map(|(letter, last)| (1..=last).map(move |number| format!("{letter}{number}")))
        .collect()
}

/// The cases of credentials, of the clouds and of docker, numbered.
fn cloud_cases() -> Vec<String> {
    (1..=78).map(|number| number.to_string()).collect()
}

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
    for (document, rows, says) in DOCUMENTS {
        let path = tidy::root().join(document);
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {document}"))?;
        let defects = document_defects(&text, *rows, *says, &mut sources);
        wrong.extend(defects.into_iter().map(|defect| format!("{document}: {defect}")));
    }
    ensure!(wrong.is_empty(), "{} rows are not true:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

fn document_defects(text: &str, rows: Rows, says: Says, sources: &mut Sources) -> Vec<String> {
    let (Rows::AtLeast(names) | Rows::Exactly(names)) = rows;
    let names = names();
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
        let tests = quoted(shown_by);
        wrong.extend(shown_by_defects(&place, shown_by, &tests, sources));
        if says == Says::Row && names.iter().any(|listed| listed == name) {
            let is_silent = |test: &&String| sources.has(test) && !sources.says(test, name);
            let silent: Vec<&String> = tests.iter().filter(is_silent).collect();
            let text = |test| format!("{place}: {name} stands neither in nor above {test}");
            wrong.extend(silent.into_iter().map(text));
        }
    }
    let missing = names.iter().filter(|name| !seen.contains(*name));
    wrong.extend(missing.map(|name| format!("{name} has no row")));
    if matches!(rows, Rows::Exactly(_)) {
        let unknown = seen.iter().filter(|name| !names.contains(name));
        wrong.extend(unknown.map(|name| format!("{name} is not in the list")));
    }
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
        let names = || ["one", "two", "five"].map(str::to_owned).to_vec();
        let cells = [
            "line 3 (one): there is no test xtask::nothing",
            "line 5: two has a second row",
            "line 6: a row has three cells",
            "line 7 (four): neither a test nor `absent: REASON`",
        ];
        for (rows, rest) in [
            (Rows::AtLeast(names), &["five has no row"][..]),
            (Rows::Exactly(names), &["five has no row", "four is not in the list"]),
        ] {
            let expected = [&cells, rest].concat();
            let mut sources = Sources::new(tidy::root());
            let found = document_defects(text, rows, Says::Nothing, &mut sources);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn tests_name_their_rows_where_that_is_asked() {
        let text = "\
| `R7` | a | `oci-model::reference::tests::image_identifiers_are_no_names` |
| `R37` | b | `oci-model::reference::tests::image_identifiers_are_no_names` |
| `R3` | c | `oci-model::reference::tests::no_such_test` |
| `R4` | d | absent: no such feature |
| `u1` | e | `oci-model::reference::tests::image_identifiers_are_no_names` |
";
        let rows = Rows::AtLeast(|| ["R3", "R4", "R7", "R37"].map(str::to_owned).to_vec());
        let found = document_defects(text, rows, Says::Row, &mut Sources::new(tidy::root()));
        assert_eq!(
            found,
            [
                "line 1 (R7): R7 stands neither in nor above \
                 oci-model::reference::tests::image_identifiers_are_no_names",
                "line 3 (R3): there is no test oci-model::reference::tests::no_such_test",
            ]
        );
    }

    #[test]
    fn the_kubelet_has_170_rules() {
        let rules = kubelet_rules();
        let ends = (rules.len(), rules.first(), rules.last());
        assert_eq!(ends, (170, Some(&"R1".to_owned()), Some(&"J7".to_owned())));
    }
}
