//! The conformance tables name tests that exist, and leave no case of their lists out.
//!
//! `docs/dockerfile-conformance.md` has one table per upstream suite. A row holds one or more
//! case names and either the tests that show them, as paths that begin with a crate
//! (`dockerfile::plan::tests::steps::x`, `image-builder::it::buildkit::copy::x`, and with `#case`
//! one entry of a table in the test), or the reason why there is none (`absent: …`). The names
//! of a suite stand in `xtask/conformance/SUITE.txt`, one per line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::tidy;

const DOCUMENT: &str = "docs/dockerfile-conformance.md";

/// Heading of a table, and the file with the names it must have.
const SUITES: &[(&str, &str)] = &[
    ("BuildKit", "xtask/conformance/buildkit.txt"),
    ("kaniko", "xtask/conformance/kaniko.txt"),
    ("buildah", "xtask/conformance/buildah.txt"),
];

/// What a row without a test begins with.
const ABSENT: &str = "absent: ";

/// Fails with every row that is not true and every name without a row.
pub(crate) fn check() -> Result<()> {
    let root = tidy::root();
    let read = |name: &str| {
        std::fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"))
    };
    let rows = rows(&read(DOCUMENT)?);
    let mut sources = Sources::new(root.clone());
    let mut wrong = Vec::new();
    for row in &rows {
        wrong.extend(row_defects(row, &mut sources));
    }
    for (suite, list) in SUITES {
        wrong.extend(unmapped(suite, &read(list)?, &rows));
    }
    ensure!(
        wrong.is_empty(),
        "{} rows of {DOCUMENT} are not true:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
    Ok(())
}

/// A row of a table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    suite: String,
    line: usize,
    names: Vec<String>,
    /// The cell with the tests or the reason.
    shown_by: String,
}

fn rows(document: &str) -> Vec<Row> {
    let mut suite = String::new();
    let mut rows = Vec::new();
    for (index, line) in document.lines().enumerate() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut suite);
        }
        let is_suite = SUITES.iter().any(|(name, _)| *name == suite);
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, shown_by] = cells[..] else { continue };
        if is_suite && names.starts_with('`') {
            let names = quoted(names);
            let shown_by = shown_by.to_owned();
            rows.push(Row { suite: suite.clone(), line: index + 1, names, shown_by });
        }
    }
    rows
}

/// What stands between backticks.
pub(crate) fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn row_defects(row: &Row, sources: &mut Sources) -> Vec<String> {
    let place = format!("line {} ({})", row.line, row.names.join(", "));
    shown_by_defects(&place, &row.shown_by, &quoted(&row.shown_by), sources)
}

/// What is wrong with the cell that names `tests`, or a reason for none.
pub(crate) fn shown_by_defects(
    place: &str,
    shown_by: &str,
    tests: &[String],
    sources: &mut Sources,
) -> Vec<String> {
    if let Some(reason) = shown_by.strip_prefix(ABSENT) {
        let empty = reason.trim().is_empty();
        return if empty { vec![format!("{place}: no reason")] } else { Vec::new() };
    }
    if tests.is_empty() {
        return vec![format!("{place}: neither a test nor `{ABSENT}REASON`")];
    }
    tests
        .iter()
        .filter(|test| !sources.has(test))
        .map(|test| format!("{place}: there is no test {test}"))
        .collect()
}

fn unmapped(suite: &str, list: &str, rows: &[Row]) -> Vec<String> {
    let listed: BTreeSet<&str> = list
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let own = rows.iter().filter(|row| row.suite == suite);
    let mapped: BTreeSet<&str> =
        own.flat_map(|row| &row.names).map(std::string::String::as_str).collect();
    let missing = listed.difference(&mapped).map(|name| format!("{suite}: {name} has no row"));
    let unknown =
        mapped.difference(&listed).map(|name| format!("{suite}: {name} is not in the list"));
    missing.chain(unknown).collect()
}

/// The source files of the workspace, read once.
pub(crate) struct Sources {
    root: PathBuf,
    texts: BTreeMap<PathBuf, String>,
}

impl Sources {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, texts: BTreeMap::new() }
    }

    fn text(&mut self, path: &Path) -> &str {
        let read = || std::fs::read_to_string(path).unwrap_or_default();
        self.texts.entry(path.to_owned()).or_insert_with(read)
    }

    /// Whether the path names a test function, and its case if it names one.
    pub(crate) fn has(&mut self, test: &str) -> bool {
        self.locate(test).is_some()
    }

    /// Whether a row is named in the body of a test or in the comments right above it.
    pub(crate) fn says(&mut self, test: &str, row: &str) -> bool {
        let Some((file, function)) = self.locate(test) else { return false };
        functions(self.text(&file), &function).any(|text| names(&text, row))
    }

    /// The file of a test, and the name of its function.
    fn locate(&mut self, test: &str) -> Option<(PathBuf, String)> {
        let (path, case) = match test.split_once('#') {
            Some((path, case)) => (path, Some(case)),
            None => (test, None),
        };
        let mut segments: Vec<&str> = path.split("::").collect();
        let function = segments.pop().filter(|_| !segments.is_empty())?;
        let home = self.root.join("crates").join(segments.remove(0));
        let (base, modules) = match segments.split_first() {
            Some((binary, rest)) if home.join("tests").join(binary).is_dir() => {
                (home.join("tests").join(binary), rest)
            }
            Some(_) | None => (home.join("src"), &segments[..]),
        };
        let definition = format!("fn {function}(");
        let found = (0..=modules.len()).rev().find_map(|depth| {
            let (outer, inline) = modules.split_at(depth);
            let file: PathBuf = outer.iter().fold(base.clone(), |path, module| path.join(module));
            let candidates = match depth {
                0 => [base.join("main.rs"), base.join("lib.rs")],
                _ => [file.with_extension("rs"), file.join("mod.rs")],
            };
            candidates.into_iter().find(|candidate| {
                let text = self.text(candidate);
                text.contains(&definition)
                    && inline.iter().all(|module| text.contains(&format!("mod {module} {{")))
                    && case.is_none_or(|case| text.contains(case) || mentions(&base, case))
            })
        });
        found.map(|file| (file, function.to_owned()))
    }
}

/// Whether a text names a row, as a word of its own. What is but a number counts only in comments,
/// behind `row` or `case` or at their beginning: `// 12`, `// cases 5, 6 and 12`.
fn names(text: &str, row: &str) -> bool {
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(row) {
        return words(text).any(|word| word == row);
    }
    text.lines().filter_map(comment).any(|comment| {
        let mut is_list = true;
        words(comment).any(|word| {
            let is_named = is_list && word == row;
            let begins =
                matches!(word.to_ascii_lowercase().as_str(), "row" | "rows" | "case" | "cases");
            is_list = begins || is_list && (is_number(word) || word == "and");
            is_named
        })
    })
}

/// What stands behind the slashes of a comment. Those of an address have a text before them.
fn comment(line: &str) -> Option<&str> {
    let begins = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    let at = line.match_indices("//").map(|(at, _)| at).find(begins)?;
    Some(&line[at + 2..])
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(move |c| !is_part(c)).filter(|word| !word.is_empty())
}

/// The functions of this name, each with the comments and attributes right above it.
fn functions<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let lines: Vec<&str> = text.lines().collect();
    let definition = format!("fn {name}(");
    let at: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(&definition)).collect();
    at.into_iter().map(move |at| {
        let is_above = |line: &&&str| ["//", "#["].iter().any(|s| line.trim_start().starts_with(s));
        let above = lines[..at].iter().rev().take_while(is_above).count();
        let indent = lines[at].len() - lines[at].trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let below = lines[at..].iter().take_while(|line| **line != end).count();
        lines[at - above..at + below].join("\n")
    })
}

/// Whether a file below `directory` has `case` in its name or its text.
fn mentions(directory: &Path, case: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.filter_map(std::result::Result::ok).any(|entry| {
        let path = entry.path();
        let named = path.file_stem().is_some_and(|stem| stem.to_string_lossy() == case);
        named
            || (path.is_dir() && mentions(&path, case))
            || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(case))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
# Title
| `Outside` | text |
## BuildKit
| Case | Test |
|---|---|
| `One`, `Two` | `xtask::a::b`, `dockerfile::mode::tests::bad_modes_quote_what_was_written` |
| `Three` | absent: nothing to test |
| `Four` | later |
## Where we differ
| `Five` | x |
";

    #[test]
    fn the_tables_of_this_repository_are_true() {
        if let Err(error) = check() {
            panic!("{error}");
        }
    }

    #[test]
    fn rows_belong_to_the_suite_above_them() {
        let rows = rows(DOCUMENT);
        let names: Vec<_> = rows.iter().map(|row| (row.line, row.names.join(" "))).collect();
        assert_eq!(names, [(6, "One Two".into()), (7, "Three".into()), (8, "Four".into())]);
    }

    #[test]
    fn rows_without_a_test_or_a_reason_are_named() {
        let mut sources = Sources::new(tidy::root());
        let wrong: Vec<String> =
            rows(DOCUMENT).iter().flat_map(|row| row_defects(row, &mut sources)).collect();
        assert_eq!(
            wrong,
            [
                "line 6 (One, Two): there is no test xtask::a::b",
                "line 8 (Four): neither a test nor `absent: REASON`",
            ]
        );
    }

    #[test]
    fn names_of_the_list_need_a_row_and_the_other_way_round() {
        let wrong = unmapped("BuildKit", "# comment\nOne\nTwo\nThree\nSix\n", &rows(DOCUMENT));
        assert_eq!(wrong, ["BuildKit: Six has no row", "BuildKit: Four is not in the list"]);
    }

    #[test]
    fn tests_are_found_in_every_kind_of_file() {
        let mut sources = Sources::new(tidy::root());
        for (test, expected) in [
            ("dockerfile::plan::tests::steps::dashes_strip_tabs", true),
            ("dockerfile::reach::tests::dashes_strip_tabs", false),
            ("dockerfile::plan::reach::tests::circles_are_found_however_long", true),
            ("image-builder::it::modes::daemons_end_with_their_step", true),
            ("image-builder::it::modes::daemons_end_with_their_step#setsid sleep", true),
            ("image-builder::it::modes::daemons_end_with_their_step#no such case", false),
            ("image-builder::it::modes::daemons", false),
            ("nowhere::x", false),
        ] {
            assert_eq!(sources.has(test), expected, "{test}");
        }
    }

    #[test]
    fn a_test_says_what_stands_in_it_and_right_above_it() {
        let text = "\
// R1.

/// R2 to R4.
#[test]
fn one() {
    check(5); // R5
    let text = \"R6\";
}

// R17
fn two() {
    fn one() {
        R8
    }
}
";
        let words = ["R1", "R2", "R3", "R4", "R5", "R6", "R8", "R17"];
        let said = |name: &str| {
            let texts: Vec<String> = functions(text, name).collect();
            let has = |word: &&str| texts.iter().any(|text| text.contains(*word));
            (texts.len(), words.iter().filter(|word| has(word)).copied().collect::<Vec<_>>())
        };
        assert_eq!(said("one"), (2, vec!["R2", "R4", "R5", "R6", "R8"]));
        assert_eq!(said("two").0, 1);
        let mut sources = Sources::new(tidy::root());
        let test =
            "oci-model::reference::tests::first_component_is_a_registry_only_if_it_looks_like_one";
        for (word, expected) in [("R7", true), ("R10", true), ("R1", false), ("R6", false)] {
            assert_eq!(sources.says(test, word), expected, "{word}");
        }
        assert!(!sources.says("oci-model::reference::tests::no_such_test", "R7"));
    }

    #[test]
    fn a_row_that_is_but_a_number_is_named_in_a_comment_of_rows() {
        for (text, expected) in [
            ("/// cloud-credentials.md 14.2, rows 12, 43 and 71: no token is sent.", true),
            ("check(x); // case 43", true),
            ("// 43", true),
            ("// 12, 43: both", true),
            ("// 12: the port is 43", false),
            ("// Row 12. Port 43", false),
            ("let port = 43;", false),
            ("// row 143", false),
            ("get(\"http://43:1/\");", false),
            ("get(\"http://127.0.0.1:1//43\");", false),
            ("get(\"http://127.0.0.1:1/\"); // row 43", true),
            ("// rows 12 and 43, by http://127.0.0.1:1/", true),
        ] {
            assert_eq!(names(text, "43"), expected, "{text}");
        }
    }
}
